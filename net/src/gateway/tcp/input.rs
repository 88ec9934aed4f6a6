//! Segments from the guest (RFC 9293 §3.10.7, RFC 5961).

use super::due::End;
use super::flow::{Flow, State};
use super::gather::Gather;
use super::to_host::{Outlet, Segment};
use crate::frame::TxOutcome;
use crate::gateway::context::{Ctx, Handled};
use crate::stats::DropReason;
use crate::wire::tcp::{ACK, FIN, Header, RST, SYN};

const SENT: Handled = Ok(TxOutcome::Sent);

/// What became of a segment.
#[derive(Debug)]
pub enum Taken {
    /// It was dealt with.
    Done(Handled),
    /// It is a SYN that begins another flow with the same endpoints.
    Anew,
    /// It acknowledges what was never sent: the answer is a reset, the flow goes on.
    Stray,
}

impl Flow {
    /// A segment of this flow.
    pub fn input(
        &mut self,
        ctx: &mut Ctx<'_, '_>,
        segment: Segment<'_>,
        gather: &mut Gather,
    ) -> Taken {
        match self.state {
            State::Connecting => self.while_connecting(segment.header),
            State::SynSent => self.while_syn_sent(ctx, segment.header),
            State::SynReceived => self.while_syn_received(ctx, segment, gather),
            State::Open => Taken::Done(self.while_open(ctx, segment, gather)),
            State::TimeWait => self.while_time_wait(segment),
        }
    }

    fn while_connecting(&mut self, h: &Header) -> Taken {
        if h.has(RST) {
            if h.fields.seq == self.to_host.nxt() || h.fields.seq == self.to_host.irs() {
                self.due.end = Some(End::ByGuest);
                return Taken::Done(SENT);
            }
            return Taken::Done(Err(DropReason::OutOfWindow));
        }
        if h.has(SYN) {
            // The guest asks again; it will be answered when the host's peer has answered.
            return if h.fields.seq == self.to_host.irs() {
                Taken::Done(SENT)
            } else {
                Taken::Anew
            };
        }
        Taken::Done(Err(DropReason::OutOfWindow))
    }

    fn while_syn_sent(&mut self, ctx: &mut Ctx<'_, '_>, h: &Header) -> Taken {
        let acked = h.has(ACK) && h.fields.ack == self.to_guest.nxt();
        if h.has(ACK) && !acked {
            return if h.has(RST) {
                Taken::Done(Err(DropReason::OutOfWindow))
            } else {
                Taken::Stray
            };
        }
        if h.has(RST) {
            if acked {
                self.due.end = Some(End::ByGuest);
            }
            return Taken::Done(SENT);
        }
        if !h.has(SYN) || !acked {
            // Both at once (RFC 9293 §3.5) can't be: the guest does not know the client's port.
            return Taken::Done(Err(DropReason::OutOfWindow));
        }
        self.active = ctx.io.now;
        self.learn_syn(h);
        self.opened(ctx);
        self.to_guest.set_readable();
        self.due.ack = true;
        Taken::Done(SENT)
    }

    fn while_syn_received(
        &mut self,
        ctx: &mut Ctx<'_, '_>,
        segment: Segment<'_>,
        gather: &mut Gather,
    ) -> Taken {
        let h = segment.header;
        let f = &h.fields;
        if h.has(RST) {
            if f.seq == self.to_host.nxt() {
                self.due.end = Some(End::ByGuest);
                return Taken::Done(SENT);
            }
            return Taken::Done(Err(DropReason::OutOfWindow));
        }
        if h.has(SYN) {
            if f.seq != self.to_host.irs() {
                return Taken::Anew;
            }
            self.due.syn = true;
            return Taken::Done(SENT);
        }
        if !h.has(ACK) {
            return Taken::Done(Err(DropReason::Malformed));
        }
        if f.ack != self.to_guest.nxt() {
            return Taken::Stray;
        }
        self.opened(ctx);
        Taken::Done(self.while_open(ctx, segment, gather))
    }

    /// Our SYN is acknowledged.
    fn opened(&mut self, ctx: &mut Ctx<'_, '_>) {
        self.state = State::Open;
        self.due.syn = false;
        self.to_guest.open();
        self.offer_window(ctx.io.poll);
    }

    fn while_open(
        &mut self,
        ctx: &mut Ctx<'_, '_>,
        segment: Segment<'_>,
        gather: &mut Gather,
    ) -> Handled {
        let Segment { header: h, payload } = segment;
        let f = &h.fields;
        // Whatever is not just the next bytes must find the socket as the guest believes it.
        if h.has(SYN | RST) || f.seq != self.to_host.nxt() {
            self.flush_gathered(ctx, gather);
        }
        let nxt = self.to_host.nxt();
        let len = payload.len as u32 + u32::from(h.has(FIN));
        let end = f.seq + len;
        let edge = self.to_host.edge();
        let early = f.seq.is_before(nxt);
        if h.has(RST) {
            if f.seq == nxt {
                self.due.end = Some(End::ByGuest);
                return SENT;
            }
            // RFC 5961 §3.2.
            if !early && f.seq.is_before(edge) {
                return Err(self.challenge(ctx));
            }
            return Err(DropReason::OutOfWindow);
        }
        if h.has(SYN) {
            return Err(self.challenge(ctx));
        }
        if !h.has(ACK) {
            return Err(DropReason::Malformed);
        }
        if (early && (len == 0 || !nxt.is_before(end))) || edge.is_before(f.seq) {
            self.due.ack = true;
            self.active = ctx.io.now;
            // The guest asks whether we are alive (RFC 9293 §3.8.4), maybe with a byte that
            // was acknowledged long ago.
            let alive = end == nxt || f.seq + 1 == nxt;
            return if alive { SENT } else { Err(DropReason::OutOfWindow) };
        }
        if !self.to_guest.is_plausible(f) {
            return Err(self.challenge(ctx));
        }
        self.active = ctx.io.now;
        self.to_guest.acknowledge(self.socket.as_ref(), f, len > 0, ctx.io.now);
        if let Some(at) = h.urgent {
            self.to_host.note_urgent(at);
        }
        if len == 0 { SENT } else { self.accept(ctx, segment, gather) }
    }

    /// Gives payload and FIN to the socket.
    fn accept(
        &mut self,
        ctx: &mut Ctx<'_, '_>,
        segment: Segment<'_>,
        gather: &mut Gather,
    ) -> Handled {
        let Some(socket) = &self.socket else { return Err(DropReason::NoConnection) };
        let mut to = Outlet { socket, gather, due: &mut self.due };
        let handled = self.to_host.accept(ctx, &mut to, segment);
        if handled == Err(DropReason::OutOfOrder) {
            // At once, so that three of them make the guest resend (RFC 5681 §4.2).
            self.due.ack = !self.send_ack(ctx);
        }
        handled
    }

    fn while_time_wait(&mut self, segment: Segment<'_>) -> Taken {
        let Segment { header: h, payload } = segment;
        if h.has(RST) {
            if h.fields.seq == self.to_host.nxt() {
                self.due.end = Some(End::Closed);
                return Taken::Done(SENT);
            }
            return Taken::Done(Err(DropReason::OutOfWindow));
        }
        if h.has(SYN) && !h.has(ACK) {
            return Taken::Anew;
        }
        if h.has(FIN) || payload.len > 0 {
            self.due.ack = true;
        }
        Taken::Done(SENT)
    }
}
