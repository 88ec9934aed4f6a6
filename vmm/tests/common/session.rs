//! A terminal of the test's own.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Termios, tcgetattr};

use super::{Code, command, kernel, text, wait};

/// A terminal and a machine on it.
pub struct Session {
    pub child: Child,
    keyboard: File,
    terminal: File,
    /// The terminal's mode before the machine.
    mode: Termios,
    seen: Vec<u8>,
    dir: Option<tempfile::TempDir>,
}

impl Session {
    /// A machine as a job of its own, whose shell is not on this terminal.
    pub fn start(code: &Code) -> Self {
        let (dir, path) = kernel(code);
        let mut command = command(&path);
        command.process_group(0);
        let mut session = Self::with(command);
        session.dir = Some(dir);
        session
    }

    /// `command` on the terminal.
    pub fn with(mut command: Command) -> Self {
        let master =
            openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap();
        let terminal = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NOCTTY)
            .open(name.to_str().unwrap())
            .unwrap();
        let mode = tcgetattr(&terminal).unwrap();
        let end = || Stdio::from(terminal.try_clone().unwrap());
        command.stdin(end()).stdout(end()).stderr(end());
        let child = command.spawn().unwrap();
        let keyboard = File::from(master);
        Self { child, keyboard, terminal, mode, seen: Vec::new(), dir: None }
    }

    pub fn type_in(&mut self, keys: &[u8]) {
        self.keyboard.write_all(keys).unwrap();
    }

    /// Waits until `what` is on the screen.
    #[track_caller]
    pub fn see(&mut self, what: &[u8]) {
        let patience = Timespec { tv_sec: 20, tv_nsec: 0 };
        while !self.seen.windows(what.len()).any(|w| w == what) {
            let mut fds = [PollFd::new(&self.keyboard, PollFlags::IN)];
            let ready = poll(&mut fds, Some(&patience)).unwrap();
            assert!(ready > 0, "{:?} is not in {:?}", text(what), text(&self.seen));
            let mut bytes = [0; 4096];
            let n = self.keyboard.read(&mut bytes).unwrap();
            self.seen.extend_from_slice(&bytes[..n]);
        }
    }

    pub fn is_raw(&self) -> bool {
        !tcgetattr(&self.terminal).unwrap().local_modes.contains(LocalModes::ICANON)
    }

    #[track_caller]
    pub fn is_restored(&self) -> bool {
        let now = tcgetattr(&self.terminal).unwrap();
        now.local_modes == self.mode.local_modes
            && now.input_modes == self.mode.input_modes
            && now.output_modes == self.mode.output_modes
            && now.control_modes == self.mode.control_modes
    }

    /// Waits for the end, which must leave the terminal as it was.
    #[track_caller]
    pub fn end(mut self) -> std::process::ExitStatus {
        let status = wait(&mut self.child);
        assert!(self.is_restored(), "{:?}", tcgetattr(&self.terminal));
        status
    }
}
