//! TCP through the NAT as the probe measures it against the peer on this host, beside two sockets
//! on the loopback that do the same: all bytes are compared with what they should be on both.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use minivmm_tests::cli;

use crate::median;

/// Runs that a median is taken of; the probe and the loopback take turns.
const ROUNDS: usize = 5;
/// How long each transfer takes.
const TIME: Duration = Duration::from_secs(1);
/// Round trips of a byte; the probe makes as many.
const TRIPS: usize = 100;
/// The congestion control of all sockets here, which does not pace: see `benches/natbed`.
const RENO: &str = "reno";
const CONTROL: &str = "/proc/sys/net/ipv4/tcp_congestion_control";
/// What a socket is given and asked for at a time.
const CHUNK: usize = 256 * 1024;

/// What one run showed: Gbit/s each way, and the round trip's median and 99th percentile in
/// microseconds.
#[derive(Default)]
struct Figures {
    up: Vec<f64>,
    down: Vec<f64>,
    p50: Vec<f64>,
    p99: Vec<f64>,
}

/// Prints the figures of both MTUs, and with the host's own congestion control beside.
pub fn measure() -> Result<()> {
    let default = fs::read_to_string(CONTROL)?.trim().to_owned();
    for control in [RENO, default.as_str()] {
        fs::write(CONTROL, control).context("cannot choose the congestion control")?;
        for mtu in ["1500", "65520"] {
            compare(control, mtu)?;
        }
        if control == default {
            break;
        }
    }
    Ok(())
}

fn compare(control: &str, mtu: &str) -> Result<()> {
    let (mut nat, mut loopback) = (Figures::default(), Figures::default());
    for _ in 0..ROUNDS {
        through_nat(mtu, &mut nat)?;
        plain(&mut loopback)?;
    }
    println!("probe through the NAT, MTU {mtu}, {control}, beside the loopback:");
    let [up, down] = [&mut nat.up, &mut nat.down].map(|v| median(v));
    let plain = median(&mut loopback.up);
    println!("    up {up:.1}, down {down:.1}, loopback {plain:.1} Gbit/s");
    println!("    up {:.2} of down, down {:.2} of the loopback", up / down, down / plain);
    let trip = |f: &mut Figures| (median(&mut f.p50), median(&mut f.p99));
    let ((p50, p99), (plain50, plain99)) = (trip(&mut nat), trip(&mut loopback));
    println!(
        "    round trip of a byte: p50 {p50:.0} us, p99 {p99:.0} us; loopback {plain50:.0} and \
         {plain99:.0} us"
    );
    Ok(())
}

fn through_nat(mtu: &str, figures: &mut Figures) -> Result<()> {
    let run = cli::Minivmm::run()
        .args(["--net", &format!("nat,mtu={mtu}"), "--json"])
        .args(["--cmdline", &format!("probe.seconds={}", TIME.as_secs())])
        .finish()?
        .expect_status(0)?;
    let lines = run.json();
    let read = |check: &str, member: &str| {
        let line = lines.iter().find(|l| l["check"] == check);
        line.and_then(|l| l[member].as_f64()).with_context(|| format!("no {check}: {run}"))
    };
    figures.up.push(read("upload", "mbit_per_s")? / 1e3);
    figures.down.push(read("download", "mbit_per_s")? / 1e3);
    figures.p50.push(read("latency", "p50_us")?);
    figures.p99.push(read("latency", "p99_us")?);
    Ok(())
}

/// The same with two threads and two sockets of this process.
fn plain(figures: &mut Figures) -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let near = TcpStream::connect(listener.local_addr()?)?;
    let (far, _) = listener.accept()?;
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    let mut trips = round_trips(&near, &far)?;
    trips.sort_by(f64::total_cmp);
    figures.p50.push(trips[TRIPS / 2]);
    figures.p99.push(trips[TRIPS * 99 / 100]);
    figures.up.push(transfer(near, far)?);
    Ok(())
}

/// Microseconds that a byte takes there and back.
fn round_trips(mut near: &TcpStream, mut far: &TcpStream) -> Result<Vec<f64>> {
    thread::scope(|scope| {
        let echo = scope.spawn(move || {
            let mut byte = [0];
            for _ in 0..TRIPS {
                far.read_exact(&mut byte)?;
                far.write_all(&byte)?;
            }
            anyhow::Ok(())
        });
        let mut trips = Vec::with_capacity(TRIPS);
        for n in 0..TRIPS {
            let began = Instant::now();
            let mut byte = [n as u8];
            near.write_all(&byte)?;
            near.read_exact(&mut byte)?;
            trips.push(began.elapsed().as_secs_f64() * 1e6);
        }
        echo.join().ok().context("the echo panicked")??;
        Ok(trips)
    })
}

/// Gbit/s from one socket to another, every byte compared.
fn transfer(mut from: TcpStream, mut to: TcpStream) -> Result<f64> {
    // Twice, so that a piece of it may begin anywhere in the first half.
    let pattern: Vec<u8> = (0..2 * CHUNK).map(|i| ((i % CHUNK * 31) >> 3) as u8).collect();
    let pattern = &pattern;
    thread::scope(|scope| {
        scope.spawn(move || {
            let end = Instant::now() + TIME;
            while Instant::now() < end && from.write_all(&pattern[..CHUNK]).is_ok() {}
        });
        let (mut buffer, mut bytes, began) = (vec![0; CHUNK], 0, Instant::now());
        loop {
            let n = to.read(&mut buffer)?;
            if n == 0 {
                break;
            }
            let at = bytes % CHUNK;
            ensure!(buffer[..n] == pattern[at..at + n], "the loopback mixed up bytes");
            bytes += n;
        }
        Ok(bytes as f64 * 8.0 / 1e9 / began.elapsed().as_secs_f64())
    })
}
