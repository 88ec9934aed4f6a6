//! The guest's first serial port on standard input and output.

mod input;
mod output;

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};
use minivmm_devices::serial::{Serial, SerialHooks};
use rustix::event::{EventfdFlags, eventfd};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};

use self::input::Fed;
pub use self::input::Input;
pub use self::output::Output;
use crate::ending::Ending;
use crate::exit::Exit;
use crate::terminal;

/// How long an unfinished line may wait.
const FLUSH_AFTER: Duration = Duration::from_millis(10);
/// How often a console in the background looks whether it has the terminal again: a shell's `fg`
/// tells a job that runs nothing.
const LOOK_EVERY: Duration = Duration::from_millis(500);

const INPUT: u32 = 0;
const ROOM: u32 = 1;
const FLUSH: u32 = 2;
const LOOK: u32 = 3;

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
            flush: Arc::new(timer()?),
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
            output_waits: Arc::new(move || set_timer(&flush, FLUSH_AFTER)),
        }
    }
}

fn timer() -> io::Result<OwnedFd> {
    let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
    Ok(timerfd_create(TimerfdClockId::Monotonic, flags)?)
}

/// Sets a timer to go off once, less than a second from now.
fn set_timer(timer: &OwnedFd, after: Duration) {
    let after = Itimerspec {
        it_interval: Timespec::default(),
        it_value: Timespec { tv_sec: 0, tv_nsec: i64::from(after.subsec_nanos()) },
    };
    // The kernel takes every time below a second.
    let _ = timerfd_settime(timer, TimerfdTimerFlags::empty(), &after);
}

/// Makes the console look whether it has the terminal.
#[derive(Debug, Clone)]
pub struct Foreground(Arc<OwnedFd>);

impl Foreground {
    /// At once.
    pub fn look(&self) {
        set_timer(&self.0, Duration::from_nanos(1));
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

/// The events of a console: input for the guest, room for more of it, output that waits.
#[derive(Debug)]
pub struct Console {
    serial: Arc<Serial>,
    events: ConsoleEvents,
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
        events: ConsoleEvents,
        input: Option<Input>,
        ending: Arc<Ending>,
    ) -> io::Result<Self> {
        let foreground = Foreground(Arc::new(timer()?));
        Ok(Self { serial, events, input, watch: Watch::Polled, foreground, ending })
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
                set_timer(&self.foreground.0, LOOK_EVERY);
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
                set_timer(&self.foreground.0, LOOK_EVERY);
            }
        }
    }
}

impl MutEventSubscriber for Console {
    fn init(&mut self, ops: &mut EventOps<'_>) {
        let fds =
            [(&self.events.room, ROOM), (&self.events.flush, FLUSH), (&self.foreground.0, LOOK)];
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
        let mut counter = [0; 8];
        // Reading the counters only resets them; nothing depends on their values.
        match events.data() {
            FLUSH => {
                let _ = rustix::io::read(&*self.events.flush, &mut counter);
                self.serial.flush();
            }
            LOOK => {
                let _ = rustix::io::read(&*self.foreground.0, &mut counter);
                self.look(ops);
            }
            ROOM => {
                let _ = rustix::io::read(&*self.events.room, &mut counter);
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
