//! The guest's first serial port, as its host sees it: what it writes, and the events by which it
//! asks to be served.

mod output;
mod timer;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use minivmm_devices::serial::SerialHooks;
use rustix::event::{EventfdFlags, eventfd};

pub use self::output::Output;
pub use self::timer::Timer;

/// How long an unfinished line may wait.
const FLUSH_AFTER: Duration = Duration::from_millis(10);

/// What the serial port's hooks signal; made before the port is.
#[derive(Debug, Clone)]
pub struct ConsoleEvents {
    room: Arc<OwnedFd>,
    flush: Timer,
}

impl ConsoleEvents {
    /// # Errors
    /// Those of `eventfd(2)` and `timerfd_create(2)`.
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            room: Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?),
            flush: Timer::new()?,
        })
    }

    /// The hooks for the serial port.
    pub(crate) fn hooks(&self) -> SerialHooks {
        let (room, flush) = (Arc::clone(&self.room), self.flush.clone());
        SerialHooks {
            input_room: Arc::new(move || {
                // Fails only when it has been signalled 2^64 - 2 times already.
                let _ = rustix::io::write(&*room, &1u64.to_ne_bytes());
            }),
            output_waits: Arc::new(move || flush.set(FLUSH_AFTER)),
        }
    }

    /// An eventfd that is readable when the guest has room for more input. Reading resets it.
    pub fn room(&self) -> BorrowedFd<'_> {
        self.room.as_fd()
    }

    /// Goes off when an unfinished line has waited long enough, and the port is to be flushed.
    pub fn flush(&self) -> &Timer {
        &self.flush
    }
}
