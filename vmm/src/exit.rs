//! How a machine ends, and the exit statuses that say so.

use std::fmt;

use minivmm_boot::layout;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

/// The guest ended in good order, or what it ran did.
pub const OK: u8 = 0;
/// The probe's report has a failed check.
pub const CHECK_FAILED: u8 = 1;
/// The configuration was refused: `EX_USAGE`-like, and what clap uses.
pub const CONFIG: u8 = 2;
/// No machine has that name (`EX_NOHOST`).
pub const NO_MACHINE: u8 = 68;
/// There is no virtualization to use (`EX_UNAVAILABLE`).
pub const NO_VIRTUALIZATION: u8 = 69;
/// The guest crashed, its kernel panicked, or it did what this KVM can't run (`EX_SOFTWARE`).
pub const GUEST_CRASH: u8 = 70;
/// The host refused a resource, or did not take what the guest wrote (`EX_OSERR`).
pub const HOST: u8 = 71;
/// A privilege is missing (`EX_NOPERM`).
pub const NO_PERMISSION: u8 = 77;
/// The machine's time was over, as `timeout(1)` says it.
pub const TIMED_OUT: u8 = 124;
/// Stopped by request, as by SIGTERM.
pub const STOPPED: u8 = 128 + libc::SIGTERM as u8;
/// Killed by request, as by SIGKILL.
pub const KILLED: u8 = 128 + libc::SIGKILL as u8;
/// The reader of standard output has gone: as any program in a pipeline ends, by SIGPIPE.
pub const READER_GONE: u8 = 128 + libc::SIGPIPE as u8;

/// Why the machine stopped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Exit {
    /// The guest powered off.
    PowerOff,
    /// The guest asked for a reset; a machine ends then, like a container whose init exits.
    Reset,
    /// The guest's kernel panicked, and then asked for a reset.
    Panic,
    /// The guest crashed; the text says how.
    Crash(String),
    /// The host refused what it takes to run the guest; the text says what, and what to do.
    Refused(String),
    /// A signal to the monitor ended it.
    Signal(i32),
    /// The user left by the console's escape, or its owner let go of it.
    Quit,
    /// It was asked to stop, and the guest did not power off by itself.
    Stopped,
    /// It was killed, by request.
    Killed,
    /// Its time was over.
    TimedOut,
}

impl Exit {
    /// What a guest's reset is: a panic where its kernel left that word in `memory`, as Linux does
    /// with the command line that it is given (see [`layout::RESET_FLAG`]).
    pub(crate) fn reset(memory: &GuestMemoryMmap) -> Self {
        match memory.read_obj(GuestAddress(layout::RESET_FLAG)).map(u16::from_le) {
            Ok(layout::RESET_FLAG_WARM) => Self::Panic,
            _ => Self::Reset,
        }
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PowerOff => f.write_str("the guest powered off"),
            Self::Reset => f.write_str("the guest asked for a reset"),
            Self::Panic => f.write_str("the guest's kernel panicked; its console says why"),
            Self::Crash(how) => write!(f, "the guest crashed: {how}"),
            Self::Refused(what) => f.write_str(what),
            Self::Signal(libc::SIGPIPE) => f.write_str("the reader of standard output has gone"),
            Self::Signal(signal) => write!(f, "ended by signal {signal}"),
            Self::Quit => f.write_str("ended from the console"),
            Self::Stopped => f.write_str("stopped by request"),
            Self::Killed => f.write_str("killed by request"),
            Self::TimedOut => f.write_str("its time was over"),
        }
    }
}

/// What a machine's run came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// Why it stopped.
    pub exit: Exit,
    /// The guest's own result, where it gave one at the exit port.
    pub guest_status: Option<u8>,
    /// The status where not all that the guest wrote could be written to standard output; it takes
    /// the place of an orderly 0, which would hide that.
    pub lost: Option<u8>,
}

impl Outcome {
    /// The process exit status for it: see `minivmm run --help`.
    pub fn status(&self) -> u8 {
        match self.exit {
            Exit::PowerOff | Exit::Reset => match (self.guest_status.unwrap_or(OK), self.lost) {
                (OK, Some(lost)) => lost,
                (status, _) => status,
            },
            Exit::Panic | Exit::Crash(_) => GUEST_CRASH,
            Exit::Refused(_) => HOST,
            Exit::Signal(signal) => u8::try_from(128 + signal).unwrap_or(u8::MAX),
            Exit::Quit => OK,
            Exit::Stopped => STOPPED,
            Exit::Killed => KILLED,
            Exit::TimedOut => TIMED_OUT,
        }
    }

    /// Why it has that status, in words.
    pub fn reason(&self) -> String {
        let lost =
            if self.lost.is_some() { "; what it wrote could not all be written" } else { "" };
        format!("{}{lost}", self.exit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_the_documented_ones() {
        let status = |exit, guest_status| Outcome { exit, guest_status, lost: None }.status();
        assert_eq!(status(Exit::PowerOff, None), 0);
        assert_eq!(status(Exit::PowerOff, Some(1)), 1);
        assert_eq!(status(Exit::Reset, None), 0);
        assert_eq!(status(Exit::Crash("triple fault".into()), Some(0)), 70);
        assert_eq!(status(Exit::Panic, Some(0)), 70);
        assert_eq!(status(Exit::Refused("no memory".into()), Some(0)), 71);
        assert_eq!(status(Exit::Signal(15), None), 143);
    }

    #[test]
    fn a_reset_is_a_panic_where_the_flag_says_so() {
        let memory = GuestMemoryMmap::from_ranges(&layout::ram_regions(1 << 20)).unwrap();
        assert_eq!(Exit::reset(&memory), Exit::Reset);
        for (flag, exit) in
            [(*b"\x34\x12", Exit::Panic), (*b"\x12\x34", Exit::Reset), ([0, 0], Exit::Reset)]
        {
            memory.write_slice(&flag, GuestAddress(0x472)).unwrap();
            assert_eq!(Exit::reset(&memory), exit, "{flag:x?}");
        }
    }

    #[test]
    fn lost_output_is_no_success() {
        let status = |exit, guest_status| Outcome { exit, guest_status, lost: Some(HOST) }.status();
        assert_eq!(status(Exit::PowerOff, None), 71);
        assert_eq!(status(Exit::Reset, Some(0)), 71);
        assert_eq!(status(Exit::PowerOff, Some(1)), 1);
        assert_eq!(status(Exit::Crash("triple fault".into()), None), 70);
        assert_eq!(status(Exit::Signal(15), None), 143);
    }
}
