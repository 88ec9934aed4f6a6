//! Frames that were changed on their way: a whole TCP/IP stack speaks with the world through the
//! gateway, and what it says is sent again in many forms that no stack would make.
//!
//! Nothing may panic, and what the guest makes the host keep has its limits. Not libtest: the
//! program runs itself again in a network namespace, where no frame can lead anywhere.
//! `MINIVMM_MUTATED_FRAMES` says how many changed frames there are, and `MINIVMM_MUTATED_SEED` which.
#![expect(clippy::unwrap_used, reason = "a test, though not one that clippy knows")]

#[path = "../common/mod.rs"]
mod common;
mod mutation;
#[path = "../common/namespace.rs"]
mod namespace;
mod station;
#[path = "../common/wire.rs"]
mod wire;
mod world;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use minivmm_net::nic::{
    FRAME_MAX, HEAD_MAX, HostBuffer, Io, Offload, Offloads, Poller, RxRing, TxFrame, TxOutcome,
};
use minivmm_net::{Backend, Gateway, Stats};
use vm_memory::VolatileSlice;

use self::mutation::Mutator;
use self::station::Station;
use self::world::World;

/// Changed frames, where nothing says otherwise: some seconds of a debug build.
const FRAMES: u64 = 40_000;
/// For each frame of the stack's.
const CHANGED: u64 = 24;

fn main() -> ExitCode {
    if let Some(ended) = namespace::outside_namespace() {
        return ended;
    }
    common::run(&[("changed_frames_do_no_harm", changed_frames_do_no_harm)], || {})
}

fn changed_frames_do_no_harm() {
    let number = |name, default| match std::env::var(name) {
        Ok(text) => text.parse().unwrap(),
        Err(_) => default,
    };
    run(number("MINIVMM_MUTATED_FRAMES", FRAMES), number("MINIVMM_MUTATED_SEED", 1));
}

/// The guest's receive side.
struct Ring {
    buffer: HostBuffer,
    frames: Vec<Vec<u8>>,
    offloads: Offloads,
    full: bool,
}

impl RxRing for Ring {
    fn offloads(&self) -> Offloads {
        self.offloads
    }

    fn reserve(&mut self, most: usize, least: usize) -> Option<usize> {
        (!self.full && least <= FRAME_MAX).then_some(most.min(FRAME_MAX))
    }

    fn slices(&self) -> &[VolatileSlice<'_>] {
        self.buffer.slices()
    }

    fn commit(&mut self, len: usize, offload: Offload) {
        let mut frame = vec![0; len];
        self.buffer.slices()[0].copy_to(&mut frame);
        mutation::complete(&mut frame, &offload);
        self.frames.push(frame);
    }

    fn release(&mut self) {}
}

/// The gateway, and a clock that runs as fast as it is told to.
struct Bed {
    gateway: Gateway,
    ring: Ring,
    stats: Stats,
    poll: Poller,
    start: Instant,
    now: Instant,
}

impl Bed {
    fn new(world: &World) -> Self {
        let start = Instant::now();
        let mut bed = Self {
            gateway: Gateway::new(world.config()).unwrap(),
            ring: Ring {
                buffer: HostBuffer::new(FRAME_MAX),
                frames: Vec::new(),
                offloads: Offloads::default(),
                full: false,
            },
            stats: Stats::default(),
            poll: Poller::new().unwrap(),
            start,
            now: start,
        };
        bed.gateway.start(&bed.poll).unwrap();
        bed.with(|gateway, io| gateway.attached(io, Offloads::default()).unwrap());
        bed
    }

    fn with<R>(&mut self, f: impl FnOnce(&mut Gateway, &mut Io<'_>) -> R) -> R {
        let mut io = Io { now: self.now, rx: &mut self.ring, poll: &self.poll, stats: &self.stats };
        f(&mut self.gateway, &mut io)
    }

    /// False if it is gone.
    fn send(&mut self, frame: &[u8], offload: Offload) -> bool {
        let head = &frame[..frame.len().min(HEAD_MAX)];
        let mut rest = frame[head.len()..].to_vec();
        let tail = [VolatileSlice::from(&mut rest[..])];
        let outcome = self.with(|gateway, io| {
            gateway.send(io, &TxFrame { head, tail: &tail, len: frame.len(), offload })
        });
        !matches!(outcome, TxOutcome::Dropped(_))
    }

    /// What the host's sockets have, and what time brings in `pass`.
    fn turn(&mut self, pass: Duration) {
        self.with(|gateway, io| gateway.batch_end(io));
        let events = self.poll.wait(Some(Duration::ZERO)).unwrap();
        for i in 0..events {
            let (token, ready) = self.poll.event(i);
            self.with(|gateway, io| gateway.ready(io, token, ready));
        }
        self.now += pass;
        while self.gateway.deadline().is_some_and(|due| due <= self.now) {
            let before = self.gateway.deadline();
            self.with(|gateway, io| gateway.expire(io));
            if self.gateway.deadline() == before {
                // It waits for the guest, which has no room.
                break;
            }
        }
    }

    fn set_full(&mut self, full: bool) {
        if std::mem::replace(&mut self.ring.full, full) && !full {
            self.with(|gateway, io| gateway.rx_available(io));
        }
    }
}

fn run(frames: u64, seed: u64) {
    let mut world = World::new();
    let mut bed = Bed::new(&world);
    let mut station = Station::new();
    let mut mutator = Mutator::new(seed);
    let (mut changed, mut real, mut taken, mut shown) = (0, 0, 0, 0);
    while changed < frames {
        let wire = station.turn(bed.now - bed.start);
        let idle = wire.is_empty();
        for frame in wire {
            real += 1;
            mutator.learn(&frame);
            for _ in 0..CHANGED {
                changed += 1;
                let (frame, header) = mutator.changed();
                if let Ok(offload) = Offload::decode(&header, frame.len()) {
                    taken += u64::from(bed.send(&frame, offload));
                }
            }
            // What the stack said comes too, mostly.
            if !mutator.one_in(16) {
                bed.send(&frame, Offload::default());
            }
        }
        if mutator.one_in(64) {
            bed.ring.offloads = mutator.offloads();
            let offloads = bed.ring.offloads;
            bed.with(|gateway, io| {
                gateway.detached(io.now, io.poll);
                gateway.attached(io, offloads).unwrap();
            });
        }
        bed.set_full(mutator.one_in(8));
        // Mostly a moment, sometimes longer than any timer.
        let pass = match mutator.below(256) {
            0 => Duration::from_secs(8000),
            1..8 => Duration::from_secs(20),
            _ if idle => Duration::from_millis(200),
            _ => Duration::from_micros(300),
        };
        bed.turn(pass);
        station.receive(bed.ring.frames.drain(..));
        world.turn();
        if changed / 1000 > shown {
            shown = changed / 1000;
            world.check_descriptors();
        }
    }
    println!(
        "{changed} changed frames, {taken} of them taken, beside {real} of the stack's; \
         {} conversations",
        station.done(),
    );
    assert!(station.done() > 0, "the stack got nothing done");
    check_alive(bed, &mut world);
}

/// Behind all that, a new guest is served.
fn check_alive(mut bed: Bed, world: &mut World) {
    bed.set_full(false);
    bed.ring.frames.clear();
    bed.ring.offloads = Offloads::default();
    bed.with(|gateway, io| {
        gateway.detached(io.now, io.poll);
        gateway.attached(io, Offloads::default()).unwrap();
    });
    let mut station = Station::new();
    for _ in 0..20_000 {
        for frame in station.turn(bed.now - bed.start) {
            bed.send(&frame, Offload::default());
        }
        bed.turn(Duration::from_millis(1));
        station.receive(bed.ring.frames.drain(..));
        world.turn();
        if station.done() >= 8 {
            return;
        }
    }
    panic!("a new guest is not served");
}
