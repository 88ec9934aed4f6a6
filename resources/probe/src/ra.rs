//! Router advertisements (RFC 4861 §4.2): what the IP stack does not keep.

use core::net::Ipv6Addr;

/// The parts that are reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Advertisement {
    /// Who sent it.
    pub router: Ipv6Addr,
    /// Lifetime as default router, seconds; 0 is "not a default router".
    pub lifetime: u16,
    /// MTU option, bytes.
    pub mtu: Option<u32>,
    /// First recursive DNS server (RFC 8106 §5.1).
    pub dns: Option<Ipv6Addr>,
}

/// Looks at an Ethernet frame. `None` if it holds no router advertisement.
pub fn parse(frame: &[u8]) -> Option<Advertisement> {
    let ip = frame.get(14..)?;
    if frame.get(12..14)? != [0x86, 0xdd] || *ip.get(6)? != 58 || *ip.get(7)? != 255 {
        return None;
    }
    let icmp = ip.get(40..)?;
    if *icmp.first()? != 134 {
        return None;
    }
    let router = Ipv6Addr::from(<[u8; 16]>::try_from(ip.get(8..24)?).ok()?);
    let lifetime = u16::from_be_bytes([*icmp.get(6)?, *icmp.get(7)?]);
    let mut found = Advertisement { router, lifetime, mtu: None, dns: None };
    let mut options = icmp.get(16..)?;
    while let [kind, units, ..] = *options {
        let length = usize::from(units) * 8;
        let option = options.get(..length).filter(|o| !o.is_empty())?;
        match kind {
            5 => {
                found.mtu =
                    option.get(4..8).and_then(|b| b.try_into().ok()).map(u32::from_be_bytes);
            }
            25 => {
                let bytes = option.get(8..24).and_then(|b| <[u8; 16]>::try_from(b).ok());
                found.dns = bytes.map(Ipv6Addr::from);
            }
            _ => {}
        }
        options = options.get(length..)?;
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame() -> Vec<u8> {
        let mut f = vec![0; 14];
        f[12..14].copy_from_slice(&[0x86, 0xdd]);
        f.extend([0x60, 0, 0, 0, 0, 48, 58, 255]);
        f.extend(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1).octets());
        f.extend([0; 16]);
        f.extend([134, 0, 0, 0, 64, 0, 7, 8]);
        f.extend([0; 8]);
        f.extend([5, 1, 0, 0, 0, 0, 5, 220]);
        f.extend([25, 3, 0, 0, 0, 0, 0, 60]);
        f.extend(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 3).octets());
        f
    }

    #[test]
    fn all_parts() {
        let ra = parse(&frame()).expect("an advertisement");
        assert_eq!((ra.lifetime, ra.mtu), (1800, Some(1500)));
        assert_eq!(ra.router.to_string(), "fe80::1");
        assert_eq!(ra.dns.map(|d| d.to_string()).as_deref(), Some("fd00::3"));
    }

    #[test]
    fn others_and_broken_ones() {
        let mut zero = frame();
        zero[14 + 40 + 17] = 0;
        assert_eq!(parse(&zero), None);
        for end in 0..frame().len() {
            let _ = parse(&frame()[..end]);
        }
        let mut relayed = frame();
        relayed[14 + 7] = 64;
        assert_eq!(parse(&relayed), None);
    }
}
