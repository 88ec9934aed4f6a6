//! What time brings: retransmissions, and probes of a closed window.

use std::time::Instant;

use super::super::due::{Due, End};
use super::ToGuest;

/// Tries of a SYN, and of data (RFC 9293 §3.8.3: at least 3 minutes and 100 seconds).
const SYN_TRIES: u32 = 7;
const DATA_TRIES: u32 = 12;
/// Doublings of the time between probes of a closed window, while they are answered.
pub(super) const PROBES_ANSWERED: u32 = DATA_TRIES - 2;

/// What a flow waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Awaits {
    /// An answer to our SYN.
    Syn,
    /// Acknowledgements.
    Acks,
    /// Nothing that we would send again.
    Nothing,
}

impl ToGuest {
    /// The alarm went off. While the guest has no receive buffers, which is `blocked`, nothing is late.
    pub fn alarm(&mut self, due: &mut Due, awaits: Awaits, now: Instant, blocked: bool) {
        if self.rto.at().is_none_or(|at| at > now) {
            return;
        }
        if blocked {
            self.rto.restart(now);
            return;
        }
        let tries = self.rto.back_off(now);
        match awaits {
            Awaits::Syn if tries >= SYN_TRIES => due.end = Some(End::Both),
            Awaits::Syn => due.syn = true,
            Awaits::Acks if self.una != self.max => {
                if tries >= DATA_TRIES {
                    due.end = Some(End::Both);
                } else if self.wnd > 0 || self.fin == Some(self.una) {
                    self.go_back();
                } else {
                    due.probe = true;
                }
            }
            Awaits::Acks if self.readable && self.usable() == 0 => due.probe = true,
            _ => self.rto.disarm(),
        }
    }

    /// When the alarm is to go off, if it is. With bytes for the guest and its window closed, a probe
    /// is due some time.
    pub fn alarm_at(&mut self, awaits: Awaits, now: Instant) -> Option<Instant> {
        let closed = awaits == Awaits::Acks
            && self.readable
            && self.una == self.max
            && self.fin.is_none()
            && self.usable() == 0;
        if closed {
            self.rto.start(now);
        }
        self.rto.at()
    }

    /// A SYN was sent: it is sent again some time.
    pub fn syn_sent(&mut self, now: Instant) {
        self.rto.start(now);
    }

    /// Nothing is sent again.
    pub fn rest(&mut self) {
        self.rto.disarm();
    }
}
