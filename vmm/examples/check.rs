//! An integration test's check of its network: the built-in probe boots behind a NAT in some
//! milliseconds and reports, an object a line, what works.
//!
//! `cargo run -p minivmm --example check`

use std::error::Error;
use std::io::{BufRead, BufReader};

use minivmm::{Machine, Nic};
use serde_json::Value;

fn main() -> Result<(), Box<dyn Error>> {
    let mut machine = Machine::builder()
        .nic(Nic::nat())
        .cmdline("probe.without=bulk")
        .probe_json()
        .console_stream()
        .start()?;
    let console = machine.take_console().ok_or("a console was asked for")?;
    let mut failed = Vec::new();
    for line in BufReader::new(console).lines() {
        let check: Value = serde_json::from_str(&line?)?;
        match check["state"].as_str() {
            Some("failed") => failed.push(check),
            Some(state) => println!("{} is {state}", check["check"]),
            // The last line is the sum of all.
            None => break,
        }
    }
    let outcome = machine.wait();
    if failed.is_empty() && outcome.status() == 0 {
        println!("the network works");
        return Ok(());
    }
    Err(format!("{failed:?} ({})", outcome.reason()).into())
}
