//! Echo beyond the gateway, through the host's ICMP sockets (`icmp(7)`), where
//! `net.ipv4.ping_group_range` lets this user have them, or else through raw ones, where it has
//! CAP_NET_RAW.
//!
//! The kernel gives each ICMP socket an identifier of its own and takes it out of replies again, so
//! a socket per identifier, family and destination of the guest's is all the state there is. For a
//! raw one that is done here.

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use super::config::GatewayConfig;
use super::context::{Ctx, Handled};
use super::emit::Envelope;
use super::icmp::{self, Echo, Why, icmp_protocol};
use super::packet::Packet;
use super::refusal::{Refusal, is_pending};
use super::source;
use super::target::{self, Destination};
use crate::addr::Family;
use crate::frame::TxOutcome;
use crate::poll::{Poller, Ready, Token};
use crate::slab::Slab;
use crate::stats::DropReason;
use crate::sys::dgram::{Dgram, IpFields, Origin};
use crate::wire::checksum::checksum;
use crate::wire::icmp::{ICMP_LEN, IcmpHeader, echo_id, kind4, kind6, rewrite_echo};

/// How long an identifier lives without a request or reply (RFC 5508 §3.2: at least 60 s).
const LIFETIME: Duration = Duration::from_secs(60);

/// Messages read from a socket at a time.
const BUDGET: usize = 32;

/// Entries taken from an error queue at a time.
const ERRORS_MAX: usize = 256;

/// Data of a request that an ICMP error brings back.
const QUOTE_MAX: usize = 512;

/// The link's groups that the gateway is in; who asks them is answered (RFC 4443 §4.2).
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);

#[derive(Debug)]
struct EchoFlow {
    socket: Dgram,
    guest: IpAddr,
    remote: IpAddr,
    id: u16,
    /// The socket is raw: the identifier that its messages bear.
    raw: Option<u16>,
    last: Instant,
}

/// All echo there is: to the gateway and beyond.
#[derive(Debug)]
pub struct Ping {
    echo: Echo,
    flows: Slab<EchoFlow>,
    limit: usize,
    buffer: Box<[u8]>,
    /// Makes identifiers that nobody else is likely to have.
    secret: RandomState,
    /// It was said that the host gives no sockets.
    told: bool,
    /// A fragmented reply's identification.
    reply_id: u32,
}

impl Ping {
    /// Nobody is asked yet.
    pub fn new(config: &GatewayConfig) -> Self {
        Self {
            echo: Echo::new(),
            flows: Slab::new(source::PING),
            limit: config.limits.ping.max(1),
            buffer: Box::default(),
            secret: RandomState::new(),
            told: false,
            // Apart from those of the gateway's own replies.
            reply_id: 0x8000,
        }
    }

    /// An ICMP message of the guest's that is none of the services'.
    pub fn input(
        &mut self,
        ctx: &mut Ctx<'_, '_>,
        packet: &Packet<'_>,
        to: Destination,
    ) -> Handled {
        if let Err(reason) = self.echo.read(packet) {
            let beyond = to != Destination::Gateway;
            if reason == DropReason::IcmpIgnored && beyond && icmp::is_other_query(packet) {
                icmp::unreachable(ctx, packet, Why::Prohibited);
            }
            return Err(reason);
        }
        if packet.src.is_unspecified() {
            return Err(DropReason::BadSource);
        }
        let config = &ctx.shared.config;
        if to == Destination::Gateway {
            return self.echo.reply(ctx, packet, packet.dst);
        }
        if packet.dst == ALL_NODES || packet.dst == ALL_ROUTERS {
            let from = match packet.src {
                IpAddr::V6(src) if src.is_unicast_link_local() => config.link_local6(),
                _ => config.gateway6,
            };
            return self.echo.reply(ctx, packet, from.into());
        }
        self.forward(ctx, packet, to)
    }

    fn forward(&mut self, ctx: &mut Ctx<'_, '_>, packet: &Packet<'_>, to: Destination) -> Handled {
        let id = echo_id(self.echo.bytes());
        let known = self.find(packet.src, packet.dst, id);
        if known.is_none() {
            target::allow(ctx.shared, packet.dst, to)
                .map_err(|reason| Refusal::of_target(reason, to).tell(ctx, packet))?;
        }
        if packet.hop_limit <= 1 {
            icmp::unreachable(ctx, packet, Why::HopLimit);
            return Err(DropReason::HopLimit);
        }
        let i = match known {
            Some(i) => i,
            None => self.open(packet.src, packet.dst, id, ctx).map_err(|error| {
                ctx.shared.no_socket(&error);
                Refusal::of_socket(&error).tell(ctx, packet)
            })?,
        };
        if let Some(id) = self.flows.get(i).and_then(|f| f.raw) {
            self.echo.set_id(id);
        }
        let header = IpFields {
            hop_limit: packet.hop_limit - 1,
            traffic_class: packet.traffic_class,
            dont_fragment: packet.dont_fragment,
        };
        let mut again = true;
        loop {
            let Some(flow) = self.flows.get_mut(i) else { return Err(DropReason::SocketFailed) };
            flow.last = ctx.io.now;
            let to = SocketAddr::new(packet.dst, 0);
            let sent = flow
                .socket
                .set_header(header)
                .and_then(|()| flow.socket.send(self.echo.bytes(), &[], 0, to, None));
            let error = match sent {
                Ok(_) => return Ok(TxOutcome::Sent),
                Err(error) => error,
            };
            let mtu = self.relay_errors(ctx, i);
            // An error of an earlier request is told by the next call, whatever that sends.
            if std::mem::take(&mut again) && is_pending(&error, mtu) {
                continue;
            }
            let mtu = mtu.unwrap_or(ctx.shared.config.mtu.into());
            return Err(Refusal::of(&error, mtu).tell(ctx, packet));
        }
    }

    fn find(&self, guest: IpAddr, remote: IpAddr, id: u16) -> Option<u32> {
        let its = |f: &EchoFlow| f.id == id && f.remote == remote && f.guest == guest;
        self.flows.iter().find(|(_, flow)| its(flow)).map(|(i, _)| i)
    }

    fn open(
        &mut self,
        guest: IpAddr,
        remote: IpAddr,
        id: u16,
        ctx: &mut Ctx<'_, '_>,
    ) -> io::Result<u32> {
        let (socket, raw) = self.socket(remote.into(), (guest, remote, id))?;
        if self.flows.len() >= self.limit
            && let Some((oldest, _)) = self.flows.iter().min_by_key(|(_, flow)| flow.last)
        {
            self.close(oldest, ctx.io.poll);
        }
        ctx.io.poll.add(&socket, self.flows.vacancy(), Ready::IN)?;
        let last = ctx.io.now;
        Ok(self.flows.insert(EchoFlow { socket, guest, remote, id, raw, last }))
    }

    /// A socket, and the identifier that its messages bear if that is ours to choose.
    fn socket(
        &mut self,
        family: Family,
        flow: (IpAddr, IpAddr, u16),
    ) -> io::Result<(Dgram, Option<u16>)> {
        let error = match Dgram::ping(family) {
            Err(error) if error.raw_os_error() == Some(libc::EACCES) => error,
            socket => return Ok((socket?, None)),
        };
        let used = |id: u16| self.flows.iter().any(|(_, f)| f.raw == Some(id));
        // There are fewer flows than identifiers.
        let mut id = self.secret.hash_one(flow) as u16;
        while used(id) {
            id = id.wrapping_add(1);
        }
        match Dgram::raw_ping(family, id) {
            Ok(socket) => Ok((socket, Some(id))),
            Err(raw) if raw.raw_os_error() == Some(libc::EPERM) => {
                if !std::mem::replace(&mut self.told, true) {
                    tracing::info!(
                        "the guest's pings beyond the gateway are refused: the host allows this user \
                         no ICMP sockets (net.ipv4.ping_group_range)"
                    );
                }
                Err(error)
            }
            Err(raw) => Err(raw),
        }
    }

    fn close(&mut self, i: u32, poll: &Poller) {
        if let Some(flow) = self.flows.remove(i) {
            let _ = poll.remove(&flow.socket);
        }
    }

    /// A socket is ready.
    pub fn ready(&mut self, ctx: &mut Ctx<'_, '_>, token: Token, ready: Ready) {
        if self.flows.named(token).is_none() {
            return;
        }
        let i = token.id;
        if ready.intersects(Ready::ERR) {
            self.relay_errors(ctx, i);
        }
        for _ in 0..BUDGET {
            if !self.receive(ctx, i) {
                break;
            }
        }
    }

    /// Hands one reply to the guest. Replies that it has no buffers for are lost, as on any link.
    fn receive(&mut self, ctx: &mut Ctx<'_, '_>, i: u32) -> bool {
        if self.buffer.is_empty() {
            self.buffer = vec![0; 65536].into_boxed_slice();
        }
        let Some(flow) = self.flows.get_mut(i) else { return false };
        let got = match flow.socket.recv(&[], 0, 0, &mut self.buffer) {
            Ok(got) => got,
            Err(error) => return error.kind() != io::ErrorKind::WouldBlock,
        };
        if got.from.ip() != flow.remote {
            ctx.io.stats.dropped(DropReason::Unsolicited);
            return true;
        }
        let message = &mut self.buffer[..got.len];
        let message = match flow.raw.map_or(Ok(0), |id| reply_at(message, flow.remote, id)) {
            Ok(at) if message.len() >= at + ICMP_LEN => &mut message[at..],
            not => {
                ctx.io.stats.dropped(not.err().unwrap_or(DropReason::Unsolicited));
                return true;
            }
        };
        flow.last = ctx.io.now;
        let (guest, remote) = (flow.guest, flow.remote);
        rewrite_echo(message, message[0], flow.id);
        let Some(mac) = ctx.shared.link.neighbor(guest) else {
            ctx.io.stats.dropped(DropReason::NoNeighbor);
            return true;
        };
        let envelope = Envelope {
            traffic_class: got.traffic_class,
            ..Envelope::new(mac, remote, guest, icmp_protocol(guest))
        };
        self.reply_id = self.reply_id.wrapping_add(1);
        if let Err(reason) = icmp::deliver(ctx, &envelope, message, self.reply_id) {
            ctx.io.stats.dropped(reason);
        }
        true
    }

    /// Hands the guest what the network says about its requests, and returns the MTU where the
    /// host itself found one too big.
    fn relay_errors(&mut self, ctx: &mut Ctx<'_, '_>, i: u32) -> Option<u32> {
        let mut mtu = None;
        let mut data = [0; QUOTE_MAX];
        for _ in 0..ERRORS_MAX {
            let Some(flow) = self.flows.get(i) else { break };
            let Ok(error) = flow.socket.next_error(&mut data) else { break };
            let Origin::Icmp(kind, code) = error.origin else {
                if error.errno == libc::EMSGSIZE {
                    mtu = Some(error.mtu);
                }
                continue;
            };
            let family = Family::from(flow.guest);
            let Some(message) = icmp::relayed(kind, code, error.mtu, family) else { continue };
            // The request comes back from its ICMP header on, with the kernel's identifier.
            let len = error.len.min(QUOTE_MAX);
            if len < ICMP_LEN {
                continue;
            }
            // A raw socket hears of everybody's.
            let to = error.to.map(|to| to.ip());
            if flow.raw.is_some_and(|id| echo_id(&data) != id || to != Some(flow.remote)) {
                continue;
            }
            let request = match family {
                Family::V4 => kind4::ECHO_REQUEST,
                Family::V6 => kind6::ECHO_REQUEST,
            };
            rewrite_echo(&mut data, request, flow.id);
            let (guest, remote) = (flow.guest, flow.remote);
            let from = error.offender.filter(|ip| !ip.is_loopback() && !ip.is_unspecified());
            let envelope = Envelope::new(ctx.shared.link.mac, guest, remote, icmp_protocol(remote));
            let (header, data) = data[..len].split_at(ICMP_LEN);
            icmp::relay_sent(ctx, from.unwrap_or(remote), &envelope, message, header, data);
        }
        mtu
    }

    /// When [`expire`](Self::expire) is due.
    pub fn deadline(&self) -> Option<Instant> {
        self.flows.iter().map(|(_, flow)| flow.last + LIFETIME).min()
    }

    /// Closes what has been idle for long enough.
    pub fn expire(&mut self, ctx: &mut Ctx<'_, '_>) {
        for i in self.flows.ids() {
            if self.flows.get(i).is_some_and(|f| f.last + LIFETIME <= ctx.io.now) {
                self.close(i, ctx.io.poll);
            }
        }
    }

    /// The guest is gone.
    pub fn detached(&mut self, poll: &Poller) {
        for i in self.flows.ids() {
            self.close(i, poll);
        }
    }

    /// How many identifiers are in use.
    pub fn flows(&self) -> usize {
        self.flows.len()
    }
}

/// Where the echo reply with identifier `id` begins in what a raw socket has received: over IPv4
/// behind the IP header, and then nobody has looked at its checksum yet.
fn reply_at(bytes: &[u8], from: IpAddr, id: u16) -> Result<usize, DropReason> {
    let (at, kind) = match from {
        IpAddr::V4(_) => (usize::from(bytes.first().unwrap_or(&0) & 0xf) * 4, kind4::ECHO_REPLY),
        IpAddr::V6(_) => (0, kind6::ECHO_REPLY),
    };
    let message = bytes.get(at..).unwrap_or_default();
    // What came before the filter was there is anybody's.
    let header = IcmpHeader::parse(message).map_err(|_| DropReason::Unsolicited)?;
    if header.kind != kind || echo_id(message) != id {
        return Err(DropReason::Unsolicited);
    }
    if from.is_ipv4() && checksum(message) != 0 {
        return Err(DropReason::BadChecksum);
    }
    Ok(at)
}

#[cfg(test)]
mod tests;
