//! What stays with a running machine until it ends: signals, the console, and the end itself.

use std::cell::Cell;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use event_manager::{EventManager, EventOps, EventSet, Events, MutEventSubscriber, SubscriberOps};
use minivmm::config::{ConfigError, ConsoleKind, MachineConfig, Validated};
use minivmm::console::Output;
use minivmm::exit::{self, Exit, Outcome};
use minivmm::{
    Backing, BuildOptions, ConsoleTo, Ending, Error, Files, Opened, ProcessStart, Timings,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::console::{Console, Input};
use super::control::Control;
use super::error::CommandError;
use super::log::{self, LINGER};
use super::signals::{self, Request, Signals};
use super::{resident, terminal};

/// How a run is watched.
#[derive(Debug, Clone, Copy)]
pub struct RunOptions {
    /// The probe reports in JSON.
    pub json: bool,
    /// There is no terminal, and somebody waits to hear that the machine runs.
    pub detached: bool,
    /// The machine ends after so long.
    pub timeout: Option<Duration>,
    /// When the process began.
    pub start: ProcessStart,
}

/// When a start is over, and what only it needed can be given back: not before, as that takes time
/// too.
const SETTLES_AFTER: Duration = Duration::from_secs(1);

/// Runs a machine from its start to its end. `timings` is called after that, and not where it
/// could not be started.
///
/// # Errors
/// [`CommandError`] where it could not be started.
pub fn run(
    config: &MachineConfig,
    options: RunOptions,
    timings: impl FnOnce(&Timings),
) -> Result<Outcome, CommandError> {
    let config = config.validate().map_err(Error::from)?;
    let kind = console_kind(&config, options.detached)?;
    let files = Files::open(&config)?;
    raise_descriptor_limit();
    // Before any thread exists, so that all inherit the mask and only the descriptor sees them.
    let signals = Arc::new(Signals::block().map_err(Error::host("watch signals"))?);
    let control = Control::open(&config, options.detached)?;
    let build = BuildOptions {
        console: output(kind, options.detached, control.as_ref())?,
        // All that serves the guest is in this process.
        backing: Backing::Anonymous,
        json: options.json,
        start: options.start,
        kick_signal: None,
    };
    let opened = Opened::new(&config, &files, build)?;
    drop(files);
    let machine = opened.spawn()?;
    let raw = match kind {
        ConsoleKind::Tty => {
            Some(terminal::RawMode::enter().map_err(Error::host("use the terminal"))?)
        }
        ConsoleKind::Pipe | ConsoleKind::None => None,
    };
    let input = match kind {
        ConsoleKind::Tty => Some(Input::new(true)),
        ConsoleKind::Pipe if config.kernel.is_some() => Some(Input::new(false)),
        ConsoleKind::Pipe | ConsoleKind::None => None,
    };
    let (serial, room) = machine.serial();
    let ending = Arc::clone(machine.ending());
    let console = Console::new(serial, room, input, Arc::clone(&ending))
        .map_err(Error::host("create the console's descriptors"))?;
    let control = control.and_then(|control| control.serve(&machine).transpose()).transpose()?;
    let end = options.timeout.map(|timeout| Instant::now() + timeout);
    watch(&ending, &signals, console, end, || {
        machine.start();
        if let (Some(control), true) = (&control, options.detached) {
            control.report(&ending);
        }
    })?;
    let taken = machine.timings();
    let mut ended = machine.finish();
    let outcome = &mut ended.outcome;
    if let Some(output) = &ended.output {
        if let Some(signal) = drain(output, &signals, &outcome.exit)
            && outcome.status() == exit::OK
        {
            outcome.exit = Exit::Signal(signal);
        }
        outcome.lost = output.lost();
    }
    drop(raw);
    ended.announce();
    if let Some(control) = control {
        control.finish();
    }
    let outcome = ended.outcome;
    if matches!(outcome.exit, Exit::Signal(_) | Exit::Quit) {
        log::hurry();
    }
    // What is left to be said may wait for a reader: from here on a signal ends that.
    drop(signals);
    timings(&taken);
    Ok(outcome)
}

/// Where the guest's console leads.
fn console_kind(config: &Validated, detached: bool) -> Result<ConsoleKind, Error> {
    let interactive = !detached && terminal::is_interactive();
    match config.console {
        Some(ConsoleKind::Tty) if !interactive => Err(ConfigError::NoTerminal.into()),
        Some(kind) => Ok(kind),
        // The probe takes no input: Ctrl-C can stay what it is.
        None if interactive && config.kernel.is_some() => Ok(ConsoleKind::Tty),
        None => Ok(ConsoleKind::Pipe),
    }
}

/// What takes the guest's output.
fn output(
    kind: ConsoleKind,
    detached: bool,
    control: Option<&Control>,
) -> Result<ConsoleTo, Error> {
    match (kind, control) {
        (ConsoleKind::None, _) => Ok(ConsoleTo::Nowhere),
        (_, Some(control)) if detached => Ok(ConsoleTo::Descriptor(Box::new(control.log()?))),
        _ => Ok(ConsoleTo::Descriptor(Box::new(io::stdout()))),
    }
}

/// Serves events until the machine has ended, which it does at `end`.
fn watch(
    ending: &Arc<Ending>,
    signals: &Arc<Signals>,
    console: Console,
    end: Option<Instant>,
    start: impl FnOnce(),
) -> Result<(), Error> {
    let failed = |e| {
        let source = match e {
            event_manager::Error::Epoll(e) => e.into(),
            e => io::Error::other(e),
        };
        Error::Host { what: "watch the machine", source }
    };
    let mut manager = EventManager::<Box<dyn MutEventSubscriber>>::new().map_err(failed)?;
    let refused = Rc::new(Cell::new(None));
    manager.add_subscriber(Box::new(Watch {
        fd: signals.as_raw_fd(),
        refused: Rc::clone(&refused),
        on_ready: {
            let (ending, signals) = (Arc::clone(ending), Arc::clone(signals));
            let foreground = console.foreground();
            move || match signals.next() {
                Some(Request::End(signal)) => ending.set(Exit::Signal(signal)),
                Some(Request::Stop) => stop(),
                Some(Request::Continue) => foreground.look(),
                None => {}
            }
        },
    }));
    manager.add_subscriber(Box::new(Watch {
        fd: ending.event().as_raw_fd(),
        refused: Rc::clone(&refused),
        on_ready: || {},
    }));
    // Without these two, nothing could end the machine.
    if let Some(e) = refused.take() {
        return Err(failed(e));
    }
    manager.add_subscriber(Box::new(console));
    start();
    let mut settles = Some(Instant::now() + SETTLES_AFTER);
    while ending.get().is_none() {
        let now = Instant::now();
        if settles.is_some_and(|at| at <= now) {
            resident::give_back_code();
            settles = None;
        }
        if end.is_some_and(|at| at <= now) {
            ending.set(Exit::TimedOut);
            break;
        }
        let next = settles.into_iter().chain(end).min();
        // In whole milliseconds; -1 is for ever.
        let timeout = next.map_or(-1, |at| {
            i32::try_from((at - now).as_millis()).map_or(i32::MAX, |rest| rest.saturating_add(1))
        });
        manager.run_with_timeout(timeout).map_err(failed)?;
    }
    Ok(())
}

/// Stops as a job, with the terminal as the shell had it. Where nobody could let it go on, which is
/// where this session has no shell, it goes on at once.
fn stop() {
    terminal::restore();
    signals::stop();
    terminal::resume();
}

/// Waits until what the guest wrote has been taken: for as long as it takes where the guest ended
/// by itself, unless a signal comes, which is returned.
fn drain(output: &Output, signals: &Signals, exit: &Exit) -> Option<i32> {
    let end = match exit {
        Exit::Signal(_) | Exit::Quit | Exit::Stopped | Exit::Killed | Exit::TimedOut => {
            Some(Instant::now() + LINGER)
        }
        Exit::PowerOff | Exit::Reset | Exit::Panic | Exit::Crash(_) | Exit::Refused(_) => None,
    };
    loop {
        let left = end.map(|end| end.saturating_duration_since(Instant::now()));
        let timeout = left.and_then(|left| Timespec::try_from(left).ok());
        let done = output.done();
        let mut fds = [PollFd::new(&done, PollFlags::IN), PollFd::new(signals, PollFlags::IN)];
        match poll(&mut fds, timeout.as_ref()) {
            Err(rustix::io::Errno::INTR) => continue,
            Ok(0) | Err(_) => return None,
            Ok(_) if !fds[0].revents().is_empty() => return None,
            Ok(_) => {}
        }
        match signals.next() {
            Some(Request::End(signal)) => return Some(signal),
            Some(Request::Stop) => stop(),
            Some(Request::Continue) => terminal::resume(),
            None => {}
        }
    }
}

/// One descriptor and what to do when it is readable.
struct Watch<F> {
    fd: RawFd,
    /// Where it is said that the descriptor can't be watched.
    refused: Rc<Cell<Option<event_manager::Error>>>,
    on_ready: F,
}

impl<F: FnMut()> MutEventSubscriber for Watch<F> {
    fn init(&mut self, ops: &mut EventOps<'_>) {
        if let Err(e) = ops.add(Events::new_raw(self.fd, EventSet::IN)) {
            self.refused.set(Some(e));
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
    // What this is not enough for is said when the flows are counted.
    if let Err(e) = setrlimit(Resource::Nofile, raised) {
        tracing::debug!("cannot raise the limit of open files: {e}");
    }
}
