//! Machines that go on without a terminal.
//!
//! `run -d` starts the same command again, in a session of its own, and returns when that says that
//! its machine runs, or has ended without one. Nothing is forked: the child is a process like any.

use std::env;
use std::ffi::{OsStr, OsString};
use std::io::{self, BufRead, BufReader};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitStatus, Stdio};

use minivmm::exit;
use rustix::fs::{Mode, OFlags};
use rustix::stdio::{dup2_stderr, dup2_stdout};
use serde::{Deserialize, Serialize};

/// The option that the child has in addition. It is not for users.
pub const CHILD: &str = "--detached";

/// What a child says when its machine runs, in one line on standard output.
#[derive(Debug, Serialize, Deserialize)]
pub struct Running {
    /// The machine's name.
    pub name: String,
    /// The process.
    pub pid: u32,
}

/// Starts this command again, without a terminal. `Err` is the child's exit status, which has said
/// why.
///
/// # Errors
/// Where it can't be started.
pub fn start() -> io::Result<Result<Running, u8>> {
    let mut args = env::args_os();
    let name = args.next().unwrap_or_else(|| "minivmm".into());
    let mut child = Command::new("/proc/self/exe")
        .arg0(name)
        .args(child_args(args))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut line = String::new();
    if let Some(stdout) = child.stdout.take() {
        BufReader::new(stdout).read_line(&mut line)?;
    }
    match serde_json::from_str(&line) {
        Ok(running) => Ok(Ok(running)),
        Err(_) => child.wait().map(|status| Err(status_of(status))),
    }
}

/// In the child: leaves the session of whoever called.
pub fn leave() {
    // It fails only for the leader of a group, which nobody makes of a child of ours.
    let _ = rustix::process::setsid();
}

/// In the child: says that the machine runs, and lets go of what it inherited.
///
/// # Errors
/// Where nobody is there any more to be told: the machine is to end.
pub fn report(running: &Running) -> io::Result<()> {
    let mut line = serde_json::to_vec(running)?;
    line.push(b'\n');
    rustix::io::retry_on_intr(|| rustix::io::write(rustix::stdio::stdout(), &line))?;
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    dup2_stdout(&null)?;
    dup2_stderr(&null)?;
    // A folder that nobody else uses can be unmounted.
    let _ = rustix::process::chdir("/");
    Ok(())
}

/// The arguments of the child: those of this command, and its own option behind the command's word.
fn child_args(args: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut args: Vec<OsString> = args.collect();
    let behind = args.iter().position(|arg| arg == OsStr::new("run")).map_or(0, |index| index + 1);
    args.insert(behind, CHILD.into());
    args
}

fn status_of(status: ExitStatus) -> u8 {
    let signal = || status.signal().map_or(i32::from(exit::HOST), |signal| 128 + signal);
    u8::try_from(status.code().unwrap_or_else(signal)).unwrap_or(exit::HOST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_child_gets_all_arguments() {
        let args = |words: &[&str]| child_args(words.iter().map(OsString::from));
        assert_eq!(args(&["run", "-d", "--name", "run"]), ["run", CHILD, "-d", "--name", "run"]);
    }

    #[test]
    fn a_childs_end_is_a_status() {
        assert_eq!(status_of(ExitStatus::from_raw(77 << 8)), 77);
        assert_eq!(status_of(ExitStatus::from_raw(libc::SIGKILL)), 137);
    }
}
