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

pub use self::input::Input;
use self::input::{Fed, Stdin};
pub use self::output::Output;
use crate::exit::Exit;
use crate::machine::Ending;

/// How long an unfinished line may wait.
const FLUSH_AFTER: Duration = Duration::from_millis(10);

const INPUT: u32 = 0;
const ROOM: u32 = 1;
const FLUSH: u32 = 2;

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

/// How standard input is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Watch {
    /// By its readiness.
    Polled,
    /// Not now: the guest has no room.
    Resting,
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
    ending: Arc<Ending>,
}

impl Console {
    /// A console for `serial`, with `input` for the guest.
    pub fn new(
        serial: Arc<Serial>,
        events: ConsoleEvents,
        input: Option<Input>,
        ending: Arc<Ending>,
    ) -> Self {
        Self { serial, events, input, watch: Watch::Polled, ending }
    }

    /// Acts on what became of the input.
    fn fed(&mut self, mut fed: Fed, ops: &mut EventOps<'_>) {
        let Some(input) = &mut self.input else { return };
        while self.watch == Watch::Ready && fed == Fed::All {
            fed = input.read(&self.serial);
        }
        let stdin = Events::with_data(&Stdin, INPUT, EventSet::IN);
        match (fed, self.watch) {
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
}

impl MutEventSubscriber for Console {
    fn init(&mut self, ops: &mut EventOps<'_>) {
        let added =
            [(&self.events.room, ROOM), (&self.events.flush, FLUSH)].into_iter().try_for_each(
                |(fd, data)| ops.add(Events::with_data_raw(fd.as_raw_fd(), data, EventSet::IN)),
            );
        if let Err(e) = added {
            tracing::error!("cannot watch the console: {e}");
        }
        if self.input.is_none() {
            return;
        }
        match ops.add(Events::with_data(&Stdin, INPUT, EventSet::IN)) {
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
