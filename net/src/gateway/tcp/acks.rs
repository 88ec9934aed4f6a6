//! What the guest has acknowledged, what it takes next, and what is sent again.

use std::time::Instant;

use super::alarm::PROBES_ANSWERED;
use super::flow::{Flow, State};
use crate::sys::stream;
use crate::wire::tcp::{Header, before, later};

impl Flow {
    /// The guest's acknowledgement and window, both within what may be.
    pub fn acknowledge(&mut self, h: &Header, payload: bool, now: Instant) {
        let (down, f) = (&mut self.down, &h.fields);
        let window = u32::from(f.window) << down.scale;
        let same_window = window == down.wnd;
        let newer = before(down.wl.0, f.seq) || (down.wl.0 == f.seq && !before(f.ack, down.wl.1));
        if newer {
            let opens = down.wnd == 0 && window > 0;
            down.wnd = window;
            down.max_wnd = down.max_wnd.max(window);
            down.wl = (f.seq, f.ack);
            if window == 0 {
                // Whoever answers our probes is alive, for however long (RFC 9293 §3.8.6.1).
                self.rto.backoff = self.rto.backoff.min(PROBES_ANSWERED);
            } else if opens {
                // What paced the probes does not pace data.
                self.rto.backoff = 0;
                self.rto.at = None;
                if down.una != down.max {
                    self.rto.restart(now);
                }
            }
        }
        if before(down.una, f.ack) {
            down.una = f.ack;
            if before(down.nxt, f.ack) {
                down.nxt = f.ack;
            }
            down.dups = 0;
            // Kept near, so that it stays before what comes next.
            down.recover = later(down.recover, f.ack.wrapping_sub(1));
            self.rto.acked(f.ack, now);
            if down.una == down.max {
                self.rto.at = None;
            } else {
                self.rto.restart(now);
            }
            if down.urgent {
                // Only when all before it is taken out does the socket tell where it is.
                self.discard();
                self.down.readable = true;
            }
        } else if down.una == f.ack && down.una != down.max && !payload && same_window {
            down.dups = down.dups.saturating_add(1);
            // Not for what the last retransmission caused itself (RFC 6582 §3.2).
            if down.dups == 3 && before(down.recover, down.una) {
                self.go_back();
                self.rto.restart(now);
            }
        }
    }

    /// Sends again all that is not acknowledged: it is still in the socket.
    pub(super) fn go_back(&mut self) {
        let down = &mut self.down;
        down.recover = down.max;
        down.nxt = down.una;
        down.readable = true;
        self.rto.retransmitted();
    }

    /// Takes out of the socket what the guest has acknowledged. All of it: a few bytes left behind
    /// can hold on to a buffer of the kernel's that is much larger, and with it to the peer's
    /// window.
    pub(super) fn discard(&mut self) {
        let (down, Some(socket)) = (&mut self.down, &self.socket) else { return };
        let end = match down.fin {
            Some(fin) if before(fin, down.una) => fin,
            _ => down.una,
        };
        // More than once where it ends at urgent data.
        while before(down.base, end)
            && let Ok(n @ 1..) = stream::discard(socket, end.wrapping_sub(down.base) as usize)
        {
            down.base = down.base.wrapping_add(n as u32);
        }
    }

    /// Bytes that may be sent now, by the guest's window and our limit.
    pub fn usable(&self) -> u32 {
        let down = &self.down;
        let edge = down.una.wrapping_add(down.wnd.min(down.limit));
        if before(down.nxt, edge) { edge.wrapping_sub(down.nxt) } else { 0 }
    }

    /// True if there may be bytes or an end to deliver, and the guest takes them.
    pub fn wants_delivery(&self) -> bool {
        let down = &self.down;
        self.state == State::Open
            && down.readable
            && match down.fin {
                Some(fin) if down.nxt == fin => true,
                Some(fin) if before(fin, down.nxt) => false,
                _ => self.may_send(),
            }
    }

    /// Not in silly pieces (RFC 9293 §3.8.6.2.1).
    fn may_send(&self) -> bool {
        let (usable, down) = (self.usable(), &self.down);
        if down.urgent && down.nxt != down.una {
            return false;
        }
        usable > 0 && (down.nxt == down.una || usable >= u32::from(down.mss).min(down.max_wnd / 2))
    }
}
