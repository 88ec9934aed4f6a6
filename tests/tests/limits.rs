//! What the host allows this process: with less than a machine takes, a run ends soon, with a line
//! that says what to allow.
#![expect(clippy::unwrap_used, reason = "a test fails by it")]

use std::time::Duration;

use anyhow::{Result, ensure};
use minivmm_tests::cli::{Minivmm, Outcome};

/// Longer than a machine takes to start and to report, much shorter than for ever.
const PATIENCE: Duration = Duration::from_secs(30);
/// The host refused a resource.
const HOST: i32 = 71;

/// It ran, or it did not and `cure` is named.
fn runs_or_says(outcome: &Outcome, cure: &str) -> Result<bool> {
    match outcome.status {
        Some(0) => return Ok(true),
        // The machine runs, but something of the monitor's could not be had.
        Some(1) => {}
        status => {
            ensure!(status == Some(HOST), "status {status:?}: {outcome}");
            // Before it may come warnings of what a machine can do without.
            let errors = outcome.stderr.lines().filter(|line| !line.contains(": warn: "));
            ensure!(errors.count() == 1, "not one line: {outcome}");
            ensure!(outcome.stdout.is_empty(), "something on stdout: {outcome}");
        }
    }
    ensure!(outcome.stderr.contains(cure), "{cure} is not named: {outcome}");
    Ok(false)
}

/// Each limit of `option` from the first of `values` on, until it runs with three in a row.
fn from_nothing_to_enough(
    option: &str,
    values: impl IntoIterator<Item = u32>,
    args: &[&str],
    cure: &str,
) {
    let (mut ran, mut refused) = (0, 0);
    for n in values {
        let limit = format!("--{option}={n}");
        let run = Minivmm::run().args(args).limits(&[&limit]).patience(PATIENCE);
        let outcome = run.finish().unwrap();
        match runs_or_says(&outcome, cure) {
            Ok(true) => ran += 1,
            Ok(false) => (ran, refused) = (0, refused + 1),
            Err(e) => panic!("{limit}: {e:#}"),
        }
        if ran == 3 {
            assert!(refused > 0, "no limit of {option} was too low");
            return;
        }
    }
    panic!("{option}: the highest limit is not enough");
}

/// KVM's own thread, made when the guest first runs, is one of them.
#[test]
fn threads() {
    from_nothing_to_enough("nproc", 1..32, &["--net", "nat"], "ulimit -u");
    from_nothing_to_enough("nproc", 1..32, &["--cpus", "2"], "ulimit -u");
}

#[test]
fn descriptors() {
    from_nothing_to_enough("nofile", 5..128, &["--net", "nat"], "ulimit -n");
    from_nothing_to_enough("nofile", 5..128, &[], "ulimit -n");
}

/// What was asked for is not cut in silence; the default is, and `-v` says so.
#[test]
fn flows() {
    let run = || Minivmm::run().limits(&["--nofile=1024"]).patience(PATIENCE);
    let outcome = run().args(["--net", "nat,max-flows=10000"]).finish().unwrap();
    let outcome = outcome.expect_status(HOST).unwrap();
    assert_eq!(outcome.stderr.lines().count(), 1, "{outcome}");
    assert!(outcome.stderr.contains("12500 flows"), "{outcome}");
    assert!(outcome.stderr.contains("ulimit -Hn 12"), "{outcome}");
    let outcome = run().args(["--net", "nat,max-flows=200/50"]).finish().unwrap();
    assert_eq!(outcome.expect_status(0).unwrap().stderr, "");
    let outcome = run().args(["--net", "nat", "-v"]).finish().unwrap().expect_status(0).unwrap();
    assert!(outcome.stderr.contains("not 4096 and 1024"), "{outcome}");
}
