//! The terminal's mode: raw while a guest's console is on it, restored on every way out.

use std::io;
use std::os::fd::AsFd;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcgetpgrp, tcsetattr};

use super::signals;

/// The mode to go back to, while [`RawMode`] stands; here so that a panic hook can find it.
static SAVED: Mutex<Option<Termios>> = Mutex::new(None);
/// The terminal is in raw mode.
static RAW: AtomicBool = AtomicBool::new(false);

/// True when both ends of a console are a terminal.
pub fn is_interactive() -> bool {
    isatty(io::stdin()) && isatty(io::stdout())
}

/// The terminal in raw mode; dropping it restores the mode from before.
#[derive(Debug)]
pub struct RawMode(());

impl RawMode {
    /// Puts standard input into raw mode.
    ///
    /// # Errors
    /// Those of `tcsetattr(3)`, as for something that is no terminal.
    pub fn enter() -> io::Result<Self> {
        let old = tcgetattr(io::stdin())?;
        save(Some(old.clone()));
        // Atomics, a lock that is only tried, and system calls: all allowed in a signal handler.
        signals::before_death(restore);
        set_raw(old).inspect_err(|_| save(None))?;
        Ok(Self(()))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        restore();
        save(None);
    }
}

fn save(mode: Option<Termios>) {
    *SAVED.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = mode;
}

// The mode changes at once, not when output has drained: a terminal that is stopped never drains.

fn set_raw(mut mode: Termios) -> io::Result<()> {
    mode.make_raw();
    tcsetattr(io::stdin(), OptionalActions::Now, &mode)?;
    RAW.store(true, Ordering::Release);
    Ok(())
}

/// The terminal is ours to change: a shell that has put us into the background uses it itself, and
/// the kernel would stop us for trying.
pub fn is_foreground() -> bool {
    // Only a controlling terminal has a foreground.
    tcgetpgrp(io::stdin().as_fd()).map_or(true, |group| group == rustix::process::getpgrp())
}

/// Restores the mode that stood before [`RawMode::enter`], if that is to be restored.
pub fn restore() {
    if RAW.swap(false, Ordering::AcqRel)
        && let Ok(saved) = SAVED.try_lock()
        && let Some(old) = &*saved
        && is_foreground()
    {
        // Nothing is left to be done where it fails: the terminal is gone.
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, old);
    }
}

/// Goes back to raw mode after a stop, for as long as [`RawMode`] stands. Whether or not it was left
/// before: a shell sets its own mode where its job was stopped by SIGSTOP.
pub fn resume() {
    if let Ok(saved) = SAVED.try_lock()
        && let Some(old) = &*saved
        && is_foreground()
    {
        let _ = set_raw(old.clone());
    }
}

/// What ends a line on standard error: in raw mode, nothing returns the carriage.
pub fn line_end() -> &'static str {
    if RAW.load(Ordering::Acquire) && isatty(io::stderr()) { "\r\n" } else { "\n" }
}

/// Makes a panic leave the terminal as it was, so that its message can be read.
pub fn restore_on_panic() {
    let default = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        restore();
        default(info);
    }));
}
