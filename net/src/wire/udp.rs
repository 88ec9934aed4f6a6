//! UDP headers (RFC 768).

use super::bytes::{put_u16, u16_at};
use crate::stats::DropReason;

/// Bytes of the header.
pub const UDP_LEN: usize = 8;

/// Where in the header its checksum lies.
pub const CHECKSUM_AT: usize = field::CHECKSUM;

mod field {
    pub const SRC_PORT: usize = 0;
    pub const DST_PORT: usize = 2;
    pub const LEN: usize = 4;
    pub const CHECKSUM: usize = 6;
}

/// A header, its checksum aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UdpHeader {
    /// Source port, never 0: that would mean that no answer is wanted (RFC 768).
    pub src_port: u16,
    /// Destination port, never 0.
    pub dst_port: u16,
    /// Bytes of payload.
    pub payload_len: usize,
}

impl UdpHeader {
    /// Reads the start of `bytes`, which are of a datagram that has `total` bytes to lie in.
    ///
    /// # Errors
    /// The reason to drop it.
    #[inline]
    pub fn parse(bytes: &[u8], total: usize) -> Result<Self, DropReason> {
        if total < UDP_LEN {
            return Err(DropReason::Truncated);
        }
        if bytes.len() < UDP_LEN {
            return Err(DropReason::HeadersTooLong);
        }
        let (src_port, dst_port) = (u16_at(bytes, field::SRC_PORT), u16_at(bytes, field::DST_PORT));
        let len = usize::from(u16_at(bytes, field::LEN));
        if len < UDP_LEN || len > total || src_port == 0 || dst_port == 0 {
            return Err(DropReason::Malformed);
        }
        Ok(Self { src_port, dst_port, payload_len: len - UDP_LEN })
    }

    /// The header, its checksum 0. What is longer than a datagram can be is cut (of a quote).
    #[inline]
    pub fn emit(&self) -> [u8; UDP_LEN] {
        let mut to = [0; UDP_LEN];
        put_u16(&mut to, field::SRC_PORT, self.src_port);
        put_u16(&mut to, field::DST_PORT, self.dst_port);
        put_u16(&mut to, field::LEN, (UDP_LEN + self.payload_len) as u16);
        to
    }
}

/// The destination port of what starts with a UDP header, if that is there.
#[inline]
pub fn destination_port(bytes: &[u8]) -> Option<u16> {
    (bytes.len() >= UDP_LEN).then(|| u16_at(bytes, field::DST_PORT))
}

/// True where the sender made no checksum.
#[inline]
pub fn is_unsummed(header: &[u8]) -> bool {
    u16_at(header, field::CHECKSUM) == 0
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lengths_and_ports_are_checked() {
        let good = [0, 1, 0, 2, 0, 9, 0xab, 0xcd, 7];
        let header = UdpHeader { src_port: 1, dst_port: 2, payload_len: 1 };
        assert_eq!(UdpHeader::parse(&good, 9), Ok(header));
        assert_eq!(UdpHeader::parse(&good, 8), Err(DropReason::Malformed));
        assert_eq!(UdpHeader::parse(&good[..7], 7), Err(DropReason::Truncated));
        assert_eq!(UdpHeader::parse(&good[..7], 9), Err(DropReason::HeadersTooLong));
        for (at, value) in [(1, 0), (3, 0), (5, 7)] {
            let mut bad = good;
            bad[at] = value;
            assert_eq!(UdpHeader::parse(&bad, 9), Err(DropReason::Malformed), "byte {at}");
        }
    }

    proptest! {
        #[test]
        fn what_is_parsed_is_emitted_as_it_was(bytes: Vec<u8>, more in 0usize..70000) {
            if let Ok(header) = UdpHeader::parse(&bytes, bytes.len() + more) {
                prop_assert!(UDP_LEN + header.payload_len <= bytes.len() + more);
                prop_assert_eq!(&header.emit()[..CHECKSUM_AT], &bytes[..CHECKSUM_AT]);
                prop_assert_eq!(destination_port(&bytes), Some(header.dst_port));
            }
        }

        #[test]
        fn what_is_emitted_is_parsed(src_port in 1u16.., dst_port in 1u16.., payload_len in 0usize..65527) {
            let header = UdpHeader { src_port, dst_port, payload_len };
            let bytes = header.emit();
            prop_assert!(is_unsummed(&bytes));
            prop_assert_eq!(UdpHeader::parse(&bytes, UDP_LEN + payload_len), Ok(header));
        }
    }
}
