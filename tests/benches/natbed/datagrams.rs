//! UDP: as many datagrams as go through without loss.
//!
//! The sender stays a few batches ahead of the receiver, whose count it sees. A flood would measure
//! who drops what, on two CPUs that the sender takes for itself.

use std::net::UdpSocket;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use minivmm_tests::natbed::SERVER4;

use crate::batch::Batch;
use crate::carriers::{Carriers, Kind};
use crate::{Direction, ROUNDS, SECONDS, spread};

/// The server's port.
pub const PORT: u16 = 5202;
/// The client's, so that the relay has one client.
const CLIENT: u16 = 5203;
/// Payload in bytes: what fits a link of 1500.
const SIZE: usize = 1400;
/// Bytes that the sender may be ahead, less than any socket's buffer on the way holds.
const AHEAD: u64 = 32 * SIZE as u64;
/// After which time without an arrival what is under way is taken for lost.
const LOST: Duration = Duration::from_millis(20);
/// How long a receiver waits for what is still under way.
const IDLE: Duration = Duration::from_millis(200);

/// What carries datagrams here; the gateway comes first.
const KINDS: [Kind; 3] = [Kind::Minivmm, Kind::Relay, Kind::Pasta];

/// Streams through each in turns and prints what arrived.
pub fn measure(carriers: &Carriers, direction: Direction) -> Result<()> {
    let mut all = KINDS.map(|kind| (kind, Vec::new(), Vec::new()));
    for _ in 0..ROUNDS {
        for (kind, rates, cpu) in &mut all {
            let before = carriers.processor_time(*kind)?;
            let bytes = stream(carriers, *kind, direction).context(kind.name())?;
            let used = carriers.processor_time(*kind)?.saturating_sub(before);
            rates.push(bytes * 8.0 / 1e9 / f64::from(SECONDS));
            cpu.push(used.as_secs_f64() * 1e3 / (bytes / f64::from(1 << 30)));
        }
    }
    println!("UDP, {SIZE} bytes, MTU 1500, {direction}:");
    let mut medians = Vec::new();
    for (kind, rates, cpu) in &mut all {
        let (rate, low, high) = spread(rates);
        let (cpu, ..) = spread(cpu);
        medians.push((rate, cpu));
        let name = kind.name();
        println!("    {name:<9} {rate:>6.2} Gbit/s ({low:.2} to {high:.2}), {cpu:>4.0} ms/GiB");
    }
    println!(
        "    minivmm: {:.2} of the relay's throughput, {:.2} of its CPU",
        medians[0].0 / medians[1].0,
        medians[0].1 / medians[1].1
    );
    Ok(())
}

/// Bytes that arrived while one side sent as fast as the other received.
fn stream(carriers: &Carriers, kind: Kind, direction: Direction) -> Result<f64> {
    let server = carriers.server().run(|| UdpSocket::bind((SERVER4, PORT)))??;
    let address = (carriers.address(kind), PORT);
    let client = carriers.client(kind).run(|| {
        let client = UdpSocket::bind(("0.0.0.0", CLIENT))?;
        client.connect(address).map(|()| client)
    })??;
    // The client speaks first: the server answers to where that came from.
    server.set_read_timeout(Some(Duration::from_secs(5)))?;
    client.send(b"hello")?;
    let (_, from) = server.recv_from(&mut [0; 16]).context("the first datagram was lost")?;
    server.connect(from)?;
    let (sender, receiver) =
        if direction == Direction::Up { (client, server) } else { (server, client) };
    receiver.set_read_timeout(Some(IDLE))?;
    let arrived = AtomicU64::new(0);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut batch = Batch::new();
            while batch.receive(&receiver).is_ok() {
                arrived.fetch_add(batch.bytes() as u64, Ordering::Release);
            }
        });
        let mut batch = Batch::of(SIZE);
        let end = Instant::now() + Duration::from_secs(SECONDS.into());
        let (mut sent, mut progress) = (0, (0, Instant::now()));
        while Instant::now() < end {
            let there = arrived.load(Ordering::Acquire);
            if there != progress.0 {
                progress = (there, Instant::now());
            } else if progress.1.elapsed() > LOST {
                // What has not arrived by now never will.
                sent = there;
            }
            if sent - there.min(sent) > AHEAD {
                thread::yield_now();
                continue;
            }
            // An error is an earlier datagram's, or the buffer is full for a moment.
            if batch.send(&sender).is_ok() {
                sent += batch.bytes() as u64;
            }
        }
    });
    let bytes = arrived.into_inner();
    ensure!(bytes > 0, "nothing arrived");
    Ok(bytes as f64)
}
