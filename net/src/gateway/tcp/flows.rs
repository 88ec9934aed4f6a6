//! All flows, and what follows for each from what was noted in it.
//!
//! What follows from a segment, an event or an alarm is noted in the flow and put into effect by
//! [`Flows::settle`]: the flow is lined up for delivery, put on the list of those to look after when
//! the batch is over, has its alarm set, or ends.

use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use super::due::End;
use super::flow::{Flow, Seed, State};
use super::gather::Gather;
use super::key::Key;
use super::lineup::Lineup;
use super::reset::Reset;
use super::table::Table;
use super::timers::Timers;
use super::to_guest::{Scratch, Turn};
use crate::addr::MacAddr;
use crate::gateway::context::Ctx;
use crate::gateway::icmp;
use crate::gateway::packet::Packet;
use crate::stats::DropReason;
use crate::sys::stream;
use crate::wire::seq::Seq;
use crate::wire::tcp::Header;

/// Bytes delivered to the guest before other events get their turn.
const BUDGET: usize = 1024 * 1024;

/// An open flow may go for another one after this much silence.
const IDLE_MIN: Duration = Duration::from_secs(10);

/// Resets that wait for receive buffers; who is not told finds out when it sends something.
pub const RESETS_MAX: usize = 256;

/// See the [module's documentation](self).
#[derive(Debug)]
pub struct Flows {
    /// The flows themselves.
    pub table: Table,
    /// Small segments of one of them.
    pub gather: Gather,
    timers: Timers,
    scratch: Scratch,
    /// Flows that may have bytes for the guest.
    to_deliver: Lineup,
    /// Flows to look after when the batch is over: they may have something else for the guest.
    to_flush: Lineup,
    resets: VecDeque<Reset>,
    /// How many have a host's side that is connecting.
    connecting: usize,
    /// The guest has no receive buffers: delivery goes on when it has.
    blocked: bool,
    /// Delivery goes on at once.
    resume_at: Option<Instant>,
    secret: RandomState,
    epoch: Option<Instant>,
}

impl Flows {
    /// None yet; there may be `limit`.
    pub fn new(limit: usize) -> Self {
        Self {
            table: Table::new(limit),
            gather: Gather::new(),
            timers: Timers::default(),
            scratch: Scratch::new(),
            to_deliver: Lineup::default(),
            to_flush: Lineup::default(),
            resets: VecDeque::new(),
            connecting: 0,
            blocked: false,
            resume_at: None,
            secret: RandomState::new(),
            epoch: None,
        }
    }

    /// What a flow between these endpoints begins with.
    pub fn seed(&mut self, ctx: &Ctx<'_, '_>, key: Key, mac: MacAddr, socket: OwnedFd) -> Seed {
        let now = ctx.io.now;
        let epoch = *self.epoch.get_or_insert(now);
        // RFC 6528: a clock of 4 µs and a secret function of the endpoints.
        let ticks = now.saturating_duration_since(epoch).as_micros() as u64 / 4;
        let iss = Seq::new(self.secret.hash_one(key).wrapping_add(ticks) as u32);
        let token = self.table.vacancy();
        Seed { key, mac, token, socket, iss, mtu: ctx.shared.config.mtu, now }
    }

    /// Adds a flow and watches its socket.
    pub fn add(&mut self, ctx: &mut Ctx<'_, '_>, mut flow: Box<Flow>) -> Option<u32> {
        let socket = flow.socket.as_ref()?;
        if !socket.watch(ctx.io.poll) {
            return None;
        }
        flow.to_guest.begin_peeking(socket, self.scratch.peeks);
        flow.active = ctx.io.now;
        self.connecting += usize::from(flow.state == State::Connecting);
        let id = self.table.insert(flow);
        self.settle(ctx, id);
        Some(id)
    }

    /// The host's side of a flow is connected.
    pub fn connected(&mut self, ctx: &mut Ctx<'_, '_>, id: u32) {
        let Some(flow) = self.table.get(id) else { return };
        self.connecting -= 1;
        flow.connected(ctx.io.poll);
        flow.flush(ctx);
        self.settle(ctx, id);
    }

    /// Gives what was gathered to its socket.
    pub fn flush_gathered(&mut self, ctx: &mut Ctx<'_, '_>) {
        if let Some(id) = self.gather.flow()
            && let Some(flow) = self.table.get(id)
        {
            flow.flush_gathered(ctx, &mut self.gather);
            self.settle(ctx, id);
        }
    }

    /// Puts into effect what the last event meant for a flow.
    pub fn settle(&mut self, ctx: &mut Ctx<'_, '_>, id: u32) {
        let Some(flow) = self.table.get(id) else { return };
        if let Some(end) = flow.due.end {
            return self.end(ctx, id, end);
        }
        if flow.is_finished() {
            if !flow.to_guest.ended_first() {
                return self.end(ctx, id, End::Closed);
            }
            // The guest's last FIN may come again.
            flow.flush(ctx);
            flow.begin_time_wait(ctx.io.now);
        }
        if flow.wants_delivery() {
            self.to_deliver.push(id);
        }
        self.to_flush.push(id);
        let alarm = flow.alarm_at(ctx.io.now);
        self.timers.set(id, alarm);
    }

    /// Removes a flow and tells who is to be told.
    pub fn end(&mut self, ctx: &mut Ctx<'_, '_>, id: u32, end: End) {
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
            stream::abort(socket.fd);
        }
        if matches!(end, End::ByHost | End::Both) && flow.state != State::TimeWait {
            let reset = Reset { envelope: flow.envelope(), fields: flow.reset_fields() };
            self.reset_guest(ctx, reset);
        }
    }

    /// Makes room for a flow that begins to connect: those that nobody answers must not take the
    /// place of those that work. False if no flow is idle enough to go.
    pub fn make_room_to_connect(&mut self, ctx: &mut Ctx<'_, '_>) -> bool {
        if self.connecting >= (self.table.limit() / 4).max(16) {
            let oldest = self.table.iter().filter(|(_, f)| f.state == State::Connecting);
            if let Some((id, _)) = oldest.min_by_key(|(_, f)| f.active) {
                self.end(ctx, id, End::ByGuest);
            }
        }
        self.make_room(ctx)
    }

    /// Makes room for another flow, if there is none. False if no flow is idle enough to go.
    pub fn make_room(&mut self, ctx: &mut Ctx<'_, '_>) -> bool {
        !self.table.is_full() || self.evict(ctx, false)
    }

    /// Ends the flow that is missed the least; one with a socket, if that is wanted.
    pub fn evict(&mut self, ctx: &mut Ctx<'_, '_>, with_socket: bool) -> bool {
        let now = ctx.io.now;
        let rank = |flow: &Flow| {
            let idle = now.saturating_duration_since(flow.active) >= IDLE_MIN;
            match flow.state {
                State::TimeWait => (!with_socket).then_some(0),
                State::Open if flow.is_closing() => Some(1),
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

    /// A segment that belongs to no connection is answered with a reset, unless it is one.
    pub fn answer_stray(&mut self, ctx: &mut Ctx<'_, '_>, packet: &Packet<'_>, header: &Header) {
        if !icmp::is_group_traffic(&ctx.shared.config, packet)
            && let Some(reset) = Reset::answer(packet, header)
        {
            self.reset_guest(ctx, reset);
        }
    }

    /// Sends a reset, or has it wait for receive buffers.
    pub fn reset_guest(&mut self, ctx: &mut Ctx<'_, '_>, reset: Reset) {
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

    /// The guest has receive buffers again.
    pub fn unblock(&mut self) {
        self.blocked = false;
    }

    /// Delivers what there is, a few frames for each flow in turn.
    pub fn deliver(&mut self, ctx: &mut Ctx<'_, '_>) {
        self.resume_at = None;
        let mut budget = BUDGET;
        while !self.blocked
            && let Some(id) = self.to_deliver.pop()
        {
            let Some(flow) = self.table.get(id) else { continue };
            let turn = flow.deliver(ctx, &mut self.scratch);
            if turn == Turn::NoRoom {
                self.to_deliver.push_front(id);
                self.blocked = true;
            }
            self.settle(ctx, id);
            if let Turn::Sent(n) = turn {
                budget = budget.saturating_sub(n.max(256));
                if budget == 0 && !self.to_deliver.is_empty() {
                    self.resume_at = Some(ctx.io.now);
                    break;
                }
            }
        }
    }

    /// Sends what was put off until the batch was over.
    pub fn flush(&mut self, ctx: &mut Ctx<'_, '_>) {
        while let Some(reset) = self.resets.front()
            && reset.send(ctx)
        {
            self.resets.pop_front();
        }
        let mut room = self.resets.is_empty();
        for _ in 0..self.to_flush.len() {
            let Some(id) = self.to_flush.pop() else { break };
            let Some(flow) = self.table.get(id) else { continue };
            if room {
                room = flow.flush(ctx);
            } else {
                flow.upkeep(ctx.io.poll);
            }
            if !room && flow.due.is_for_guest() {
                self.to_flush.push(id);
            }
        }
        self.blocked |= !room;
    }

    /// When [`alarms`](Self::alarms) or delivery is due.
    pub fn deadline(&self) -> Option<Instant> {
        [self.resume_at, self.timers.next()].into_iter().flatten().min()
    }

    /// Does what time brings.
    pub fn alarms(&mut self, ctx: &mut Ctx<'_, '_>) {
        while let Some(id) = self.timers.pop(ctx.io.now) {
            let blocked = self.blocked;
            if let Some(flow) = self.table.get(id) {
                flow.alarm(ctx.io.now, blocked);
                self.settle(ctx, id);
            }
        }
    }

    /// The guest is gone, and its flows with it.
    pub fn clear(&mut self) {
        for id in self.table.ids() {
            if let Some(socket) = self.table.remove(id).and_then(|flow| flow.socket) {
                stream::abort(socket.fd);
            }
            self.timers.cancel(id);
        }
        self.gather.take();
        self.to_deliver.clear();
        self.to_flush.clear();
        self.resets.clear();
        self.connecting = 0;
        self.blocked = false;
        self.resume_at = None;
    }

    /// Whether the kernel is taken to have `SO_PEEK_OFF` for TCP, as Linux 6.9 has.
    #[cfg(test)]
    pub fn set_peeking(&mut self, peeks: bool) {
        self.scratch.peeks = peeks;
    }

    /// What waits.
    #[cfg(test)]
    pub fn pending(&self) -> Pending {
        Pending {
            connecting: self.connecting,
            alarm: self.timers.next(),
            to_deliver: self.to_deliver.len(),
            to_flush: self.to_flush.len(),
            resets: self.resets.len(),
        }
    }
}

/// How much of each kind waits.
#[cfg(test)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pending {
    pub connecting: usize,
    pub alarm: Option<Instant>,
    pub to_deliver: usize,
    pub to_flush: usize,
    pub resets: usize,
}
