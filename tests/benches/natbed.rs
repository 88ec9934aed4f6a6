//! TCP through the gateway beside pasta doing the same, and beside plain loopback.
//!
//! The client runs in a network namespace behind a TAP, the server always in another one behind
//! a veth; only what carries the bytes from the TAP to the host's sockets differs. Runs are short
//! and take turns, so that a busy machine is busy for all; the figures are medians.

use std::ffi::OsString;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use minivmm_tests::natbed::{Bed, Netns, Options, Place, Run, SERVER4, isolated, tool};

const MTUS: [u16; 2] = [1500, 65520];
const ROUNDS: usize = 5;
const SECONDS: u32 = 2;

/// What carries the bytes.
struct Contender {
    name: &'static str,
    client: Netns,
    server: &'static str,
}

fn main() -> Result<()> {
    // cargo gives `--bench`, and filters that mean nothing here.
    let args: Vec<OsString> = std::env::args_os().skip(1).collect();
    if args.iter().any(|arg| arg == "--list") {
        return Ok(());
    }
    tool("iperf3")?;
    tool("pasta")?;
    if let Run::Outside(status) = isolated(&args)? {
        std::process::exit(status.code().unwrap_or(1));
    }
    println!("TCP, one stream, Gbit/s, median of {ROUNDS} runs of {SECONDS} s (lowest to highest)");
    for mtu in MTUS {
        measure(mtu)?;
    }
    Ok(())
}

fn measure(mtu: u16) -> Result<()> {
    let mut bed = Bed::start(&Options { mtu, ..Options::default() }, |_| {})?;
    bed.serve_iperf3()?;
    let pasta = start_pasta(&mut bed, mtu)?;
    let guest = bed.guest.try_clone()?;
    let internet = bed.internet.try_clone()?;
    let contenders = [
        Contender { name: "minivmm", client: guest, server: SERVER4 },
        Contender { name: "pasta", client: pasta, server: SERVER4 },
        Contender { name: "loopback", client: internet, server: "127.0.0.1" },
    ];
    for (direction, flags) in [("guest to host", ""), ("host to guest", "-R")] {
        let mut runs = [const { Vec::new() }; 3];
        for _ in 0..ROUNDS {
            for (contender, runs) in contenders.iter().zip(&mut runs) {
                runs.push(run(contender, flags).context(contender.name)?);
            }
        }
        for runs in &mut runs {
            runs.sort_by(f64::total_cmp);
        }
        let median = |i: usize| runs[i][ROUNDS / 2];
        print!("MTU {mtu:>5}, {direction}:");
        for (contender, runs) in contenders.iter().zip(&runs) {
            let (low, high) = (runs[0], runs[ROUNDS - 1]);
            print!("  {} {:.2} ({low:.2} to {high:.2})", contender.name, runs[ROUNDS / 2]);
        }
        println!(
            "  = {:.2} of pasta, {:.2} of loopback",
            median(0) / median(1),
            median(0) / median(2)
        );
    }
    Ok(())
}

/// A namespace that pasta connects, configured like the guest's.
fn start_pasta(bed: &mut Bed, mtu: u16) -> Result<Netns> {
    let ns = Netns::new()?;
    ns.sh("ip link set lo up")?;
    // Pasta may not follow /proc/PID/ns; a mount of it is open to all.
    let path = bed.dir().join("pasta-ns");
    std::fs::write(&path, "")?;
    let (holder, at) = (ns.holder(), path.display());
    bed.host.sh(&format!("mount --bind /proc/{holder}/ns/net {at}"))?;
    let mut command = Command::new(tool("pasta")?);
    command.args(["--foreground", "--quiet", "--config-net", "--netns-only", "--runas", "0"]);
    command.args(["--mtu", &mtu.to_string(), "--netns"]).arg(&path);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    bed.keep(Place::Host, &mut command)?;
    for _ in 0..100 {
        if ns.sh("ip route show default")?.contains("default") {
            break;
        }
        thread::sleep(Duration::from_millis(50));
    }
    Ok(ns)
}

/// Gbit/s that arrived.
fn run(contender: &Contender, flags: &str) -> Result<f64> {
    let server = contender.server;
    let text = contender.client.sh(&format!("iperf3 -J -c {server} -t {SECONDS} {flags}"))?;
    let report: serde_json::Value = serde_json::from_str(&text)?;
    let bits = report["end"]["sum_received"]["bits_per_second"].as_f64();
    Ok(bits.context("iperf3 reports no bits_per_second")? / 1e9)
}
