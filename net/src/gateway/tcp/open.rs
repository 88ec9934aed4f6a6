//! How flows begin, and which ones go to make room for them.

use std::hash::BuildHasher;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::net::sockopt::socket_error;

use super::Tcp;
use super::flow::{DSCP, End, Flow, INTEREST, Seed, State};
use super::key::Key;
use super::reset::Reset;
use super::to_guest::UNACKED_MAX;
use crate::addr::{Family, MacAddr};
use crate::frame::TxOutcome;
use crate::gateway::config::Transport;
use crate::gateway::context::{Ctx, Handled};
use crate::gateway::emit::{Envelope, LOWER_MAX};
use crate::gateway::icmp::{self, Why};
use crate::gateway::packet::Packet;
use crate::gateway::refusal::Refusal;
use crate::gateway::target::{Destination, resolve};
use crate::stats::DropReason;
use crate::sys::{is_exhausted, stream};
use crate::wire::tcp::{ACK, Fields, Header, RST, SYN};
use crate::wire::{ETHERNET_LEN, TCP_LEN, protocol};

/// An open flow may go for another one after this much silence.
const IDLE_MIN: Duration = Duration::from_secs(10);

impl Tcp {
    /// The guest's SYN begins a flow.
    pub(super) fn open(
        &mut self,
        ctx: &mut Ctx<'_, '_>,
        packet: &Packet<'_>,
        to: Destination,
        syn: &Header,
        key: Key,
    ) -> Handled {
        let target = match resolve(ctx, Transport::Tcp, key.peer.into(), to) {
            Ok(target) => target,
            Err(reason) => {
                // A route that is missing is told as a router would; the gateway itself is there.
                if reason == DropReason::NoRoute && to != Destination::Gateway {
                    icmp::unreachable(ctx, packet, Why::Network);
                } else {
                    self.answer_stray(ctx, packet, syn);
                }
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
        let class = packet.traffic_class & DSCP;
        let (socket, connected) = match self.connect(ctx, target, class) {
            Ok(connection) => connection,
            Err(e) => {
                let reason = self.refuse(ctx, key, packet.src_mac, syn.fields.seq, &e);
                // By a peer on this host, which is an answer like any other.
                let answered = e.kind() == io::ErrorKind::ConnectionRefused;
                return if answered { Ok(TxOutcome::Sent) } else { Err(reason) };
            }
        };
        let seed = self.seed(ctx, key, packet.src_mac, socket);
        let flow = Box::new(Flow::from_guest(seed, syn, class));
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
    pub(super) fn connect(
        &mut self,
        ctx: &mut Ctx<'_, '_>,
        to: SocketAddr,
        class: u8,
    ) -> io::Result<(OwnedFd, bool)> {
        let result = stream::connect(to, class);
        if let Err(e) = &result
            && is_exhausted(e)
        {
            ctx.shared.no_socket(e);
            if self.evict(ctx, true) {
                return stream::connect(to, class);
            }
        }
        result
    }

    pub(super) fn seed(
        &mut self,
        ctx: &Ctx<'_, '_>,
        key: Key,
        mac: MacAddr,
        socket: OwnedFd,
    ) -> Seed {
        let now = ctx.io.now;
        let epoch = *self.epoch.get_or_insert(now);
        // RFC 6528: a clock of 4 µs and a secret function of the endpoints.
        let ticks = now.saturating_duration_since(epoch).as_micros() as u64 / 4;
        let iss = self.secret.hash_one(key).wrapping_add(ticks) as u32;
        let token = self.table.vacancy();
        Seed { key, mac, token, socket, iss, mtu: ctx.shared.config.mtu, now }
    }

    /// Adds a flow and watches its socket.
    pub(super) fn add(&mut self, ctx: &mut Ctx<'_, '_>, flow: Box<Flow>) -> Option<u32> {
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
    pub(super) fn connected(&mut self, ctx: &mut Ctx<'_, '_>, id: u32) {
        let Some(flow) = self.table.get(id) else { return };
        self.connecting -= 1;
        flow.connected(ctx.io.poll);
        flow.flush(ctx);
        self.settle(ctx, id);
    }

    /// The host's peer has answered a flow's connection, one way or the other.
    pub(super) fn answered(&mut self, ctx: &mut Ctx<'_, '_>, id: u32) {
        let Some(flow) = self.table.get(id) else { return };
        let Some(socket) = &flow.socket else { return };
        let error = match socket_error(socket) {
            Ok(Ok(())) => return self.connected(ctx, id),
            Ok(Err(e)) | Err(e) => e,
        };
        let (key, mac, irs) = (flow.key, flow.mac, flow.up.irs);
        self.end(ctx, id, End::Closed);
        self.refuse(ctx, key, mac, irs, &error.into());
    }

    /// The host's side of a flow, which the guest's SYN with sequence number `irs` began, can't be
    /// connected: the guest learns why, as it would from a router or from the host that refuses.
    fn refuse(
        &mut self,
        ctx: &mut Ctx<'_, '_>,
        key: Key,
        mac: MacAddr,
        irs: u32,
        error: &io::Error,
    ) -> DropReason {
        let refusal = Refusal::of(error, ctx.shared.config.mtu.into());
        if refusal.is_passing() {
            // The guest tries again.
            return refusal.reason;
        }
        let Some(why) = refusal.why else {
            let ack = irs.wrapping_add(1);
            let (src_port, dst_port) = (key.peer.port, key.guest.port);
            let fields = Fields { src_port, dst_port, seq: 0, ack, flags: RST | ACK, window: 0 };
            let envelope = Envelope::new(mac, key.peer.ip, key.guest.ip, protocol::TCP);
            self.reset_guest(ctx, Reset { envelope, fields });
            return refusal.reason;
        };
        // The guest's SYN, as far as anyone looks at it.
        let (src_port, dst_port) = (key.guest.port, key.peer.port);
        let syn = Fields { src_port, dst_port, seq: irs, ack: 0, flags: SYN, window: 0 };
        let mut quote = [0; LOWER_MAX + TCP_LEN];
        let envelope = Envelope::new(mac, key.guest.ip, key.peer.ip, protocol::TCP);
        let lower = envelope.write(mac, TCP_LEN, &mut quote);
        quote[lower..lower + TCP_LEN].copy_from_slice(&syn.bytes());
        let quote = &quote[ETHERNET_LEN..lower + TCP_LEN];
        let family = Family::from(key.guest.ip);
        let from = ctx.shared.config.gateway(family);
        icmp::relay(ctx, from, key.guest.ip, why.header(family), quote);
        refusal.reason
    }

    /// Makes room for another flow, if there is none. False if no flow is idle enough to go.
    pub(super) fn make_room(&mut self, ctx: &mut Ctx<'_, '_>) -> bool {
        !self.table.is_full() || self.evict(ctx, false)
    }

    /// Ends the flow that is missed the least; one with a socket, if that is wanted.
    pub(super) fn evict(&mut self, ctx: &mut Ctx<'_, '_>, with_socket: bool) -> bool {
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
}
