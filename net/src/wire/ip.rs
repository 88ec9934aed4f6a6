//! IP headers: version 4 (RFC 791 §3.1), and 6 with its extension headers (RFC 8200 §3, §4).

use std::net::{Ipv4Addr, Ipv6Addr};

use super::bytes::{ipv4_at, ipv6_at, put, put_u16, u16_at, u32_at};
use super::checksum::checksum;
use crate::stats::DropReason;

/// Bytes of an IPv4 header without options.
pub const IPV4_LEN: usize = 20;
/// Bytes of an IPv6 header.
pub const IPV6_LEN: usize = 40;
/// Bytes of IPv6's fragment header (RFC 8200 §4.5).
pub const FRAGMENT_LEN: usize = 8;

/// Fragments count in units of 8 bytes (RFC 791 §3.1, RFC 8200 §4.5).
pub const FRAGMENT_UNIT: usize = 8;

/// IPv6 extension headers that may stand before the transport header: more are an attack.
const EXTENSIONS_MAX: usize = 8;

/// What follows an IP header: numbers of protocols and, in IPv6, of extension headers.
pub mod protocol {
    /// RFC 8200 §4.3.
    pub const HOP_BY_HOP: u8 = 0;
    /// RFC 792.
    pub const ICMP: u8 = 1;
    /// RFC 9293.
    pub const TCP: u8 = 6;
    /// RFC 768.
    pub const UDP: u8 = 17;
    /// RFC 8200 §4.4.
    pub const ROUTING: u8 = 43;
    /// RFC 8200 §4.5.
    pub const FRAGMENT: u8 = 44;
    /// RFC 4443.
    pub const ICMPV6: u8 = 58;
    /// RFC 8200 §4.7: nothing.
    pub const NO_NEXT_HEADER: u8 = 59;
    /// RFC 8200 §4.6.
    pub const DESTINATION_OPTIONS: u8 = 60;
}

mod field {
    /// Version 4: the header's offsets.
    pub mod v4 {
        pub const VERSION_LEN: usize = 0;
        pub const TRAFFIC_CLASS: usize = 1;
        pub const TOTAL_LEN: usize = 2;
        pub const ID: usize = 4;
        pub const FLAGS_OFFSET: usize = 6;
        pub const HOP_LIMIT: usize = 8;
        pub const PROTOCOL: usize = 9;
        pub const CHECKSUM: usize = 10;
        pub const SOURCE: usize = 12;
        pub const DESTINATION: usize = 16;

        pub const DONT_FRAGMENT: u16 = 0x4000;
        pub const MORE: u16 = 0x2000;
        pub const OFFSET: u16 = 0x1fff;
    }

    /// Version 6.
    pub mod v6 {
        /// Version, traffic class and flow label, in 4 bytes.
        pub const VERSION_CLASS: usize = 0;
        pub const PAYLOAD_LEN: usize = 4;
        pub const NEXT_HEADER: usize = 6;
        pub const HOP_LIMIT: usize = 7;
        pub const SOURCE: usize = 8;
        pub const DESTINATION: usize = 24;
    }

    /// An extension header of version 6.
    pub mod extension {
        pub const NEXT_HEADER: usize = 0;
        /// In units of 8 bytes, the first not counted.
        pub const LEN: usize = 1;
    }

    /// Version 6's fragment header.
    pub mod fragment {
        pub const OFFSET_MORE: usize = 2;
        pub const ID: usize = 4;

        pub const OFFSET: u16 = 0xfff8;
        pub const MORE: u16 = 1;
    }
}

/// A piece of a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fragment {
    /// The identification that its pieces share; 16 bits of it over IPv4.
    pub id: u32,
    /// Where in the datagram it belongs, in bytes: a multiple of [`FRAGMENT_UNIT`].
    pub offset: u32,
    /// It is not the last.
    pub more: bool,
}

impl Fragment {
    /// True where there are others.
    pub fn is_part(&self) -> bool {
        self.more || self.offset != 0
    }

    /// Writes IPv6's header of it to the start of `to`, where `next` follows what was cut.
    pub fn emit(&self, next: u8, to: &mut [u8]) {
        to[field::extension::NEXT_HEADER] = next;
        to[field::extension::LEN] = 0;
        let more = if self.more { field::fragment::MORE } else { 0 };
        put_u16(
            to,
            field::fragment::OFFSET_MORE,
            self.offset as u16 & field::fragment::OFFSET | more,
        );
        put(to, field::fragment::ID, self.id.to_be_bytes());
    }

    fn parse(header: &[u8]) -> Self {
        let field = u16_at(header, field::fragment::OFFSET_MORE);
        Self {
            id: u32_at(header, field::fragment::ID),
            offset: (field & field::fragment::OFFSET).into(),
            more: field & field::fragment::MORE != 0,
        }
    }
}

/// An IPv4 header, its options aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ipv4Header {
    /// Source address.
    pub src: Ipv4Addr,
    /// Destination address.
    pub dst: Ipv4Addr,
    /// What follows: one of [`protocol`]'s, or another.
    pub protocol: u8,
    /// TTL.
    pub hop_limit: u8,
    /// Type of service.
    pub traffic_class: u8,
    /// The DF bit.
    pub dont_fragment: bool,
    /// Where it belongs, if it is one of several.
    pub fragment: Option<Fragment>,
    /// Bytes that follow.
    pub payload_len: usize,
}

impl Ipv4Header {
    /// Where the header names the protocol.
    pub const PROTOCOL_AT: usize = field::v4::PROTOCOL;

    /// Reads the start of `bytes`, which are of a packet that has `total` bytes to lie in, and
    /// checks its checksum. Also returns how long it is with its options, at most `bytes`' length.
    ///
    /// # Errors
    /// The reason to drop it.
    #[inline]
    pub fn parse(bytes: &[u8], total: usize) -> Result<(Self, usize), DropReason> {
        use field::v4::*;
        if bytes.len() < IPV4_LEN {
            return Err(DropReason::Truncated);
        }
        let header_len = usize::from(bytes[VERSION_LEN] & 0xf) * 4;
        let len = usize::from(u16_at(bytes, TOTAL_LEN));
        if bytes[VERSION_LEN] >> 4 != 4 || header_len < IPV4_LEN || len < header_len {
            return Err(DropReason::Malformed);
        }
        if len > total {
            return Err(DropReason::Truncated);
        }
        if header_len > bytes.len() {
            return Err(DropReason::HeadersTooLong);
        }
        if checksum(&bytes[..header_len]) != 0 {
            return Err(DropReason::BadChecksum);
        }
        let flags = u16_at(bytes, FLAGS_OFFSET);
        let offset = u32::from(flags & OFFSET) * FRAGMENT_UNIT as u32;
        let fragment = Fragment { id: u16_at(bytes, ID).into(), offset, more: flags & MORE != 0 };
        let header = Self {
            src: ipv4_at(bytes, SOURCE),
            dst: ipv4_at(bytes, DESTINATION),
            protocol: bytes[PROTOCOL],
            hop_limit: bytes[HOP_LIMIT],
            traffic_class: bytes[TRAFFIC_CLASS],
            dont_fragment: flags & DONT_FRAGMENT != 0,
            fragment: fragment.is_part().then_some(fragment),
            payload_len: len - header_len,
        };
        Ok((header, header_len))
    }

    /// Writes it to the start of `to`, which has room for it, with its checksum. The identification
    /// of what is no fragment is 0 (RFC 6864 §4.1).
    #[inline]
    pub fn emit(&self, to: &mut [u8]) {
        use field::v4::*;
        let to = &mut to[..IPV4_LEN];
        to[VERSION_LEN] = 4 << 4 | (IPV4_LEN / 4) as u8;
        to[TRAFFIC_CLASS] = self.traffic_class;
        put_u16(to, TOTAL_LEN, (IPV4_LEN + self.payload_len) as u16);
        let mut flags = if self.dont_fragment { DONT_FRAGMENT } else { 0 };
        let mut id = 0;
        if let Some(fragment) = self.fragment {
            id = fragment.id as u16;
            flags |= (fragment.offset / FRAGMENT_UNIT as u32) as u16 & OFFSET;
            flags |= if fragment.more { MORE } else { 0 };
        }
        put_u16(to, ID, id);
        put_u16(to, FLAGS_OFFSET, flags);
        to[HOP_LIMIT] = self.hop_limit;
        to[PROTOCOL] = self.protocol;
        put_u16(to, CHECKSUM, 0);
        put(to, SOURCE, self.src.octets());
        put(to, DESTINATION, self.dst.octets());
        let sum = checksum(to);
        put_u16(to, CHECKSUM, sum);
    }
}

/// An IPv6 header, its flow label aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ipv6Header {
    /// Source address.
    pub src: Ipv6Addr,
    /// Destination address.
    pub dst: Ipv6Addr,
    /// What follows: one of [`protocol`]'s, or another.
    pub next_header: u8,
    /// Hop limit.
    pub hop_limit: u8,
    /// Traffic class.
    pub traffic_class: u8,
    /// Bytes that follow.
    pub payload_len: usize,
}

impl Ipv6Header {
    /// Reads the start of `bytes`, which are of a packet that has `total` bytes to lie in.
    ///
    /// # Errors
    /// The reason to drop it.
    #[inline]
    pub fn parse(bytes: &[u8], total: usize) -> Result<Self, DropReason> {
        use field::v6::*;
        if bytes.len() < IPV6_LEN {
            return Err(DropReason::Truncated);
        }
        let [version, class] = [bytes[VERSION_CLASS], bytes[VERSION_CLASS + 1]];
        if version >> 4 != 6 {
            return Err(DropReason::Malformed);
        }
        // No jumbograms (RFC 2675): a payload length of 0 means just that.
        let payload_len = usize::from(u16_at(bytes, PAYLOAD_LEN));
        if IPV6_LEN + payload_len > total {
            return Err(DropReason::Truncated);
        }
        Ok(Self {
            src: ipv6_at(bytes, SOURCE),
            dst: ipv6_at(bytes, DESTINATION),
            next_header: bytes[NEXT_HEADER],
            hop_limit: bytes[HOP_LIMIT],
            traffic_class: version << 4 | class >> 4,
            payload_len,
        })
    }

    /// Writes it to the start of `to`, which has room for it, with the flow label 0.
    #[inline]
    pub fn emit(&self, to: &mut [u8]) {
        use field::v6::*;
        let to = &mut to[..IPV6_LEN];
        put(to, VERSION_CLASS, [6 << 4 | self.traffic_class >> 4, self.traffic_class << 4, 0, 0]);
        put_u16(to, PAYLOAD_LEN, self.payload_len as u16);
        to[NEXT_HEADER] = self.next_header;
        to[HOP_LIMIT] = self.hop_limit;
        put(to, SOURCE, self.src.octets());
        put(to, DESTINATION, self.dst.octets());
    }
}

/// The extension headers of an IPv6 packet (RFC 8200 §4), up to a fragment's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extensions {
    /// What follows them: the transport protocol, in a fragment that of its first byte.
    pub protocol: u8,
    /// Where that is named.
    pub protocol_at: usize,
    /// Where they end.
    pub end: usize,
    /// What the fragment header says.
    pub fragment: Option<Fragment>,
}

impl Extensions {
    /// Reads those of the packet that starts with `bytes`.
    ///
    /// # Errors
    /// The reason to drop the packet.
    #[inline]
    pub fn parse(bytes: &[u8]) -> Result<Self, DropReason> {
        Self::parse_from(bytes, IPV6_LEN, field::v6::NEXT_HEADER)
    }

    /// Reads those from `at` on, the first of which is named at `protocol_at`.
    ///
    /// # Errors
    /// The reason to drop the packet.
    pub fn parse_from(bytes: &[u8], at: usize, protocol_at: usize) -> Result<Self, DropReason> {
        use field::extension::{LEN, NEXT_HEADER};
        let protocol = bytes[protocol_at];
        let mut it = Self { protocol, protocol_at, end: at, fragment: None };
        for _ in 0..=EXTENSIONS_MAX {
            let at = it.end;
            let header = || bytes.get(at..at + 8).ok_or(DropReason::HeadersTooLong);
            let len = match it.protocol {
                // First only (§4.1).
                protocol::HOP_BY_HOP if at != IPV6_LEN => return Err(DropReason::Malformed),
                protocol::HOP_BY_HOP | protocol::ROUTING | protocol::DESTINATION_OPTIONS => {
                    8 + usize::from(header()?[LEN]) * 8
                }
                protocol::FRAGMENT if it.fragment.is_some() => return Err(DropReason::Malformed),
                protocol::FRAGMENT => {
                    it.fragment = Some(Fragment::parse(header()?));
                    FRAGMENT_LEN
                }
                _ => return Ok(it),
            };
            if at + len > bytes.len() {
                return Err(DropReason::HeadersTooLong);
            }
            let protocol_at = at + NEXT_HEADER;
            (it.protocol, it.protocol_at, it.end) = (bytes[protocol_at], protocol_at, at + len);
            // What follows a fragment's header is cut as it is, whatever it looks like.
            if it.fragment.as_ref().is_some_and(Fragment::is_part) {
                return Ok(it);
            }
        }
        Err(DropReason::HeadersTooLong)
    }
}

#[cfg(test)]
mod tests;
