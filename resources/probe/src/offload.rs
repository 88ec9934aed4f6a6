//! Transmit offloads: what to tell the device about a frame (Virtio 1.2 §5.1.6.2) and the partial checksum it expects.

/// Size of `virtio_net_hdr` with `num_buffers`.
pub const HEADER: usize = 12;

const NEEDS_CSUM: u8 = 1;
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
}
