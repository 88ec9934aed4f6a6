//! `minivmm run --net nat` with the built-in probe: the sentence everything is judged by, on any
//! machine that has /dev/kvm.

use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use minivmm_tests::cli::{Minivmm, Outcome};
use rustix::process::Signal;

/// What must hold on a machine without internet.
const MUST_HOLD: [&str; 12] = [
    "boot", "link", "lease", "gateway", "mtu", "dns", "udp", "tcp", "latency", "upload",
    "download", "device",
];

fn complete(outcome: &Outcome) -> Result<()> {
    let lines = outcome.json();
    for name in MUST_HOLD {
        let line = lines.iter().find(|l| l["check"] == name);
        let line = line.with_context(|| format!("no {name} in the report: {outcome}"))?;
        ensure!(line["state"] == "ok", "{name} is not ok: {outcome}");
    }
    ensure!(!lines.iter().any(|l| l["state"] == "failed"), "a check failed: {outcome}");
    let last = lines.last().context("nothing in JSON")?;
    ensure!(last["check"] == "summary" && last["ok"] == true, "no good summary: {outcome}");
    Ok(())
}

#[test]
fn json() {
    let run = Minivmm::run().args(["--net", "nat", "--json"]);
    complete(&run.finish().unwrap().expect_status(0).unwrap()).unwrap();
}

#[test]
fn table() {
    let outcome = Minivmm::run().args(["--net", "nat"]).finish().unwrap().expect_status(0).unwrap();
    for name in &MUST_HOLD[1..] {
        let row = outcome.stdout.lines().find(|l| l.split_whitespace().next() == Some(name));
        let row = row.unwrap_or_else(|| panic!("no {name} in {outcome}"));
        assert_eq!(row.split_whitespace().nth(1), Some("ok"), "{outcome}");
    }
    assert!(outcome.stdout.contains("probe: ok"), "{outcome}");
    assert_eq!(outcome.stderr, "", "{outcome}");
}

#[test]
fn over_mmio() {
    let run = Minivmm::run().args(["--net", "nat", "--json", "--transport", "mmio"]);
    complete(&run.finish().unwrap().expect_status(0).unwrap()).unwrap();
}

/// An unprivileged user who may open /dev/kvm: no capability in any set, and where the tests run as
/// root, another user.
#[test]
fn without_privilege() {
    let run = Minivmm::run().args(["--net", "nat", "--json"]).as_user();
    complete(&run.finish().unwrap().expect_status(0).unwrap()).unwrap();
}

/// Ctrl-Z and `fg`, or a debugger: whatever the machine and the peer are at, they go on with it.
#[test]
fn stopped_and_continued() {
    let cmdline = "probe.seconds=1 probe.spin=0";
    let run = Minivmm::run().args(["--net", "nat", "--json", "--cmdline", cmdline]);
    let mut running = run.start().unwrap();
    running.wait_for("\"latency\"").unwrap();
    for _ in 0..16 {
        running.signal(Signal::STOP).unwrap();
        thread::sleep(Duration::from_millis(50));
        running.signal(Signal::CONT).unwrap();
        thread::sleep(Duration::from_millis(50));
    }
    complete(&running.finish().unwrap().expect_status(0).unwrap()).unwrap();
}

/// Several machines at once do not disturb each other.
#[test]
fn four_at_once() {
    let start = || Minivmm::run().args(["--net", "nat", "--json"]).start().unwrap();
    let running: Vec<_> = (0..4).map(|_| start()).collect();
    for run in running {
        complete(&run.finish().unwrap().expect_status(0).unwrap()).unwrap();
    }
}

/// What is expected must have been checked, whatever was in its way; what is no check is refused.
#[test]
fn expectations() {
    let (nat, none) = (&["--net", "nat"][..], &[][..]);
    for (net, cmdline, failed) in [
        (none, "probe.expect=dns,ipv6", &["dns", "ipv6"][..]),
        (none, "probe=none probe.expect=boot,link", &["link"]),
        (nat, "probe.without=ipv6,bulk probe.expect=boot,ipv6,upload", &["upload", "ipv6"]),
        (nat, "probe.without=dhcp,bulk probe.expect=mtu", &["mtu"]),
        (nat, "probe.without=dhcp,bulk", &[]),
        (none, "probe.want=dns,udp", &["dns", "udp"]),
        (none, "probe.want=dns,ipv6 probe.without=dhcp,ipv6", &[]),
        (nat, "probe=none probe.expect=dsn", &["cmdline"]),
        (nat, "probe=none probe.name=a..b", &["cmdline"]),
        (nat, "probe=none probe.wait=99999999", &["cmdline"]),
        (nat, "probe=none probe.expect=boot", &[]),
    ] {
        let run = Minivmm::run().args(net).args(["--json", "--cmdline", cmdline]);
        let outcome = run.finish().unwrap().expect_status(i32::from(!failed.is_empty())).unwrap();
        let lines = outcome.json();
        let names =
            lines.iter().filter(|l| l["state"] == "failed").filter_map(|l| l["check"].as_str());
        assert_eq!(names.collect::<Vec<_>>(), failed, "{outcome}");
    }
}
