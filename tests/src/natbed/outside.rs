//! Running the calling program again inside namespaces of its own.

use std::ffi::OsString;
use std::io::Read;
use std::process::{Command, Stdio};
use std::sync::Once;
use std::time::Duration;
use std::{env, process, thread};

use anyhow::{Context, Result};

use super::tool;
use crate::user;

/// Set for the program that runs inside.
const INSIDE: &str = "MINIVMM_NATBED_INSIDE";

/// A test that takes longer has failed.
const TEST_MAX: Duration = Duration::from_secs(180);

/// Where [`isolated`] returned.
#[derive(Debug)]
pub enum Run {
    /// In the namespaces: the caller goes on here.
    Inside,
    /// Outside, when the program inside has ended.
    Outside(process::ExitStatus),
}

/// Runs this program again with `args` as root of a new user, network, mount and PID namespace of an
/// ordinary user's, unless that has happened already.
///
/// # Errors
/// Where `unshare` is missing or can't be run.
pub fn isolated(args: &[OsString]) -> Result<Run> {
    if env::var_os(INSIDE).is_some() {
        return Ok(Run::Inside);
    }
    let mut child = command(args)?.spawn().context("cannot run unshare")?;
    let pipe = child.stdin.take();
    let status = child.wait()?;
    drop(pipe);
    Ok(Run::Outside(status))
}

fn command(args: &[OsString]) -> Result<Command> {
    for needed in ["unshare", "setpriv"] {
        tool(needed)?;
    }
    let (words, program) = user::ordinary(&env::current_exe()?)?;
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]);
    command.args(["unshare", "--user", "--map-root-user", "--net", "--mount", "--pid", "--fork"]);
    command.args(["--kill-child", "--mount-proc", "--"]);
    command.arg(program).args(args).env(INSIDE, "1");
    // The child ends when this pipe does, however we end. Waiting would close it: take it before.
    command.stdin(Stdio::piped());
    Ok(command)
}

/// Ends this process, and with it all of its PID namespace, when the one outside has ended.
pub(super) fn end_with_parent() {
    static WATCH: Once = Once::new();
    WATCH.call_once(|| {
        thread::spawn(|| {
            let mut stdin = std::io::stdin();
            while matches!(stdin.read(&mut [0; 64]), Ok(n) if n > 0) {}
            process::exit(101);
        });
    });
}

/// Runs `body`, which is that of the test `name` of a libtest program, in namespaces of its own.
///
/// # Panics
/// When the body fails, or there is no such test.
pub fn test(name: &str, body: impl FnOnce() -> Result<()>) {
    test_for(TEST_MAX, name, body);
}

/// The same for a test that may take longer than others, or must not.
///
/// # Panics
/// As [`test`].
pub fn test_for(longest: Duration, name: &str, body: impl FnOnce() -> Result<()>) {
    if env::var_os(INSIDE).is_some() {
        end_with_parent();
        // Who the namespace's root is outside of it.
        let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
        let outside = map.split_whitespace().nth(1);
        assert!(outside.is_some_and(|user| user != "0"), "not an ordinary user: {map:?}");
        thread::spawn(move || {
            thread::sleep(longest);
            eprintln!("the test is not finished after {longest:?}");
            process::exit(102);
        });
        body().unwrap_or_else(|error| panic!("{error:#}"));
        return;
    }
    let args = ["--exact", name, "--nocapture", "--test-threads=1"].map(OsString::from);
    let output = command(&args)
        .and_then(|mut command| {
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).env("RUST_BACKTRACE", "0");
            let mut child = command.spawn().context("cannot run unshare")?;
            let pipe = child.stdin.take();
            let output = child.wait_with_output()?;
            drop(pipe);
            Ok(output)
        })
        .unwrap_or_else(|error| panic!("{error:#}"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{name} in its namespaces: {}\n{out}{err}", output.status);
    assert!(out.contains("1 passed"), "there is no test {name}");
}
