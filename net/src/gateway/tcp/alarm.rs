//! What time brings: retransmissions, probes of a closed window, and the end of what is silent.

use std::time::{Duration, Instant};

use super::flow::{End, Flow, State};

/// Idle times (RFC 5382 §5 REQ-5): of connections, and of those that only begin or end.
const IDLE_OPEN: Duration = Duration::from_secs(2 * 3600 + 4 * 60);
const IDLE_TRANSITORY: Duration = Duration::from_secs(4 * 60);
/// Twice the maximum segment lifetime on a link that is memory.
const TIME_WAIT: Duration = Duration::from_secs(10);
/// Tries of a SYN, and of data (RFC 9293 §3.8.3: at least 3 minutes and 100 seconds).
const SYN_TRIES: u32 = 7;
const DATA_TRIES: u32 = 12;
/// Doublings of the time between probes of a closed window, while they are answered.
pub const PROBES_ANSWERED: u32 = DATA_TRIES - 2;

impl Flow {
    /// The alarm went off. While the guest has no receive buffers, nothing is late.
    pub fn alarm(&mut self, now: Instant, blocked: bool) {
        if self.active + self.idle_limit() <= now {
            self.end = Some(if self.state == State::TimeWait { End::Closed } else { End::Both });
            return;
        }
        if self.rto.at.is_none_or(|at| at > now) {
            return;
        }
        if blocked {
            self.rto.restart(now);
            return;
        }
        self.rto.back_off(now);
        let tries = self.rto.backoff;
        match self.state {
            State::SynSent | State::SynReceived if tries >= SYN_TRIES => self.end = Some(End::Both),
            State::SynSent | State::SynReceived => self.syn_due = true,
            State::Open if self.down.una != self.down.max => {
                if tries >= DATA_TRIES {
                    self.end = Some(End::Both);
                } else if self.usable_at_all() {
                    self.go_back();
                } else {
                    self.probe_due = true;
                }
            }
            State::Open if self.down.readable && self.usable() == 0 => self.probe_due = true,
            _ => self.rto.at = None,
        }
    }

    /// The guest takes something of what it has not acknowledged.
    fn usable_at_all(&self) -> bool {
        self.down.wnd > 0 || self.down.fin == Some(self.down.una)
    }

    fn idle_limit(&self) -> Duration {
        match self.state {
            State::TimeWait => TIME_WAIT,
            State::Open if !(self.up.fin && self.down.fin.is_some()) => IDLE_OPEN,
            _ => IDLE_TRANSITORY,
        }
    }

    /// When it wants to be woken.
    pub fn due(&mut self, now: Instant) -> Instant {
        let closed = self.state == State::Open
            && self.down.readable
            && self.down.una == self.down.max
            && self.down.fin.is_none()
            && self.usable() == 0;
        if closed {
            self.rto.start(now);
        }
        let idle = self.active + self.idle_limit();
        self.rto.at.map_or(idle, |at| at.min(idle))
    }
}
