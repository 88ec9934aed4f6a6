//! What the guest has acknowledged, what it takes next, and what is sent again.

use std::time::Instant;

use super::super::socket::Socket;
use super::ToGuest;
use super::alarm::PROBES_ANSWERED;
use crate::sys::stream;
use crate::wire::tcp::Fields;

/// Acknowledged bytes that stay in the socket until the batch is over. More of them are a detour of
/// each read, and keep the peer's next bytes out of memory that the caches still hold.
const KEPT_MAX: u32 = 256 * 1024;

impl ToGuest {
    /// True if the acknowledgement of a segment is one of something that was sent, not too long ago
    /// (RFC 5961 §5.2).
    pub fn is_plausible(&self, f: &Fields) -> bool {
        let oldest = self.una - self.max_wnd;
        !self.max.is_before(f.ack) && !f.ack.is_before(oldest)
    }

    /// The guest's acknowledgement and window, both within what may be, of a segment with
    /// `payload` or without.
    pub fn acknowledge(
        &mut self,
        socket: Option<&Socket>,
        f: &Fields,
        payload: bool,
        now: Instant,
    ) {
        let window = u32::from(f.window) << self.scale;
        let same_window = window == self.wnd;
        let (seq, ack) = self.wl;
        if seq.is_before(f.seq) || (seq == f.seq && !f.ack.is_before(ack)) {
            self.learn_window(f, window, now);
        }
        if self.una.is_before(f.ack) {
            self.una = f.ack;
            self.nxt = self.nxt.later(f.ack);
            self.dups = 0;
            // Kept near, so that it stays before what comes next.
            self.recover = self.recover.later(f.ack - 1);
            self.rto.acked(f.ack, now);
            if self.una == self.max {
                self.rto.disarm();
            } else {
                self.rto.restart(now);
            }
            // Only when all before urgent data is taken out does the socket tell where it is.
            self.readable |= self.urgent;
            if self.urgent || self.una - self.base >= KEPT_MAX {
                self.discard(socket);
            }
        } else if self.una == f.ack && self.una != self.max && !payload && same_window {
            self.dups = self.dups.saturating_add(1);
            // Not for what the last retransmission caused itself (RFC 6582 §3.2).
            if self.dups == 3 && self.recover.is_before(self.una) {
                self.go_back();
                self.rto.restart(now);
            }
        }
        self.check();
    }

    /// A newer segment's window, already scaled.
    fn learn_window(&mut self, f: &Fields, window: u32, now: Instant) {
        let opens = self.wnd == 0 && window > 0;
        self.wnd = window;
        self.max_wnd = self.max_wnd.max(window);
        self.wl = (f.seq, f.ack);
        if window == 0 {
            // Whoever answers our probes is alive, for however long (RFC 9293 §3.8.6.1).
            self.rto.limit_backoff(PROBES_ANSWERED);
        } else if opens {
            // What paced the probes does not pace data.
            self.rto.stop();
            if self.una != self.max {
                self.rto.restart(now);
            }
        }
    }

    /// Sends again all that is not acknowledged: it is still in the socket.
    pub(super) fn go_back(&mut self) {
        self.recover = self.max;
        self.nxt = self.una;
        self.readable = true;
        self.rto.retransmitted();
        self.check();
    }

    /// Takes out of the socket what the guest has acknowledged. All of it: a few bytes left behind
    /// can hold on to a buffer of the kernel's that is much larger, and with it to the peer's
    /// window.
    pub fn discard(&mut self, socket: Option<&Socket>) {
        let Some(socket) = socket else { return };
        let end = match self.fin {
            Some(fin) if fin.is_before(self.una) => fin,
            _ => self.una,
        };
        // More than once where it ends at urgent data.
        while self.base.is_before(end)
            && let Ok(n @ 1..) = stream::discard(&socket.fd, (end - self.base) as usize)
        {
            self.base += n as u32;
        }
        self.check();
    }
}
