//! The guest's first serial port on standard input and the terminal.

mod input;

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::time::Duration;

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};
use minivmm::Ending;
use minivmm::console::{Room, Timer};
use minivmm::exit::Exit;
use minivmm_devices::serial::Serial;

use self::input::Fed;
pub use self::input::Input;
use super::terminal;

/// How often a console in the background looks whether it has the terminal again: a shell's `fg`
/// tells a job that runs nothing.
const LOOK_EVERY: Duration = Duration::from_millis(500);

const INPUT: u32 = 0;
const ROOM: u32 = 1;
const LOOK: u32 = 2;

/// Makes the console look whether it has the terminal.
#[derive(Debug, Clone)]
pub struct Foreground(Timer);

impl Foreground {
    /// At once.
    pub fn look(&self) {
        self.0.set(Duration::from_nanos(1));
    }
}

/// How standard input is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Watch {
    /// By its readiness.
    Polled,
    /// Not now: the guest has no room.
    Resting,
    /// Not now: the terminal is another job's.
    Background,
    /// Never: a file, or /dev/null, is always ready and can't be polled.
    Ready,
}

/// The events of a console: input for the guest, room for more of it.
#[derive(Debug)]
pub struct Console {
    serial: Arc<Serial>,
    room: Room,
    input: Option<Input>,
    watch: Watch,
    foreground: Foreground,
    ending: Arc<Ending>,
}

impl Console {
    /// A console for `serial`, with `input` for the guest.
    ///
    /// # Errors
    /// Those of `timerfd_create(2)`.
    pub fn new(
        serial: Arc<Serial>,
        room: Room,
        input: Option<Input>,
        ending: Arc<Ending>,
    ) -> io::Result<Self> {
        let foreground = Foreground(Timer::new()?);
        Ok(Self { serial, room, input, watch: Watch::Polled, foreground, ending })
    }

    /// What makes it look whether it has the terminal, as after a stop.
    pub fn foreground(&self) -> Foreground {
        self.foreground.clone()
    }

    /// Acts on what became of the input.
    fn fed(&mut self, mut fed: Fed, ops: &mut EventOps<'_>) {
        let Some(input) = &mut self.input else { return };
        while self.watch == Watch::Ready && fed == Fed::All {
            fed = input.read(&self.serial);
        }
        let stdin = Events::with_data_raw(input.fd(), INPUT, EventSet::IN);
        match (fed, self.watch) {
            // Its keys would be reported without end.
            (Fed::Background, Watch::Polled) => {
                let _ = ops.remove(stdin);
                self.watch = Watch::Background;
                self.foreground.0.set(LOOK_EVERY);
            }
            // Taken out, not masked: a hangup is reported even to an empty mask, without end.
            (Fed::Waits, Watch::Polled) if !input.listens() => {
                let _ = ops.remove(stdin);
                self.watch = Watch::Resting;
            }
            (Fed::All, Watch::Resting) => {
                let _ = ops.add(stdin);
                self.watch = Watch::Polled;
            }
            (Fed::End | Fed::Quit, watch) => {
                if fed == Fed::Quit {
                    self.ending.set(Exit::Quit);
                }
                if watch == Watch::Polled {
                    let _ = ops.remove(stdin);
                }
                self.input = None;
            }
            _ => {}
        }
    }

    /// Leaves the terminal to another job, or takes it back.
    fn look(&mut self, ops: &mut EventOps<'_>) {
        if terminal::is_foreground() {
            terminal::resume();
            if let (Watch::Background, Some(input)) = (self.watch, &self.input) {
                let _ = ops.add(Events::with_data_raw(input.fd(), INPUT, EventSet::IN));
                self.watch = Watch::Polled;
            }
        } else {
            self.fed(Fed::Background, ops);
            if self.watch == Watch::Background {
                self.foreground.0.set(LOOK_EVERY);
            }
        }
    }
}

impl MutEventSubscriber for Console {
    fn init(&mut self, ops: &mut EventOps<'_>) {
        let fds = [(self.room.as_fd(), ROOM), (self.foreground.0.as_fd(), LOOK)];
        let added = fds.into_iter().try_for_each(|(fd, data)| {
            ops.add(Events::with_data_raw(fd.as_raw_fd(), data, EventSet::IN))
        });
        if let Err(e) = added {
            tracing::error!("cannot watch the console: {e}");
        }
        let Some(input) = &self.input else { return };
        match ops.add(Events::with_data_raw(input.fd(), INPUT, EventSet::IN)) {
            Ok(()) => {}
            Err(event_manager::Error::Epoll(e)) if e.errno() == libc::EPERM => {
                self.watch = Watch::Ready;
                self.fed(Fed::All, ops);
            }
            Err(e) => {
                tracing::warn!("the console has no input: cannot watch standard input: {e}");
                self.input = None;
            }
        }
    }

    fn process(&mut self, events: Events, ops: &mut EventOps<'_>) {
        match events.data() {
            LOOK => {
                // Reading only resets the counter; nothing depends on its value.
                let _ = rustix::io::read(&self.foreground.0, &mut [0; 8]);
                self.look(ops);
            }
            ROOM => {
                self.room.reset();
                if let Some(input) = &mut self.input {
                    let fed = input.offer(&self.serial);
                    self.fed(fed, ops);
                }
            }
            _ => {
                if let Some(input) = &mut self.input {
                    let fed = input.read(&self.serial);
                    self.fed(fed, ops);
                }
            }
        }
    }
}
