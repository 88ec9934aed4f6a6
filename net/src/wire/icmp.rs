//! The header of ICMP (RFC 792) and ICMPv6 (RFC 4443 §2.1) messages, and the numbers that the
//! gateway knows.

use super::bytes::{put, put_u16, u16_at};
use crate::stats::DropReason;

/// Bytes of the header.
pub const ICMP_LEN: usize = 8;

/// Where in the header its checksum lies.
pub const CHECKSUM_AT: usize = field::CHECKSUM;

mod field {
    pub const KIND: usize = 0;
    pub const CODE: usize = 1;
    pub const CHECKSUM: usize = 2;
    pub const REST: usize = 4;
    /// Of an echo message.
    pub const IDENTIFIER: usize = REST;
}

/// Types of ICMP.
pub mod kind4 {
    /// RFC 792.
    pub const ECHO_REPLY: u8 = 0;
    /// RFC 792; the code says why.
    pub const UNREACHABLE: u8 = 3;
    /// RFC 792.
    pub const ECHO_REQUEST: u8 = 8;
    /// RFC 792.
    pub const TIME_EXCEEDED: u8 = 11;
    /// RFC 792.
    pub const TIMESTAMP: u8 = 13;
    /// RFC 792.
    pub const INFORMATION: u8 = 15;
    /// RFC 950.
    pub const MASK: u8 = 17;
    /// RFC 950. From [`TIMESTAMP`] to here all are questions or answers, none an error.
    pub const MASK_REPLY: u8 = 18;
}

/// Codes of [`kind4::UNREACHABLE`].
pub mod unreachable4 {
    /// RFC 792.
    pub const NETWORK: u8 = 0;
    /// RFC 792.
    pub const HOST: u8 = 1;
    /// RFC 792.
    pub const PROTOCOL: u8 = 2;
    /// RFC 792.
    pub const PORT: u8 = 3;
    /// RFC 792; with the MTU (RFC 1191 §4).
    pub const TOO_BIG: u8 = 4;
    /// By a filter (RFC 1812 §5.2.7.1).
    pub const PROHIBITED: u8 = 13;
}

/// Types of ICMPv6. Those below 128 are errors (RFC 4443 §2.1).
pub mod kind6 {
    /// RFC 4443 §3.1; the code says why.
    pub const UNREACHABLE: u8 = 1;
    /// RFC 4443 §3.2.
    pub const TOO_BIG: u8 = 2;
    /// RFC 4443 §3.3.
    pub const TIME_EXCEEDED: u8 = 3;
    /// RFC 4443 §3.4.
    pub const PARAMETER_PROBLEM: u8 = 4;
    /// The first that is no error: RFC 4443 §4.1.
    pub const ECHO_REQUEST: u8 = 128;
    /// RFC 4443 §4.2.
    pub const ECHO_REPLY: u8 = 129;
    /// RFC 4620.
    pub const NODE_INFORMATION: u8 = 139;
    /// RFC 8335.
    pub const EXTENDED_ECHO: u8 = 160;
}

/// Codes of [`kind6::UNREACHABLE`] (RFC 4443 §3.1).
pub mod unreachable6 {
    /// No route.
    pub const NETWORK: u8 = 0;
    /// By a filter.
    pub const PROHIBITED: u8 = 1;
    /// The node does not answer.
    pub const HOST: u8 = 3;
    /// Nobody listens.
    pub const PORT: u8 = 4;
}

/// Codes of time exceeded, the same in both families.
pub mod exceeded {
    /// In transit: the hop limit.
    pub const HOP_LIMIT: u8 = 0;
    /// In reassembly.
    pub const REASSEMBLY: u8 = 1;
}

/// The code of [`kind6::PARAMETER_PROBLEM`] for a next header that nobody knows.
pub const UNKNOWN_NEXT_HEADER: u8 = 1;

/// A header, its checksum aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IcmpHeader {
    /// The type.
    pub kind: u8,
    /// The code.
    pub code: u8,
    /// What follows the checksum; what it means depends on the type.
    pub rest: u32,
}

impl IcmpHeader {
    /// Reads the start of a message.
    ///
    /// # Errors
    /// [`DropReason::Truncated`]
    pub fn parse(bytes: &[u8]) -> Result<Self, DropReason> {
        if bytes.len() < ICMP_LEN {
            return Err(DropReason::Truncated);
        }
        let rest = super::bytes::u32_at(bytes, field::REST);
        Ok(Self { kind: bytes[field::KIND], code: bytes[field::CODE], rest })
    }

    /// The header, its checksum 0.
    pub fn emit(&self) -> [u8; ICMP_LEN] {
        let mut to = [0; ICMP_LEN];
        to[field::KIND] = self.kind;
        to[field::CODE] = self.code;
        put(&mut to, field::REST, self.rest.to_be_bytes());
        to
    }
}

/// The identifier of an echo `message`, which is as long as its header.
pub fn echo_id(message: &[u8]) -> u16 {
    u16_at(message, field::IDENTIFIER)
}

/// Writes the checksum of a `message`.
pub fn put_checksum(message: &mut [u8], sum: u16) {
    put_u16(message, field::CHECKSUM, sum);
}

/// Gives an echo `message` another type and identifier, and a checksum of 0.
pub fn rewrite_echo(message: &mut [u8], kind: u8, id: u16) {
    message[field::KIND] = kind;
    put_u16(message, field::CHECKSUM, 0);
    put_u16(message, field::IDENTIFIER, id);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn parse_and_emit_are_inverses(mut bytes: Vec<u8>) {
            match IcmpHeader::parse(&bytes) {
                Ok(header) => {
                    bytes[CHECKSUM_AT..CHECKSUM_AT + 2].fill(0);
                    prop_assert_eq!(&header.emit(), &bytes[..ICMP_LEN]);
                }
                Err(_) => prop_assert!(bytes.len() < ICMP_LEN),
            }
        }

        #[test]
        fn an_echo_is_rewritten_and_its_sequence_stays(
            mut bytes in prop::collection::vec(any::<u8>(), ICMP_LEN..40), kind: u8, id: u16,
        ) {
            let before = bytes.clone();
            rewrite_echo(&mut bytes, kind, id);
            prop_assert_eq!((echo_id(&bytes), bytes[0], bytes[1]), (id, kind, before[1]));
            prop_assert_eq!(&bytes[2..4], &[0, 0]);
            prop_assert_eq!(&bytes[6..], &before[6..]);
        }
    }
}
