//! Link-layer addresses, and the two families of those above.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

/// A family of IP addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl From<IpAddr> for Family {
    fn from(ip: IpAddr) -> Self {
        if ip.is_ipv4() { Self::V4 } else { Self::V6 }
    }
}

impl From<SocketAddr> for Family {
    fn from(addr: SocketAddr) -> Self {
        addr.ip().into()
    }
}

/// An EUI-48 address.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct MacAddr(pub [u8; 6]);

impl MacAddr {
    /// All stations on the link.
    pub const BROADCAST: Self = Self([0xff; 6]);

    /// A locally administered unicast address derived from `seed`, with the project's own prefix.
    pub const fn local(seed: u32) -> Self {
        let s = seed.to_be_bytes();
        Self([0x52, 0x4d, s[0], s[1], s[2], s[3]])
    }

    /// True for group addresses, the broadcast address included (IEEE 802 §8.2).
    pub const fn is_multicast(self) -> bool {
        self.0[0] & 1 != 0
    }

    /// The modified EUI-64 interface identifier of this address (RFC 4291 appendix A).
    pub const fn eui64(self) -> [u8; 8] {
        let m = self.0;
        [m[0] ^ 2, m[1], m[2], 0xff, 0xfe, m[3], m[4], m[5]]
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let m = self.0;
        write!(f, "{:02x}:{:02x}:{:02x}:{:02x}:{:02x}:{:02x}", m[0], m[1], m[2], m[3], m[4], m[5])
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Text that is not an EUI-48 address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a MAC address (six hexadecimal bytes, as in 52:4d:00:00:00:01)")]
pub struct ParseMacError(String);

impl FromStr for MacAddr {
    type Err = ParseMacError;

    fn from_str(s: &str) -> Result<Self, ParseMacError> {
        let error = || ParseMacError(s.to_owned());
        let mut mac = [0; 6];
        let mut parts = s.split([':', '-']);
        for byte in &mut mac {
            let part = parts.next().ok_or_else(error)?;
            if part.len() != 2 || !part.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(error());
            }
            *byte = u8::from_str_radix(part, 16).map_err(|_| error())?;
        }
        match parts.next() {
            None => Ok(Self(mac)),
            Some(_) => Err(error()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_round_trips() {
        let mac: MacAddr = "52:4D:00-01:02:ff".parse().unwrap();
        assert_eq!(mac, MacAddr([0x52, 0x4d, 0, 1, 2, 0xff]));
        assert_eq!(mac.to_string(), "52:4d:00:01:02:ff");
    }

    #[test]
    fn malformed_text_is_refused() {
        for bad in
            ["", "52:4d:00:00:00", "52:4d:00:00:00:01:02", "52:4d:00:00:00:+1", "5:4d:0:0:0:1"]
        {
            assert!(bad.parse::<MacAddr>().is_err(), "{bad}");
        }
    }

    #[test]
    fn eui64_flips_the_universal_bit() {
        let mac = MacAddr([0x52, 0x4d, 1, 2, 3, 4]);
        assert_eq!(mac.eui64(), [0x50, 0x4d, 1, 0xff, 0xfe, 2, 3, 4]);
    }
}
