//! The console as a stream, for programs that embed a machine.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use minivmm_devices::serial::{Hook, Serial};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::io::Errno;

use crate::ending::Ending;

/// Readable when a guest that was offered more input than it took has room again.
#[derive(Debug, Clone)]
pub struct Room(Arc<OwnedFd>);

impl Room {
    /// # Errors
    /// Those of `eventfd(2)`.
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self(Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?)))
    }

    /// For the serial port.
    pub(crate) fn hook(&self) -> Hook {
        let room = Arc::clone(&self.0);
        Arc::new(move || {
            // Fails only when it has been signalled 2^64 - 2 times already.
            let _ = rustix::io::write(&*room, &1u64.to_ne_bytes());
        })
    }

    /// Makes it wait for the next time.
    pub fn reset(&self) {
        // Reading only resets the counter; nothing depends on its value.
        let _ = rustix::io::read(&*self.0, &mut [0; 8]);
    }
}

impl AsFd for Room {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The guest's first serial port, ttyS0, as bytes to be read and written.
///
/// Reading waits for the guest and ends with the machine. Writing waits until the guest has room;
/// once the machine has ended it is [`io::ErrorKind::BrokenPipe`]. A guest whose output is not
/// read waits for the reader when some 100 KiB are on the way.
#[derive(Debug)]
pub struct Console {
    output: io::PipeReader,
    serial: Arc<Serial>,
    room: Room,
    ending: Arc<Ending>,
}

impl Console {
    pub(crate) fn new(
        output: io::PipeReader,
        serial: Arc<Serial>,
        room: Room,
        ending: Arc<Ending>,
    ) -> Self {
        Self { output, serial, room, ending }
    }
}

impl Read for Console {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.output.read(bytes)
    }
}

impl Write for Console {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.is_empty() {
            return Ok(0);
        }
        loop {
            if self.ending.get().is_some() {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            // Before the offer: room that comes after it is seen below.
            self.room.reset();
            let taken = self.serial.input(bytes);
            if taken > 0 {
                return Ok(taken);
            }
            let end = self.ending.event();
            let mut fds = [PollFd::new(&self.room, PollFlags::IN), PollFd::new(end, PollFlags::IN)];
            match poll(&mut fds, None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Readable when there is output, or the machine has ended.
impl AsFd for Console {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.output.as_fd()
    }
}
