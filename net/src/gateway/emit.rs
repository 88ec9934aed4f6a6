//! Packets towards the guest.

use std::net::IpAddr;

use crate::addr::MacAddr;
use crate::frame::{Offload, PartialChecksum};
use crate::gateway::context::Ctx;
use crate::rx::RxSlot;
use crate::stats::DropReason;
use crate::wire::checksum::{Sum, checksum};
use crate::wire::{ETHERNET_LEN, IPV4_LEN, IPV6_LEN, ethertype, protocol};

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
    pub fn len(&self) -> usize {
        ETHERNET_LEN + if self.src.is_ipv4() { IPV4_LEN } else { IPV6_LEN }
    }

    /// Never: there are always headers.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Writes the Ethernet and IP headers of a packet with `len` bytes of transport header and
    /// payload to the start of `to`, and returns how many bytes they take. Such a packet is never
    /// fragmented: it has DF set and the identification 0 (RFC 6864 §4.1).
    pub fn write(&self, src_mac: MacAddr, len: usize, to: &mut [u8]) -> usize {
        to[0..6].copy_from_slice(&self.dst_mac.0);
        to[6..12].copy_from_slice(&src_mac.0);
        let ip = ETHERNET_LEN;
        match (self.src, self.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                to[12..14].copy_from_slice(&ethertype::IPV4.to_be_bytes());
                let h = &mut to[ip..ip + IPV4_LEN];
                h.fill(0);
                h[0] = 0x45;
                h[1] = self.traffic_class;
                h[2..4].copy_from_slice(&((IPV4_LEN + len) as u16).to_be_bytes());
                h[6] = 0x40;
                h[8] = self.hop_limit;
                h[9] = self.protocol;
                h[12..16].copy_from_slice(&src.octets());
                h[16..20].copy_from_slice(&dst.octets());
                let sum = checksum(h);
                h[10..12].copy_from_slice(&sum.to_be_bytes());
                ip + IPV4_LEN
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                to[12..14].copy_from_slice(&ethertype::IPV6.to_be_bytes());
                let h = &mut to[ip..ip + IPV6_LEN];
                h[0] = 0x60 | self.traffic_class >> 4;
                h[1] = self.traffic_class << 4;
                h[2..4].fill(0);
                h[4..6].copy_from_slice(&(len as u16).to_be_bytes());
                h[6] = self.protocol;
                h[7] = self.hop_limit;
                h[8..24].copy_from_slice(&src.octets());
                h[24..40].copy_from_slice(&dst.octets());
                ip + IPV6_LEN
            }
            _ => unreachable!("both addresses of an envelope are of one family"),
        }
    }

    /// The sum of the pseudo-header for `len` bytes of transport header and payload.
    pub fn pseudo_header(&self, len: usize) -> Sum {
        Sum::pseudo_header(self.src, self.dst, self.protocol, len)
    }
}

/// Where the checksum lies in a transport header, and whether it may be 0 for "none".
fn checksum_at(protocol: u8) -> Option<usize> {
    match protocol {
        protocol::TCP => Some(16),
        protocol::UDP => Some(6),
        protocol::ICMP | protocol::ICMPV6 => Some(2),
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
