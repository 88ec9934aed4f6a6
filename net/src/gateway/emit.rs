//! Packets towards the guest.

use std::net::IpAddr;

use crate::addr::MacAddr;
use crate::frame::{Offload, PartialChecksum};
use crate::gateway::context::Ctx;
use crate::rx::RxSlot;
use crate::stats::DropReason;
use crate::wire::checksum::Sum;
use crate::wire::ethernet::{ETHERNET_LEN, EthernetHeader, ethertype};
use crate::wire::ip::{
    FRAGMENT_LEN, Fragment, IPV4_LEN, IPV6_LEN, Ipv4Header, Ipv6Header, protocol,
};
use crate::wire::{icmp, tcp, udp};

/// Bytes of the longest headers below the transport's: Ethernet and IPv6.
pub const LOWER_MAX: usize = ETHERNET_LEN + IPV6_LEN;

/// The hop limit of packets that begin here (RFC 1700's recommendation).
pub const HOP_LIMIT: u8 = 64;

/// Where a transport's packet comes from and goes to, as the guest sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Envelope {
    /// The guest's link-layer address.
    pub dst_mac: MacAddr,
    /// Source address.
    pub src: IpAddr,
    /// Destination address, of the same family.
    pub dst: IpAddr,
    /// The transport protocol.
    pub protocol: u8,
    /// Type of service or traffic class.
    pub traffic_class: u8,
    /// TTL or hop limit.
    pub hop_limit: u8,
}

impl Envelope {
    /// One with an ordinary hop limit and traffic class.
    pub fn new(dst_mac: MacAddr, src: IpAddr, dst: IpAddr, protocol: u8) -> Self {
        Self { dst_mac, src, dst, protocol, traffic_class: 0, hop_limit: HOP_LIMIT }
    }

    /// Bytes of the Ethernet and IP headers.
    pub fn header_len(&self) -> usize {
        ETHERNET_LEN + if self.src.is_ipv4() { IPV4_LEN } else { IPV6_LEN }
    }

    /// Writes the Ethernet and IP headers of a packet with `len` bytes of transport header and
    /// payload to the start of `to`, and returns how many bytes they take. Such a packet is never
    /// fragmented: over IPv4 it has DF set.
    #[inline]
    pub fn write(&self, src_mac: MacAddr, len: usize, to: &mut [u8]) -> usize {
        self.write_piece(src_mac, len, None, to)
    }

    /// The same for a piece of `len` bytes of a packet that is cut, if it is one.
    #[inline]
    pub fn write_piece(
        &self,
        src_mac: MacAddr,
        len: usize,
        fragment: Option<Fragment>,
        to: &mut [u8],
    ) -> usize {
        let Self { dst_mac, src, dst, protocol, traffic_class, hop_limit } = *self;
        let (link, ip) = to.split_at_mut(ETHERNET_LEN);
        let (ethertype, len) = match (src, dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                let (dont_fragment, payload_len) = (fragment.is_none(), len);
                Ipv4Header {
                    src,
                    dst,
                    protocol,
                    hop_limit,
                    traffic_class,
                    dont_fragment,
                    fragment,
                    payload_len,
                }
                .emit(ip);
                (ethertype::IPV4, IPV4_LEN)
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                let (next_header, extra) = match fragment {
                    None => (protocol, 0),
                    Some(_) => (protocol::FRAGMENT, FRAGMENT_LEN),
                };
                let payload_len = extra + len;
                Ipv6Header { src, dst, next_header, hop_limit, traffic_class, payload_len }
                    .emit(ip);
                if let Some(fragment) = fragment {
                    fragment.emit(protocol, &mut ip[IPV6_LEN..]);
                }
                (ethertype::IPV6, IPV6_LEN + extra)
            }
            _ => unreachable!("both addresses of an envelope are of one family"),
        };
        EthernetHeader { dst: dst_mac, src: src_mac, ethertype }.emit(link);
        ETHERNET_LEN + len
    }

    /// The sum of the pseudo-header for `len` bytes of transport header and payload.
    pub fn pseudo_header(&self, len: usize) -> Sum {
        Sum::pseudo_header(self.src, self.dst, self.protocol, len)
    }
}

/// Where the checksum lies in a transport header, and whether it may be 0 for "none".
fn checksum_at(protocol: u8) -> Option<usize> {
    match protocol {
        protocol::TCP => Some(tcp::CHECKSUM_AT),
        protocol::UDP => Some(udp::CHECKSUM_AT),
        protocol::ICMP | protocol::ICMPV6 => Some(icmp::CHECKSUM_AT),
        _ => None,
    }
}

impl Ctx<'_, '_> {
    /// Delivers a whole frame.
    ///
    /// # Errors
    /// [`DropReason::NoRxBuffers`], which the caller counts or, better, waits out.
    pub fn deliver(&mut self, frame: &[u8], offload: Offload) -> Result<(), DropReason> {
        let slot = RxSlot::reserve(self.io.rx, frame.len()).ok_or(DropReason::NoRxBuffers)?;
        slot.write_at(0, frame);
        slot.commit(frame.len(), offload);
        Ok(())
    }

    /// Delivers a packet of `header` (a transport header whose checksum field is 0) and
    /// `payload`, its checksum complete. For small packets: larger payloads are received into the
    /// guest's memory directly.
    ///
    /// # Errors
    /// [`DropReason::NoRxBuffers`].
    pub fn deliver_packet(
        &mut self,
        envelope: &Envelope,
        header: &[u8],
        payload: &[u8],
    ) -> Result<(), DropReason> {
        let mut top = [0; LOWER_MAX + 64];
        let lower = envelope.write(self.core.link.mac, header.len() + payload.len(), &mut top);
        let len = lower + header.len();
        top[lower..len].copy_from_slice(header);
        if let Some(at) = checksum_at(envelope.protocol) {
            let mut sum = match envelope.protocol {
                protocol::ICMP => Sum::new(),
                _ => envelope.pseudo_header(header.len() + payload.len()),
            };
            sum.bytes(header);
            sum.bytes(payload);
            let sum = match envelope.protocol {
                protocol::UDP => sum.finish_udp(),
                _ => sum.finish(),
            };
            top[lower + at..lower + at + 2].copy_from_slice(&sum.to_be_bytes());
        }
        let total = len + payload.len();
        let slot = RxSlot::reserve(self.io.rx, total).ok_or(DropReason::NoRxBuffers)?;
        slot.write_at(0, &top[..len]);
        slot.write_at(len, payload);
        slot.commit(total, Offload::default());
        Ok(())
    }
}

/// An open checksum for a transport header that starts `lower` bytes into the frame.
pub fn open_checksum(lower: usize, protocol: u8) -> Option<PartialChecksum> {
    let offset = checksum_at(protocol)?;
    Some(PartialChecksum { start: lower as u16, offset: offset as u16 })
}
