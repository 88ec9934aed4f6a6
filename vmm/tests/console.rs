//! The console on files, pipes and terminals, as a user's shell would set them up.
#![expect(clippy::unwrap_used, reason = "a test fails by it")]

mod common;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use common::session::Session;
use common::{
    Code, DATA, END, SERIAL, check, command, echo, eventually, finish, kernel, signal, small_pipe,
    talker, text, wait, wait_for,
};
use rustix::process::Signal;

/// Writes `total` zero bytes, by strings of a page, and powers off.
fn flood(total: u32) -> Code {
    let mut code = Code::new();
    for _ in 0..total / 4096 {
        code = code.outs(SERIAL, DATA, 4096);
    }
    code.power_off()
}

/// More than the pipe holds and is kept for it.
const MUCH: u32 = 80 << 10;

#[test]
fn a_slow_reader_gets_everything() {
    let (_dir, path) = kernel(&flood(MUCH));
    let (mut reader, writer) = small_pipe();
    let mut child = command(&path).stdout(writer).spawn().unwrap();
    thread::sleep(Duration::from_millis(300));
    let mut got = Vec::new();
    reader.read_to_end(&mut got).unwrap();
    assert_eq!(wait(&mut child).code(), Some(0));
    assert!(got.len() == MUCH as usize && got.iter().all(|b| *b == 0), "{} bytes", got.len());
}

/// A reader that has stopped delays the guest, not the user.
#[test]
fn signals_are_heard_past_a_stopped_reader() {
    for (number, status) in [(Signal::TERM, 143), (Signal::INT, 130)] {
        let (_dir, path) = kernel(&talker());
        let (_reader, writer) = small_pipe();
        let mut child = command(&path).stdout(writer).spawn().unwrap();
        // Until the pipe, and what is kept for it, are full: the guest is held then.
        let mut before = Duration::ZERO;
        eventually("the guest is held", || {
            thread::sleep(Duration::from_millis(100));
            let used = processor_time(&child, "vcpu0");
            !used.is_zero() && std::mem::replace(&mut before, used) == used
        });
        signal(&child, number);
        let start = Instant::now();
        assert_eq!(wait(&mut child).code(), Some(status));
        assert!(start.elapsed() < Duration::from_secs(10));
    }
}

/// The guest has ended, its output has not: a signal still ends the command.
#[test]
fn a_signal_ends_the_wait_for_the_reader() {
    let (_dir, path) = kernel(&flood(16 << 10));
    let (_reader, writer) = small_pipe();
    let mut child = command(&path).stdout(writer).spawn().unwrap();
    let mut ran = false;
    eventually("the guest ends", || {
        let runs = thread_names(&child).iter().any(|name| name == "vcpu0\n");
        ran |= runs;
        ran && !runs
    });
    assert!(child.try_wait().unwrap().is_none());
    signal(&child, Signal::TERM);
    assert_eq!(wait(&mut child).code(), Some(143));
}

fn thread_names(child: &Child) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{}/task", child.id())).unwrap();
    tasks.filter_map(|task| fs::read_to_string(task.unwrap().path().join("comm")).ok()).collect()
}

/// As for any program in a pipeline: it ends, and quietly.
#[test]
fn a_reader_that_has_gone_ends_the_machine() {
    for code in [talker(), flood(MUCH)] {
        let (_dir, path) = kernel(&code);
        let (mut reader, writer) = std::io::pipe().unwrap();
        let child = command(&path).stdout(writer).spawn().unwrap();
        reader.read_exact(&mut [0; 10]).unwrap();
        drop(reader);
        let output = finish(child);
        check(&output, 141, "");
        assert_eq!(text(&output.stderr), "");
    }
}

/// A guest whose console leads nowhere has no reader to lose.
#[test]
fn no_console_has_no_reader() {
    let (_dir, path) = kernel(&flood(MUCH));
    let (_, writer) = std::io::pipe().unwrap();
    let child = command(&path).args(["--console", "none"]).stdout(writer).spawn().unwrap();
    check(&finish(child), 0, "");
}

/// Lost output is said once, and is no success.
#[test]
fn a_full_disk_is_no_success() {
    let (_dir, path) = kernel(&flood(MUCH));
    let child = command(&path).stdout(File::create("/dev/full").unwrap()).spawn().unwrap();
    let output = finish(child);
    check(&output, 71, "");
    let stderr = text(&output.stderr);
    assert!(stderr.lines().count() == 1 && stderr.contains("standard output"), "{stderr}");
}

/// Messages that can't be written are no reason to crash.
#[test]
fn standard_error_may_be_full() {
    let (_dir, path) = kernel(&Code::new().print("up\n").no_idt().raw(&[0x0f, 0x0b]));
    let full = || Stdio::from(File::create("/dev/full").unwrap());
    let child = command(&path).args(["--json", "--timings"]).stderr(full()).spawn().unwrap();
    check(&finish(child), 70, "up\n");
}

#[test]
fn input_from_files_and_pipes() {
    let (dir, path) = kernel(&echo());
    // Many times what the port holds.
    let mut data: Vec<u8> = (0..3000).map(|i: u32| b'a' + (i % 26) as u8).collect();
    data.push(END);
    let file = dir.path().join("input");
    fs::write(&file, &data).unwrap();
    let want = format!("up\n{}", text(&data));

    let child = command(&path).stdin(File::open(&file).unwrap()).spawn().unwrap();
    check(&finish(child), 0, &want);

    let mut child = command(&path).stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let typist = thread::spawn(move || {
        for part in data.chunks(700) {
            stdin.write_all(part).unwrap();
            thread::sleep(Duration::from_millis(20));
        }
    });
    check(&finish(child), 0, &want);
    typist.join().unwrap();
}

/// No input is no reason to end, and neither is one that is no stream.
#[test]
fn no_input() {
    let (dir, path) = kernel(&Code::new().print("up\n").power_off());
    let closed = Command::new("sh")
        .args(["-c", "exec \"$@\" <&-", "sh", env!("CARGO_BIN_EXE_minivmm"), "run", "--kernel"])
        .arg(&path)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    check(&finish(closed), 0, "up\n");
    let folder = File::open(dir.path()).unwrap();
    check(&finish(command(&path).stdin(folder).spawn().unwrap()), 0, "up\n");
}

/// What the threads of that name have used.
fn processor_time(child: &Child, name: &str) -> Duration {
    let tasks = fs::read_dir(format!("/proc/{}/task", child.id())).unwrap();
    let time = |path: PathBuf| {
        let named = fs::read_to_string(path.join("comm")).ok()?.trim_end() == name;
        let stat = fs::read_to_string(path.join("schedstat")).ok().filter(|_| named)?;
        Some(Duration::from_nanos(stat.split(' ').next()?.parse().ok()?))
    };
    tasks.filter_map(|task| time(task.unwrap().path())).sum()
}

/// Input for a guest that does not listen, from somebody who has gone: nothing spins.
#[test]
fn a_deaf_guest_costs_nothing() {
    let (_dir, path) = kernel(&Code::new().print("up\n").halt());
    let mut child = command(&path).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(&[b'x'; 5000]).unwrap();
    wait_for(&mut child, "up\n");
    thread::sleep(Duration::from_millis(100));
    let before = processor_time(&child, "minivmm");
    thread::sleep(Duration::from_millis(300));
    let used = processor_time(&child, "minivmm") - before;
    signal(&child, Signal::TERM);
    check(&finish(child), 143, "");
    assert!(used < Duration::from_millis(50), "{used:?}");
}

/// A kernel on a pipe that nobody writes to: Ctrl-C still works.
#[test]
fn waiting_for_a_kernel_can_be_ended() {
    let (reader, _writer) = std::io::pipe().unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_minivmm"))
        .args(["run", "--kernel", "/dev/stdin"])
        .stdin(reader)
        .spawn()
        .unwrap();
    thread::sleep(Duration::from_millis(300));
    signal(&child, Signal::INT);
    assert!(!wait(&mut child).success());
}

#[test]
fn a_kernel_may_come_by_a_pipe() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_minivmm"))
        .args(["run", "--kernel", "/dev/stdin"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let code = Code::new().print("up\n").power_off();
    child.stdin.take().unwrap().write_all(&code.elf()).unwrap();
    check(&finish(child), 0, "up\n");
}

#[test]
fn the_terminal_must_be_one() {
    let (_dir, path) = kernel(&Code::new().power_off());
    let child = command(&path).args(["--console", "tty"]).spawn().unwrap();
    let output = finish(child);
    check(&output, 2, "");
    assert!(text(&output.stderr).contains("--console pipe"), "{output:?}");
}

#[test]
fn a_terminal_is_raw_and_restored() {
    let mut session = Session::start(&echo());
    session.see(b"up\n");
    assert!(session.is_raw());
    // Keys that a terminal would act on are the guest's: Ctrl-C, Ctrl-Z, a line that is not ended.
    session.type_in(b"\x03\x1ahello");
    session.see(b"\x03\x1ahello");
    // The escape for itself.
    session.type_in(b"[\x01\x01]");
    session.see(b"[\x01]");
    session.type_in(&[END]);
    assert_eq!(session.end().code(), Some(0));
}

#[test]
fn ctrl_a_x_leaves() {
    let mut session = Session::start(&echo());
    session.see(b"up\n");
    session.type_in(b"\x01x");
    assert_eq!(session.end().code(), Some(0));
    // Also where the guest takes no input any more.
    let mut session = Session::start(&Code::new().print("up\n").halt());
    session.see(b"up\n");
    for _ in 0..20 {
        session.type_in(&[b'k'; 200]);
        thread::sleep(Duration::from_millis(2));
    }
    session.type_in(b"\x01x");
    assert_eq!(session.end().code(), Some(0));
}

#[test]
fn signals_restore_the_terminal() {
    let cases = [
        (Signal::TERM, Some(143)),
        (Signal::HUP, Some(129)),
        (Signal::INT, Some(130)),
        (Signal::ABORT, None),
        (Signal::ALARM, None),
        (Signal::BUS, None),
        (Signal::SEGV, None),
        (Signal::USR1, None),
        (Signal::XCPU, None),
    ];
    for (number, status) in cases {
        let mut session = Session::start(&echo());
        session.see(b"up\n");
        assert!(session.is_raw());
        signal(&session.child, number);
        assert_eq!(session.end().code(), status, "{number:?}");
    }
}

#[test]
fn a_crash_restores_the_terminal() {
    let mut session = Session::start(&Code::new().print("up\n").no_idt().raw(&[0x0f, 0x0b]));
    session.see(b"minivmm: the guest crashed: triple fault\r\n");
    assert_eq!(session.end().code(), Some(70));
}

/// Nobody reads the screen: the machine still ends, with the terminal restored.
#[test]
fn a_stopped_terminal_can_be_left() {
    for keys in [true, false] {
        let mut session = Session::start(&talker());
        session.see(b"0123456789abcdef\n");
        thread::sleep(Duration::from_millis(300));
        if keys {
            session.type_in(b"\x01x");
        } else {
            signal(&session.child, Signal::TERM);
        }
        assert_eq!(session.end().code(), Some(if keys { 0 } else { 143 }));
    }
}

/// The probe's lines begin at the left on a raw terminal too; through a pipe they end as lines do.
#[test]
fn the_probes_lines_on_a_terminal() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_minivmm"));
    command.args(["run", "--console", "tty"]);
    let mut session = Session::with(command);
    session
        .see(b")\r\nlink      absent  no virtio-net device\r\nprobe: ok, 0 checks, 1 absent, in ");
    assert_eq!(session.end().code(), Some(0));
    let output = Command::new(env!("CARGO_BIN_EXE_minivmm")).arg("run").output().unwrap();
    let out = text(&output.stdout);
    assert!(out.contains("probe: ok, 0 checks, 1 absent") && !out.contains('\r'), "{out:?}");
}
