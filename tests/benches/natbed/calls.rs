//! System calls of the gateway's worker for each MiB, counted by strace in a run of its own, as that
//! slows what it looks at.

use std::fs;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use minivmm_tests::natbed::tool;
use rustix::process::{Pid, Signal, kill_process};

use crate::carriers::Carriers;

/// How long the worker is looked at.
const TIME: Duration = Duration::from_secs(1);

/// Calls of the worker for each MiB of frames, in all and by name, most frequent first; called
/// while a stream runs.
pub fn count(carriers: &Carriers) -> Result<(f64, Vec<(String, f64)>)> {
    let table = tempfile::NamedTempFile::new()?;
    let mut command = Command::new(tool("strace")?);
    command.args(["-qq", "-c", "-U", "calls,name", "-o"]).arg(table.path());
    command.args(["-p", &carriers.worker()?]).stdin(Stdio::null());
    let mut strace = command.spawn()?;
    // Until it has attached.
    thread::sleep(Duration::from_millis(200));
    let before = carriers.frame_bytes();
    thread::sleep(TIME);
    let bytes = carriers.frame_bytes() - before;
    let pid = Pid::from_child(&strace);
    kill_process(pid, Signal::INT)?;
    strace.wait()?;
    ensure!(bytes > 0, "no frames crossed");
    // It counts from when it attached to when it was told to end: a little longer than we do.
    let mebibytes = bytes as f64 / f64::from(1 << 20);
    let mut calls = parse(&fs::read_to_string(table.path())?);
    for (_, count) in &mut calls {
        *count /= mebibytes;
    }
    let all = calls.iter().map(|(_, count)| count).sum();
    ensure!(!calls.is_empty(), "strace counted nothing");
    Ok((all, calls))
}

/// The rows of strace's table: a count and a name.
fn parse(text: &str) -> Vec<(String, f64)> {
    let row = |line: &str| {
        let mut words = line.split_whitespace();
        let count = words.next()?.parse().ok()?;
        let name = words.next()?;
        (name != "total").then(|| (name.to_owned(), count))
    };
    text.lines().filter_map(row).collect()
}

/// The same as text.
pub fn describe(all: f64, calls: &[(String, f64)]) -> String {
    let names: Vec<String> =
        calls.iter().take(5).map(|(name, count)| format!("{name} {count:.1}")).collect();
    format!("{all:.1} system calls for each MiB: {}", names.join(", "))
}
