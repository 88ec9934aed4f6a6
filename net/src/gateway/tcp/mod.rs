//! The guest's TCP flows and the host's sockets for them.
//!
//! Not a second TCP stack with buffers of its own, but a translator between the guest's segments
//! and one socket for each flow: see [`flow`]. Nothing here is done for each byte, and nothing is
//! allocated once a flow exists.
//!
//! What follows from a segment, an event or an alarm is noted in the flow and put into effect by
//! [`Tcp::settle`]: the flow is lined up for delivery, put on the list of those with an
//! acknowledgement due, has its alarm set, or ends.

mod flow;
mod gather;
mod lineup;
mod listen;
mod rto;
mod segment;
mod table;
mod timers;
mod to_guest;
mod to_host;

use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::sockopt::socket_error;

use self::flow::{End, Flow, INTEREST, Seed, State};
use self::gather::Gather;
use self::lineup::Lineup;
use self::listen::Listeners;
use self::segment::{ACK, FIN, Fields, Header, RST, SYN};
use self::table::{Endpoint, Key, Table};
use self::timers::Timers;
use self::to_guest::{Scratch, Turn, UNACKED_MAX};
use self::to_host::Taken;
use super::config::{GatewayConfig, Transport};
use super::emit::{Envelope, LOWER_MAX};
use super::error::GatewayError;
use super::icmp::{self, Message, Why};
use super::packet::Packet;
use super::target::resolve;
use super::{Ctx, Handled};
use crate::addr::MacAddr;
use crate::frame::TxOutcome;
use crate::poll::{Owner, Poller, Ready, Token};
use crate::stats::DropReason;
use crate::sys::stream;
use crate::wire::checksum::Sum;
use crate::wire::{ETHERNET_LEN, TCP_LEN, protocol};

/// Bytes delivered to the guest before other events get their turn.
const BUDGET: usize = 1024 * 1024;

/// Resets that wait for receive buffers; who is not told finds out when it sends something.
const RESETS_MAX: usize = 256;

/// An open flow may go for another one after this much silence.
const IDLE_MIN: Duration = Duration::from_secs(10);

/// All TCP flows of a gateway.
#[derive(Debug)]
pub struct Tcp {
    table: Table,
    timers: Timers,
    listeners: Listeners,
    scratch: Scratch,
    gather: Gather,
    /// Flows that may have bytes for the guest.
    queue: Lineup,
    /// Flows to look after when the batch is over: they may have something else for the guest.
    touched: Lineup,
    resets: VecDeque<Reset>,
    /// Flows whose host's side is connecting.
    connecting: usize,
    /// The guest has no receive buffers: delivery goes on when it has.
    blocked: bool,
    /// The queue goes on at once.
    again: Option<Instant>,
    secret: RandomState,
    epoch: Option<Instant>,
}

/// A reset for the guest.
#[derive(Debug)]
struct Reset {
    envelope: Envelope,
    fields: Fields,
}

impl Tcp {
    /// No flows yet; published ports are bound here, so that one that is taken is known before
    /// the machine starts.
    ///
    /// # Errors
    /// [`GatewayError::Publish`]
    pub fn bind(config: &GatewayConfig) -> Result<Self, GatewayError> {
        Ok(Self {
            table: Table::new(config.limits.tcp),
            timers: Timers::default(),
            listeners: Listeners::bind(config)?,
            scratch: Scratch::new(),
            gather: Gather::new(),
            queue: Lineup::default(),
            touched: Lineup::default(),
            resets: VecDeque::new(),
            connecting: 0,
            blocked: false,
            again: None,
            secret: RandomState::new(),
            epoch: None,
        })
    }

    /// Listens at the published ports.
    ///
    /// # Errors
    /// Those of `epoll_ctl(2)`.
    pub fn start(&mut self, poll: &Poller) -> io::Result<()> {
        self.listeners.start(poll)
    }

    /// How many flows there are.
    pub fn flows(&self) -> usize {
        self.table.len()
    }

    /// A segment from the guest.
    pub fn input(&mut self, ctx: &mut Ctx<'_, '_>, packet: &Packet<'_>) -> Handled {
        let h = Header::parse(packet.head, packet.len)?;
        let payload = packet.payload(h.len)?;
        check_sum(packet)?;
        let key = Key {
            guest: Endpoint { ip: packet.src, port: h.fields.src_port },
            peer: Endpoint { ip: packet.dst, port: h.fields.dst_port },
        };
        let found = self.table.find(&key);
        if self.gather.flow().is_some() && self.gather.flow() != found {
            self.give(ctx);
        }
        if let Some(id) = found
            && let Some(flow) = self.table.get(id)
        {
            flow.mac = packet.src_mac;
            match flow.input(ctx, &h, &payload, &mut self.gather) {
                Taken::Done(handled) => {
                    self.settle(ctx, id);
                    return handled;
                }
                Taken::Stray => {
                    self.answer_stray(ctx, packet, &h);
                    return Err(DropReason::NoConnection);
                }
                // Its endpoints are needed: whatever it was is over for the guest.
                Taken::Anew => self.end(ctx, id, End::ByGuest),
            }
        }
        if h.has(SYN) && !h.has(ACK | RST | FIN) {
            return self.open(ctx, packet, &h, key);
        }
        self.answer_stray(ctx, packet, &h);
        Err(DropReason::NoConnection)
    }

    /// Gives what was gathered to its socket.
    fn give(&mut self, ctx: &mut Ctx<'_, '_>) {
        if let Some(id) = self.gather.flow()
            && let Some(flow) = self.table.get(id)
        {
            flow.give(ctx, &mut self.gather);
            self.settle(ctx, id);
        }
    }

    /// A segment that belongs to no connection is answered with a reset, unless it is one
    /// (RFC 9293 §3.10.7.1).
    fn answer_stray(&mut self, ctx: &mut Ctx<'_, '_>, packet: &Packet<'_>, h: &Header) {
        let group = match packet.dst {
            IpAddr::V4(ip) => ip.is_multicast() || ip.is_broadcast(),
            IpAddr::V6(ip) => ip.is_multicast(),
        };
        if h.has(RST) || group {
            return;
        }
        let f = &h.fields;
        let len = packet.len - h.len + usize::from(h.has(SYN)) + usize::from(h.has(FIN));
        let (seq, ack, flags) = if h.has(ACK) {
            (f.ack, 0, RST)
        } else {
            (0, f.seq.wrapping_add(len as u32), RST | ACK)
        };
        let fields =
            Fields { src_port: f.dst_port, dst_port: f.src_port, seq, ack, flags, window: 0 };
        let envelope = Envelope::new(packet.src_mac, packet.dst, packet.src, protocol::TCP);
        self.reset_guest(ctx, Reset { envelope, fields });
    }

    fn reset_guest(&mut self, ctx: &mut Ctx<'_, '_>, reset: Reset) {
        if self.resets.is_empty() && reset.send(ctx) {
            return;
        }
        if self.resets.len() < RESETS_MAX {
            self.blocked = true;
            self.resets.push_back(reset);
        } else {
            ctx.io.stats.dropped(DropReason::NoRxBuffers);
        }
    }

    /// The guest's SYN begins a flow.
    fn open(
        &mut self,
        ctx: &mut Ctx<'_, '_>,
        packet: &Packet<'_>,
        syn: &Header,
        key: Key,
    ) -> Handled {
        let target = match resolve(ctx.core, Transport::Tcp, key.peer.into()) {
            Ok(target) => target,
            Err(reason) => {
                self.answer_stray(ctx, packet, syn);
                return Err(reason);
            }
        };
        // Connections that nobody answers must not take the place of those that work.
        if self.connecting >= (self.table.limit() / 4).max(16) {
            let oldest = self.table.iter().filter(|(_, f)| f.state == State::Connecting);
            if let Some((id, _)) = oldest.min_by_key(|(_, f)| f.active) {
                self.end(ctx, id, End::ByGuest);
            }
        }
        if !self.make_room(ctx) {
            // The guest tries again.
            return Err(DropReason::FlowTableFull);
        }
        let (socket, connected) = match self.connect(ctx, target) {
            Ok(connection) => connection,
            Err(e) => {
                let error = Errno::from_io_error(&e).unwrap_or(Errno::IO);
                self.refuse(ctx, key, packet.src_mac, syn.fields.seq, error);
                return match error {
                    Errno::NETUNREACH | Errno::HOSTUNREACH => Err(DropReason::NoRoute),
                    Errno::CONNREFUSED => Ok(TxOutcome::Sent),
                    _ => Err(DropReason::SocketFailed),
                };
            }
        };
        let seed = self.seed(ctx, key, packet.src_mac, socket);
        let flow = Box::new(Flow::from_guest(seed, syn));
        let Some(id) = self.add(ctx, flow) else {
            self.answer_stray(ctx, packet, syn);
            return Err(DropReason::SocketFailed);
        };
        self.connecting += 1;
        if connected {
            self.connected(ctx, id);
        }
        Ok(TxOutcome::Sent)
    }

    /// Connects; where there are no descriptors left, the idlest flow gives its own.
    fn connect(&mut self, ctx: &mut Ctx<'_, '_>, to: SocketAddr) -> io::Result<(OwnedFd, bool)> {
        let result = stream::connect(to);
        if let Err(e) = &result
            && is_exhausted(e)
            && self.evict(ctx, true)
        {
            return stream::connect(to);
        }
        result
    }

    fn seed(&mut self, ctx: &Ctx<'_, '_>, key: Key, mac: MacAddr, socket: OwnedFd) -> Seed {
        let now = ctx.io.now;
        let epoch = *self.epoch.get_or_insert(now);
        // RFC 6528: a clock of 4 µs and a secret function of the endpoints.
        let ticks = now.saturating_duration_since(epoch).as_micros() as u64 / 4;
        let iss = self.secret.hash_one(key).wrapping_add(ticks) as u32;
        let token = self.table.vacancy();
        Seed { key, mac, token, socket, iss, mtu: ctx.core.config.mtu, now }
    }

    /// Adds a flow and watches its socket.
    fn add(&mut self, ctx: &mut Ctx<'_, '_>, flow: Box<Flow>) -> Option<u32> {
        let mut flow = flow;
        let socket = flow.socket.as_ref()?;
        ctx.io.poll.add(socket, flow.token, INTEREST).ok()?;
        flow.down.peeks = self.scratch.peeks && stream::set_peek_offset(socket, 0).is_ok();
        if !flow.down.peeks {
            flow.down.limit = UNACKED_MAX;
        }
        flow.active = ctx.io.now;
        let id = self.table.insert(flow);
        self.settle(ctx, id);
        Some(id)
    }

    /// The host's side of a flow is connected.
    fn connected(&mut self, ctx: &mut Ctx<'_, '_>, id: u32) {
        let Some(flow) = self.table.get(id) else { return };
        self.connecting -= 1;
        flow.connected(ctx.io.poll);
        flow.flush(ctx);
        self.settle(ctx, id);
    }

    /// The host's side of a flow, which the guest's SYN with sequence number `irs` began, can't be
    /// connected: the guest learns why, as it would from a router or from the host that refuses.
    fn refuse(&mut self, ctx: &mut Ctx<'_, '_>, key: Key, mac: MacAddr, irs: u32, error: Errno) {
        let why = match error {
            Errno::NETUNREACH => Why::Network,
            Errno::HOSTUNREACH | Errno::TIMEDOUT | Errno::HOSTDOWN => Why::Host,
            Errno::ACCESS | Errno::PERM => Why::Prohibited,
            _ => {
                let ack = irs.wrapping_add(1);
                let (src_port, dst_port) = (key.peer.port, key.guest.port);
                let fields =
                    Fields { src_port, dst_port, seq: 0, ack, flags: RST | ACK, window: 0 };
                let envelope = Envelope::new(mac, key.peer.ip, key.guest.ip, protocol::TCP);
                return self.reset_guest(ctx, Reset { envelope, fields });
            }
        };
        // The guest's SYN, as far as anyone looks at it.
        let (src_port, dst_port) = (key.guest.port, key.peer.port);
        let syn = Fields { src_port, dst_port, seq: irs, ack: 0, flags: SYN, window: 0 };
        let mut quote = [0; LOWER_MAX + TCP_LEN];
        let envelope = Envelope::new(mac, key.guest.ip, key.peer.ip, protocol::TCP);
        let lower = envelope.write(mac, TCP_LEN, &mut quote);
        quote[lower..lower + TCP_LEN].copy_from_slice(&syn.bytes());
        let quote = &quote[ETHERNET_LEN..lower + TCP_LEN];
        let (from, ipv4): (IpAddr, _) = match key.guest.ip {
            IpAddr::V4(_) => (ctx.core.config.gateway4.into(), true),
            IpAddr::V6(_) => (ctx.core.config.gateway6.into(), false),
        };
        icmp::relay(ctx, from, key.guest.ip, Message::new(why, ipv4), quote);
    }

    /// Makes room for another flow, if there is none. False if no flow is idle enough to go.
    fn make_room(&mut self, ctx: &mut Ctx<'_, '_>) -> bool {
        !self.table.is_full() || self.evict(ctx, false)
    }

    /// Ends the flow that is missed the least; one with a socket, if that is wanted.
    fn evict(&mut self, ctx: &mut Ctx<'_, '_>, with_socket: bool) -> bool {
        let now = ctx.io.now;
        let rank = |flow: &Flow| {
            let idle = now.saturating_duration_since(flow.active) >= IDLE_MIN;
            match flow.state {
                State::TimeWait => (!with_socket).then_some(0),
                State::Open if flow.up.fin && flow.down.fin.is_some() => Some(1),
                State::Connecting | State::SynSent | State::SynReceived if idle => Some(1),
                State::Open if idle => Some(2),
                _ => None,
            }
        };
        let ranked = self.table.iter().filter_map(|(id, f)| Some((rank(f)?, f.active, id)));
        let Some((rank, _, id)) = ranked.min() else { return false };
        self.end(ctx, id, if rank == 0 { End::Closed } else { End::Both });
        true
    }

    /// Puts into effect what the last event meant for a flow.
    fn settle(&mut self, ctx: &mut Ctx<'_, '_>, id: u32) {
        let Some(flow) = self.table.get(id) else { return };
        if let Some(end) = flow.end {
            return self.end(ctx, id, end);
        }
        if flow.is_finished() {
            if !flow.down.first {
                return self.end(ctx, id, End::Closed);
            }
            // The guest's last FIN may come again.
            flow.flush(ctx);
            flow.state = State::TimeWait;
            flow.rto.at = None;
            flow.active = ctx.io.now;
            flow.socket = None;
        }
        if flow.wants_delivery() {
            self.queue.push(id);
        }
        self.touched.push(id);
        let due = flow.due(ctx.io.now);
        self.timers.set(id, due);
    }

    /// Removes a flow and tells who is to be told.
    fn end(&mut self, ctx: &mut Ctx<'_, '_>, id: u32, end: End) {
        let Some(flow) = self.table.get(id) else { return };
        if end == End::Closed {
            // The guest's last FIN wants its answer; bytes left in the socket would reset it.
            flow.flush(ctx);
        }
        let Some(mut flow) = self.table.remove(id) else { return };
        if self.gather.flow() == Some(id) {
            self.gather.take();
        }
        self.timers.cancel(id);
        if flow.state == State::Connecting {
            self.connecting -= 1;
        }
        if let (Some(socket), End::ByGuest | End::Both) = (flow.socket.take(), end) {
            stream::abort(socket);
        }
        if matches!(end, End::ByHost | End::Both) && flow.state != State::TimeWait {
            let reset = Reset { envelope: flow.envelope(), fields: flow.reset_fields() };
            self.reset_guest(ctx, reset);
        }
    }

    /// A socket is ready.
    pub fn ready(&mut self, ctx: &mut Ctx<'_, '_>, token: Token, ready: Ready) {
        if token.owner == Owner::TcpListener {
            self.accept(ctx, token.id);
        } else {
            self.flow_ready(ctx, token, ready);
        }
        self.pump(ctx);
        self.flush(ctx);
    }

    fn flow_ready(&mut self, ctx: &mut Ctx<'_, '_>, token: Token, ready: Ready) {
        let Some(flow) = self.table.of_token(token) else { return };
        let failed = ready.intersects(Ready::ERR);
        let hup = failed || ready.intersects(Ready::HUP | Ready::RDHUP);
        // Each is told once, maybe together with what ends the state of connecting.
        flow.down.urgent |= ready.intersects(Ready::PRI);
        flow.down.hup |= hup;
        if flow.state == State::Connecting {
            if hup || ready.intersects(Ready::OUT) {
                self.answered(ctx, token.id);
            }
            return;
        }
        flow.active = ctx.io.now;
        if ready.intersects(Ready::OUT) {
            flow.writable(ctx);
        }
        if hup || ready.intersects(Ready::IN) {
            if failed && matches!(flow.state, State::SynSent | State::SynReceived) {
                flow.end = Some(End::ByHost);
            }
            flow.note(failed);
        }
        self.settle(ctx, token.id);
    }

    /// The host's peer has answered a flow's connection, one way or the other.
    fn answered(&mut self, ctx: &mut Ctx<'_, '_>, id: u32) {
        let Some(flow) = self.table.get(id) else { return };
        let Some(socket) = &flow.socket else { return };
        let error = match socket_error(socket) {
            Ok(Ok(())) => return self.connected(ctx, id),
            Ok(Err(e)) | Err(e) => e,
        };
        let (key, mac, irs) = (flow.key, flow.mac, flow.up.irs);
        self.end(ctx, id, End::Closed);
        self.refuse(ctx, key, mac, irs, error);
    }

    /// Delivers what there is, a frame for each flow in turn.
    fn pump(&mut self, ctx: &mut Ctx<'_, '_>) {
        self.again = None;
        let mut budget = BUDGET;
        while !self.blocked
            && let Some(id) = self.queue.pop()
        {
            let Some(flow) = self.table.get(id) else { continue };
            let turn = flow.deliver(ctx, &mut self.scratch);
            if turn == Turn::NoRoom {
                self.queue.push_front(id);
                self.blocked = true;
            }
            self.settle(ctx, id);
            if let Turn::Sent(n) = turn {
                budget = budget.saturating_sub(n.max(256));
                if budget == 0 && !self.queue.is_empty() {
                    self.again = Some(ctx.io.now);
                    break;
                }
            }
        }
    }

    /// Sends what was put off until the batch was over.
    fn flush(&mut self, ctx: &mut Ctx<'_, '_>) {
        while let Some(reset) = self.resets.front()
            && reset.send(ctx)
        {
            self.resets.pop_front();
        }
        let mut room = self.resets.is_empty();
        for _ in 0..self.touched.len() {
            let Some(id) = self.touched.pop() else { break };
            let Some(flow) = self.table.get(id) else { continue };
            if room {
                room = flow.flush(ctx);
            } else {
                flow.upkeep(ctx.io.poll);
            }
            if !room && flow.wants_flush() {
                self.touched.push(id);
            }
        }
        self.blocked |= !room;
    }

    /// The guest has receive buffers again.
    pub fn rx_available(&mut self, ctx: &mut Ctx<'_, '_>) {
        self.blocked = false;
        self.flush(ctx);
        self.pump(ctx);
        self.flush(ctx);
    }

    /// The batch of packets from the guest is over.
    pub fn batch_end(&mut self, ctx: &mut Ctx<'_, '_>) {
        self.give(ctx);
        self.pump(ctx);
        self.flush(ctx);
    }

    /// When [`expire`](Self::expire) is due.
    pub fn deadline(&self) -> Option<Instant> {
        [self.again, self.timers.next(), self.listeners.resume_at()].into_iter().flatten().min()
    }

    /// Does what is due.
    pub fn expire(&mut self, ctx: &mut Ctx<'_, '_>) {
        self.listeners.resume(ctx.io.now, ctx.io.poll);
        while let Some(id) = self.timers.pop(ctx.io.now) {
            let blocked = self.blocked;
            if let Some(flow) = self.table.get(id) {
                flow.alarm(ctx.io.now, blocked);
                self.settle(ctx, id);
            }
        }
        self.pump(ctx);
        self.flush(ctx);
    }

    /// The guest is gone, and its flows with it.
    pub fn detached(&mut self, _poll: &Poller) {
        for id in self.table.ids() {
            if let Some(socket) = self.table.remove(id).and_then(|flow| flow.socket) {
                stream::abort(socket);
            }
            self.timers.cancel(id);
        }
        self.gather.take();
        self.queue.clear();
        self.touched.clear();
        self.resets.clear();
        self.connecting = 0;
        self.blocked = false;
        self.again = None;
    }
}

impl Reset {
    fn send(&self, ctx: &mut Ctx<'_, '_>) -> bool {
        ctx.deliver_packet(&self.envelope, &self.fields.bytes(), &[]).is_ok()
    }
}

/// The checksum of a segment, where its sender did not leave that to the link (RFC 9293 §3.1).
fn check_sum(packet: &Packet<'_>) -> Result<(), DropReason> {
    if let Some(open) = packet.offload.checksum {
        let start = ETHERNET_LEN + packet.ip_header.len();
        let ours = usize::from(open.start) == start && open.offset == 16;
        return if ours { Ok(()) } else { Err(DropReason::BadOffload) };
    }
    if packet.offload.validated {
        return Ok(());
    }
    let mut sum = Sum::pseudo_header(packet.src, packet.dst, protocol::TCP, packet.len);
    sum.bytes(packet.head);
    sum.volatile(packet.tail, 0, packet.len - packet.head.len());
    if sum.finish() == 0 { Ok(()) } else { Err(DropReason::BadChecksum) }
}

/// There are no descriptors left.
fn is_exhausted(e: &io::Error) -> bool {
    matches!(Errno::from_io_error(e), Some(Errno::MFILE | Errno::NFILE))
}

#[cfg(test)]
mod tests;
