use std::sync::atomic::{AtomicU32, Ordering};

use super::*;
use crate::irq::testing::TestIrq;

/// A sink that records each write and can refuse.
#[derive(Clone, Default)]
struct Sink {
    writes: Arc<Mutex<Vec<Vec<u8>>>>,
    refuse: Arc<Mutex<Option<ErrorKind>>>,
}

impl Sink {
    fn text(&self) -> Vec<u8> {
        self.writes.lock().unwrap().concat()
    }

    fn count(&self) -> usize {
        self.writes.lock().unwrap().len()
    }

    fn refuse(&self, kind: Option<ErrorKind>) {
        *self.refuse.lock().unwrap() = kind;
    }
}

impl Write for Sink {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        if let Some(kind) = *self.refuse.lock().unwrap() {
            return Err(kind.into());
        }
        self.writes.lock().unwrap().push(buf.to_vec());
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Bench {
    serial: Serial,
    sink: Sink,
    irq: Arc<TestIrq>,
    room: Arc<AtomicU32>,
    waits: Arc<AtomicU32>,
}

fn bench() -> Bench {
    let (sink, irq) = (Sink::default(), Arc::new(TestIrq::default()));
    let (room, waits) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let count = |n: &Arc<AtomicU32>| -> Hook {
        let n = n.clone();
        Arc::new(move || {
            n.fetch_add(1, Ordering::SeqCst);
        })
    };
    let hooks = SerialHooks { input_room: count(&room), output_waits: count(&waits) };
    let serial = Serial::new(irq.clone(), Box::new(sink.clone()), hooks);
    Bench { serial, sink, irq, room, waits }
}

fn send(serial: &Serial, text: &[u8]) {
    for &b in text {
        serial.write(DATA.into(), &[b]);
    }
}

fn recv(serial: &Serial) -> Option<u8> {
    let mut byte = [0];
    serial.read(LSR.into(), &mut byte);
    if byte[0] & 1 == 0 {
        return None;
    }
    serial.read(DATA.into(), &mut byte);
    Some(byte[0])
}

#[test]
fn a_line_is_one_write() {
    let b = bench();
    send(&b.serial, b"hello\nwor");
    assert_eq!(*b.sink.writes.lock().unwrap(), [b"hello\n".to_vec()]);
    // The end of a burst: the driver masks its transmit interrupt.
    b.serial.write(1, &[5]);
    assert_eq!(b.sink.text(), b"hello\nwor");
    assert_eq!(b.waits.load(Ordering::SeqCst), 1);
}

#[test]
fn a_prompt_asks_for_a_flush_once() {
    let b = bench();
    send(&b.serial, b"login: ");
    assert_eq!((b.waits.load(Ordering::SeqCst), b.sink.count()), (1, 0));
    assert!(b.serial.flush());
    assert_eq!(b.sink.text(), b"login: ");
    send(&b.serial, b"x");
    assert_eq!(b.waits.load(Ordering::SeqCst), 2);
}

#[test]
fn a_wide_access_is_one_of_several_registers() {
    let b = bench();
    b.serial.write(6, &[0, 0x5a]);
    let mut data = [0; 2];
    b.serial.read(6, &mut data);
    assert_eq!(data[1], 0x5a);
    b.serial.read(7, &mut data[..1]);
    assert_eq!(data[0], 0x5a);
}

#[test]
fn endless_lines_leave_in_bursts() {
    let b = bench();
    send(&b.serial, &[b'x'; 3000]);
    assert_eq!((b.sink.count(), b.sink.text().len()), (2, 2048));
}

#[test]
fn nothing_is_lost_at_the_end() {
    let b = bench();
    send(&b.serial, b"panic");
    drop(b.serial);
    assert_eq!(b.sink.text(), b"panic");
}

#[test]
fn a_blocked_sink_delays_and_then_loses() {
    let b = bench();
    b.sink.refuse(Some(ErrorKind::WouldBlock));
    send(&b.serial, b"one\ntwo\n");
    assert!(!b.serial.flush());
    b.sink.refuse(None);
    assert!(b.serial.flush());
    assert_eq!(b.sink.text(), b"one\ntwo\n");

    b.sink.refuse(Some(ErrorKind::WouldBlock));
    send(&b.serial, &vec![b'x'; Transmitter::KEEP + 7]);
    b.sink.refuse(None);
    assert!(b.serial.flush());
    assert_eq!(b.sink.text().len(), 8 + Transmitter::KEEP);
}

#[test]
fn a_broken_sink_loses() {
    let b = bench();
    b.sink.refuse(Some(ErrorKind::BrokenPipe));
    send(&b.serial, b"gone\n");
    assert!(b.serial.flush());
    b.sink.refuse(None);
    assert!(b.serial.flush());
    assert_eq!(b.sink.text(), b"");
}

#[test]
fn input_is_throttled_and_none_is_lost() {
    let b = bench();
    b.serial.write(1, &[1]);
    let text: Vec<u8> = (0..=255).collect();
    let mut sent = 0;
    let mut got = Vec::new();
    loop {
        sent += b.serial.input(&text[sent..]);
        while b.room.load(Ordering::SeqCst) == 0 {
            match recv(&b.serial) {
                Some(byte) => got.push(byte),
                None => break,
            }
        }
        if b.room.swap(0, Ordering::SeqCst) == 0 && sent == text.len() {
            break;
        }
    }
    got.extend(std::iter::from_fn(|| recv(&b.serial)));
    assert_eq!(got, text);
    assert!(b.irq.count() > 0);
}

#[test]
fn room_is_reported_only_after_a_refusal() {
    let b = bench();
    assert_eq!(b.serial.input(b"ab"), 2);
    recv(&b.serial);
    recv(&b.serial);
    assert_eq!(b.room.load(Ordering::SeqCst), 0);
    // In loopback the receiver is deaf.
    b.serial.write(4, &[MCR_LOOP]);
    assert_eq!(b.serial.input(b"c"), 0);
    b.serial.write(4, &[0]);
    assert_eq!(b.room.load(Ordering::SeqCst), 1);
    assert_eq!(b.serial.input(b"c"), 1);
}

#[test]
fn registers_out_of_range_are_harmless() {
    let b = bench();
    let mut data = [0xff; 3];
    b.serial.read(u64::MAX, &mut data);
    b.serial.write(u64::MAX, &data);
    assert_eq!(data, [0xff; 3]);
}
