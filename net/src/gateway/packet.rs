//! An IP packet from the guest, parsed once from the frame's head.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use vm_memory::VolatileSlice;

use crate::addr::MacAddr;
use crate::frame::{Offload, TxFrame};
use crate::scatter::Scatter;
use crate::stats::DropReason;
use crate::wire::checksum::{Sum, checksum};
use crate::wire::{ETHERNET_LEN, IPV4_LEN, IPV6_LEN, UDP_LEN, ethertype, protocol, u16_at, u32_at};

/// IPv6 extension headers that may stand before the transport header: more are an attack.
const EXTENSIONS_MAX: usize = 8;

/// Fragments count in units of 8 bytes (RFC 791 §3.1, RFC 8200 §4.5).
pub const FRAGMENT_UNIT: usize = 8;

/// A piece of a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fragment {
    /// The identification that its pieces share.
    pub id: u32,
    /// Where in the datagram it belongs, in bytes.
    pub offset: u32,
    /// It is not the last.
    pub more: bool,
}

impl Fragment {
    /// True where there are others.
    pub fn is_part(&self) -> bool {
        self.more || self.offset != 0
    }
}

/// The extension headers of an IPv6 packet (RFC 8200 §4), up to a fragment's.
#[derive(Debug, Clone, Copy)]
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
    /// Reads those of `bytes` from `at` on, the first of which is named at `protocol_at`.
    ///
    /// # Errors
    /// The reason to drop the packet.
    pub fn parse(bytes: &[u8], at: usize, protocol_at: usize) -> Result<Self, DropReason> {
        let protocol = bytes[protocol_at];
        let mut it = Self { protocol, protocol_at, end: at, fragment: None };
        for _ in 0..=EXTENSIONS_MAX {
            let at = it.end;
            let header = || bytes.get(at..at + 8).ok_or(DropReason::HeadersTooLong);
            let len = match it.protocol {
                // Hop-by-hop (first only, §4.1), routing, destination options.
                0 if at != IPV6_LEN => return Err(DropReason::Malformed),
                0 | 43 | 60 => 8 + usize::from(header()?[1]) * 8,
                44 if it.fragment.is_some() => return Err(DropReason::Malformed),
                44 => {
                    let (field, id) = (u16_at(header()?, 2), u32_at(header()?, 4));
                    let (offset, more) = (u32::from(field & 0xfff8), field & 1 != 0);
                    it.fragment = Some(Fragment { id, offset, more });
                    8
                }
                _ => return Ok(it),
            };
            if at + len > bytes.len() {
                return Err(DropReason::HeadersTooLong);
            }
            (it.protocol, it.protocol_at, it.end) = (bytes[at], at, at + len);
            // What follows a fragment's header is cut as it is, whatever it looks like.
            if it.fragment.as_ref().is_some_and(Fragment::is_part) {
                return Ok(it);
            }
        }
        Err(DropReason::HeadersTooLong)
    }
}

/// An IP packet. All fields are from our own copy of the headers.
#[derive(Debug, Clone, Copy)]
pub struct Packet<'a> {
    /// Who sent the frame.
    pub src_mac: MacAddr,
    /// The frame was sent to a group, whatever the packet says.
    pub group: bool,
    /// Source address.
    pub src: IpAddr,
    /// Destination address, of the same family.
    pub dst: IpAddr,
    /// The transport protocol, behind all extension headers.
    pub protocol: u8,
    /// TTL or hop limit.
    pub hop_limit: u8,
    /// Type of service or traffic class.
    pub traffic_class: u8,
    /// IPv4's DF bit; true for IPv6.
    pub dont_fragment: bool,
    /// Where it belongs, when it is a fragment.
    pub fragment: Option<Fragment>,
    /// It came with a fragment header, or in fragments.
    pub fragmented: bool,
    /// Where the IP header names the protocol.
    pub protocol_at: usize,
    /// The IP header with its options or extensions.
    pub ip_header: &'a [u8],
    /// What of the transport header and its payload lies in the head.
    pub head: &'a [u8],
    /// The rest of it, still the sender's.
    pub tail: &'a [VolatileSlice<'a>],
    /// Bytes of transport header and payload, head and tail together, link padding excluded.
    pub len: usize,
    /// What the sender left to the link.
    pub offload: Offload,
}

/// The payload of a transport protocol: `len` bytes, first those of `head`, then of `tail`.
#[derive(Debug, Clone, Copy)]
pub struct Payload<'a> {
    /// What of it lies in the head.
    pub head: &'a [u8],
    /// The rest; may hold more than belongs to the payload.
    pub tail: &'a [VolatileSlice<'a>],
    /// Bytes in all.
    pub len: usize,
}

impl<'a> Payload<'a> {
    /// Bytes of it in the tail.
    pub fn tail_len(&self) -> usize {
        self.len - self.head.len()
    }

    /// Copies all of it to the start of `to`, which has room for it.
    pub fn copy_to(&self, to: &mut [u8]) {
        self.copy_at(0, &mut to[..self.len]);
    }

    /// Copies what begins `skip` bytes into it, and there must be as much, to all of `to`.
    pub fn copy_at(&self, skip: usize, to: &mut [u8]) {
        let head = self.head.get(skip..).unwrap_or_default();
        let (to, rest) = to.split_at_mut(head.len().min(to.len()));
        to.copy_from_slice(&head[..to.len()]);
        Scatter::new(self.tail).copy_to(skip.saturating_sub(self.head.len()), rest);
    }
}

impl<'a> Packet<'a> {
    /// Parses a frame whose EtherType is IPv4 or IPv6.
    ///
    /// # Errors
    /// The reason to drop it.
    pub fn parse(frame: &TxFrame<'a>) -> Result<Self, DropReason> {
        let head = frame.head;
        if head.len() < ETHERNET_LEN {
            return Err(DropReason::Truncated);
        }
        let mut src_mac = MacAddr::default();
        src_mac.0.copy_from_slice(&head[6..12]);
        let ip = &head[ETHERNET_LEN..];
        let ip_len = frame.len - ETHERNET_LEN;
        let packet = match u16_at(head, 12) {
            ethertype::IPV4 => Self::parse_v4(ip, ip_len)?,
            ethertype::IPV6 => Self::parse_v6(ip, ip_len)?,
            _ => return Err(DropReason::UnknownEtherType),
        };
        let group = head[0] & 1 != 0;
        Ok(Self { src_mac, group, tail: frame.tail, offload: frame.offload, ..packet })
    }

    /// RFC 791 §3.1.
    fn parse_v4(ip: &'a [u8], ip_len: usize) -> Result<Self, DropReason> {
        if ip.len() < IPV4_LEN {
            return Err(DropReason::Truncated);
        }
        let header_len = usize::from(ip[0] & 0xf) * 4;
        let total = usize::from(u16_at(ip, 2));
        if ip[0] >> 4 != 4 || header_len < IPV4_LEN || total < header_len {
            return Err(DropReason::Malformed);
        }
        if total > ip_len {
            return Err(DropReason::Truncated);
        }
        if header_len > ip.len() {
            return Err(DropReason::HeadersTooLong);
        }
        if checksum(&ip[..header_len]) != 0 {
            return Err(DropReason::BadChecksum);
        }
        let flags = u16_at(ip, 6);
        let (more, offset) = (flags & 0x2000 != 0, u32::from(flags & 0x1fff) * 8);
        let len = total - header_len;
        Ok(Self {
            src_mac: MacAddr::default(),
            group: false,
            src: Ipv4Addr::from(u32_at(ip, 12)).into(),
            dst: Ipv4Addr::from(u32_at(ip, 16)).into(),
            protocol: ip[9],
            hop_limit: ip[8],
            traffic_class: ip[1],
            dont_fragment: flags & 0x4000 != 0,
            fragment: (more || offset != 0).then(|| Fragment {
                id: u16_at(ip, 4).into(),
                offset,
                more,
            }),
            fragmented: more || offset != 0,
            protocol_at: 9,
            ip_header: &ip[..header_len],
            head: &ip[header_len..ip.len().min(total)],
            tail: &[],
            len,
            offload: Offload::default(),
        })
    }

    /// RFC 8200 §3 and §4.
    fn parse_v6(ip: &'a [u8], ip_len: usize) -> Result<Self, DropReason> {
        if ip.len() < IPV6_LEN {
            return Err(DropReason::Truncated);
        }
        if ip[0] >> 4 != 6 {
            return Err(DropReason::Malformed);
        }
        // No jumbograms (RFC 2675): a payload length of 0 means just that.
        let total = IPV6_LEN + usize::from(u16_at(ip, 4));
        if total > ip_len {
            return Err(DropReason::Truncated);
        }
        let ip = &ip[..ip.len().min(total)];
        let Extensions { protocol, protocol_at, end: at, fragment } =
            Extensions::parse(ip, IPV6_LEN, 6)?;
        let addr = |at: usize| {
            let mut octets = [0; 16];
            octets.copy_from_slice(&ip[at..at + 16]);
            IpAddr::from(Ipv6Addr::from(octets))
        };
        Ok(Self {
            src_mac: MacAddr::default(),
            group: false,
            src: addr(8),
            dst: addr(24),
            protocol,
            hop_limit: ip[7],
            traffic_class: ip[0] << 4 | ip[1] >> 4,
            dont_fragment: true,
            // An atomic fragment is a whole datagram (RFC 6946).
            fragment: fragment.filter(Fragment::is_part),
            fragmented: fragment.is_some(),
            protocol_at,
            ip_header: &ip[..at],
            head: &ip[at..],
            tail: &[],
            len: total - at,
            offload: Offload::default(),
        })
    }

    /// What follows a transport header of `header_len` bytes.
    ///
    /// # Errors
    /// [`DropReason::Truncated`] or [`DropReason::HeadersTooLong`] where the header is not whole.
    pub fn payload(&self, header_len: usize) -> Result<Payload<'a>, DropReason> {
        if self.len < header_len {
            return Err(DropReason::Truncated);
        }
        let head = self.head.get(header_len..).ok_or(DropReason::HeadersTooLong)?;
        Ok(Payload { head, tail: self.tail, len: self.len - header_len })
    }

    /// The ports and the payload of a UDP datagram, checked.
    ///
    /// # Errors
    /// The reason to drop it.
    pub fn udp(&self) -> Result<(u16, u16, Payload<'a>), DropReason> {
        let mut payload = self.payload(UDP_LEN)?;
        let header = &self.head[..UDP_LEN];
        let (src, dst) = (u16_at(header, 0), u16_at(header, 2));
        let len = usize::from(u16_at(header, 4));
        // Port 0 as a source means that no answer is wanted (RFC 768); all that is answered, or
        // becomes a flow, needs one.
        if len < UDP_LEN || len > self.len || src == 0 || dst == 0 {
            return Err(DropReason::Malformed);
        }
        payload.len = len - UDP_LEN;
        payload.head = &payload.head[..payload.head.len().min(payload.len)];
        if self.offload.checksum.is_none() && !self.offload.validated {
            // The host makes a checksum of its own: one that is wrong must not become right.
            // None is allowed in IPv4 (RFC 768), not in IPv6 (RFC 8200 §8.1).
            let absent = u16_at(header, 6) == 0;
            let mut sum = Sum::pseudo_header(self.src, self.dst, protocol::UDP, len);
            if !absent {
                sum.bytes(header);
                sum.bytes(payload.head);
                Scatter::new(payload.tail).sum(0, payload.tail_len(), &mut sum);
            }
            if if absent { self.src.is_ipv6() } else { sum.finish() != 0 } {
                return Err(DropReason::BadChecksum);
            }
        }
        Ok((src, dst, payload))
    }
}

#[cfg(test)]
mod tests;
