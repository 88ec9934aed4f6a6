//! What transport headers have in common: a checksum.

use std::net::IpAddr;

use super::checksum::Sum;
use super::ip::protocol;
use super::{icmp, tcp, udp};

/// Where the checksum lies in the header of `protocol`, if it has one that is known here.
#[inline]
pub fn checksum_at(protocol: u8) -> Option<usize> {
    match protocol {
        protocol::TCP => Some(tcp::CHECKSUM_AT),
        protocol::UDP => Some(udp::CHECKSUM_AT),
        protocol::ICMP | protocol::ICMPV6 => Some(icmp::CHECKSUM_AT),
        _ => None,
    }
}

/// What the checksum of `len` bytes of header and payload begins with: the pseudo-header, which
/// all have but ICMP over IPv4 (RFC 792). The two addresses are of one family.
#[inline]
pub fn sum(src: IpAddr, dst: IpAddr, protocol: u8, len: usize) -> Sum {
    match protocol {
        protocol::ICMP => Sum::new(),
        _ => Sum::pseudo_header(src, dst, protocol, len),
    }
}

/// The value of the checksum field of `protocol` when all is added.
#[inline]
pub fn finish(protocol: u8, sum: Sum) -> u16 {
    match protocol {
        protocol::UDP => sum.finish_udp(),
        _ => sum.finish(),
    }
}
