//! ICMP and ICMPv6 towards the guest: errors (RFC 792, RFC 1812 §4.3, RFC 4443 §3) and the
//! gateway's own echo replies.

use std::net::IpAddr;

use super::config::{GatewayConfig, MTU_MIN6};
use super::context::{Ctx, Handled};
use super::emit::Envelope;
use super::outgoing::Outgoing;
use super::packet::{Packet, Payload};
use super::target::Destination;
use crate::addr::{Family, MacAddr};
use crate::frame::TxOutcome;
use crate::stats::DropReason;
use crate::wire::checksum::checksum;
use crate::wire::icmp::{
    ICMP_LEN, IcmpHeader, UNKNOWN_NEXT_HEADER, echo_id, exceeded, kind4, kind6, put_checksum,
    rewrite_echo, unreachable4, unreachable6,
};
use crate::wire::{ETHERNET_LEN, IPV4_LEN, IPV6_LEN, protocol};

/// The longest error over IPv4, IP header on (RFC 1812 §4.3.2.3).
const ERROR4_MAX: usize = 576;
/// The longest error over IPv6, IP header on (RFC 4443 §2.4 (c)).
const ERROR6_MAX: usize = 1280;

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

impl Why {
    /// The header of the error that says so.
    pub fn header(self, family: Family) -> IcmpHeader {
        let (kind, code, rest) = match family {
            Family::V4 => self.say4(),
            Family::V6 => self.say6(),
        };
        IcmpHeader { kind, code, rest }
    }

    /// RFC 792, RFC 1812 §4.3 and §5.2.7.
    fn say4(self) -> (u8, u8, u32) {
        match self {
            Self::Network => (kind4::UNREACHABLE, unreachable4::NETWORK, 0),
            Self::Host => (kind4::UNREACHABLE, unreachable4::HOST, 0),
            Self::Protocol(_) => (kind4::UNREACHABLE, unreachable4::PROTOCOL, 0),
            Self::Port => (kind4::UNREACHABLE, unreachable4::PORT, 0),
            Self::Prohibited => (kind4::UNREACHABLE, unreachable4::PROHIBITED, 0),
            Self::TooBig(mtu) => (kind4::UNREACHABLE, unreachable4::TOO_BIG, mtu.clamp(68, 65535)),
            Self::HopLimit => (kind4::TIME_EXCEEDED, exceeded::HOP_LIMIT, 0),
            Self::Reassembly => (kind4::TIME_EXCEEDED, exceeded::REASSEMBLY, 0),
        }
    }

    /// RFC 4443 §3.
    fn say6(self) -> (u8, u8, u32) {
        match self {
            Self::Network => (kind6::UNREACHABLE, unreachable6::NETWORK, 0),
            Self::Host => (kind6::UNREACHABLE, unreachable6::HOST, 0),
            // Where the header names it.
            Self::Protocol(at) => (kind6::PARAMETER_PROBLEM, UNKNOWN_NEXT_HEADER, at as u32),
            Self::Port => (kind6::UNREACHABLE, unreachable6::PORT, 0),
            Self::Prohibited => (kind6::UNREACHABLE, unreachable6::PROHIBITED, 0),
            Self::TooBig(mtu) => (kind6::TOO_BIG, 0, mtu.clamp(MTU_MIN6.into(), 65535)),
            Self::HopLimit => (kind6::TIME_EXCEEDED, exceeded::HOP_LIMIT, 0),
            Self::Reassembly => (kind6::TIME_EXCEEDED, exceeded::REASSEMBLY, 0),
        }
    }
}

/// The header of an error that came from the network, if it is one to be passed on: unreachable,
/// too big or time exceeded.
pub fn relayed(kind: u8, code: u8, mtu: u32, family: Family) -> Option<IcmpHeader> {
    match (family, kind, code) {
        (Family::V4, kind4::UNREACHABLE, unreachable4::TOO_BIG)
        | (Family::V6, kind6::TOO_BIG, _) => Some(Why::TooBig(mtu).header(family)),
        (Family::V4, kind4::UNREACHABLE | kind4::TIME_EXCEEDED, _)
        | (Family::V6, kind6::UNREACHABLE | kind6::TIME_EXCEEDED, _) => {
            Some(IcmpHeader { kind, code, rest: 0 })
        }
        _ => None,
    }
}

/// Tells the guest what is wrong with `packet`, as the gateway. Nothing is said about what must
/// not be answered: ICMP errors, packets to or from groups, in frames to groups, later fragments
/// (RFC 1122 §3.2.2, RFC 4443 §2.4 (e)).
pub fn unreachable(ctx: &mut Ctx<'_, '_>, packet: &Packet<'_>, why: Why) {
    let family = Family::from(packet.src);
    let from = ctx.shared.config.gateway(family);
    if may_answer(&ctx.shared.config, packet) && admit(ctx) {
        let mut quote = [0; ERROR6_MAX];
        let room = quote_room(family);
        let header = packet.ip_header.len().min(room);
        quote[..header].copy_from_slice(&packet.ip_header[..header]);
        let payload = Payload { head: packet.head, tail: packet.tail, len: packet.len };
        let len = header + copy_start(&payload, &mut quote[header..room]);
        send(ctx, packet.src_mac, from, packet.src, why.header(family), &quote[..len]);
    }
}

/// Sends the guest `message` about the IP packet that `quote` is the start of, from `from`. For
/// errors that the host's sockets report.
pub fn relay(
    ctx: &mut Ctx<'_, '_>,
    from: IpAddr,
    guest: IpAddr,
    message: IcmpHeader,
    quote: &[u8],
) {
    let Some(mac) = ctx.shared.link.neighbor(guest) else {
        ctx.io.stats.dropped(DropReason::NoNeighbor);
        return;
    };
    if admit(ctx) {
        let quote = &quote[..quote.len().min(quote_room(guest.into()))];
        send(ctx, mac, from, guest, message, quote);
    }
}

/// The same about a packet that was sent in `envelope`, and began with `header` and `data` behind
/// it.
pub fn relay_sent(
    ctx: &mut Ctx<'_, '_>,
    from: IpAddr,
    envelope: &Envelope,
    message: IcmpHeader,
    header: &[u8],
    data: &[u8],
) {
    let mut quote = [0; ETHERNET_LEN + ERROR6_MAX];
    let lower = envelope.write(ctx.shared.link.mac, header.len() + data.len(), &mut quote);
    let len = lower + header.len() + data.len();
    let room = quote.len();
    let (header_to, rest) = quote[lower..].split_at_mut(header.len());
    header_to.copy_from_slice(header);
    let n = data.len().min(rest.len());
    rest[..n].copy_from_slice(&data[..n]);
    relay(ctx, from, envelope.src, message, &quote[ETHERNET_LEN..len.min(room)]);
}

fn admit(ctx: &mut Ctx<'_, '_>) -> bool {
    let ok = ctx.shared.icmp_errors.take(ctx.io.now);
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
    message: IcmpHeader,
    quote: &[u8],
) {
    let envelope = Envelope::new(mac, from, to, icmp_protocol(to));
    if let Err(reason) = ctx.deliver_packet(&envelope, &message.emit(), quote) {
        ctx.io.stats.dropped(reason);
    }
}

/// ICMP's number in the family of `ip`.
pub fn icmp_protocol(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { protocol::ICMP } else { protocol::ICMPV6 }
}

fn quote_room(family: Family) -> usize {
    match family {
        Family::V4 => ERROR4_MAX - IPV4_LEN - ICMP_LEN,
        Family::V6 => ERROR6_MAX - IPV6_LEN - ICMP_LEN,
    }
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
    let group =
        |ip: IpAddr| ip.is_unspecified() || Destination::of(config, ip) == Destination::Group;
    packet.group || group(packet.src) || group(packet.dst)
}

/// True for an ICMP message that wants an answer and is no echo request: timestamp, information and
/// mask (RFC 792, RFC 950), node information (RFC 4620), extended echo (RFC 8335).
pub(super) fn is_other_query(packet: &Packet<'_>) -> bool {
    match (packet.protocol, packet.head.first()) {
        (protocol::ICMP, Some(kind)) => {
            matches!(*kind, kind4::TIMESTAMP | kind4::INFORMATION | kind4::MASK)
        }
        (protocol::ICMPV6, Some(kind)) => {
            matches!(*kind, kind6::NODE_INFORMATION | kind6::EXTENDED_ECHO)
        }
        _ => false,
    }
}

fn may_answer(config: &GatewayConfig, packet: &Packet<'_>) -> bool {
    let error = match (packet.protocol, packet.head.first()) {
        (protocol::ICMP, Some(kind)) => !matches!(
            *kind,
            kind4::ECHO_REPLY | kind4::ECHO_REQUEST | kind4::TIMESTAMP..=kind4::MASK_REPLY
        ),
        (protocol::ICMPV6, Some(kind)) => *kind < kind6::ECHO_REQUEST,
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
            protocol::ICMP => kind4::ECHO_REQUEST,
            _ => kind6::ECHO_REQUEST,
        };
        let header = IcmpHeader::parse(packet.head)?;
        if header.kind != request || header.code != 0 {
            return Err(DropReason::IcmpIgnored);
        }
        packet.verify(packet.len)?;
        if self.buffer.is_empty() {
            self.buffer = vec![0; 65536].into_boxed_slice();
        }
        self.len = packet.len;
        payload.copy_to(&mut self.buffer[..packet.len]);
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
        rewrite_echo(message, message[0], id);
        let sum = checksum(message);
        put_checksum(message, sum);
    }

    /// Answers as `from`.
    pub fn reply(&mut self, ctx: &mut Ctx<'_, '_>, packet: &Packet<'_>, from: IpAddr) -> Handled {
        let reply = if packet.src.is_ipv4() { kind4::ECHO_REPLY } else { kind6::ECHO_REPLY };
        let mut envelope =
            Envelope::new(packet.src_mac, from, packet.src, icmp_protocol(packet.src));
        envelope.traffic_class = packet.traffic_class;
        self.id = self.id.wrapping_add(1);
        let message = &mut self.buffer[..self.len];
        rewrite_echo(message, reply, echo_id(message));
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
    envelope.complete(message);
    Outgoing::new(*envelope, message.len(), id).send(ctx, message)
}

#[cfg(test)]
mod tests;
