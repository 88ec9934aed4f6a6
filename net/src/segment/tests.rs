use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use super::*;
use crate::frame::{Offloads, TxFrame};
use crate::port::{FrameSink, PortReady};
use crate::stats::DropReason;

const PATIENCE: Duration = Duration::from_secs(20);

#[track_caller]
fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < end, "not within {PATIENCE:?}: {what}");
        thread::yield_now();
    }
}

fn event() -> Arc<OwnedFd> {
    Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap())
}

fn signal(fd: &OwnedFd) {
    rustix::io::write(fd, &1u64.to_ne_bytes()).unwrap();
}

/// The test's side of a station.
#[derive(Clone)]
struct Station(Arc<StationState>);

struct StationState {
    frames: Mutex<VecDeque<u8>>,
    kick: Arc<OwnedFd>,
    rx_kick: Arc<OwnedFd>,
    /// The worker is between attach and detach.
    live: AtomicBool,
    endless: AtomicBool,
    largest_drain: AtomicU64,
    flushes: AtomicU64,
    broken: AtomicBool,
}

impl Station {
    fn new() -> Self {
        Self(Arc::new(StationState {
            frames: Mutex::default(),
            kick: event(),
            rx_kick: event(),
            live: AtomicBool::new(false),
            endless: AtomicBool::new(false),
            largest_drain: AtomicU64::new(0),
            flushes: AtomicU64::new(0),
            broken: AtomicBool::new(false),
        }))
    }

    fn send(&self, byte: u8) {
        self.0.frames.lock().unwrap().push_back(byte);
        signal(&self.0.kick);
    }

    fn port(&self) -> Box<dyn Port> {
        Box::new(MockPort { station: self.clone(), null: NullRing })
    }
}

struct MockPort {
    station: Station,
    null: NullRing,
}

impl MockPort {
    fn assert_live(&self) {
        assert!(self.station.0.live.load(Ordering::SeqCst), "touched while detached");
    }
}

impl Port for MockPort {
    fn attach(&mut self, poll: &Poller) -> io::Result<()> {
        let interest = Ready::IN | Ready::ET;
        poll.add(&*self.station.0.kick, Token::new(Source::Port, 0), interest)?;
        poll.add(&*self.station.0.rx_kick, Token::new(Source::Port, 1), interest)?;
        self.station.0.live.store(true, Ordering::SeqCst);
        Ok(())
    }

    fn detach(&mut self, poll: &Poller) {
        poll.remove(&*self.station.0.kick).unwrap();
        poll.remove(&*self.station.0.rx_kick).unwrap();
        self.station.0.live.store(false, Ordering::SeqCst);
    }

    fn ready(&mut self, id: u32, ready: Ready) -> PortReady {
        self.assert_live();
        assert!(ready.intersects(Ready::IN));
        let fd = if id == 0 { &self.station.0.kick } else { &self.station.0.rx_kick };
        let _ = rustix::io::read(&**fd, &mut [0; 8]);
        PortReady { tx: id == 0, rx: id == 1 }
    }

    fn drain(&mut self, budget: usize, _stats: &Stats, sink: &mut FrameSink<'_>) -> Drained {
        self.assert_live();
        if self.station.0.broken.load(Ordering::SeqCst) {
            return Drained::Broken;
        }
        for n in 0..budget {
            let endless = self.station.0.endless.load(Ordering::SeqCst);
            let next = self.station.0.frames.lock().unwrap().front().copied();
            let Some(byte) = next.or(endless.then_some(0)) else { return Drained::Empty };
            let head = [byte; 60];
            let frame = TxFrame { head: &head, tail: &[], len: 60, offload: Offload::default() };
            if sink(&frame, &mut self.null) == TxOutcome::Busy {
                return Drained::Blocked;
            }
            self.station.0.largest_drain.fetch_max(n as u64 + 1, Ordering::SeqCst);
            if next.is_some() {
                self.station.0.frames.lock().unwrap().pop_front();
            }
        }
        Drained::More
    }

    fn rx(&mut self) -> &mut dyn RxRing {
        self.assert_live();
        &mut self.null
    }

    fn flush(&mut self, _stats: &Stats) {
        self.assert_live();
        self.station.0.flushes.fetch_add(1, Ordering::SeqCst);
    }
}

/// The test's side of a backend.
#[derive(Clone)]
struct Far(Arc<FarState>);

#[derive(Default)]
struct Calls {
    attached: AtomicU32,
    detached: AtomicU32,
    batches: AtomicU32,
    rx_available: AtomicU32,
    expired: AtomicU32,
    events: AtomicU32,
}

struct FarState {
    got: Mutex<Vec<u8>>,
    busy: AtomicBool,
    writable: Arc<OwnedFd>,
    deadline: Mutex<Option<Instant>>,
    calls: Calls,
    refuse: AtomicBool,
    panic: AtomicBool,
}

impl Far {
    fn new() -> Self {
        Self(Arc::new(FarState {
            got: Mutex::default(),
            busy: AtomicBool::new(false),
            writable: event(),
            deadline: Mutex::default(),
            calls: Calls::default(),
            refuse: AtomicBool::new(false),
            panic: AtomicBool::new(false),
        }))
    }

    fn got(&self) -> usize {
        self.0.got.lock().unwrap().len()
    }
}

fn count(counter: &AtomicU32) {
    counter.fetch_add(1, Ordering::SeqCst);
}

impl Backend for Far {
    fn tx_offloads(&self) -> Offloads {
        Offloads::default()
    }

    fn mtu(&self) -> u16 {
        1500
    }

    fn start(&mut self, poll: &Poller) -> io::Result<()> {
        if self.0.refuse.load(Ordering::SeqCst) {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        poll.add(&*self.0.writable, Token::new(Source::Backend(4), 9), Ready::IN)
    }

    fn attached(&mut self, _cx: &mut Io<'_>, _offloads: Offloads) -> io::Result<()> {
        if self.0.refuse.load(Ordering::SeqCst) {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        count(&self.0.calls.attached);
        Ok(())
    }

    fn detached(&mut self, _now: Instant, _poll: &Poller) {
        count(&self.0.calls.detached);
    }

    fn send(&mut self, _cx: &mut Io<'_>, frame: &TxFrame<'_>) -> TxOutcome {
        assert!(!self.0.panic.load(Ordering::SeqCst), "as the test wishes");
        if self.0.busy.load(Ordering::SeqCst) {
            return TxOutcome::Busy;
        }
        if frame.head[0] == 0xff {
            return TxOutcome::Dropped(DropReason::Malformed);
        }
        self.0.got.lock().unwrap().push(frame.head[0]);
        TxOutcome::Sent
    }

    fn batch_end(&mut self, _cx: &mut Io<'_>) {
        count(&self.0.calls.batches);
    }

    fn ready(&mut self, _cx: &mut Io<'_>, token: Token, _ready: Ready) -> bool {
        assert_eq!(token, Token::new(Source::Backend(4), 9));
        let _ = rustix::io::read(&*self.0.writable, &mut [0; 8]);
        count(&self.0.calls.events);
        true
    }

    fn rx_available(&mut self, _cx: &mut Io<'_>) {
        count(&self.0.calls.rx_available);
    }

    fn deadline(&self) -> Option<Instant> {
        *self.0.deadline.lock().unwrap()
    }

    fn expire(&mut self, io: &mut Io<'_>) {
        let mut deadline = self.0.deadline.lock().unwrap();
        assert!(deadline.is_some_and(|due| due <= io.now));
        *deadline = None;
        count(&self.0.calls.expired);
    }
}

fn segment() -> (Segment, SegmentHandle, Far) {
    let far = Far::new();
    let segment = Segment::spawn("test", Box::new(far.clone()), Instant::now).unwrap();
    let handle = segment.handle();
    (segment, handle, far)
}

#[test]
fn frames_arrive_in_order_and_are_counted() {
    let (segment, handle, far) = segment();
    let station = Station::new();
    // Sent before the attach: no kick will come for it.
    station.0.frames.lock().unwrap().push_back(1);
    handle.attach(station.port(), Offloads::default()).unwrap();
    for byte in [2, 0xff, 3] {
        station.send(byte);
    }
    eventually("all frames", || far.got() == 3);
    eventually("empty", || station.0.frames.lock().unwrap().is_empty());
    assert_eq!(*far.0.got.lock().unwrap(), [1, 2, 3]);
    let port = handle.detach();
    assert!(port.is_some() && handle.detach().is_none());
    let stats = segment.stats();
    assert_eq!((stats.tx_frames.get(), stats.tx_bytes.get()), (4, 240));
    assert_eq!((stats.drops(DropReason::Malformed), stats.total_drops()), (1, 1));
    assert!(station.0.flushes.load(Ordering::SeqCst) > 0);
    assert!(far.0.calls.batches.load(Ordering::SeqCst) > 0);
}

#[test]
fn a_station_comes_and_goes_under_traffic() {
    let (segment, handle, far) = segment();
    for round in 1..=200 {
        let station = Station::new();
        station.0.endless.store(true, Ordering::SeqCst);
        handle.attach(station.port(), Offloads::default()).unwrap();
        station.send(1);
        if round % 3 == 0 {
            let before = far.got();
            eventually("traffic", || far.got() > before);
        }
        let port = handle.detach().expect("it was attached");
        // The mock asserts that nothing touches it from here on.
        assert!(!station.0.live.load(Ordering::SeqCst));
        station.send(2);
        drop(port);
        assert_eq!(far.0.calls.detached.load(Ordering::SeqCst), round);
        assert_eq!(far.0.calls.attached.load(Ordering::SeqCst), round);
    }
    segment.stop();
    assert!(handle.detach().is_none());
    assert!(matches!(
        handle.attach(Station::new().port(), Offloads::default()),
        Err(AttachError::Ended)
    ));
}

#[test]
fn endless_frames_starve_neither_control_nor_backend_nor_timers() {
    let (_segment, handle, far) = segment();
    let station = Station::new();
    station.0.endless.store(true, Ordering::SeqCst);
    handle.attach(station.port(), Offloads::default()).unwrap();
    station.send(1);
    eventually("traffic", || far.got() > 1000);
    signal(&far.0.writable);
    eventually("a backend event", || far.0.calls.events.load(Ordering::SeqCst) == 1);
    signal(&station.0.rx_kick);
    let before = far.0.calls.rx_available.load(Ordering::SeqCst);
    assert!(before >= 1, "an attach announces the buffers that are there");
    *far.0.deadline.lock().unwrap() = Some(Instant::now());
    eventually("a timer", || far.0.calls.expired.load(Ordering::SeqCst) == 1);
    eventually("buffers", || far.0.calls.rx_available.load(Ordering::SeqCst) >= 2);
    assert!(handle.detach().is_some());
    assert!(station.0.largest_drain.load(Ordering::SeqCst) <= TX_BUDGET as u64);
}

#[test]
fn a_busy_backend_is_asked_again_when_writable_and_not_before() {
    let (segment, handle, far) = segment();
    far.0.busy.store(true, Ordering::SeqCst);
    let station = Station::new();
    handle.attach(station.port(), Offloads::default()).unwrap();
    for byte in 1..=3 {
        station.send(byte);
    }
    let stats = segment.stats();
    eventually("blocked", || far.0.calls.batches.load(Ordering::SeqCst) > 0);
    // No spinning while blocked, however often the station kicks.
    thread::sleep(Duration::from_millis(50));
    let wakeups = stats.wakeups.get();
    assert!(wakeups < 20, "{wakeups}");
    far.0.busy.store(false, Ordering::SeqCst);
    station.send(4);
    thread::sleep(Duration::from_millis(20));
    assert_eq!((far.got(), stats.tx_frames.get()), (0, 0));
    signal(&far.0.writable);
    eventually("all frames", || far.got() == 4);
    assert_eq!(*far.0.got.lock().unwrap(), [1, 2, 3, 4]);
}

#[test]
fn a_deadline_wakes_an_idle_worker_once() {
    let far = Far::new();
    let due = Instant::now() + Duration::from_millis(30);
    *far.0.deadline.lock().unwrap() = Some(due);
    let segment = Segment::spawn("test", Box::new(far.clone()), Instant::now).unwrap();
    eventually("the timer", || far.0.calls.expired.load(Ordering::SeqCst) == 1);
    assert!(Instant::now() >= due);
    thread::sleep(Duration::from_millis(20));
    assert!(segment.stats().wakeups.get() <= 3, "{}", segment.stats().wakeups.get());
}

#[test]
fn refusals_reach_who_asked() {
    let far = Far::new();
    far.0.refuse.store(true, Ordering::SeqCst);
    let error = Segment::spawn("test", Box::new(far), Instant::now).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::AddrInUse);

    let (_segment, handle, far) = segment();
    far.0.refuse.store(true, Ordering::SeqCst);
    let station = Station::new();
    let refused = handle.attach(station.port(), Offloads::default());
    assert!(matches!(refused, Err(AttachError::Refused(_))));
    assert!(!station.0.live.load(Ordering::SeqCst));
    far.0.refuse.store(false, Ordering::SeqCst);
    handle.attach(station.port(), Offloads::default()).unwrap();
    let second = handle.attach(Station::new().port(), Offloads::default());
    assert!(matches!(second, Err(AttachError::Occupied)));
}

/// A kick is an edge: who does not look at it does not see it again.
#[test]
fn a_kick_beside_a_refused_station_is_not_lost() {
    let (segment, handle, far) = segment();
    let station = Station::new();
    handle.attach(station.port(), Offloads::default()).unwrap();
    eventually("the first turn is over", || station.0.flushes.load(Ordering::SeqCst) > 0);
    let wakeups = segment.stats().wakeups.get();
    let seen = far.0.calls.rx_available.load(Ordering::SeqCst);
    // The worker stops in the middle of a turn, so the next one has both.
    let got = far.0.got.lock().unwrap();
    station.send(1);
    eventually("another turn", || segment.stats().wakeups.get() > wakeups);
    let (reply, answer) = mpsc::sync_channel(1);
    handle.send(Control::Attach(Station::new().port(), Offloads::default(), reply));
    signal(&station.0.rx_kick);
    drop(got);
    assert!(matches!(answer.recv().unwrap(), Err(AttachError::Occupied)));
    eventually("the kick", || far.0.calls.rx_available.load(Ordering::SeqCst) > seen);
}

#[test]
fn a_broken_port_is_left_alone_until_it_is_taken_out() {
    let (segment, handle, far) = segment();
    let station = Station::new();
    station.0.broken.store(true, Ordering::SeqCst);
    handle.attach(station.port(), Offloads::default()).unwrap();
    station.send(1);
    thread::sleep(Duration::from_millis(20));
    assert!(segment.stats().wakeups.get() < 10);
    assert!(handle.detach().is_some());
    station.0.broken.store(false, Ordering::SeqCst);
    handle.attach(station.port(), Offloads::default()).unwrap();
    eventually("the frame", || far.got() == 1);
}

#[test]
fn a_worker_that_died_does_not_hang_its_users() {
    let (segment, handle, far) = segment();
    far.0.panic.store(true, Ordering::SeqCst);
    let station = Station::new();
    handle.attach(station.port(), Offloads::default()).unwrap();
    station.send(1);
    let weak = Arc::downgrade(&station.0);
    drop(station);
    eventually("the port is gone", || weak.upgrade().is_none());
    assert!(handle.detach().is_none());
    assert!(matches!(
        handle.attach(Station::new().port(), Offloads::default()),
        Err(AttachError::Ended)
    ));
    drop(segment);
}
