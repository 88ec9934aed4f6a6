//! Frames as they cross a segment, and the virtio-net header that describes their offloads.
//!
//! A frame from a station comes as a *head*, the first bytes copied once to host memory, and a
//! *tail* that is still the station's. Only the head is ever parsed, so what was checked is what
//! is sent, whatever the guest writes meanwhile.

use vm_memory::VolatileSlice;

use crate::stats::DropReason;
use crate::wire::ETHERNET_LEN;

/// Bytes of the virtio-net header, `num_buffers` included (Virtio 1.2 §5.1.6).
pub const VNET_HEADER_LEN: usize = 12;

/// Frame bytes that are copied to host memory and may be parsed; with the virtio-net header 192.
pub const HEAD_MAX: usize = 192 - VNET_HEADER_LEN;

/// The longest frame: a 64 KiB IP packet behind an Ethernet header.
pub const FRAME_MAX: usize = 65535 + ETHERNET_LEN;

/// A checksum left to be completed (Virtio 1.2 §5.1.6.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartialChecksum {
    /// Where summing starts, in bytes from the Ethernet header.
    pub start: u16,
    /// Where the result goes, in bytes from `start`.
    pub offset: u16,
}

/// Which protocol a large segment is to be cut by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SegmentKind {
    /// TCP over IPv4.
    Tcp4,
    /// TCP over IPv6.
    Tcp6,
}

/// A segment larger than the MTU, to be cut by whoever needs it cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segmentation {
    /// Its protocol.
    pub kind: SegmentKind,
    /// Payload bytes of each piece, never 0.
    pub size: u16,
    /// Bytes of all headers, Ethernet on; a hint.
    pub header_len: u16,
    /// The segment carries CWR (Virtio 1.2 `VIRTIO_NET_HDR_GSO_ECN`).
    pub ecn: bool,
}

/// The work on a frame that its sender left to the link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Offload {
    /// The checksum to be completed.
    pub checksum: Option<PartialChecksum>,
    /// The segmentation to be done.
    pub segmentation: Option<Segmentation>,
    /// The checksums are known to be right (`VIRTIO_NET_HDR_F_DATA_VALID`).
    pub validated: bool,
}

const F_NEEDS_CSUM: u8 = 1;
const F_DATA_VALID: u8 = 2;
const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const GSO_ECN: u8 = 0x80;

impl Offload {
    /// Reads a virtio-net header (Virtio 1.2 §5.1.6) and checks it against a frame of `frame_len`
    /// bytes.
    ///
    /// # Errors
    /// [`DropReason::BadOffload`] where a field is unknown or points outside the frame.
    pub fn decode(header: &[u8; VNET_HEADER_LEN], frame_len: usize) -> Result<Self, DropReason> {
        let [flags, gso, hl0, hl1, gs0, gs1, cs0, cs1, co0, co1, _, _] = *header;
        let header_len = u16::from_le_bytes([hl0, hl1]);
        let size = u16::from_le_bytes([gs0, gs1]);
        let start = u16::from_le_bytes([cs0, cs1]);
        let offset = u16::from_le_bytes([co0, co1]);

        let checksum = if flags & F_NEEDS_CSUM != 0 {
            let end = usize::from(start) + usize::from(offset) + 2;
            if usize::from(start) < ETHERNET_LEN || end > frame_len {
                return Err(DropReason::BadOffload);
            }
            Some(PartialChecksum { start, offset })
        } else {
            None
        };
        let segmentation = match gso & !GSO_ECN {
            GSO_NONE => None,
            // A segment can only be cut where its checksum is still open (§5.1.6.2).
            GSO_TCPV4 | GSO_TCPV6 if size != 0 && checksum.is_some() => Some(Segmentation {
                kind: if gso & !GSO_ECN == GSO_TCPV4 {
                    SegmentKind::Tcp4
                } else {
                    SegmentKind::Tcp6
                },
                size,
                header_len,
                ecn: gso & GSO_ECN != 0,
            }),
            _ => return Err(DropReason::BadOffload),
        };
        Ok(Self { checksum, segmentation, validated: flags & F_DATA_VALID != 0 })
    }

    /// The virtio-net header for a frame that lies in `num_buffers` receive buffers.
    pub fn encode(&self, num_buffers: u16) -> [u8; VNET_HEADER_LEN] {
        let mut h = [0; VNET_HEADER_LEN];
        if let Some(c) = self.checksum {
            h[0] |= F_NEEDS_CSUM;
            h[6..8].copy_from_slice(&c.start.to_le_bytes());
            h[8..10].copy_from_slice(&c.offset.to_le_bytes());
        } else if self.validated {
            h[0] |= F_DATA_VALID;
        }
        if let Some(s) = self.segmentation {
            h[1] = match s.kind {
                SegmentKind::Tcp4 => GSO_TCPV4,
                SegmentKind::Tcp6 => GSO_TCPV6,
            } | if s.ecn { GSO_ECN } else { 0 };
            h[2..4].copy_from_slice(&s.header_len.to_le_bytes());
            h[4..6].copy_from_slice(&s.size.to_le_bytes());
        }
        h[10..12].copy_from_slice(&num_buffers.to_le_bytes());
        h
    }

    /// Whether no more is left to the link than was negotiated.
    pub fn is_within(&self, Offloads { checksum, tso4, tso6 }: Offloads) -> bool {
        let segmentation = match self.segmentation.map(|s| s.kind) {
            None => true,
            Some(SegmentKind::Tcp4) => tso4,
            Some(SegmentKind::Tcp6) => tso6,
        };
        segmentation && (checksum || self.checksum.is_none())
    }
}

/// What one side of a link takes of what the other leaves to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Offloads {
    /// Frames with an open checksum (`VIRTIO_NET_F_CSUM`, and `_GUEST_CSUM` the other way).
    pub checksum: bool,
    /// TCP/IPv4 segments up to 64 KiB (`VIRTIO_NET_F_HOST_TSO4`, `_GUEST_TSO4`).
    pub tso4: bool,
    /// TCP/IPv6 segments up to 64 KiB (`VIRTIO_NET_F_HOST_TSO6`, `_GUEST_TSO6`).
    pub tso6: bool,
}

/// A frame that a station sent.
#[derive(Debug)]
pub struct TxFrame<'a> {
    /// The first `min(len, HEAD_MAX)` bytes, Ethernet header on: our copy, the only one parsed.
    pub head: &'a [u8],
    /// The rest, in memory that the station may still write.
    pub tail: &'a [VolatileSlice<'a>],
    /// Bytes of head and tail together; at most [`FRAME_MAX`].
    pub len: usize,
    /// What the sender left to the link.
    pub offload: Offload,
}

/// What became of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TxOutcome {
    /// It went on, or was answered.
    Sent,
    /// It can't go on now; it stays with the station, which is asked again later.
    Busy,
    /// It is gone. The callee does not count the drop; the segment does.
    Dropped(DropReason),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tso_header_round_trips() {
        let offload = Offload {
            checksum: Some(PartialChecksum { start: 34, offset: 16 }),
            segmentation: Some(Segmentation {
                kind: SegmentKind::Tcp6,
                size: 1440,
                header_len: 74,
                ecn: true,
            }),
            validated: false,
        };
        let h = offload.encode(3);
        assert_eq!(h, [1, 0x84, 74, 0, 0xa0, 5, 34, 0, 16, 0, 3, 0]);
        assert_eq!(Offload::decode(&h, 60000), Ok(offload));
    }

    #[test]
    fn fields_outside_the_frame_are_refused() {
        let mut h = [1, 0, 0, 0, 0, 0, 34, 0, 16, 0, 0, 0];
        assert!(Offload::decode(&h, 52).is_ok());
        assert_eq!(Offload::decode(&h, 51), Err(DropReason::BadOffload));
        h[6] = 13;
        assert_eq!(Offload::decode(&h, 9000), Err(DropReason::BadOffload));
    }

    #[test]
    fn segmentation_needs_a_size_a_known_kind_and_an_open_checksum() {
        for (flags, gso, size) in [(1, 1, 0), (0, 1, 100), (1, 3, 100), (1, 5, 100), (1, 2, 100)] {
            let h = [flags, gso, 0, 0, size, 0, 34, 0, 16, 0, 0, 0];
            assert_eq!(
                Offload::decode(&h, 9000),
                Err(DropReason::BadOffload),
                "{flags} {gso} {size}"
            );
        }
    }
}
