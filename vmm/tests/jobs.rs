//! The command as a job of a shell: stopped, in the background, and in the foreground again.
#![expect(clippy::unwrap_used, reason = "a test fails by it")]

mod common;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use common::session::Session;
use common::{Code, echo, eventually, kernel, signal};
use rustix::process::{Pid, Signal, kill_process};

/// A process's state and its parent, or nothing where it has gone.
fn stat(pid: i32) -> Option<(char, i32)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // After the name, which may hold anything.
    let mut fields = stat.rsplit(") ").next()?.split(' ');
    Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
}

fn is_stopped(pid: i32) -> bool {
    stat(pid).is_some_and(|(state, _)| state == 'T')
}

fn is_gone(pid: i32) -> bool {
    stat(pid).is_none_or(|(state, _)| state == 'Z')
}

/// `words` as the leader of a session on the terminal.
fn leader(words: &[&str]) -> Session {
    let mut command = Command::new("setsid");
    command.arg("--ctty").args(words).env("PS1", "$ ").env("HISTFILE", "/dev/null");
    Session::with(command)
}

/// A shell with job control, and the job that it runs.
struct Shell {
    session: Session,
    asked: u32,
}

impl Shell {
    fn new() -> Self {
        let mut session = leader(&["bash", "--norc", "--noprofile", "-i"]);
        session.see(b"$ ");
        Self { session, asked: 0 }
    }

    fn say(&mut self, line: &str) {
        self.session.type_in(format!("{line}\n").as_bytes());
    }

    /// The shell has the terminal, and does what it is told.
    fn obeys(&mut self) {
        self.asked += 1;
        let asked = self.asked;
        // What is seen is not what was typed.
        self.say(&format!("echo $((1000000 + {asked})):$?"));
        self.session.see(format!("{}:", 1_000_000 + asked).as_bytes());
    }

    /// Ends the job from its console: keys without a line's end, which no cooked terminal would
    /// pass on.
    fn escape(&mut self, job: i32) {
        eventually("the escape is heard", || {
            self.session.type_in(b"\x01x");
            thread::sleep(Duration::from_millis(100));
            is_gone(job)
        });
        self.session.type_in(b"\n");
        self.obeys();
    }

    fn job(&self) -> i32 {
        let shell = self.session.child.id() as i32;
        let mut found = None;
        eventually("the shell has a job", || {
            let pids = fs::read_dir("/proc")
                .unwrap()
                .filter_map(|entry| entry.unwrap().file_name().to_str()?.parse::<i32>().ok());
            found = pids.into_iter().find(|pid| stat(*pid).is_some_and(|(_, p)| p == shell));
            found.is_some()
        });
        found.unwrap()
    }

    fn end(mut self) {
        self.session.type_in(b"exit\n");
        common::wait(&mut self.session.child);
    }
}

fn run(kernel: &Path) -> String {
    format!("{} run --kernel {}", env!("CARGO_BIN_EXE_minivmm"), kernel.display())
}

fn send(pid: i32, signal: Signal) {
    kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
}

/// What is typed at the shell is the shell's, and does not stop the machine; once it has the
/// terminal it is heard, and so is Ctrl-C.
#[test]
fn in_the_background_on_plain_bytes() {
    let (dir, path) = kernel(&echo());
    let log = dir.path().join("log");
    let mut shell = Shell::new();
    shell.say(&format!("{} > {} &", run(&path), log.display()));
    let job = shell.job();
    eventually("it is up", || fs::read(&log).is_ok_and(|l| l == b"up\n"));
    shell.obeys();
    shell.obeys();
    assert!(!is_stopped(job));
    shell.say("fg");
    // The shell's terminal echoes; the machine has it when the guest does.
    eventually("the guest hears", || {
        shell.say("x");
        thread::sleep(Duration::from_millis(100));
        fs::read(&log).unwrap().len() > 3
    });
    shell.session.type_in(b"\x03");
    eventually("it ends", || is_gone(job));
    shell.obeys();
    shell.end();
}

/// The same on a raw terminal, which must be raw again.
#[test]
fn in_the_background_on_a_terminal() {
    for stop in [Signal::TSTP, Signal::STOP] {
        let (_dir, path) = kernel(&echo());
        let mut shell = Shell::new();
        shell.say(&run(&path));
        shell.session.see(b"up\n");
        let job = shell.job();
        send(job, stop);
        eventually("it stops", || is_stopped(job));
        shell.obeys();
        shell.say("bg");
        eventually("it goes on", || !is_stopped(job));
        shell.obeys();
        shell.obeys();
        assert!(!is_stopped(job));
        shell.say("fg");
        shell.escape(job);
        shell.end();
    }
}

/// Stopped by SIGSTOP, it can't restore the terminal; the shell sets its own, and `fg` makes it
/// raw again.
#[test]
fn stopped_without_a_say() {
    let (_dir, path) = kernel(&echo());
    let mut shell = Shell::new();
    shell.say(&run(&path));
    shell.session.see(b"up\n");
    let job = shell.job();
    send(job, Signal::STOP);
    shell.obeys();
    shell.say("fg");
    shell.escape(job);
    shell.end();
}

/// Ctrl-Z where no shell could let it go on is nothing, as for every program.
#[test]
fn without_a_shell_nothing_stops() {
    let (_dir, path) = kernel(&Code::new().print("up\n").halt());
    let path = path.to_str().unwrap();
    let program = env!("CARGO_BIN_EXE_minivmm");
    let mut session = leader(&[program, "run", "--kernel", path, "--console", "pipe"]);
    session.see(b"up");
    session.type_in(b"\x1a");
    thread::sleep(Duration::from_millis(300));
    assert!(!is_stopped(session.child.id() as i32));
    session.type_in(b"\x03");
    assert_eq!(session.end().code(), Some(130));
}

/// While it is stopped as a job, the terminal is the shell's; after that it is raw again.
#[test]
fn stopping_as_a_job() {
    let mut session = Session::start(&echo());
    session.see(b"up\n");
    signal(&session.child, Signal::TSTP);
    eventually("it stops", || is_stopped(session.child.id() as i32));
    assert!(session.is_restored());
    signal(&session.child, Signal::CONT);
    eventually("the terminal is raw again", || session.is_raw());
    session.type_in(b"still here");
    session.see(b"still here");
    signal(&session.child, Signal::TERM);
    assert_eq!(session.end().code(), Some(143));
}

/// Two readers of one pipe: the slower one finds nothing, and still hears signals.
#[test]
fn two_readers_of_one_pipe() {
    use std::io::Write;
    let (_dir, path) = kernel(&echo());
    let (reader, mut writer) = std::io::pipe().unwrap();
    let start = || {
        let mut child = common::command(&path).stdin(reader.try_clone().unwrap()).spawn().unwrap();
        let mut up = [0; 3];
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut up).unwrap();
        child
    };
    let mut children = [start(), start()];
    for _ in 0..20 {
        writer.write_all(b"x").unwrap();
        thread::sleep(Duration::from_millis(5));
    }
    for child in &mut children {
        signal(child, Signal::TERM);
        assert_eq!(common::wait(child).code(), Some(143));
    }
}
