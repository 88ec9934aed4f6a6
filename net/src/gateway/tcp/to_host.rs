//! Segments from the guest (RFC 9293 §3.10.7, RFC 5961).

use std::io;

use libc::c_int;
use rustix::io::Errno;
use vm_memory::VolatileSlice;

use super::flow::{End, Flow, State};
use super::gather::Gather;
use crate::frame::TxOutcome;
use crate::gateway::context::{Ctx, Handled};
use crate::gateway::packet::Payload;
use crate::stats::DropReason;
use crate::sys;
use crate::wire::tcp::{ACK, FIN, Header, PSH, RST, SYN, before, later};

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
        h: &Header,
        payload: &Payload<'_>,
        gather: &mut Gather,
    ) -> Taken {
        match self.state {
            State::Connecting => self.while_connecting(h),
            State::SynSent => self.while_syn_sent(ctx, h),
            State::SynReceived => self.while_syn_received(ctx, h, payload, gather),
            State::Open => Taken::Done(self.while_open(ctx, h, payload, gather)),
            State::TimeWait => self.while_time_wait(h, payload),
        }
    }

    fn while_connecting(&mut self, h: &Header) -> Taken {
        if h.has(RST) {
            if h.fields.seq == self.up.nxt || h.fields.seq == self.up.irs {
                self.end = Some(End::ByGuest);
                return Taken::Done(SENT);
            }
            return Taken::Done(Err(DropReason::OutOfWindow));
        }
        if h.has(SYN) {
            // The guest asks again; it will be answered when the host's peer has answered.
            return if h.fields.seq == self.up.irs { Taken::Done(SENT) } else { Taken::Anew };
        }
        Taken::Done(Err(DropReason::OutOfWindow))
    }

    fn while_syn_sent(&mut self, ctx: &mut Ctx<'_, '_>, h: &Header) -> Taken {
        let acked = h.has(ACK) && h.fields.ack == self.down.nxt;
        if h.has(ACK) && !acked {
            return if h.has(RST) {
                Taken::Done(Err(DropReason::OutOfWindow))
            } else {
                Taken::Stray
            };
        }
        if h.has(RST) {
            if acked {
                self.end = Some(End::ByGuest);
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
        self.down.readable = true;
        self.ack_due = true;
        Taken::Done(SENT)
    }

    fn while_syn_received(
        &mut self,
        ctx: &mut Ctx<'_, '_>,
        h: &Header,
        payload: &Payload<'_>,
        gather: &mut Gather,
    ) -> Taken {
        let f = &h.fields;
        if h.has(RST) {
            if f.seq == self.up.nxt {
                self.end = Some(End::ByGuest);
                return Taken::Done(SENT);
            }
            return Taken::Done(Err(DropReason::OutOfWindow));
        }
        if h.has(SYN) {
            if f.seq != self.up.irs {
                return Taken::Anew;
            }
            self.syn_due = true;
            return Taken::Done(SENT);
        }
        if !h.has(ACK) {
            return Taken::Done(Err(DropReason::Malformed));
        }
        if f.ack != self.down.nxt {
            return Taken::Stray;
        }
        self.opened(ctx);
        Taken::Done(self.while_open(ctx, h, payload, gather))
    }

    /// Our SYN is acknowledged.
    fn opened(&mut self, ctx: &mut Ctx<'_, '_>) {
        self.state = State::Open;
        self.syn_due = false;
        self.down.una = self.down.nxt;
        self.rto.at = None;
        self.rto.backoff = 0;
        self.refresh_window(ctx.io.poll);
    }

    fn while_open(
        &mut self,
        ctx: &mut Ctx<'_, '_>,
        h: &Header,
        payload: &Payload<'_>,
        gather: &mut Gather,
    ) -> Handled {
        let f = &h.fields;
        // Whatever is not just the next bytes must find the socket as the guest believes it.
        if h.has(SYN | RST) || f.seq != self.up.nxt {
            self.give(ctx, gather);
        }
        let nxt = self.up.nxt;
        let len = payload.len as u32 + u32::from(h.has(FIN));
        let end = f.seq.wrapping_add(len);
        let edge = later(self.up.edge, nxt);
        let early = before(f.seq, nxt);
        if h.has(RST) {
            if f.seq == nxt {
                self.end = Some(End::ByGuest);
                return SENT;
            }
            // RFC 5961 §3.2.
            if !early && before(f.seq, edge) {
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
        if (early && (len == 0 || !before(nxt, end))) || before(edge, f.seq) {
            self.ack_due = true;
            self.active = ctx.io.now;
            // The guest asks whether we are alive (RFC 9293 §3.8.4), maybe with a byte that
            // was acknowledged long ago.
            let alive = end == nxt || f.seq.wrapping_add(1) == nxt;
            return if alive { SENT } else { Err(DropReason::OutOfWindow) };
        }
        let oldest = self.down.una.wrapping_sub(self.down.max_wnd);
        if before(self.down.max, f.ack) || before(f.ack, oldest) {
            return Err(self.challenge(ctx));
        }
        self.active = ctx.io.now;
        self.acknowledge(h, len > 0, ctx.io.now);
        if let Some(at) = h.urgent {
            self.note_urgent(at);
        }
        if len == 0 { SENT } else { self.take(ctx, h, payload, gather) }
    }

    /// Gives payload and FIN to the socket.
    fn take(
        &mut self,
        ctx: &mut Ctx<'_, '_>,
        h: &Header,
        payload: &Payload<'_>,
        gather: &mut Gather,
    ) -> Handled {
        let f = &h.fields;
        if self.up.fin {
            self.ack_due = true;
            return Err(DropReason::OutOfWindow);
        }
        if self.up.full {
            // It will tell when it has room; until then there is one answer a batch.
            self.ack_due = true;
            return Err(DropReason::SendBufferFull);
        }
        if before(self.up.nxt, f.seq) {
            // At once, so that three of them make the guest resend (RFC 5681 §4.2).
            self.ack_due = !self.bare(ctx, self.down.nxt, ACK);
            return Err(DropReason::OutOfOrder);
        }
        self.ack_due = true;
        let skip = self.up.nxt.wrapping_sub(f.seq) as usize;
        // Past the payload where only the FIN is new.
        if skip < payload.len && !self.take_payload(ctx, h, payload, skip, gather)? {
            return SENT;
        }
        if h.has(FIN) {
            self.give(ctx, gather);
            if !self.up.full && self.end.is_none() {
                self.shut();
            }
        }
        SENT
    }

    /// Gives the socket `payload` from `skip` on, its urgent byte by itself. False if it did not
    /// take all of it.
    fn take_payload(
        &mut self,
        ctx: &mut Ctx<'_, '_>,
        h: &Header,
        payload: &Payload<'_>,
        mut skip: usize,
        gather: &mut Gather,
    ) -> Result<bool, DropReason> {
        // Without a push more follows, most likely in this very batch (RFC 9293 §3.9.1.2).
        let more = !h.has(PSH | FIN);
        while skip < payload.len {
            let left = payload.len - skip;
            let (len, taken) = match self.before_urgent() {
                Some(0) => (1, self.pass_urgent(ctx, payload, skip, gather)?),
                before => {
                    let len = before.map_or(left, |n| n.min(left));
                    (len, self.pass(ctx, payload, skip, len, gather, more)?)
                }
            };
            self.up.nxt = self.up.nxt.wrapping_add(taken as u32);
            skip += taken;
            if taken < len {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Has the socket take `len` bytes of `payload` from `skip` on, now or with others when the
    /// batch is over; `more` says that others follow. Returns how many it takes, at least one.
    fn pass(
        &mut self,
        ctx: &mut Ctx<'_, '_>,
        payload: &Payload<'_>,
        skip: usize,
        len: usize,
        gather: &mut Gather,
        more: bool,
    ) -> Result<usize, DropReason> {
        if gather.push(self.token.id, payload, skip, len) {
            return Ok(len);
        }
        self.give(ctx, gather);
        if self.up.full || self.end.is_some() {
            return Err(DropReason::SendBufferFull);
        }
        // There is room again, or it is too large to be worth a copy.
        if gather.push(self.token.id, payload, skip, len) {
            return Ok(len);
        }
        let head = payload.head.get(skip..).unwrap_or_default();
        let head = &head[..head.len().min(len)];
        let offset = skip.saturating_sub(payload.head.len());
        let flags = if more { libc::MSG_MORE } else { 0 };
        match self.send(ctx, head, payload.tail, offset, len - head.len(), flags)? {
            0 => Err(DropReason::SendBufferFull),
            sent => Ok(sent),
        }
    }

    /// Gives what was gathered to the socket, before anything is said about it to the guest.
    pub fn give(&mut self, ctx: &mut Ctx<'_, '_>, gather: &mut Gather) {
        if gather.flow() != Some(self.token.id) {
            return;
        }
        let bytes = gather.take();
        let (sent, reason) = match self.send(ctx, bytes, &[], 0, 0, 0) {
            Ok(sent) => (sent, DropReason::SendBufferFull),
            Err(reason) => (0, reason),
        };
        if sent < bytes.len() {
            // What was not taken is as if it had not come.
            self.up.nxt = self.up.nxt.wrapping_sub((bytes.len() - sent) as u32);
            ctx.io.stats.dropped(reason);
        }
    }

    /// Gives bytes to the socket and returns how many it took. With `MSG_MORE`, what does not
    /// fill a segment of the host's waits for more, until the batch is over at most: a frame's
    /// payload is seldom a multiple of that, and its rest would be a small segment for each frame.
    pub(super) fn send(
        &mut self,
        ctx: &mut Ctx<'_, '_>,
        head: &[u8],
        tail: &[VolatileSlice<'_>],
        offset: usize,
        tail_len: usize,
        flags: c_int,
    ) -> Result<usize, DropReason> {
        let Some(socket) = &self.socket else { return Err(DropReason::NoConnection) };
        let len = head.len() + tail_len;
        let error = match sys::send(socket, head, tail, offset, tail_len, flags) {
            Ok(sent) => {
                self.up.more = flags & libc::MSG_MORE != 0;
                if sent < len {
                    self.refused(ctx.io.poll, false);
                }
                return Ok(sent);
            }
            Err(e) => e,
        };
        match Errno::from_io_error(&error) {
            Some(Errno::AGAIN) => {
                self.refused(ctx.io.poll, false);
                Ok(0)
            }
            Some(Errno::NOBUFS | Errno::NOMEM) => {
                self.refused(ctx.io.poll, true);
                Ok(0)
            }
            // More pieces than one call takes.
            None if error.kind() == io::ErrorKind::InvalidInput => Err(DropReason::BadChain),
            _ => {
                self.end = Some(End::ByHost);
                Err(DropReason::SendFailed)
            }
        }
    }

    fn while_time_wait(&mut self, h: &Header, payload: &Payload<'_>) -> Taken {
        if h.has(RST) {
            if h.fields.seq == self.up.nxt {
                self.end = Some(End::Closed);
                return Taken::Done(SENT);
            }
            return Taken::Done(Err(DropReason::OutOfWindow));
        }
        if h.has(SYN) && !h.has(ACK) {
            return Taken::Anew;
        }
        if h.has(FIN) || payload.len > 0 {
            self.ack_due = true;
        }
        Taken::Done(SENT)
    }
}
