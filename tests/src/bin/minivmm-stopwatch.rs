//! Runs a command and says how long it took from `exec` until it had written a text.
//!
//! ```text
//! minivmm-stopwatch TEXT COMMAND [ARGUMENT]...
//! ```
//!
//! Prints `MILLISECONDS LINE` for the first line of the command's standard output that has TEXT in
//! it, once the command has ended. Its standard error is passed on, its status is not judged. The
//! clock is the monotonic one, which counts instructions in a lab that was started so.
#![expect(clippy::print_stdout, reason = "figures are what it is for")]

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result};

fn main() -> Result<()> {
    let mut arguments = std::env::args_os().skip(1);
    let text = arguments.next().and_then(|text| text.into_string().ok());
    let text = text.context("usage: minivmm-stopwatch TEXT COMMAND [ARGUMENT]...")?;
    let mut command = Command::new(arguments.next().context("no command")?);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped());
    let began = Instant::now();
    let mut child = command.spawn().with_context(|| format!("cannot run {command:?}"))?;
    let mut stdout = BufReader::new(child.stdout.take().context("no standard output")?);
    let (mut line, mut seen, mut all) = (Vec::new(), None, Vec::new());
    while stdout.read_until(b'\n', &mut line)? > 0 {
        let words = String::from_utf8_lossy(&line);
        if seen.is_none() && words.contains(&text) {
            seen = Some((began.elapsed(), words.trim().to_owned()));
        }
        all.append(&mut line);
    }
    child.wait()?;
    let (took, line) = seen.with_context(|| {
        format!("{command:?} did not write {text:?}:\n{}", String::from_utf8_lossy(&all))
    })?;
    println!("{:.1} {line}", took.as_secs_f64() * 1e3);
    Ok(())
}
