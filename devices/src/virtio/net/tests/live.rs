//! The device on a segment's worker, against a driver on another thread.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use minivmm_net::nic::{Io, Offloads, Poller, Ready, Token};
use minivmm_net::{Backend, Segment};

use super::features::GUEST_TSO6;
use super::*;
use crate::virtio::testing::{DriverQueue, PciMachine, Refused, initialise, ram};

/// Takes every frame and sends `to_send` numbered frames as fast as the station takes them.
#[derive(Default)]
struct Source {
    received: Arc<AtomicU64>,
    to_send: Arc<AtomicU64>,
    sent: u64,
    more: Option<Instant>,
    attached: Arc<AtomicU64>,
    live: bool,
}

impl Source {
    fn push(&mut self, io: &mut Io<'_>) {
        self.more = None;
        for _ in 0..64 {
            if self.sent == self.to_send.load(Ordering::SeqCst) {
                return;
            }
            let Some(slot) = RxSlot::reserve(io.rx, 1000) else { return };
            slot.write_at(0, &self.sent.to_le_bytes());
            slot.commit(60 + (self.sent % 900) as usize, Offload::default());
            self.sent += 1;
        }
        self.more = Some(io.now);
    }
}

impl Backend for Source {
    fn tx_offloads(&self) -> Offloads {
        Offloads::default()
    }

    fn mtu(&self) -> u16 {
        1500
    }

    fn start(&mut self, _poll: &Poller) -> io::Result<()> {
        Ok(())
    }

    fn attached(&mut self, _cx: &mut Io<'_>, offloads: Offloads) -> io::Result<()> {
        assert_eq!(offloads, Offloads::default());
        self.attached.fetch_add(1, Ordering::SeqCst);
        self.live = true;
        Ok(())
    }

    fn detached(&mut self, _now: Instant, _poll: &Poller) {
        (self.live, self.more) = (false, None);
    }

    fn send(&mut self, _cx: &mut Io<'_>, frame: &TxFrame<'_>) -> TxOutcome {
        assert!(self.live);
        let number = u64::from_le_bytes(frame.head[..8].try_into().unwrap());
        let before = self.received.load(Ordering::SeqCst);
        // A reset starts the numbers again.
        assert!(number == before || number == 0, "{number} after {before}");
        self.received.store(number + 1, Ordering::SeqCst);
        TxOutcome::Sent
    }

    fn batch_end(&mut self, _cx: &mut Io<'_>) {}

    fn ready(&mut self, _cx: &mut Io<'_>, _token: Token, _ready: Ready) -> bool {
        unreachable!("it has no sources")
    }

    fn rx_available(&mut self, io: &mut Io<'_>) {
        self.push(io);
    }

    fn deadline(&self) -> Option<Instant> {
        self.more
    }

    fn expire(&mut self, io: &mut Io<'_>) {
        self.push(io);
    }
}

struct Bed {
    _segment: Segment,
    device: Net,
    received: Arc<AtomicU64>,
    to_send: Arc<AtomicU64>,
    attached: Arc<AtomicU64>,
}

fn bed() -> Bed {
    let source = Source::default();
    let (received, to_send) = (Arc::clone(&source.received), Arc::clone(&source.to_send));
    let attached = Arc::clone(&source.attached);
    let segment = Segment::spawn("nic-test", Box::new(source), Instant::now).unwrap();
    let config = NicConfig {
        mac: MacAddr([0x52, 0x4d, 1, 2, 3, 4]),
        mtu: 1400,
        tx_offloads: Offloads::default(),
    };
    let device = Net::new(config, segment.handle());
    Bed { _segment: segment, device, received, to_send, attached }
}

#[track_caller]
fn patience(start: Instant, what: &str) {
    assert!(start.elapsed() < Duration::from_secs(30), "stuck: {what}");
    thread::yield_now();
}

#[test]
fn configuration_reads_of_any_size_and_place_are_safe() {
    let bed = bed();
    let whole = {
        let mut data = [0; 16];
        bed.device.read_config(0, &mut data);
        data
    };
    assert_eq!(whole, [0x52, 0x4d, 1, 2, 3, 4, 1, 0, 1, 0, 0x78, 5, 0, 0, 0, 0]);
    for offset in [0u64, 1, 5, 6, 11, 12, 13, 1 << 32, u64::MAX] {
        for len in 0..20 {
            let mut data = vec![0; len];
            bed.device.read_config(offset, &mut data);
            for (i, byte) in data.iter().enumerate() {
                let at = offset.checked_add(i as u64).and_then(|at| usize::try_from(at).ok());
                assert_eq!(*byte, at.and_then(|at| whole.get(at)).copied().unwrap_or(0));
            }
        }
    }
    assert_eq!((bed.device.device_type(), bed.device.queue_sizes().len()), (1, 2));
}

/// By a transport, as `FEATURES_OK` that does not stick.
#[test]
fn features_that_need_others_are_refused_without_them() {
    let bed = bed();
    let tx_offloads = Offloads { checksum: true, tso4: true, tso6: true };
    let config = NicConfig { mac: MacAddr::default(), mtu: 1500, tx_offloads };
    let device = Net::new(config, bed.device.segment.clone());
    let machine = PciMachine::new();
    let ram = ram(1 << 20);
    let (driver, _irqs) = machine.attach(Box::new(device), &ram);
    let queues = [DriverQueue::new(&ram, 0x1000, 16), DriverQueue::new(&ram, 0x2000, 16)];
    let layouts = queues.map(|queue| Some(queue.layout()));
    for (lonely, needed) in
        [(GUEST_TSO4, GUEST_CSUM), (GUEST_TSO6, GUEST_CSUM), (HOST_TSO4, CSUM), (HOST_TSO6, CSUM)]
    {
        assert_eq!(initialise(&driver, lonely, &layouts), Err(Refused::Features), "{lonely:#x}");
        // Past the features; there the queue that is left out is missed.
        assert_eq!(initialise(&driver, lonely | needed, &layouts[..1]), Err(Refused::NeedsReset));
    }
}

#[test]
fn no_kick_of_a_sending_driver_is_lost() {
    for features in [0, RING_EVENT_IDX] {
        let mut bed = bed();
        let mut driver = NetDriver::new(features, 16);
        let at = driver.alloc(16 * 128);
        bed.device.activate(driver.activation()).unwrap();
        let (mut sent, start) = (0u64, Instant::now());
        let mut slot = 0;
        while sent < 20_000 {
            // Bursts of 1 to 7, and now and then a wait for the worker to fall asleep.
            for _ in 0..=sent % 7 {
                if driver.tx.free() == 0 {
                    break;
                }
                let buffer = at + 128 * slot;
                driver.write(buffer + 12, &sent.to_le_bytes());
                driver.tx.add(&[Buffer::readable(buffer, 72)]);
                slot = (slot + 1) % 16;
                sent += 1;
            }
            if driver.tx.needs_kick() {
                driver.kick(TX_QUEUE);
            }
            while driver.tx_used().is_empty() && driver.tx.free() == 0 {
                patience(start, "a full queue is not worked off");
            }
            if sent % 64 == 0 {
                while bed.received.load(Ordering::SeqCst) < sent {
                    patience(start, "a frame is not seen");
                }
            }
        }
        while bed.received.load(Ordering::SeqCst) < sent {
            patience(start, "the last frame is not seen");
        }
        bed.device.reset();
    }
}

#[test]
fn no_buffer_of_a_receiving_driver_is_overlooked() {
    for features in [0, MRG_RXBUF, MRG_RXBUF | RING_EVENT_IDX] {
        const FRAMES: u64 = 20_000;
        let mut bed = bed();
        bed.to_send.store(FRAMES, Ordering::SeqCst);
        let mut driver = NetDriver::new(features, 16);
        // Just enough, so that the device runs out of them all the time.
        let (each, buffers) = if features & MRG_RXBUF != 0 { (300, 4) } else { (1100, 1) };
        let at = driver.alloc(16 * 2048);
        bed.device.activate(driver.activation()).unwrap();
        let mut address = [0; 16];
        let (mut got, mut missing, start) = (0u64, 0, Instant::now());
        for slot in 0..buffers {
            let head = driver.rx.add(&[Buffer::writable(at + 2048 * slot, each)]);
            address[usize::from(head)] = at + 2048 * slot;
        }
        driver.kick(RX_QUEUE);
        while got < FRAMES {
            let mut idle = true;
            while let Some(u) = driver.rx.pop_used() {
                idle = false;
                let buffer = address[u.id as usize];
                if missing == 0 {
                    let head = driver.read(buffer, 20);
                    missing = u16::from_le_bytes([head[10], head[11]]);
                    assert_eq!(head[12..], got.to_le_bytes());
                    got += 1;
                }
                missing -= 1;
                let head = driver.rx.add(&[Buffer::writable(buffer, each)]);
                address[usize::from(head)] = buffer;
            }
            if !idle && driver.rx.needs_kick() {
                driver.kick(RX_QUEUE);
            }
            if idle {
                patience(start, "frames");
            }
        }
        bed.device.reset();
    }
}

#[test]
fn a_reset_in_the_middle_of_traffic_leaves_memory_alone() {
    let mut bed = bed();
    bed.to_send.store(u64::MAX, Ordering::SeqCst);
    let mut driver = NetDriver::new(MRG_RXBUF | RING_EVENT_IDX, 64);
    for round in 0..300u64 {
        bed.device.activate(driver.activation()).unwrap();
        let base = driver.alloc(0);
        let work = round * 37 % 64 + 1;
        for number in 0..work {
            let at = driver.alloc(72);
            driver.write(at, &[0; VNET_HEADER_LEN]);
            driver.write(at + 12, &number.to_le_bytes());
            driver.tx.add(&[Buffer::readable(at, 72)]);
            driver.kick(TX_QUEUE);
            driver.give(1100);
            driver.kick(RX_QUEUE);
        }
        if round % 4 == 0 {
            let start = Instant::now();
            while driver.tx.used_idx() == 0 {
                patience(start, "no progress");
            }
        }
        bed.device.reset();
        // From here on all of this is the driver's again.
        let end = driver.alloc(0);
        let len = usize::try_from(end - base).unwrap();
        let mark = vec![0xa5; len];
        driver.write(base, &mark);
        let used = (driver.tx.used_idx(), driver.rx.used_idx());
        driver.kick(TX_QUEUE);
        driver.kick(RX_QUEUE);
        driver.interrupts.take(TX_QUEUE);
        driver.interrupts.take(RX_QUEUE);
        if round % 8 == 0 {
            thread::sleep(Duration::from_millis(1));
        }
        assert!(driver.read(base, len) == mark);
        assert_eq!(used, (driver.tx.used_idx(), driver.rx.used_idx()));
        assert_eq!(driver.interrupts.take(TX_QUEUE) + driver.interrupts.take(RX_QUEUE), 0);
        driver.reset();
        bed.received.store(0, Ordering::SeqCst);
        bed.device.reset();
    }
    assert_eq!(bed.attached.load(Ordering::SeqCst), 300);
}

#[test]
fn a_second_nic_is_refused_and_does_not_disturb_the_first() {
    let mut first = bed();
    let config = NicConfig { mac: MacAddr::default(), mtu: 1500, tx_offloads: Offloads::default() };
    let mut second = Net::new(config, first.device.segment.clone());
    let mut driver = NetDriver::new(0, 16);
    first.device.activate(driver.activation()).unwrap();
    assert!(matches!(
        second.activate(NetDriver::new(0, 16).activation()),
        Err(ActivateError::State(_))
    ));
    second.reset();
    drop(second);
    driver.send(&pattern(60, 0)[..].iter().map(|_| 0).collect::<Vec<u8>>());
    driver.kick(TX_QUEUE);
    let start = Instant::now();
    while driver.tx.used_idx() == 0 {
        patience(start, "the first NIC stands still");
    }
}

#[test]
fn a_buffer_given_while_the_device_goes_to_sleep_is_seen() {
    const FRAMES: u32 = 20_000;
    for features in [0, RING_EVENT_IDX] {
        let mut driver = NetDriver::new(features, 16);
        let at = driver.alloc(2048);
        let mut port = NicPort::new(driver.activation()).unwrap();
        let kick = Arc::clone(&driver.kicks[usize::from(RX_QUEUE)]);
        let device = thread::spawn(move || {
            let stats = Stats::default();
            for _ in 0..FRAMES {
                while port.rx().reserve(60, 60).is_none() {
                    let start = Instant::now();
                    let mut spins = 0;
                    while kick.read().is_err() {
                        spins += 1;
                        if spins > 100 {
                            patience(start, "a buffer was overlooked");
                        }
                    }
                }
                port.rx().commit(60, Offload::default());
                port.flush(&stats);
            }
        });
        let (mut given, mut jitter) = (0, 1u32);
        while given < FRAMES && !device.is_finished() {
            driver.rx.add(&[Buffer::writable(at, 2048)]);
            given += 1;
            if driver.rx.needs_kick() {
                driver.kick(RX_QUEUE);
            }
            let mut spins = 0;
            while driver.rx.pop_used().is_none() && !device.is_finished() {
                spins += 1;
                if spins > 100 {
                    thread::yield_now();
                }
            }
            // Now sooner, now later than the device looks again.
            jitter = jitter.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            for _ in 0..jitter >> 25 {
                std::hint::spin_loop();
            }
        }
        device.join().unwrap();
    }
}
