//! Ethernet II headers without tags.

use super::bytes::{mac_at, put, put_u16, u16_at};
use crate::addr::MacAddr;
use crate::stats::DropReason;

/// Bytes of the header.
pub const ETHERNET_LEN: usize = 14;

/// What a frame carries.
pub mod ethertype {
    /// RFC 894.
    pub const IPV4: u16 = 0x0800;
    /// RFC 826.
    pub const ARP: u16 = 0x0806;
    /// RFC 2464.
    pub const IPV6: u16 = 0x86dd;
}

mod field {
    pub const DESTINATION: usize = 0;
    pub const SOURCE: usize = 6;
    pub const TYPE: usize = 12;
}

/// A header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EthernetHeader {
    /// Destination; a group where its first bit is set.
    pub dst: MacAddr,
    /// Source.
    pub src: MacAddr,
    /// One of [`ethertype`]'s, or another.
    pub ethertype: u16,
}

impl EthernetHeader {
    /// Reads the start of a frame.
    ///
    /// # Errors
    /// [`DropReason::Truncated`]
    #[inline]
    pub fn parse(bytes: &[u8]) -> Result<Self, DropReason> {
        if bytes.len() < ETHERNET_LEN {
            return Err(DropReason::Truncated);
        }
        Ok(Self {
            dst: mac_at(bytes, field::DESTINATION),
            src: mac_at(bytes, field::SOURCE),
            ethertype: u16_at(bytes, field::TYPE),
        })
    }

    /// Writes it to the start of `to`, which has room for it.
    #[inline]
    pub fn emit(&self, to: &mut [u8]) {
        put(to, field::DESTINATION, self.dst.0);
        put(to, field::SOURCE, self.src.0);
        put_u16(to, field::TYPE, self.ethertype);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_golden_header() {
        let bytes = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 9, 0x86, 0xdd];
        let (dst, src) = (MacAddr::BROADCAST, MacAddr([2, 0, 0, 0, 0, 9]));
        let header = EthernetHeader { dst, src, ethertype: ethertype::IPV6 };
        assert_eq!(EthernetHeader::parse(&bytes), Ok(header));
    }

    proptest! {
        #[test]
        fn parse_and_emit_are_inverses(bytes: Vec<u8>) {
            match EthernetHeader::parse(&bytes) {
                Ok(header) => {
                    let mut again = [0; ETHERNET_LEN];
                    header.emit(&mut again);
                    prop_assert_eq!(&again[..], &bytes[..ETHERNET_LEN]);
                }
                Err(_) => prop_assert!(bytes.len() < ETHERNET_LEN),
            }
        }
    }
}
