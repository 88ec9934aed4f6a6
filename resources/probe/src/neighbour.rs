//! Address resolution by hand. The IP stack sends at most one request a second, whoever it is for; it does take any
//! answer, so asking ourselves saves that second for each neighbour after the first.

use core::net::{Ipv4Addr, Ipv6Addr};

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, EthernetProtocol,
    EthernetRepr, Icmpv6Packet, Icmpv6Repr, IpAddress, IpProtocol, Ipv6Packet, Ipv6Repr, NdiscRepr,
};

/// Room for either request.
pub const MAX_REQUEST: usize = 14 + 40 + 32;

/// Writes an ARP request (RFC 826).
pub fn arp_request(
    mac: [u8; 6],
    own: Ipv4Addr,
    target: Ipv4Addr,
    out: &mut [u8; MAX_REQUEST],
) -> usize {
    let arp = ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Request,
        source_hardware_addr: EthernetAddress(mac),
        source_protocol_addr: own,
        target_hardware_addr: EthernetAddress([0; 6]),
        target_protocol_addr: target,
    };
    let mut frame = EthernetFrame::new_unchecked(&mut out[..]);
    ethernet(mac, EthernetAddress::BROADCAST, EthernetProtocol::Arp).emit(&mut frame);
    arp.emit(&mut ArpPacket::new_unchecked(frame.payload_mut()));
    14 + arp.buffer_len()
}

/// Writes a neighbour solicitation (RFC 4861 §4.3) to the target's solicited-node group.
pub fn solicitation(
    mac: [u8; 6],
    own: Ipv6Addr,
    target: Ipv6Addr,
    out: &mut [u8; MAX_REQUEST],
) -> usize {
    let [.., x, y, z] = target.octets();
    let group =
        Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(x), u16::from_be_bytes([y, z]));
    let icmp = Icmpv6Repr::Ndisc(NdiscRepr::NeighborSolicit {
        target_addr: target,
        lladdr: Some(EthernetAddress(mac).into()),
    });
    let ip = Ipv6Repr {
        src_addr: own,
        dst_addr: group,
        next_header: IpProtocol::Icmpv6,
        payload_len: icmp.buffer_len(),
        hop_limit: 255,
    };
    let mut frame = EthernetFrame::new_unchecked(&mut out[..]);
    let to = EthernetAddress([0x33, 0x33, 0xff, x, y, z]);
    ethernet(mac, to, EthernetProtocol::Ipv6).emit(&mut frame);
    let mut packet = Ipv6Packet::new_unchecked(frame.payload_mut());
    ip.emit(&mut packet);
    let mut payload = Icmpv6Packet::new_unchecked(packet.payload_mut());
    icmp.emit(&own, &group, &mut payload, &ChecksumCapabilities::default());
    14 + ip.buffer_len() + icmp.buffer_len()
}

fn ethernet(mac: [u8; 6], to: EthernetAddress, ethertype: EthernetProtocol) -> EthernetRepr {
    EthernetRepr { src_addr: EthernetAddress(mac), dst_addr: to, ethertype }
}

/// Whom an ARP reply or neighbour advertisement resolves.
pub fn answer(frame: &[u8]) -> Option<(IpAddress, [u8; 6])> {
    match *frame.get(12..14)? {
        [8, 6] if frame.get(20..22)? == [0, 2] => {
            let address = <[u8; 4]>::try_from(frame.get(28..32)?).ok()?;
            Some((IpAddress::Ipv4(address.into()), frame.get(22..28)?.try_into().ok()?))
        }
        [0x86, 0xdd] if *frame.get(20)? == 58 && *frame.get(54)? == 136 => {
            let address = <[u8; 16]>::try_from(frame.get(62..78)?).ok()?;
            let mac = if frame.get(78..80) == Some(&[2, 1]) {
                frame.get(80..86)?
            } else {
                frame.get(6..12)?
            };
            Some((IpAddress::Ipv6(address.into()), mac.try_into().ok()?))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: [u8; 6] = [0x52, 0x54, 0, 0x12, 0x34, 0x56];

    #[test]
    fn requests() {
        let mut out = [0; MAX_REQUEST];
        let n = arp_request(MAC, Ipv4Addr::new(10, 0, 2, 15), Ipv4Addr::new(10, 0, 2, 3), &mut out);
        assert_eq!(n, 42);
        assert_eq!(out[..6], [0xff; 6]);
        assert_eq!(out[38..42], [10, 0, 2, 3]);
        let own = "fe80::5054:ff:fe12:3456".parse().expect("an address");
        let n = solicitation(MAC, own, "fe80::2".parse().expect("an address"), &mut out);
        assert_eq!(n, MAX_REQUEST);
        // As QEMU's network saw it from a known-good stack.
        assert_eq!(out[54..58], [0x87, 0, 0x72, 0x20]);
        assert_eq!(out[..6], [0x33, 0x33, 0xff, 0, 0, 2]);
    }

    #[test]
    fn answers() {
        let mut arp = [0; MAX_REQUEST];
        let n = arp_request(MAC, Ipv4Addr::new(10, 0, 2, 2), Ipv4Addr::new(10, 0, 2, 15), &mut arp);
        assert_eq!(answer(&arp[..n]), None);
        arp[21] = 2;
        assert_eq!(answer(&arp[..n]), Some((IpAddress::v4(10, 0, 2, 2), MAC)));
        let mut advert = [0; MAX_REQUEST];
        let target = "fe80::2".parse().expect("an address");
        solicitation(MAC, target, target, &mut advert);
        advert[54] = 136;
        advert[78] = 2;
        assert_eq!(answer(&advert), Some((IpAddress::Ipv6(target), MAC)));
        for end in 0..MAX_REQUEST {
            let _ = answer(&advert[..end]);
        }
    }
}
