//! Nanoseconds a frame through virtio-net's data path, without threads, kernel or guest:
//! `cargo bench -p minivmm-devices --bench nic`.
#![expect(clippy::print_stdout, reason = "a benchmark reports")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use minivmm_devices::virtio::net::testing::NetDriver;
use minivmm_devices::virtio::net::{NicPort, features};
use minivmm_devices::virtio::spec::feature::RING_EVENT_IDX;
use minivmm_devices::virtio::testing::Buffer;
use minivmm_net::Stats;
use minivmm_net::nic::{FRAME_MAX, Offload, Port, RxSlot, TxOutcome};

const FEATURES: u64 = RING_EVENT_IDX
    | features::MRG_RXBUF
    | features::CSUM
    | features::GUEST_CSUM
    | features::HOST_TSO4
    | features::GUEST_TSO4;

const SIZE: u16 = 256;
const BATCH: usize = 32;
const ROUNDS: u32 = 20_000;

/// Frames of `len` bytes in `pieces` buffers, taken and thrown away.
fn transmit(len: u32, pieces: u32) -> f64 {
    let mut driver = NetDriver::new(FEATURES, SIZE);
    let mut port = NicPort::new(driver.activation()).expect("a valid activation");
    let stats = Stats::default();
    let at = driver.alloc(len as usize + 12);
    let total = len + 12;
    let chain: Vec<Buffer> = (0..pieces)
        .map(|i| {
            let (from, to) = (total * i / pieces, total * (i + 1) / pieces);
            Buffer::readable(at + u64::from(from), to - from)
        })
        .collect();
    let mut time = Duration::ZERO;
    let batch = BATCH.min(usize::from(SIZE) / chain.len());
    for _ in 0..ROUNDS {
        for _ in 0..batch {
            driver.tx.add(&chain);
        }
        let start = Instant::now();
        port.drain(64, &stats, &mut |frame, _| {
            black_box(frame);
            TxOutcome::Sent
        });
        port.flush(&stats);
        time += start.elapsed();
        while driver.tx.pop_used().is_some() {}
    }
    assert_eq!(stats.total_drops(), 0);
    time.as_nanos() as f64 / f64::from(ROUNDS) / batch as f64
}

/// Frames of `len` bytes by reservations of `reserve` bytes in buffers of `buffer` bytes; the
/// payload is not copied.
fn receive(len: usize, reserve: usize, buffer: u32) -> f64 {
    let mut driver = NetDriver::new(FEATURES, SIZE);
    let mut port = NicPort::new(driver.activation()).expect("a valid activation");
    let stats = Stats::default();
    let at = driver.alloc(buffer as usize);
    let each = (len + 12).div_ceil(buffer as usize);
    let batch = BATCH.min((usize::from(SIZE) - reserve / buffer as usize) / each);
    let (mut time, mut frames) = (Duration::ZERO, 0u32);
    for _ in 0..ROUNDS {
        while driver.rx.free() > 0 {
            driver.rx.add(&[Buffer::writable(at, buffer)]);
        }
        let start = Instant::now();
        for _ in 0..batch {
            if let Some(slot) = RxSlot::reserve(port.rx(), reserve) {
                black_box(slot.slices());
                slot.commit(len, Offload::default());
                frames += 1;
            }
        }
        port.flush(&stats);
        time += start.elapsed();
        while driver.rx.pop_used().is_some() {}
    }
    assert_eq!(stats.total_drops(), 0);
    time.as_nanos() as f64 / f64::from(frames)
}

fn main() {
    println!("{:<52}{:>10}", "", "ns/frame");
    for (len, pieces) in [(60, 1), (60, 2), (1514, 2), (65000, 18)] {
        let what = format!("transmit, {len} bytes in {pieces} buffers");
        println!("{what:<52}{:>10.1}", transmit(len, pieces));
    }
    for (len, reserve) in [(60, 1514), (1514, 1514), (60, FRAME_MAX), (1514, FRAME_MAX)] {
        let what = format!("receive, {len} bytes of {reserve} reserved");
        println!("{what:<52}{:>10.1}", receive(len, reserve, 1536));
    }
    let what = "receive, 65000 bytes merged of buffers of 1536";
    println!("{what:<52}{:>10.1}", receive(65000, FRAME_MAX, 1536));
}
