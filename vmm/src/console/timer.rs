//! A timer as a descriptor.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};

/// A timer that goes off once, and is readable then. Reading resets it. Clones are one timer.
#[derive(Debug, Clone)]
pub struct Timer(Arc<OwnedFd>);

impl Timer {
    /// One that does not go off.
    ///
    /// # Errors
    /// Those of `timerfd_create(2)`.
    pub fn new() -> io::Result<Self> {
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        Ok(Self(Arc::new(timerfd_create(TimerfdClockId::Monotonic, flags)?)))
    }

    /// Makes it go off `after` a time, which is below a second and not 0.
    pub fn set(&self, after: Duration) {
        let after = Itimerspec {
            it_interval: Timespec::default(),
            it_value: Timespec { tv_sec: 0, tv_nsec: i64::from(after.subsec_nanos()) },
        };
        // The kernel takes every time below a second.
        let _ = timerfd_settime(&self.0, TimerfdTimerFlags::empty(), &after);
    }
}

impl AsFd for Timer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
