//! The terminal's mode: raw while a guest's console is on it, restored on every way out.

use std::io;
use std::os::fd::AsFd;
use std::sync::Mutex;

use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcsetattr};

/// The mode to go back to, here so that a panic hook can find it.
static SAVED: Mutex<Option<Termios>> = Mutex::new(None);

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
        let stdin = io::stdin();
        let old = tcgetattr(stdin.as_fd())?;
        let mut raw = old.clone();
        raw.make_raw();
        *SAVED.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(old);
        tcsetattr(stdin.as_fd(), OptionalActions::Drain, &raw)?;
        Ok(Self(()))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        restore();
    }
}

/// Restores the mode that stood before [`RawMode::enter`], if one is to be restored.
pub fn restore() {
    if let Ok(mut saved) = SAVED.try_lock()
        && let Some(old) = saved.take()
    {
        // Nothing is left to be done where it fails: the terminal is gone.
        let _ = tcsetattr(io::stdin().as_fd(), OptionalActions::Drain, &old);
    }
}

/// Makes a panic leave the terminal as it was, so that its message can be read.
pub fn restore_on_panic() {
    let default = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        restore();
        default(info);
    }));
}
