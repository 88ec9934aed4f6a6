//! Standard error whose reader has stopped: it keeps no thread, and no user who wants to leave.
#![expect(clippy::unwrap_used, reason = "a test fails by it")]

mod common;

use std::io::{BufRead, BufReader, PipeReader, PipeWriter, Read, Write};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use common::{Code, command, kernel, run, signal, small_pipe, talker, text, wait};
use rustix::process::Signal;

/// A pipe that is full, which its writer blocks on.
fn full_pipe() -> (PipeReader, PipeWriter) {
    let (reader, mut writer) = small_pipe();
    writer.write_all(&[b'.'; 4096]).unwrap();
    (reader, writer)
}

/// Ends it, by one signal, well within the time that a supervisor gives.
#[track_caller]
fn terminate(child: &mut Child) -> Option<i32> {
    signal(child, Signal::TERM);
    let start = Instant::now();
    let status = wait(child).code();
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    status
}

/// As a supervisor does that takes both streams by one pipe, and waits before it reads.
#[test]
fn a_stopped_reader_of_both_streams() {
    for args in [&[][..], &["--json"], &["--timings", "-vv"]] {
        let (_dir, path) = kernel(&talker());
        let (mut reader, writer) = small_pipe();
        let stderr = writer.try_clone().unwrap();
        let mut child = command(&path).args(args).stdout(writer).stderr(stderr).spawn().unwrap();
        // Until the pipe is full, and what is kept for it.
        reader.read_exact(&mut [0; 1]).unwrap();
        thread::sleep(Duration::from_millis(500));
        assert_eq!(terminate(&mut child), Some(143), "{args:?}");
    }
}

/// Neither a worker with much to say, nor the end.
#[test]
fn a_stopped_reader_of_messages() {
    let (mut reader, writer) = full_pipe();
    let mut child = Command::new(env!("CARGO_BIN_EXE_minivmm"))
        .args(["run", "--net", "nat", "--cmdline", "probe.seconds=0.01", "-vv", "--json"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(writer)
        .spawn()
        .unwrap();
    // The report is complete though nobody takes a message.
    let report = BufReader::new(child.stdout.as_mut().unwrap());
    assert!(report.lines().any(|line| line.unwrap().contains("\"summary\"")));
    // The guest ended by itself, so the result waits for its reader.
    thread::sleep(Duration::from_millis(500));
    assert!(child.try_wait().unwrap().is_none());
    let reading = thread::spawn(move || {
        let mut rest = String::new();
        reader.read_to_string(&mut rest).unwrap();
        rest
    });
    assert_eq!(wait(&mut child).code(), Some(0));
    let rest = reading.join().unwrap();
    let lines: Vec<&str> = rest.trim_start_matches('.').lines().collect();
    assert!(lines[0].contains(" messages were lost"), "{rest}");
    assert!(lines.last().unwrap().contains("\"status\":0"), "{rest}");
}

/// Why the guest crashed is not lost to a slow reader; a signal ends the wait for it.
#[test]
fn the_last_message_waits() {
    for patient in [true, false] {
        let (_dir, path) = kernel(&Code::new().print("up\n").no_idt().raw(&[0x0f, 0x0b]));
        let (mut reader, writer) = full_pipe();
        let mut child = command(&path).stderr(writer).spawn().unwrap();
        child.stdout.as_mut().unwrap().read_exact(&mut [0; 3]).unwrap();
        thread::sleep(Duration::from_millis(500));
        assert!(child.try_wait().unwrap().is_none());
        if patient {
            let mut rest = Vec::new();
            reader.read_to_end(&mut rest).unwrap();
            assert!(text(&rest).contains("triple fault"), "{}", text(&rest));
            assert_eq!(wait(&mut child).code(), Some(70));
        } else {
            assert_eq!(terminate(&mut child), None);
        }
    }
}

#[test]
fn what_guest_memory_is_made_of() {
    let code = Code::new().power_off();
    let said = text(&run(&code, &["-v"]).stderr);
    assert!(said.contains("minivmm: guest memory: 256 MiB, anonymous, "), "{said}");
    assert!(!text(&run(&code, &[]).stderr).contains("guest memory"));
}
