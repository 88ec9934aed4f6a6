//! Offloads. To send: what to tell the device about a frame (Virtio 1.2 §5.1.6.2) and the partial checksum it expects.
//! Received: which checksums are ours to verify (§5.1.6.4).

use smoltcp::wire::{
    EthernetFrame, EthernetProtocol, IpAddress, IpProtocol, Ipv4Packet, Ipv6Packet, TcpPacket,
    UdpPacket,
};

/// Size of `virtio_net_hdr` with `num_buffers`.
pub const HEADER: usize = 12;

const NEEDS_CSUM: u8 = 1;
const DATA_VALID: u8 = 2;
const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;

/// Prepares a TCP or UDP frame for checksum (and segmentation) by the device: stores the pseudo-header sum in the
/// checksum field and returns the header. Other frames get an all-zero header. `segment` is the payload of each segment.
pub fn prepare(frame: &mut [u8], segment: Option<u16>) -> [u8; HEADER] {
    fill(frame, segment).unwrap_or([0; HEADER])
}

fn fill(frame: &mut [u8], segment: Option<u16>) -> Option<[u8; HEADER]> {
    let ip = frame.get(14..)?;
    let (ip_length, protocol, addresses, gso) = match *frame.get(12..14)? {
        [8, 0] => (usize::from(ip.first()? & 15) * 4, *ip.get(9)?, ip.get(12..20)?, GSO_TCPV4),
        [0x86, 0xdd] => (40, *ip.get(6)?, ip.get(8..40)?, GSO_TCPV6),
        _ => return None,
    };
    let offset: u16 = match protocol {
        6 => 16,
        17 => 6,
        _ => return None,
    };
    let start = 14 + ip_length;
    let length = u32::try_from(frame.len().checked_sub(start)?).ok()?;
    let mut sum = u32::from(protocol) + (length >> 16) + (length & 0xffff);
    for pair in addresses.chunks_exact(2) {
        if let [high, low] = *pair {
            sum += u32::from(u16::from_be_bytes([high, low]));
        }
    }
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    let data_offset = if protocol == 6 { usize::from(frame.get(start + 12)? >> 4) * 4 } else { 8 };
    let at = start + usize::from(offset);
    frame.get_mut(at..at + 2)?.copy_from_slice(&(sum as u16).to_be_bytes());

    let mut header = [0; HEADER];
    let segment = segment.filter(|_| protocol == 6);
    let fields = [
        segment.map_or(0, |_| u16::try_from(start + data_offset).unwrap_or(0)),
        segment.unwrap_or(0),
        u16::try_from(start).ok()?,
        offset,
    ];
    let (kind, rest) = header.split_at_mut(2);
    kind.copy_from_slice(&[NEEDS_CSUM, if segment.is_some() { gso } else { GSO_NONE }]);
    for (slot, value) in rest.chunks_exact_mut(2).zip(fields) {
        slot.copy_from_slice(&value.to_le_bytes());
    }
    Some(header)
}

/// Whether a received frame may be believed. `flags` are its header's: a checksum that the device left open, or verified, is
/// not looked at. The IP stack can be told that of all frames only, so those without a flag are looked at here.
pub fn sum_holds(flags: u8, frame: &[u8]) -> bool {
    flags & (NEEDS_CSUM | DATA_VALID) != 0 || verify(frame).unwrap_or(true)
}

/// Verifies the checksum of TCP or UDP. `None` if there is none to verify.
fn verify(frame: &[u8]) -> Option<bool> {
    let frame = EthernetFrame::new_checked(frame).ok()?;
    let (source, destination, protocol, segment): (IpAddress, IpAddress, _, _) =
        match frame.ethertype() {
            EthernetProtocol::Ipv4 => {
                let ip = Ipv4Packet::new_checked(frame.payload()).ok()?;
                if ip.more_frags() || ip.frag_offset() != 0 {
                    return None;
                }
                let (source, destination) = (ip.src_addr().into(), ip.dst_addr().into());
                (source, destination, ip.next_header(), ip.payload())
            }
            EthernetProtocol::Ipv6 => {
                let ip = Ipv6Packet::new_checked(frame.payload()).ok()?;
                let (source, destination) = (ip.src_addr().into(), ip.dst_addr().into());
                (source, destination, ip.next_header(), ip.payload())
            }
            _ => return None,
        };
    match protocol {
        IpProtocol::Tcp => {
            let tcp = TcpPacket::new_checked(segment).ok()?;
            Some(tcp.verify_checksum(&source, &destination))
        }
        IpProtocol::Udp => {
            let udp = UdpPacket::new_checked(segment).ok()?;
            let none = udp.checksum() == 0 && frame.ethertype() == EthernetProtocol::Ipv4;
            Some(none || udp.verify_checksum(&source, &destination))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp4() -> Vec<u8> {
        let mut f = vec![0; 14 + 20 + 32 + 100];
        f[12] = 8;
        f[14] = 0x45;
        f[23] = 6;
        f[26..30].copy_from_slice(&[10, 0, 2, 15]);
        f[30..34].copy_from_slice(&[10, 0, 2, 2]);
        f[34 + 12] = 8 << 4;
        f
    }

    #[test]
    fn segmented_tcp() {
        let mut frame = tcp4();
        let header = prepare(&mut frame, Some(1448));
        assert_eq!(header, [1, 1, 66, 0, 0xa8, 5, 34, 0, 16, 0, 0, 0]);
        // 6 + 132 + 0a00 + 020f + 0a00 + 0202
        assert_eq!(frame[50..52], (6u16 + 132 + 0x0a00 + 0x020f + 0x0a00 + 0x0202).to_be_bytes());
    }

    #[test]
    fn udp6() {
        let mut frame = vec![0; 14 + 40 + 8 + 4];
        frame[12..14].copy_from_slice(&[0x86, 0xdd]);
        frame[20] = 17;
        assert_eq!(prepare(&mut frame, Some(9)), [1, 0, 0, 0, 0, 0, 54, 0, 6, 0, 0, 0]);
        assert_eq!(frame[60..62], [0, 17 + 12]);
    }

    #[test]
    fn others_stay_untouched() {
        let mut arp = vec![0; 60];
        arp[12..14].copy_from_slice(&[8, 6]);
        let before = arp.clone();
        assert_eq!(prepare(&mut arp, None), [0; HEADER]);
        assert_eq!(arp, before);
        for end in 0..50 {
            prepare(&mut tcp4()[..end], None);
        }
    }

    /// A datagram from 10.0.2.2:7 to 10.0.2.15:7, padded as Ethernet wants it.
    fn udp4(sum: u16) -> Vec<u8> {
        let mut f = vec![0; 60];
        f[12] = 8;
        f[14..18].copy_from_slice(&[0x45, 0, 0, 20 + 8 + 2]);
        f[22..24].copy_from_slice(&[64, 17]);
        f[26..34].copy_from_slice(&[10, 0, 2, 2, 10, 0, 2, 15]);
        f[34..42].copy_from_slice(&[0, 7, 0, 7, 0, 10, (sum >> 8) as u8, sum as u8]);
        f[42..44].copy_from_slice(b"hi");
        f
    }

    #[test]
    fn received_sums() {
        // 0a00 + 0202 + 0a00 + 020f + 17 + 10 + 7 + 7 + 10 + "hi"
        let sum = !(0x0a00u16 + 0x0202 + 0x0a00 + 0x020f + 17 + 10 + 7 + 7 + 10 + 0x6869);
        assert!(sum_holds(0, &udp4(sum)));
        assert!(!sum_holds(0, &udp4(sum ^ 1)));
        for flags in [NEEDS_CSUM, DATA_VALID] {
            assert!(sum_holds(flags, &udp4(sum ^ 1)));
        }
        assert!(sum_holds(0, &udp4(0)), "sent without one");
        let mut fragment = udp4(sum ^ 1);
        fragment[20] = 0x20;
        assert!(sum_holds(0, &fragment));
        assert!(!sum_holds(0, &segment4()));
        for end in 0..60 {
            sum_holds(0, &udp4(sum)[..end]);
            sum_holds(0, &segment4()[..end]);
        }
    }

    /// A TCP segment with an IP length, and no checksum.
    fn segment4() -> Vec<u8> {
        let mut f = tcp4();
        let length = (f.len() - 14) as u16;
        f[16..18].copy_from_slice(&length.to_be_bytes());
        f
    }
}
