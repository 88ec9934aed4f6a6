//! Signals as a descriptor.
#![expect(unsafe_code, reason = "signal masks and signalfd have no safe wrapper among our crates")]

use std::fs::File;
use std::io::{self, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, RawFd};
use std::sync::OnceLock;

/// Those that ask a process to end.
const ENDING: [libc::c_int; 4] = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT];
/// Those by which a shell stops a job and lets it go on.
const JOB: [libc::c_int; 2] = [libc::SIGTSTP, libc::SIGCONT];
/// Those that end a process where it stands, SIGKILL aside. Ours ignores SIGPIPE and SIGXFSZ.
const DEADLY: [libc::c_int; 16] = [
    libc::SIGABRT,
    libc::SIGALRM,
    libc::SIGBUS,
    libc::SIGFPE,
    libc::SIGILL,
    libc::SIGIO,
    libc::SIGPROF,
    libc::SIGPWR,
    libc::SIGSEGV,
    libc::SIGSTKFLT,
    libc::SIGSYS,
    libc::SIGTRAP,
    libc::SIGUSR1,
    libc::SIGUSR2,
    libc::SIGVTALRM,
    libc::SIGXCPU,
];
/// Those of an instruction, which does it again when its handler returns.
const FAULTS: [libc::c_int; 4] = [libc::SIGBUS, libc::SIGFPE, libc::SIGILL, libc::SIGSEGV];

/// What a signal asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// The end; the signal's number.
    End(i32),
    /// To stop until [`Request::Continue`].
    Stop,
    /// The process was stopped, and goes on.
    Continue,
}

/// The signals that this process listens to: blocked, and readable from a descriptor. Dropping it
/// gives them back what they did before, so that one which comes then ends the process.
pub struct Signals {
    file: File,
    /// The mask from before.
    old: libc::sigset_t,
}

impl std::fmt::Debug for Signals {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Signals").field(&self.file).finish()
    }
}

impl Signals {
    /// Blocks them for this thread and all that it starts. A signal that the process was started
    /// with as ignored (`nohup`, a shell's background) stays ignored. A file that would outgrow its
    /// limit, and reading a terminal from the background, is from now on an error, and no signal
    /// that kills or stops.
    ///
    /// # Errors
    /// Those of `sigprocmask(2)` and `signalfd(2)`.
    pub fn block() -> io::Result<Self> {
        let set = set_of(ENDING.into_iter().chain(JOB).filter(|s| !is_ignored(*s)));
        for signal in [libc::SIGXFSZ, libc::SIGTTIN] {
            // SAFETY: ignoring a signal has no preconditions.
            unsafe { libc::signal(signal, libc::SIG_IGN) };
        }
        let old = change_mask(libc::SIG_BLOCK, &set)?;
        // SAFETY: the set is initialised; -1 asks for a new descriptor.
        let fd =
            unsafe { libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor is new and nobody else's.
        Ok(Self { file: unsafe { File::from_raw_fd(fd) }, old })
    }

    /// The next signal that came, if one has.
    pub fn next(&self) -> Option<Request> {
        let mut info = [0; size_of::<libc::signalfd_siginfo>()];
        (&self.file).read_exact(&mut info).ok()?;
        // ssi_signo is the structure's first field.
        Some(match i32::from_ne_bytes([info[0], info[1], info[2], info[3]]) {
            libc::SIGTSTP => Request::Stop,
            libc::SIGCONT => Request::Continue,
            signal => Request::End(signal),
        })
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        // What came while the machine ended has been heeded by that.
        while self.next().is_some() {}
        // Cannot fail for a mask that was one.
        let _ = change_mask(libc::SIG_SETMASK, &self.old);
    }
}

/// Stops the process as SIGTSTP does where it is not blocked: not where no shell could let it go on.
pub fn stop() {
    let set = set_of([libc::SIGTSTP]);
    // SAFETY: raising a signal has no preconditions. While it is blocked it waits.
    unsafe { libc::raise(libc::SIGTSTP) };
    // Cannot fail for a set that is one.
    let _ = change_mask(libc::SIG_UNBLOCK, &set);
    let _ = change_mask(libc::SIG_BLOCK, &set);
}

fn set_of(signals: impl IntoIterator<Item = libc::c_int>) -> libc::sigset_t {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigemptyset initialises the set, sigaddset then changes it; the numbers are valid
    // signals.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for signal in signals {
            libc::sigaddset(set.as_mut_ptr(), signal);
        }
        set.assume_init()
    }
}

/// Changes this thread's signal mask, and returns the one from before.
fn change_mask(how: libc::c_int, set: &libc::sigset_t) -> io::Result<libc::sigset_t> {
    let mut old = MaybeUninit::<libc::sigset_t>::zeroed();
    // SAFETY: the set is initialised, and the old mask written to a structure of its size.
    match unsafe { libc::pthread_sigmask(how, set, old.as_mut_ptr()) } {
        // SAFETY: written above; all-zero bytes are a valid mask too.
        0 => Ok(unsafe { old.assume_init() }),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

/// Runs `first` where a signal ends the process that it does not listen to, and lets it end so.
/// Once for the process; `first` may only do what a signal handler may.
pub fn before_death(first: fn()) {
    static DONE: OnceLock<()> = OnceLock::new();
    static FIRST: OnceLock<fn()> = OnceLock::new();
    static BEFORE: OnceLock<Vec<(libc::c_int, libc::sigaction)>> = OnceLock::new();
    extern "C" fn on_death(
        signal: libc::c_int,
        info: *const libc::siginfo_t,
        _: *mut libc::c_void,
    ) {
        if let Some(first) = FIRST.get() {
            first();
        }
        // SAFETY: with SA_SIGINFO the kernel hands over a valid structure.
        let from_the_kernel = unsafe { (*info).si_code } > 0;
        let before = BEFORE.get().and_then(|all| all.iter().find(|(s, _)| *s == signal));
        match before {
            // Comes again when this returns, to whoever had it before: the standard library tells
            // an overflow of the stack.
            Some((_, action)) if from_the_kernel && FAULTS.contains(&signal) => {
                // SAFETY: the action is one that stood, and sigaction may be called in a handler.
                unsafe { libc::sigaction(signal, action, std::ptr::null_mut()) };
            }
            // SAFETY: both may be called in a handler. The signal is blocked in here: what is
            // raised comes, with its default action, when this returns.
            _ => unsafe {
                libc::signal(signal, libc::SIG_DFL);
                libc::raise(signal);
            },
        }
    }
    DONE.get_or_init(|| {
        FIRST.get_or_init(|| first);
        let with_action = |signal| (signal, action_of(signal));
        let heeded = |(_, action): &(_, libc::sigaction)| action.sa_sigaction != libc::SIG_IGN;
        let before =
            BEFORE.get_or_init(|| DEADLY.map(with_action).into_iter().filter(heeded).collect());
        let mut action = action_of(libc::SIGABRT);
        action.sa_sigaction = on_death as *const () as libc::sighandler_t;
        // On the alternate stack, where the thread has one: its own may have overflowed.
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        // SAFETY: the mask is a set.
        unsafe { libc::sigfillset(&raw mut action.sa_mask) };
        for (signal, _) in before {
            // That it can't be installed would only show after such an end.
            // SAFETY: the action is complete, and its handler does only what one may.
            unsafe { libc::sigaction(*signal, &raw const action, std::ptr::null_mut()) };
        }
    });
}

/// What a signal does.
fn action_of(signal: libc::c_int) -> libc::sigaction {
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: no new action is given; the old one is written to a structure of its size, of which
    // all-zero bytes are a valid value.
    unsafe {
        libc::sigaction(signal, std::ptr::null(), action.as_mut_ptr());
        action.assume_init()
    }
}

fn is_ignored(signal: libc::c_int) -> bool {
    action_of(signal).sa_sigaction == libc::SIG_IGN
}

impl AsRawFd for Signals {
    fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}
