//! Packets towards the guest.

use std::net::IpAddr;

use crate::addr::MacAddr;
use crate::frame::{Offload, PartialChecksum, Segmentation};
use crate::gateway::context::Ctx;
use crate::rx::RxSlot;
use crate::scatter::Scatter;
use crate::stats::DropReason;
use crate::wire::ethernet::{ETHERNET_LEN, EthernetHeader, ethertype};
use crate::wire::ip::{
    FRAGMENT_LEN, Fragment, IPV4_LEN, IPV6_LEN, Ipv4Header, Ipv6Header, protocol,
};
use crate::wire::transport;

/// Bytes of the longest headers below the transport's: Ethernet and IPv6.
pub const LOWER_MAX: usize = ETHERNET_LEN + IPV6_LEN;

/// Bytes of the longest transport header: TCP's with all options.
const TRANSPORT_MAX: usize = 60;

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

    /// Fills in the checksum of `message`: a transport header, of a protocol that has one, and its
    /// payload.
    pub fn complete(&self, message: &mut [u8]) {
        if let Some(at) = transport::checksum_at(self.protocol) {
            message[at..at + 2].fill(0);
            let mut sum = transport::sum(self.src, self.dst, self.protocol, message.len());
            sum.bytes(message);
            let sum = transport::finish(self.protocol, sum);
            message[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        }
    }

    /// Delivers the packet of `header`, a transport header whose checksum field is 0, and `body` in
    /// `slot`, which has room for it behind Ethernet's header and IP's. The checksum stays open
    /// where the station takes that: for what only its network stack reads.
    #[inline]
    pub fn send(&self, slot: RxSlot<'_>, src_mac: MacAddr, header: &[u8], body: Body<'_>) {
        let open = slot.offloads().checksum;
        self.finish(slot, src_mac, header, body, open);
    }

    #[inline]
    fn finish(
        &self,
        slot: RxSlot<'_>,
        src_mac: MacAddr,
        header: &[u8],
        body: Body<'_>,
        open: bool,
    ) {
        let mut top = [0; LOWER_MAX + TRANSPORT_MAX];
        let len = header.len() + body.len();
        let lower = self.write(src_mac, len, &mut top);
        let headers = lower + header.len();
        top[lower..headers].copy_from_slice(header);
        let mut offload = Offload::default();
        if let Some(at) = transport::checksum_at(self.protocol) {
            let mut sum = transport::sum(self.src, self.dst, self.protocol, len);
            let sum = if open {
                let (start, offset) = (lower as u16, at as u16);
                offload.checksum = Some(PartialChecksum { start, offset });
                sum.folded()
            } else {
                sum.bytes(header);
                match body {
                    Body::Bytes(bytes) => sum.bytes(bytes),
                    Body::InSlot { len, .. } => {
                        Scatter::new(slot.slices()).sum(headers, len, &mut sum);
                    }
                }
                transport::finish(self.protocol, sum)
            };
            top[lower + at..lower + at + 2].copy_from_slice(&sum.to_be_bytes());
        }
        slot.write_at(0, &top[..headers]);
        match body {
            Body::Bytes(bytes) => slot.write_at(headers, bytes),
            Body::InSlot { segmentation, .. } => offload.segmentation = segmentation,
        }
        slot.commit(lower + len, offload);
    }
}

/// What follows a transport header.
#[derive(Debug, Clone, Copy)]
pub enum Body<'a> {
    /// These bytes.
    Bytes(&'a [u8]),
    /// Bytes that lie in the slot already, behind the room for all headers.
    InSlot {
        /// How many.
        len: usize,
        /// How they are to be cut, if they are more than one packet.
        segmentation: Option<Segmentation>,
    },
}

impl Body<'_> {
    fn len(&self) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.len(),
            Self::InSlot { len, .. } => *len,
        }
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
    /// `payload`, its checksum complete: what the gateway itself says may be read from a raw
    /// socket, as DHCP clients do, by whoever knows nothing of open ones. For small packets:
    /// larger payloads are received into the guest's memory directly.
    ///
    /// # Errors
    /// [`DropReason::NoRxBuffers`].
    pub fn deliver_packet(
        &mut self,
        envelope: &Envelope,
        header: &[u8],
        payload: &[u8],
    ) -> Result<(), DropReason> {
        let total = envelope.header_len() + header.len() + payload.len();
        let slot = RxSlot::reserve(self.io.rx, total).ok_or(DropReason::NoRxBuffers)?;
        envelope.finish(slot, self.shared.link.mac, header, Body::Bytes(payload), false);
        Ok(())
    }
}
