//! The guest's TCP flows and the host's sockets for them.
//!
//! Not a second TCP stack with buffers of its own, but a translator between the guest's segments
//! and one socket for each flow: see [`flow`]. Nothing here is done for each byte, and nothing is
//! allocated once a flow exists.
//!
//! What follows from a segment, an event or an alarm is noted in the flow and put into effect by
//! [`Tcp::settle`]: the flow is lined up for delivery, put on the list of those with an
//! acknowledgement due, has its alarm set, or ends.

mod acks;
mod alarm;
mod flow;
mod gather;
mod key;
mod lineup;
mod listen;
mod open;
mod reset;
mod rto;
mod table;
mod timers;
mod to_guest;
mod to_host;
mod urgent;
mod window;

use std::collections::VecDeque;
use std::hash::RandomState;
use std::io;
use std::time::Instant;

use self::flow::{DSCP, End, State};
use self::gather::Gather;
use self::key::{Endpoint, Key};
use self::lineup::Lineup;
use self::listen::Listeners;
use self::reset::Reset;
use self::table::Table;
use self::timers::Timers;
use self::to_guest::{Scratch, Turn};
use self::to_host::Taken;
use super::config::GatewayConfig;
use super::context::{Ctx, Handled};
use super::error::GatewayError;
use super::packet::Packet;
use super::source;
use super::target::Destination;
use crate::poll::{Poller, Ready, Token};
use crate::stats::DropReason;
use crate::sys::stream;
use crate::wire::tcp::{ACK, FIN, Header, RST, SYN};

/// Bytes delivered to the guest before other events get their turn.
const BUDGET: usize = 1024 * 1024;

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
    pub fn input(
        &mut self,
        ctx: &mut Ctx<'_, '_>,
        packet: &Packet<'_>,
        to: Destination,
    ) -> Handled {
        let h = Header::parse(packet.head, packet.len)?;
        let payload = packet.payload(h.len)?;
        packet.verify(packet.len)?;
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
            if flow.class != packet.traffic_class & DSCP {
                // What came before goes in its own.
                flow.give(ctx, &mut self.gather);
                flow.set_class(packet.traffic_class & DSCP);
            }
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
            return self.open(ctx, packet, to, &h, key);
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
        if token.source == source::TCP_LISTENER {
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

#[cfg(test)]
mod tests;
