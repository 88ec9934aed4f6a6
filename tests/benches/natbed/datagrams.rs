//! UDP: as many datagrams as go through.

use std::net::UdpSocket;
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
/// How long a receiver waits for what is still under way.
const IDLE: Duration = Duration::from_millis(200);

/// What carries datagrams here; the gateway comes first.
const KINDS: [Kind; 3] = [Kind::Minivmm, Kind::Relay, Kind::Pasta];

/// Floods through each in turns and prints what arrived.
pub fn measure(carriers: &Carriers, direction: Direction) -> Result<()> {
    let mut all = KINDS.map(|kind| (kind, Vec::new(), Vec::new()));
    for _ in 0..ROUNDS {
        for (kind, rates, cpu) in &mut all {
            let before = carriers.processor_time(*kind)?;
            let bytes = flood(carriers, *kind, direction).context(kind.name())?;
            let used = carriers.processor_time(*kind)?.saturating_sub(before);
            rates.push(bytes * 8.0 / 1e9 / f64::from(SECONDS));
            cpu.push(used.as_secs_f64() * 1e3 / (bytes / f64::from(1 << 30)));
        }
    }
    println!("UDP, {SIZE} bytes, MTU 1500, flooded, {direction}:");
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

/// Bytes that arrived while one side sent as fast as it could.
fn flood(carriers: &Carriers, kind: Kind, direction: Direction) -> Result<f64> {
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
    let bytes = thread::scope(|scope| {
        let arrived = scope.spawn(|| {
            let (mut batch, mut bytes) = (Batch::new(), 0);
            while batch.receive(&receiver).is_ok() {
                bytes += batch.bytes();
            }
            bytes
        });
        let mut batch = Batch::of(SIZE);
        let end = Instant::now() + Duration::from_secs(SECONDS.into());
        while Instant::now() < end {
            // The buffer is full: that is what a flood is.
            let _ = batch.send(&sender);
        }
        arrived.join()
    });
    let bytes = bytes.ok().context("the receiver panicked")?;
    ensure!(bytes > 0, "nothing arrived");
    Ok(bytes as f64)
}
