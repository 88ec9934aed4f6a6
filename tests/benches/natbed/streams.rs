//! TCP, one stream.

use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::calls;
use crate::carriers::{Carriers, Kind};
use crate::{Direction, ROUNDS, SECONDS, spread};

/// How often a server is tried that has a client still.
const TRIES: usize = 20;

/// What runs of one carrier showed.
#[derive(Default)]
struct Runs {
    gbits: Vec<f64>,
    cpu: Vec<f64>,
}

/// Runs `kinds` in turns and prints what they carried.
pub fn measure(carriers: &Carriers, direction: Direction, kinds: &[Kind]) -> Result<()> {
    let mut all: Vec<(Kind, Runs)> = kinds.iter().map(|k| (*k, Runs::default())).collect();
    for _ in 0..ROUNDS {
        for (kind, runs) in &mut all {
            let before = carriers.processor_time(*kind)?;
            let (bits, bytes) = run(carriers, *kind, direction).context(kind.name())?;
            let used = carriers.processor_time(*kind)?.saturating_sub(before);
            runs.gbits.push(bits / 1e9);
            runs.cpu.push(used.as_secs_f64() * 1e3 / (bytes / f64::from(1 << 30)));
        }
    }
    let medians: Vec<(f64, f64)> = all.iter_mut().map(|(kind, runs)| row(*kind, runs)).collect();
    let relay = kinds.iter().position(|k| *k == Kind::Relay).context("no yardstick")?;
    println!(
        "    minivmm: {:.2} of the relay's throughput, {:.2} of its CPU",
        medians[0].0 / medians[relay].0,
        medians[0].1 / medians[relay].1
    );
    let counted = thread::scope(|scope| {
        let stream = scope.spawn(|| run(carriers, Kind::Minivmm, direction));
        // Past its start.
        thread::sleep(Duration::from_millis(400));
        let counted = calls::count(carriers);
        stream.join().ok().context("the stream panicked")??;
        counted
    });
    let (all, calls) = counted?;
    println!("    minivmm: {}", calls::describe(all, &calls));
    Ok(())
}

/// Prints the figures of one carrier and returns their medians.
fn row(kind: Kind, runs: &mut Runs) -> (f64, f64) {
    let (gbits, low, high) = spread(&mut runs.gbits);
    print!("    {:<9} {gbits:>6.2} Gbit/s ({low:.2} to {high:.2})", kind.name());
    let (cpu, low, high) = spread(&mut runs.cpu);
    if cpu > 0.0 {
        print!(", {cpu:>4.0} ms/GiB ({low:.0} to {high:.0})");
    }
    println!();
    (gbits, cpu)
}

/// Bits a second and bytes that arrived.
fn run(carriers: &Carriers, kind: Kind, direction: Direction) -> Result<(f64, f64)> {
    let flags = match direction {
        Direction::Up => "",
        Direction::Down => "-R",
    };
    let server = carriers.address(kind);
    let script = format!("iperf3 -J -c {server} -t {SECONDS} {flags}");
    for _ in 0..TRIES {
        let (_, text) = carriers.client(kind).try_sh(&script)?;
        let report: Value = serde_json::from_str(&text).context(text)?;
        let sum = &report["end"]["sum_received"];
        if let (Some(bits), Some(bytes)) = (sum["bits_per_second"].as_f64(), sum["bytes"].as_f64())
        {
            return Ok((bits, bytes));
        }
        let error = report["error"].as_str().unwrap_or("no figures");
        // It serves one client at a time, and is a little late to notice that the last has gone.
        ensure!(error.contains("busy"), "iperf3: {error}");
        thread::sleep(Duration::from_millis(100));
    }
    bail!("iperf3's server stays busy")
}
