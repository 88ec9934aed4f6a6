//! Every way a machine ends, and the exit status for it.
#![expect(clippy::unwrap_used, reason = "a test fails by it")]

use std::time::Duration;

use minivmm::probe;
use minivmm_tests::cli::{Minivmm, Outcome, Running};
use rustix::process::Signal;

/// The probe as a kernel of the user's, told what to do.
struct Probe {
    dir: tempfile::TempDir,
}

impl Probe {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("probe"), probe::ELF).unwrap();
        Self { dir }
    }

    fn run(&self, cmdline: &str) -> Minivmm {
        let kernel = self.dir.path().join("probe");
        Minivmm::run()
            .args(["--kernel", &kernel.to_string_lossy(), "--cmdline", cmdline])
            .args(["--console", "pipe"])
    }

    fn end(&self, cmdline: &str, status: i32) -> Outcome {
        self.run(cmdline).finish().unwrap().expect_status(status).unwrap()
    }
}

#[test]
fn power_off() {
    let outcome = Probe::new().end("probe=none probe.end=poweroff", 0);
    assert!(outcome.stdout.contains("probe: ok"), "{outcome}");
    assert_eq!(outcome.stderr, "", "{outcome}");
}

#[test]
fn time_that_is_over() {
    let outcome = Probe::new().run("probe=hold").args(["--timeout", "1s"]).finish().unwrap();
    let outcome = outcome.expect_status(124).unwrap();
    assert!(outcome.elapsed >= Duration::from_secs(1), "{outcome}");
}

#[test]
fn reset() {
    Probe::new().end("probe=none probe.end=reboot", 0);
}

#[test]
fn triple_fault() {
    let outcome = Probe::new().end("probe=none probe.end=triplefault", 70);
    assert_eq!(outcome.stderr.lines().count(), 1, "{outcome}");
    assert!(outcome.stderr.contains("triple fault"), "{outcome}");
}

/// A failed check of the report is the run's status.
#[test]
fn failed_check() {
    Probe::new().end("probe=report probe.expect=link", 1);
}

/// Without a NIC there is nothing to serve, ever; what is to hold says what it holds, and does.
#[test]
fn staying_without_a_nic() {
    let probe = Probe::new();
    for cmdline in ["probe=serve", "probe=sink", "probe=hold probe.nic=1"] {
        let outcome = probe.end(cmdline, 1);
        assert!(outcome.stdout.contains("link      FAILED"), "{outcome}");
    }
    let mut running = probe.run("probe=hold").start().unwrap();
    running.wait_for("ready     ok      without a NIC").unwrap();
    running.signal(Signal::TERM).unwrap();
    running.finish().unwrap().expect_status(143).unwrap();
}

/// A guest that has no address yet is not ready. Below this MTU the probe's DHCP can't work.
#[test]
fn not_ready_without_an_address() {
    let probe = Probe::new();
    let run = probe.run("probe=hold probe.wait=0.1").args(["--net", "nat,mtu=300"]);
    let mut running = run.start().unwrap();
    running.wait_for("ready     absent").unwrap();
    std::thread::sleep(Duration::from_millis(100));
    running.signal(Signal::TERM).unwrap();
    let outcome = running.finish().unwrap().expect_status(143).unwrap();
    assert!(!outcome.stdout.contains("ready     ok"), "{outcome}");
}

fn holding(probe: &Probe, args: &[&str]) -> Running {
    let run = probe.run("probe=hold").args(args).patience(Duration::from_secs(20));
    let mut running = run.start().unwrap();
    running.wait_for("probe: up").unwrap();
    running
}

#[test]
fn signals() {
    let probe = Probe::new();
    for (signal, status) in
        [(Signal::TERM, 143), (Signal::INT, 130), (Signal::HUP, 129), (Signal::QUIT, 131)]
    {
        for cpus in ["1", "4"] {
            let running = holding(&probe, &["--net", "nat", "--cpus", cpus]);
            running.signal(signal).unwrap();
            let outcome = running.finish().unwrap();
            assert_eq!(outcome.status, Some(status), "{signal:?}, {cpus} CPUs: {outcome}");
            assert_eq!(outcome.stderr, "", "{signal:?}, {cpus} CPUs: {outcome}");
        }
    }
}

/// A signal at any moment of the start ends it as well.
#[test]
fn signals_while_starting() {
    let probe = Probe::new();
    for millis in (0..40).step_by(2) {
        let running = probe.run("probe=hold").args(["--net", "nat"]).start().unwrap();
        std::thread::sleep(Duration::from_millis(millis));
        running.signal(Signal::TERM).unwrap();
        let outcome = running.finish().unwrap();
        // Before it watches signals, the signal itself ends it: that one, not an abort's.
        let ends = [(Some(143), None), (None, Some(Signal::TERM.as_raw()))];
        let end = (outcome.status, outcome.signal);
        assert!(ends.contains(&end), "after {millis} ms: {outcome}");
        assert_eq!(outcome.stderr, "", "after {millis} ms: {outcome}");
    }
}

/// A CPU that is halted with interrupts off can still be stopped.
#[test]
fn halted_guest() {
    let probe = Probe::new();
    let run = probe.run("probe=none probe.end=halt").patience(Duration::from_secs(20));
    let mut running = run.start().unwrap();
    running.wait_for("probe: ok").unwrap();
    running.signal(Signal::TERM).unwrap();
    running.finish().unwrap().expect_status(143).unwrap();
}

/// Even a kill leaves nothing but the name, which the next command removes: what a machine holds
/// goes with its process.
#[test]
fn killed_outright() {
    let running = holding(&Probe::new(), &["--net", "nat"]);
    running.signal(Signal::KILL).unwrap();
    let outcome = running.finish().unwrap();
    assert_eq!(outcome.signal, Some(Signal::KILL.as_raw()), "{outcome}");
    assert_eq!(outcome.stderr, "", "{outcome}");
}
