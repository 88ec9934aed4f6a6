//! How many ICMP errors the guest may get.

use std::time::{Duration, Instant};

/// Errors that may come at once, and the time after which one more may come.
const BURST: u32 = 50;
const INTERVAL: Duration = Duration::from_millis(5);

/// A token bucket for errors, so that a flood from the guest does not come back doubled.
#[derive(Debug, Default)]
pub struct Limiter {
    used: u32,
    since: Option<Instant>,
}

impl Limiter {
    /// Takes a token, if there is one.
    pub fn take(&mut self, now: Instant) -> bool {
        let since = *self.since.get_or_insert(now);
        let elapsed = now.saturating_duration_since(since);
        let back = (elapsed.as_nanos() / INTERVAL.as_nanos()).min(BURST.into()) as u32;
        if back > 0 {
            self.used = self.used.saturating_sub(back);
            // What is left of the interval counts for the next token.
            self.since = Some(if back < BURST { since + INTERVAL * back } else { now });
        }
        if self.used < BURST {
            self.used += 1;
            true
        } else {
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_few() {
        let now = Instant::now();
        let mut limiter = Limiter::default();
        assert_eq!((0..200).filter(|_| limiter.take(now)).count(), BURST as usize);
        let later = now + INTERVAL * 3 + INTERVAL / 2;
        assert_eq!((0..200).filter(|_| limiter.take(later)).count(), 3);
        // The half interval counts.
        assert_eq!((0..200).filter(|_| limiter.take(later + INTERVAL / 2)).count(), 1);
        let much = later + Duration::from_secs(3600);
        assert_eq!((0..200).filter(|_| limiter.take(much)).count(), BURST as usize);
        assert!(!limiter.take(now), "time that stands still brings none");
    }
}
