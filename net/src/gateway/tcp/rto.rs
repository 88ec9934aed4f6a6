//! The retransmission timer of one flow (RFC 6298), which also paces probes of a closed window.

use std::time::{Duration, Instant};

use crate::wire::seq::Seq;

/// Before anything was measured (RFC 6298 §2.1).
const INITIAL: Duration = Duration::from_secs(1);
/// The link is memory, but the guest may be slow: what is late is seldom lost.
const MIN: Duration = Duration::from_millis(400);
/// RFC 6298 §2.5.
const MAX: Duration = Duration::from_secs(60);

/// See the [module's documentation](self).
#[derive(Debug)]
pub struct Rto {
    /// Smoothed round-trip time and its variation.
    measured: Option<(Duration, Duration)>,
    /// How often the time was doubled.
    backoff: u32,
    /// When it goes off.
    at: Option<Instant>,
    /// The segment being timed: the sequence number that acknowledges it, and when it was sent.
    timed: Option<(Seq, Instant)>,
}

impl Rto {
    /// Nothing measured, not running.
    pub fn new() -> Self {
        Self { measured: None, backoff: 0, at: None, timed: None }
    }

    /// The time to wait now.
    fn timeout(&self) -> Duration {
        let base = self.measured.map_or(INITIAL, |(srtt, var)| (srtt + 4 * var).max(MIN));
        base.saturating_mul(1 << self.backoff.min(8)).min(MAX)
    }

    /// Starts it unless it runs.
    pub fn start(&mut self, now: Instant) {
        if self.at.is_none() {
            self.at = Some(now + self.timeout());
        }
    }

    /// Starts it anew.
    pub fn restart(&mut self, now: Instant) {
        self.at = Some(now + self.timeout());
    }

    /// Starts it anew with the time doubled, and returns how often it was.
    pub fn back_off(&mut self, now: Instant) -> u32 {
        self.backoff += 1;
        // A retransmitted segment must not be timed (RFC 6298 §3).
        self.timed = None;
        self.restart(now);
        self.backoff
    }

    /// When it goes off.
    pub fn at(&self) -> Option<Instant> {
        self.at
    }

    /// It does not go off.
    pub fn disarm(&mut self) {
        self.at = None;
    }

    /// It does not go off, and the time is no longer doubled.
    pub fn stop(&mut self) {
        (self.at, self.backoff) = (None, 0);
    }

    /// The time stays doubled `times` at most.
    pub fn limit_backoff(&mut self, times: u32) {
        self.backoff = self.backoff.min(times);
    }

    /// Times the segment that `end` acknowledges, unless one is being timed.
    pub fn time(&mut self, end: Seq, now: Instant) {
        if self.timed.is_none() {
            self.timed = Some((end, now));
        }
    }

    /// Forgets the segment being timed: it is sent again.
    pub fn retransmitted(&mut self) {
        self.timed = None;
    }

    /// New data up to `ack` is acknowledged.
    pub fn acked(&mut self, ack: Seq, now: Instant) {
        self.backoff = 0;
        let Some((end, sent)) = self.timed else { return };
        if ack.is_before(end) {
            return;
        }
        self.timed = None;
        let r = now.saturating_duration_since(sent);
        self.measured = Some(match self.measured {
            None => (r, r / 2),
            Some((srtt, var)) => ((srtt * 7 + r) / 8, (var * 3 + srtt.abs_diff(r)) / 4),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_follows_what_was_measured_and_doubles() {
        let now = Instant::now();
        let mut rto = Rto::new();
        rto.start(now);
        assert_eq!(rto.at, Some(now + INITIAL));
        rto.time(Seq::new(100), now);
        rto.acked(Seq::new(99), now + Duration::from_secs(9));
        assert_eq!(rto.timeout(), INITIAL);
        rto.acked(Seq::new(100), now + Duration::from_secs(2));
        assert_eq!(rto.timeout(), Duration::from_secs(6));
        for _ in 0..100 {
            rto.time(Seq::new(100), now);
            rto.acked(Seq::new(100), now);
        }
        assert_eq!(rto.timeout(), MIN);
        for n in 1..40 {
            rto.back_off(now);
            assert_eq!(rto.timeout(), (MIN * (1 << n.min(8))).min(MAX));
        }
        rto.acked(Seq::new(100), now);
        assert_eq!(rto.timeout(), MIN);
    }
}
