//! ARP messages between Ethernet stations about IPv4 addresses (RFC 826).

use std::net::Ipv4Addr;

use super::bytes::{ipv4_at, mac_at, put, put_u16, u16_at};
use super::ethernet::ethertype;
use crate::addr::MacAddr;
use crate::stats::DropReason;

/// Bytes of a message, behind the Ethernet header.
pub const ARP_LEN: usize = 28;

mod field {
    pub const HARDWARE: usize = 0;
    pub const PROTOCOL: usize = 2;
    /// Bytes of a hardware and of a protocol address.
    pub const ADDRESS_LENGTHS: usize = 4;
    pub const OPERATION: usize = 6;
    pub const SENDER_MAC: usize = 8;
    pub const SENDER_IP: usize = 14;
    pub const TARGET_MAC: usize = 18;
    pub const TARGET_IP: usize = 24;
}

/// The hardware type of Ethernet.
const ETHERNET: u16 = 1;
const ADDRESS_LENGTHS: [u8; 2] = [6, 4];

/// What a message says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Who has the target's IPv4 address?
    Request = 1,
    /// The sender has its own.
    Reply = 2,
}

/// A message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ArpMessage {
    /// What it says.
    pub operation: Operation,
    /// Who says it; the address 0.0.0.0 is none (RFC 5227 §1.1).
    pub sender: (Ipv4Addr, MacAddr),
    /// Whom it is about, or for.
    pub target: (Ipv4Addr, MacAddr),
}

impl ArpMessage {
    /// Reads what follows the Ethernet header; there may be padding behind it.
    ///
    /// # Errors
    /// [`DropReason::Truncated`]; [`DropReason::Malformed`] for other networks and operations.
    pub fn parse(bytes: &[u8]) -> Result<Self, DropReason> {
        if bytes.len() < ARP_LEN {
            return Err(DropReason::Truncated);
        }
        let lengths = &bytes[field::ADDRESS_LENGTHS..field::OPERATION];
        if u16_at(bytes, field::HARDWARE) != ETHERNET
            || u16_at(bytes, field::PROTOCOL) != ethertype::IPV4
            || lengths != ADDRESS_LENGTHS
        {
            return Err(DropReason::Malformed);
        }
        let operation = match u16_at(bytes, field::OPERATION) {
            1 => Operation::Request,
            2 => Operation::Reply,
            _ => return Err(DropReason::Malformed),
        };
        let pair = |ip, mac| (ipv4_at(bytes, ip), mac_at(bytes, mac));
        Ok(Self {
            operation,
            sender: pair(field::SENDER_IP, field::SENDER_MAC),
            target: pair(field::TARGET_IP, field::TARGET_MAC),
        })
    }

    /// Writes it to the start of `to`, which has room for it.
    pub fn emit(&self, to: &mut [u8]) {
        put_u16(to, field::HARDWARE, ETHERNET);
        put_u16(to, field::PROTOCOL, ethertype::IPV4);
        put(to, field::ADDRESS_LENGTHS, ADDRESS_LENGTHS);
        put_u16(to, field::OPERATION, self.operation as u16);
        put(to, field::SENDER_MAC, self.sender.1.0);
        put(to, field::SENDER_IP, self.sender.0.octets());
        put(to, field::TARGET_MAC, self.target.1.0);
        put(to, field::TARGET_IP, self.target.0.octets());
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_parsed_is_emitted_as_it_was(mut bytes: Vec<u8>, operation in 0u16..4, ours: bool) {
            if ours {
                bytes.resize(bytes.len().max(ARP_LEN), 7);
                bytes[..6].copy_from_slice(&[0, 1, 8, 0, 6, 4]);
                bytes[6..8].copy_from_slice(&operation.to_be_bytes());
                prop_assert_eq!(ArpMessage::parse(&bytes).is_ok(), (1..3).contains(&operation));
            }
            if let Ok(message) = ArpMessage::parse(&bytes) {
                let mut again = [0; ARP_LEN];
                message.emit(&mut again);
                prop_assert_eq!(&again[..], &bytes[..ARP_LEN]);
            }
        }
    }
}
