//! ICMP and ICMPv6 towards the guest: errors (RFC 792, RFC 1812 §4.3, RFC 4443 §3) and the
//! gateway's own echo replies.

use std::io;
use std::net::IpAddr;

use super::config::GatewayConfig;
use super::context::{Ctx, Handled};
use super::emit::Envelope;
use super::outgoing::Outgoing;
use super::packet::{Packet, Payload};
use crate::addr::MacAddr;
use crate::frame::TxOutcome;
use crate::stats::DropReason;
use crate::wire::checksum::{Sum, checksum};
use crate::wire::{ETHERNET_LEN, IPV4_LEN, IPV6_LEN, protocol};

/// Bytes of an ICMP header.
pub const ICMP_LEN: usize = 8;

/// The longest error over IPv4, IP header on (RFC 1812 §4.3.2.3).
const ERROR4_MAX: usize = 576;
/// The longest error over IPv6, IP header on (RFC 4443 §2.4 (c)).
const ERROR6_MAX: usize = 1280;

pub(super) const ECHO_REPLY: u8 = 0;
pub(super) const ECHO_REQUEST: u8 = 8;
pub(super) const ECHO_REQUEST6: u8 = 128;
pub(super) const ECHO_REPLY6: u8 = 129;

/// What is wrong with a packet of the guest's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// There is no route to it.
    Network,
    /// Nobody answers there.
    Host,
    /// The destination does not speak the protocol that the IP header names there.
    Protocol(usize),
    /// Nobody listens on the port.
    Port,
    /// Policy forbids it.
    Prohibited,
    /// It is larger than the path takes, which is this many bytes.
    TooBig(u32),
    /// Its hop limit reached 0.
    HopLimit,
    /// Its fragments did not all come in time.
    Reassembly,
}

/// An ICMP error: type, code and the four bytes behind the checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message {
    kind: u8,
    code: u8,
    rest: u32,
}

impl Message {
    /// The message that says `why`.
    pub fn new(why: Why, ipv4: bool) -> Self {
        let (kind, code, rest) = match (why, ipv4) {
            (Why::Network, true) => (3, 0, 0),
            (Why::Network, false) => (1, 0, 0),
            (Why::Host, true) => (3, 1, 0),
            (Why::Host, false) => (1, 3, 0),
            (Why::Protocol(_), true) => (3, 2, 0),
            // A parameter problem: the Next Header field that names it.
            (Why::Protocol(at), false) => (4, 1, at as u32),
            (Why::Port, true) => (3, 3, 0),
            (Why::Port, false) => (1, 4, 0),
            (Why::Prohibited, true) => (3, 13, 0),
            (Why::Prohibited, false) => (1, 1, 0),
            (Why::TooBig(mtu), true) => (3, 4, mtu.clamp(68, 65535)),
            (Why::TooBig(mtu), false) => (2, 0, mtu.clamp(1280, 65535)),
            (Why::HopLimit, true) => (11, 0, 0),
            (Why::HopLimit, false) => (3, 0, 0),
            (Why::Reassembly, true) => (11, 1, 0),
            (Why::Reassembly, false) => (3, 1, 0),
        };
        Self { kind, code, rest }
    }

    /// A message that came from the network, if it is one to be passed on: unreachable, too big
    /// or time exceeded.
    pub fn relayed(kind: u8, code: u8, mtu: u32, ipv4: bool) -> Option<Self> {
        match (ipv4, kind, code) {
            (true, 3, 4) | (false, 2, _) => Some(Self::new(Why::TooBig(mtu), ipv4)),
            (true, 3 | 11, _) | (false, 1 | 3, _) => Some(Self { kind, code, rest: 0 }),
            _ => None,
        }
    }
}

/// Tells the guest what is wrong with `packet`, as the gateway. Nothing is said about what must
/// not be answered: ICMP errors, packets to or from groups, in frames to groups, later fragments
/// (RFC 1122 §3.2.2, RFC 4443 §2.4 (e)).
pub fn unreachable(ctx: &mut Ctx<'_, '_>, packet: &Packet<'_>, why: Why) {
    let ipv4 = packet.src.is_ipv4();
    let from = gateway_address(ctx, packet.src);
    if may_answer(&ctx.core.config, packet) && admit(ctx) {
        let mut quote = [0; ERROR6_MAX];
        let room = quote_room(ipv4);
        let header = packet.ip_header.len().min(room);
        quote[..header].copy_from_slice(&packet.ip_header[..header]);
        let payload = Payload { head: packet.head, tail: packet.tail, len: packet.len };
        let len = header + copy_start(&payload, &mut quote[header..room]);
        let message = Message::new(why, ipv4);
        send(ctx, packet.src_mac, from, packet.src, message, &quote[..len]);
    }
}

/// Sends the guest `message` about the IP packet that `quote` is the start of, from `from`. For
/// errors that the host's sockets report.
pub fn relay(ctx: &mut Ctx<'_, '_>, from: IpAddr, guest: IpAddr, message: Message, quote: &[u8]) {
    let Some(mac) = ctx.core.link.neighbor(guest) else {
        ctx.io.stats.dropped(DropReason::NoNeighbor);
        return;
    };
    if admit(ctx) {
        let quote = &quote[..quote.len().min(quote_room(guest.is_ipv4()))];
        send(ctx, mac, from, guest, message, quote);
    }
}

/// The same about a packet that was sent in `envelope`, and began with `header` and `data` behind
/// it.
pub fn relay_sent(
    ctx: &mut Ctx<'_, '_>,
    from: IpAddr,
    envelope: &Envelope,
    message: Message,
    header: &[u8],
    data: &[u8],
) {
    let mut quote = [0; ETHERNET_LEN + ERROR6_MAX];
    let lower = envelope.write(ctx.core.link.mac, header.len() + data.len(), &mut quote);
    let len = lower + header.len() + data.len();
    let room = quote.len();
    let (header_to, rest) = quote[lower..].split_at_mut(header.len());
    header_to.copy_from_slice(header);
    let n = data.len().min(rest.len());
    rest[..n].copy_from_slice(&data[..n]);
    relay(ctx, from, envelope.src, message, &quote[ETHERNET_LEN..len.min(room)]);
}

fn admit(ctx: &mut Ctx<'_, '_>) -> bool {
    let ok = ctx.core.icmp_errors.take(ctx.io.now);
    if !ok {
        ctx.io.stats.dropped(DropReason::RateLimited);
    }
    ok
}

fn send(
    ctx: &mut Ctx<'_, '_>,
    mac: MacAddr,
    from: IpAddr,
    to: IpAddr,
    message: Message,
    quote: &[u8],
) {
    let mut header = [0; ICMP_LEN];
    header[0] = message.kind;
    header[1] = message.code;
    header[4..8].copy_from_slice(&message.rest.to_be_bytes());
    let envelope = Envelope::new(mac, from, to, icmp_protocol(to));
    if let Err(reason) = ctx.deliver_packet(&envelope, &header, quote) {
        ctx.io.stats.dropped(reason);
    }
}

/// Tells the guest that the host gives no socket for what `packet` would begin: it has none left,
/// does not allow it, or does not have that family at all.
pub fn no_socket(ctx: &mut Ctx<'_, '_>, packet: &Packet<'_>, error: &io::Error) -> DropReason {
    ctx.core.no_socket(error);
    let why = match error.raw_os_error() {
        Some(libc::EAFNOSUPPORT | libc::EPROTONOSUPPORT) => Why::Network,
        _ => Why::Prohibited,
    };
    unreachable(ctx, packet, why);
    DropReason::SocketFailed
}

/// The gateway's address of the family of `guest`.
pub fn gateway_address(ctx: &Ctx<'_, '_>, guest: IpAddr) -> IpAddr {
    match guest {
        IpAddr::V4(_) => ctx.core.config.gateway4.into(),
        IpAddr::V6(_) => ctx.core.config.gateway6.into(),
    }
}

/// ICMP's number in the family of `ip`.
pub fn icmp_protocol(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { protocol::ICMP } else { protocol::ICMPV6 }
}

fn quote_room(ipv4: bool) -> usize {
    if ipv4 { ERROR4_MAX - IPV4_LEN - ICMP_LEN } else { ERROR6_MAX - IPV6_LEN - ICMP_LEN }
}

/// Copies as much of `payload` as fits `to`.
fn copy_start(payload: &Payload<'_>, to: &mut [u8]) -> usize {
    let len = payload.len.min(to.len());
    let head = &payload.head[..payload.head.len().min(len)];
    Payload { head, tail: payload.tail, len }.copy_to(&mut to[..len]);
    len
}

/// True if a packet is to or from no single node, by its addresses or its frame's: whoever answered
/// it would answer for many, or to many.
pub fn is_group_traffic(config: &GatewayConfig, packet: &Packet<'_>) -> bool {
    let group = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => {
            ip.is_unspecified()
                || ip.is_multicast()
                || ip.is_broadcast()
                || ip == config.subnet4.broadcast()
        }
        IpAddr::V6(ip) => ip.is_unspecified() || ip.is_multicast(),
    };
    packet.group || group(packet.src) || group(packet.dst)
}

/// True for an ICMP message that wants an answer and is no echo request: timestamp, information and
/// mask (RFC 792, RFC 950), node information (RFC 4620), extended echo (RFC 8335).
pub(super) fn is_other_query(packet: &Packet<'_>) -> bool {
    match (packet.protocol, packet.head.first()) {
        (protocol::ICMP, Some(kind)) => matches!(kind, 13 | 15 | 17),
        (protocol::ICMPV6, Some(kind)) => matches!(kind, 139 | 160),
        _ => false,
    }
}

fn may_answer(config: &GatewayConfig, packet: &Packet<'_>) -> bool {
    let error = match (packet.protocol, packet.head.first()) {
        (protocol::ICMP, Some(kind)) => !matches!(*kind, ECHO_REPLY | ECHO_REQUEST | 13..=18),
        (protocol::ICMPV6, Some(kind)) => *kind < 128,
        (protocol::ICMP | protocol::ICMPV6, None) => true,
        _ => false,
    };
    let later = packet.fragment.is_some_and(|f| f.offset != 0);
    !error && !later && !is_group_traffic(config, packet)
}

/// An echo request of the guest's, copied out of its memory and checked.
#[derive(Debug)]
pub(super) struct Echo {
    /// The whole message: header and data.
    buffer: Box<[u8]>,
    len: usize,
    /// Identifies a fragmented reply.
    id: u32,
}

impl Echo {
    /// Nothing was asked yet; memory comes with the first request.
    pub fn new() -> Self {
        Self { buffer: Box::default(), len: 0, id: 0 }
    }

    /// Reads the message in `packet`.
    ///
    /// # Errors
    /// The reason to drop it, such as that it is no echo request.
    pub fn read(&mut self, packet: &Packet<'_>) -> Result<(), DropReason> {
        let payload = packet.payload(0)?;
        let request = match packet.protocol {
            protocol::ICMP => ECHO_REQUEST,
            _ => ECHO_REQUEST6,
        };
        if packet.len < ICMP_LEN || packet.head.len() < ICMP_LEN {
            return Err(DropReason::Truncated);
        }
        if packet.head[0] != request || packet.head[1] != 0 {
            return Err(DropReason::IcmpIgnored);
        }
        if self.buffer.is_empty() {
            self.buffer = vec![0; 65536].into_boxed_slice();
        }
        self.len = packet.len;
        payload.copy_to(&mut self.buffer[..packet.len]);
        if packet.offload.checksum.is_none() && !packet.offload.validated {
            let mut sum = sum_for(packet.src, packet.dst, packet.len);
            sum.bytes(self.bytes());
            if sum.finish() != 0 {
                return Err(DropReason::BadChecksum);
            }
        }
        Ok(())
    }

    /// The message.
    pub fn bytes(&self) -> &[u8] {
        &self.buffer[..self.len]
    }

    /// Gives the message another identifier, and a checksum that goes with it over IPv4; over IPv6
    /// the kernel makes that.
    pub fn set_id(&mut self, id: u16) {
        let message = &mut self.buffer[..self.len];
        message[2..4].fill(0);
        message[4..6].copy_from_slice(&id.to_be_bytes());
        let sum = checksum(message);
        message[2..4].copy_from_slice(&sum.to_be_bytes());
    }

    /// Answers as `from`.
    pub fn reply(&mut self, ctx: &mut Ctx<'_, '_>, packet: &Packet<'_>, from: IpAddr) -> Handled {
        let reply = if packet.src.is_ipv4() { ECHO_REPLY } else { ECHO_REPLY6 };
        let mut envelope =
            Envelope::new(packet.src_mac, from, packet.src, icmp_protocol(packet.src));
        envelope.traffic_class = packet.traffic_class;
        self.buffer[0] = reply;
        self.id = self.id.wrapping_add(1);
        let message = &mut self.buffer[..self.len];
        deliver(ctx, &envelope, message, self.id)?;
        Ok(TxOutcome::Sent)
    }
}

/// Completes the checksum of an ICMP `message` and delivers it, in fragments where it must be.
pub(super) fn deliver(
    ctx: &mut Ctx<'_, '_>,
    envelope: &Envelope,
    message: &mut [u8],
    id: u32,
) -> Result<(), DropReason> {
    message[2..4].fill(0);
    let mut sum = sum_for(envelope.src, envelope.dst, message.len());
    sum.bytes(message);
    message[2..4].copy_from_slice(&sum.finish().to_be_bytes());
    Outgoing::new(*envelope, message.len(), id).send(ctx, message)
}

fn sum_for(src: IpAddr, dst: IpAddr, len: usize) -> Sum {
    if src.is_ipv4() { Sum::new() } else { Sum::pseudo_header(src, dst, protocol::ICMPV6, len) }
}

#[cfg(test)]
mod tests;
