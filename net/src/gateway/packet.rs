//! An IP packet from the guest, parsed once from the frame's head.

use std::net::IpAddr;

use vm_memory::VolatileSlice;

use crate::addr::MacAddr;
use crate::frame::{Offload, TxFrame};
use crate::scatter::Scatter;
use crate::stats::DropReason;
use crate::wire::ethernet::{ETHERNET_LEN, EthernetHeader, ethertype};
use crate::wire::ip::{Extensions, Fragment, IPV6_LEN, Ipv4Header, Ipv6Header, protocol};
use crate::wire::transport;
use crate::wire::udp::{self, UDP_LEN, UdpHeader};

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
    /// Parses a frame whose header is `link` and whose EtherType is IPv4 or IPv6.
    ///
    /// # Errors
    /// The reason to drop it.
    pub fn parse(link: &EthernetHeader, frame: &TxFrame<'a>) -> Result<Self, DropReason> {
        let ip = &frame.head[ETHERNET_LEN..];
        let ip_len = frame.len - ETHERNET_LEN;
        let packet = match link.ethertype {
            ethertype::IPV4 => Self::parse_v4(ip, ip_len)?,
            ethertype::IPV6 => Self::parse_v6(ip, ip_len)?,
            _ => return Err(DropReason::UnknownEtherType),
        };
        let (src_mac, group) = (link.src, link.dst.is_multicast());
        Ok(Self { src_mac, group, tail: frame.tail, offload: frame.offload, ..packet })
    }

    fn parse_v4(ip: &'a [u8], ip_len: usize) -> Result<Self, DropReason> {
        let (header, header_len) = Ipv4Header::parse(ip, ip_len)?;
        let total = header_len + header.payload_len;
        Ok(Self {
            src_mac: MacAddr::default(),
            group: false,
            src: header.src.into(),
            dst: header.dst.into(),
            protocol: header.protocol,
            hop_limit: header.hop_limit,
            traffic_class: header.traffic_class,
            dont_fragment: header.dont_fragment,
            fragment: header.fragment,
            fragmented: header.fragment.is_some(),
            protocol_at: Ipv4Header::PROTOCOL_AT,
            ip_header: &ip[..header_len],
            head: &ip[header_len..ip.len().min(total)],
            tail: &[],
            len: header.payload_len,
            offload: Offload::default(),
        })
    }

    fn parse_v6(ip: &'a [u8], ip_len: usize) -> Result<Self, DropReason> {
        let header = Ipv6Header::parse(ip, ip_len)?;
        let total = IPV6_LEN + header.payload_len;
        let ip = &ip[..ip.len().min(total)];
        let extensions = Extensions::parse(ip)?;
        let at = extensions.end;
        Ok(Self {
            src_mac: MacAddr::default(),
            group: false,
            src: header.src.into(),
            dst: header.dst.into(),
            protocol: extensions.protocol,
            hop_limit: header.hop_limit,
            traffic_class: header.traffic_class,
            dont_fragment: true,
            // An atomic fragment is a whole datagram (RFC 6946).
            fragment: extensions.fragment.filter(Fragment::is_part),
            fragmented: extensions.fragment.is_some(),
            protocol_at: extensions.protocol_at,
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

    /// Checks the checksum of the transport header and what follows it, `len` bytes in all, which
    /// the packet has. One that the sender left open is right by definition, if it is that one; one
    /// that it vouches for, too.
    ///
    /// The host makes a checksum of its own for what goes on: one that is wrong must not become
    /// right.
    ///
    /// # Errors
    /// [`DropReason::BadChecksum`]; [`DropReason::BadOffload`] where it was left open somewhere
    /// else.
    pub fn verify(&self, len: usize) -> Result<(), DropReason> {
        let Some(at) = transport::checksum_at(self.protocol) else { return Ok(()) };
        if let Some(open) = self.offload.checksum {
            let start = ETHERNET_LEN + self.ip_header.len();
            let own = usize::from(open.start) == start && usize::from(open.offset) == at;
            return if own { Ok(()) } else { Err(DropReason::BadOffload) };
        }
        if self.offload.validated {
            return Ok(());
        }
        // None is allowed in IPv4 (RFC 768), not in IPv6 (RFC 8200 §8.1).
        if self.protocol == protocol::UDP && udp::is_unsummed(self.head) {
            return if self.src.is_ipv4() { Ok(()) } else { Err(DropReason::BadChecksum) };
        }
        let head = &self.head[..self.head.len().min(len)];
        let mut sum = transport::sum(self.src, self.dst, self.protocol, len);
        sum.bytes(head);
        Scatter::new(self.tail).sum(0, len - head.len(), &mut sum);
        if sum.finish() == 0 { Ok(()) } else { Err(DropReason::BadChecksum) }
    }

    /// The header and the payload of a UDP datagram, checked.
    ///
    /// # Errors
    /// The reason to drop it.
    pub fn udp(&self) -> Result<(UdpHeader, Payload<'a>), DropReason> {
        let header = UdpHeader::parse(self.head, self.len)?;
        self.verify(UDP_LEN + header.payload_len)?;
        let Payload { head, tail, .. } = self.payload(UDP_LEN)?;
        let len = header.payload_len;
        Ok((header, Payload { head: &head[..head.len().min(len)], tail, len }))
    }
}

#[cfg(test)]
mod tests;
