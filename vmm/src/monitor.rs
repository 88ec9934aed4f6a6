//! What stays with a running machine until it ends: signals, the console, and the end itself.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use event_manager::{EventManager, EventOps, EventSet, Events, MutEventSubscriber, SubscriberOps};

use crate::config::{Console as ConsoleKind, MachineConfig};
use crate::console::Console;
use crate::error::Error;
use crate::exit::{Exit, Outcome};
use crate::machine::{BuildOptions, Ending, Machine};
use crate::signals::Signals;
use crate::terminal;
use crate::timings::Timings;

/// How a run is watched.
#[derive(Debug, Clone, Copy)]
pub struct RunOptions {
    /// The probe reports in JSON.
    pub json: bool,
    /// When the process started.
    pub started: Instant,
}

/// Runs a machine from its start to its end. `timings` is called before the machine is gone.
///
/// # Errors
/// [`Error`] where it could not be started.
pub fn run(
    config: &MachineConfig,
    options: RunOptions,
    timings: impl FnOnce(&Timings),
) -> Result<Outcome, Error> {
    let config = config.validate()?;
    raise_descriptor_limit();
    // Before any thread exists, so that all inherit the mask and only the descriptor sees them.
    let signals = Signals::block().map_err(Error::host("watch signals"))?;
    let interactive = terminal::is_interactive();
    let kind = match config.console {
        Some(kind) => kind,
        // The probe takes no input: Ctrl-C can stay what it is.
        None if interactive && config.kernel.is_some() => ConsoleKind::Tty,
        None => ConsoleKind::Pipe,
    };
    let input = match kind {
        ConsoleKind::Tty => true,
        ConsoleKind::Pipe => config.kernel.is_some(),
        ConsoleKind::None => false,
    };
    let build = BuildOptions { console: kind, json: options.json, started: options.started };
    let machine = Machine::build(&config, build)?;
    let raw = match kind {
        ConsoleKind::Tty => Some(
            terminal::RawMode::enter()
                .map_err(Error::host("use the terminal (try --console pipe)"))?,
        ),
        _ => None,
    };
    let (serial, events) = machine.serial();
    let ending = Arc::clone(machine.ending());
    let console = Console::new(serial, events, Arc::clone(&ending), input, raw.is_some());
    watch(&ending, signals, console, || machine.resume())?;
    timings(machine.timings());
    let outcome = machine.finish();
    drop(raw);
    Ok(outcome)
}

/// Serves events until the machine has ended.
fn watch(
    ending: &Arc<Ending>,
    signals: Signals,
    console: Console,
    start: impl FnOnce(),
) -> Result<(), Error> {
    let failed = |e: event_manager::Error| Error::Host {
        what: "watch the machine",
        source: io::Error::other(e),
    };
    let mut manager = EventManager::<Box<dyn MutEventSubscriber>>::new().map_err(failed)?;
    manager.add_subscriber(Box::new(Watch {
        fd: signals.as_raw_fd(),
        on_ready: {
            let ending = Arc::clone(ending);
            move || {
                if let Some(signal) = signals.next() {
                    ending.set(Exit::Signal(signal));
                }
            }
        },
    }));
    manager.add_subscriber(Box::new(Watch { fd: ending.event().as_raw_fd(), on_ready: || {} }));
    manager.add_subscriber(Box::new(Mutex::new(console)));
    start();
    while ending.get().is_none() {
        manager.run().map_err(failed)?;
    }
    Ok(())
}

/// One descriptor and what to do when it is readable.
struct Watch<F> {
    fd: RawFd,
    on_ready: F,
}

impl<F: FnMut()> MutEventSubscriber for Watch<F> {
    fn init(&mut self, ops: &mut EventOps<'_>) {
        if let Err(e) = ops.add(Events::new_raw(self.fd, EventSet::IN)) {
            tracing::error!("cannot watch a descriptor: {e}");
        }
    }

    fn process(&mut self, _: Events, _: &mut EventOps<'_>) {
        (self.on_ready)();
    }
}

/// Each flow of a NAT is a socket, and 1024 descriptors are few.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    // The flow tables live with fewer.
    if let Err(e) = setrlimit(Resource::Nofile, raised) {
        tracing::debug!("cannot raise the limit of open files: {e}");
    }
}
