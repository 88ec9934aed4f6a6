//! The machine's end: decided once, by whoever comes first, and seen by all who wait.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::OnceLock;

use rustix::event::{EventfdFlags, eventfd};

use crate::exit::Exit;

/// See the [module's documentation](self).
#[derive(Debug)]
pub struct Ending {
    exit: OnceLock<Exit>,
    event: OwnedFd,
}

impl Ending {
    /// One that has not come.
    ///
    /// # Errors
    /// Those of `eventfd(2)`.
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            exit: OnceLock::new(),
            event: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
        })
    }

    /// Ends the machine; only the first call counts.
    pub fn set(&self, exit: Exit) {
        if self.exit.set(exit).is_ok() {
            // Nobody else writes to it, so its counter can't overflow.
            let _ = rustix::io::write(&self.event, &1u64.to_ne_bytes());
        }
    }

    /// How it ended, once it has.
    pub fn get(&self) -> Option<&Exit> {
        self.exit.get()
    }

    /// Readable from the end on.
    pub fn event(&self) -> &OwnedFd {
        &self.event
    }
}
