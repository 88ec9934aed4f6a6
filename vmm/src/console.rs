//! The guest's first serial port on standard input and output.

use std::fs::File;
use std::io::{self, Read, Write};
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};
use minivmm_devices::serial::{Serial, SerialHooks};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};

use crate::exit::Exit;
use crate::machine::Ending;
use crate::timings::{Phase, Timings};

/// Ctrl-A begins a command to the monitor.
const ESCAPE: u8 = 0x01;
/// How long an unfinished line may wait.
const FLUSH_AFTER: Duration = Duration::from_millis(10);

const INPUT: u32 = 0;
const ROOM: u32 = 1;
const FLUSH: u32 = 2;

/// Standard output as a sink for the serial port. It waits for a slow reader, so nothing is lost,
/// but not beyond the machine's end.
#[derive(Debug)]
pub struct Output {
    ending: Arc<Ending>,
    timings: Arc<Timings>,
}

impl Output {
    /// A sink that gives up once the machine ends.
    pub fn new(ending: Arc<Ending>, timings: Arc<Timings>) -> Self {
        Self { ending, timings }
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.timings.mark(Phase::FirstOutput);
        let stdout = io::stdout();
        loop {
            let mut fds =
                [PollFd::new(&stdout, PollFlags::OUT), PollFd::new(&*self.ending, PollFlags::IN)];
            match poll(&mut fds, None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
            if !fds[0].revents().is_empty() {
                // A writable pipe has room for at least this much, so the call does not block.
                let part = &bytes[..bytes.len().min(4096)];
                return Ok(rustix::io::write(&stdout, part)?);
            }
            if !fds[1].revents().is_empty() {
                return Err(io::ErrorKind::WouldBlock.into());
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The events of a console: input for the guest, room for more of it, output that waits.
#[derive(Debug)]
pub struct Console {
    serial: Arc<Serial>,
    events: ConsoleEvents,
    input: Option<Input>,
    ending: Arc<Ending>,
}

/// What the serial port's hooks signal; made before the port is.
#[derive(Debug, Clone)]
pub struct ConsoleEvents {
    room: Arc<OwnedFd>,
    flush: Arc<OwnedFd>,
}

impl ConsoleEvents {
    /// # Errors
    /// Those of `eventfd(2)` and `timerfd_create(2)`.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            room: Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?),
            flush: Arc::new(timerfd_create(
                TimerfdClockId::Monotonic,
                TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK,
            )?),
        })
    }

    /// The hooks for the serial port.
    pub fn hooks(&self) -> SerialHooks {
        let (room, flush) = (Arc::clone(&self.room), Arc::clone(&self.flush));
        SerialHooks {
            input_room: Arc::new(move || {
                // Fails only when it has been signalled 2^64 - 2 times already.
                let _ = rustix::io::write(&*room, &1u64.to_ne_bytes());
            }),
            output_waits: Arc::new(move || {
                let after = Itimerspec {
                    it_interval: Timespec::default(),
                    it_value: Timespec {
                        tv_sec: 0,
                        tv_nsec: i64::from(FLUSH_AFTER.subsec_nanos()),
                    },
                };
                // The arguments are constants that the kernel takes.
                let _ = timerfd_settime(&*flush, TimerfdTimerFlags::empty(), &after);
            }),
        }
    }
}

/// Standard input, with what the guest has not taken yet.
#[derive(Debug)]
struct Input {
    /// Not ours to close.
    stdin: ManuallyDrop<File>,
    waiting: Vec<u8>,
    /// Files are always ready and can't be polled.
    pollable: bool,
    escapes: Option<Escapes>,
}

impl Console {
    /// A console for `serial`. With `input`, standard input goes to the guest; with `escapes`,
    /// Ctrl-A x in it ends the machine.
    pub fn new(
        serial: Arc<Serial>,
        events: ConsoleEvents,
        ending: Arc<Ending>,
        input: bool,
        escapes: bool,
    ) -> Self {
        let input = input.then(|| Input {
            stdin: stdin_file(),
            waiting: Vec::new(),
            pollable: true,
            escapes: escapes.then(Escapes::default),
        });
        Self { serial, events, input, ending }
    }

    /// Offers the guest what waits, then reads on. False at the end of the input.
    fn pump(&mut self) -> bool {
        let Some(input) = &mut self.input else { return false };
        loop {
            if !input.waiting.is_empty() {
                let taken = self.serial.input(&input.waiting);
                input.waiting.drain(..taken);
                if !input.waiting.is_empty() {
                    // The port's hook says when there is room.
                    return true;
                }
            }
            let mut bytes = [0; 256];
            match input.stdin.read(&mut bytes) {
                Ok(0) => return false,
                Ok(n) => match &mut input.escapes {
                    None => input.waiting.extend_from_slice(&bytes[..n]),
                    Some(escapes) => {
                        if escapes.filter(&bytes[..n], &mut input.waiting) {
                            self.ending.set(Exit::Quit);
                            return false;
                        }
                    }
                },
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return true,
                Err(_) => return false,
            }
            // A read that may block is only made after a readiness event.
            if input.pollable && input.waiting.is_empty() {
                return true;
            }
        }
    }
}

#[expect(unsafe_code, reason = "standard input has no owner")]
fn stdin_file() -> ManuallyDrop<File> {
    // SAFETY: descriptor 0 stays open for the process's life (the standard library opens
    // /dev/null where it was closed at start), and ManuallyDrop keeps this from closing it.
    ManuallyDrop::new(unsafe { File::from_raw_fd(io::stdin().as_raw_fd()) })
}

impl MutEventSubscriber for Console {
    fn init(&mut self, ops: &mut EventOps<'_>) {
        let add = |ops: &mut EventOps<'_>, fd: &OwnedFd, data| {
            ops.add(Events::with_data_raw(fd.as_raw_fd(), data, EventSet::IN))
        };
        if let Err(e) =
            add(ops, &self.events.room, ROOM).and_then(|()| add(ops, &self.events.flush, FLUSH))
        {
            tracing::error!("cannot watch the console: {e}");
        }
        let Some(input) = &mut self.input else { return };
        let events = Events::with_data(&*input.stdin, INPUT, EventSet::IN);
        if ops.add(events).is_err() {
            // A regular file, or /dev/null: always ready, and not to be polled.
            input.pollable = false;
            if !self.pump() {
                self.input = None;
            }
        }
    }

    fn process(&mut self, events: Events, ops: &mut EventOps<'_>) {
        let mut counter = [0; 8];
        match events.data() {
            ROOM => {
                // Both only reset a counter; nothing depends on its value.
                let _ = rustix::io::read(&*self.events.room, &mut counter);
            }
            FLUSH => {
                let _ = rustix::io::read(&*self.events.flush, &mut counter);
                self.serial.flush();
                return;
            }
            _ => {}
        }
        let Some(input) = &self.input else { return };
        let pollable = input.pollable;
        let full = !input.waiting.is_empty();
        let more = if events.data() == ROOM && pollable && !full { true } else { self.pump() };
        let Some(input) = &self.input else { return };
        if pollable {
            // Not polled while the guest has no room: level-triggered readiness would spin.
            let set = if input.waiting.is_empty() { EventSet::IN } else { EventSet::empty() };
            let events = Events::with_data(&*input.stdin, INPUT, set);
            let _ = if more { ops.modify(events) } else { ops.remove(events) };
        }
        if !more {
            self.input = None;
        }
    }
}

/// The monitor's commands in a terminal's input.
#[derive(Debug, Default)]
struct Escapes {
    pending: bool,
}

impl Escapes {
    /// Appends what is for the guest to `out`; true when the user wants to leave.
    fn filter(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> bool {
        for &byte in bytes {
            match (std::mem::take(&mut self.pending), byte) {
                (false, ESCAPE) => self.pending = true,
                (true, b'x' | b'X') => return true,
                (true, ESCAPE) => out.push(ESCAPE),
                (true, other) => out.extend([ESCAPE, other]),
                (false, other) => out.push(other),
            }
        }
        false
    }
}

impl AsFd for Ending {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.event().as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_for_the_monitor_and_the_rest_for_the_guest() {
        let mut escapes = Escapes::default();
        let mut out = Vec::new();
        assert!(!escapes.filter(b"a\x01", &mut out));
        assert!(!escapes.filter(b"\x01b\x01c", &mut out));
        assert_eq!(out, b"a\x01b\x01c");
        assert!(escapes.filter(b"d\x01xe", &mut out));
        assert_eq!(out, b"a\x01b\x01cd");
    }
}
