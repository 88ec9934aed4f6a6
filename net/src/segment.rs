//! The worker that joins one station to one backend.
//!
//! One thread owns both, so neither needs a lock. The station may come and go at any moment: a
//! driver resets its device, a guest reboots. Control reaches the worker as messages that an
//! eventfd in the same epoll announces.
//!
//! A wake-up goes: control, the port's events, receive buffers that came, the backend's events, a
//! bounded drain of the station's frames, timers, one flush. What is bounded and not finished is
//! taken up in the next round, without sleeping.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender, SyncSender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, eventfd};
use vm_memory::VolatileSlice;

use crate::frame::{Offload, Offloads, TxOutcome};
use crate::poll::{Poller, Ready, Source, Token};
use crate::port::{Backend, Drained, Io, Port};
use crate::rx::RxRing;
use crate::stats::Stats;

/// Frames taken from the station before the backend's events get their turn, and the station its
/// answers: many where they are small, so that what belongs together goes together.
const TX_BUDGET: usize = 64;

/// Bytes of such a batch, by the size of the frames before. A station that sends 64 KiB frames
/// fills the window meanwhile, and would wait for the acknowledgement of all of it.
const TX_BYTES: usize = 512 * 1024;

/// Why a station was not attached.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// The worker has ended.
    #[error("the network segment has ended")]
    Ended,
    /// There is a station already.
    #[error("the network segment has a station already; detach that first")]
    Occupied,
    /// The port's or the backend's own refusal.
    #[error("cannot attach to the network segment: {0}")]
    Refused(#[from] io::Error),
}

enum Control {
    Attach(Box<dyn Port>, Offloads, SyncSender<Result<(), AttachError>>),
    Detach(SyncSender<Option<Box<dyn Port>>>),
    Stop,
}

struct Shared {
    control: Sender<Control>,
    wake: Arc<OwnedFd>,
    stats: Arc<Stats>,
    tx_offloads: Offloads,
    mtu: u16,
}

/// A way to reach a segment from any thread but its own.
#[derive(Clone)]
pub struct SegmentHandle(Arc<Shared>);

impl std::fmt::Debug for SegmentHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SegmentHandle").field("mtu", &self.0.mtu).finish_non_exhaustive()
    }
}

impl SegmentHandle {
    /// Wires a station to the backend; returns when that is done.
    ///
    /// # Errors
    /// [`AttachError`]; the port is then dropped.
    pub fn attach(&self, port: Box<dyn Port>, offloads: Offloads) -> Result<(), AttachError> {
        let (reply, answer) = mpsc::sync_channel(1);
        self.send(Control::Attach(port, offloads, reply));
        answer.recv().unwrap_or(Err(AttachError::Ended))
    }

    /// Takes the station out and returns it, if there was one and the worker lives. In any case
    /// the worker touches no port any more when this returns.
    pub fn detach(&self) -> Option<Box<dyn Port>> {
        let (reply, answer) = mpsc::sync_channel(1);
        self.send(Control::Detach(reply));
        // A dead worker drops its end of the channel, after the port, and all messages in it.
        answer.recv().unwrap_or(None)
    }

    /// The counters.
    pub fn stats(&self) -> Arc<Stats> {
        Arc::clone(&self.0.stats)
    }

    /// The offloads that the backend takes.
    pub fn tx_offloads(&self) -> Offloads {
        self.0.tx_offloads
    }

    /// The backend's MTU in bytes.
    pub fn mtu(&self) -> u16 {
        self.0.mtu
    }

    /// Tells the worker to end, without waiting for it.
    pub fn stop(&self) {
        self.send(Control::Stop);
    }

    fn send(&self, message: Control) {
        // Fails when the worker has ended: the message and its reply channel are dropped, which
        // the waiting side sees.
        if self.0.control.send(message).is_ok() {
            // Fails only when 2^64 - 2 wake-ups are pending; then one is pending.
            let _ = rustix::io::write(&*self.0.wake, &1u64.to_ne_bytes());
        }
    }
}

/// A segment whose worker was not started yet: all that it needs of the host is open.
pub struct OpenSegment {
    name: String,
    handle: SegmentHandle,
    backend: Box<dyn Backend>,
    epoll: OwnedFd,
    clock: fn() -> Instant,
    messages: Receiver<Control>,
}

impl std::fmt::Debug for OpenSegment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OpenSegment").field("name", &self.name).finish_non_exhaustive()
    }
}

impl OpenSegment {
    /// Opens one with `clock` as its only source of time.
    ///
    /// # Errors
    /// Those of `epoll_create1(2)` and `eventfd(2)`, or where the backend does not start.
    pub fn new(
        name: &str,
        mut backend: Box<dyn Backend>,
        clock: fn() -> Instant,
    ) -> io::Result<Self> {
        let (control, messages) = mpsc::channel();
        let wake = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let poll = Poller::new()?;
        poll.add(&*wake, Token::new(Source::Control, 0), Ready::IN)?;
        backend.start(&poll)?;
        let handle = SegmentHandle(Arc::new(Shared {
            control,
            wake,
            stats: Arc::default(),
            tx_offloads: backend.tx_offloads(),
            mtu: backend.mtu(),
        }));
        let name = name.replace('\0', "").chars().take(15).collect();
        Ok(Self { name, handle, backend, epoll: poll.into_fd(), clock, messages })
    }

    /// A handle to it. Nobody may attach a station before it is started: that would wait for the
    /// worker.
    pub fn handle(&self) -> SegmentHandle {
        self.handle.clone()
    }

    /// Starts the worker.
    ///
    /// # Errors
    /// Those of thread creation.
    pub fn start(self) -> io::Result<Segment> {
        let handle = self.handle.clone();
        let thread = thread::Builder::new().name(self.name.clone());
        let thread = Some(thread.spawn(move || Worker::new(self).run())?);
        Ok(Segment { handle, thread })
    }
}

/// A running segment; dropping it ends the worker and waits for it.
#[derive(Debug)]
pub struct Segment {
    handle: SegmentHandle,
    thread: Option<JoinHandle<()>>,
}

impl Segment {
    /// Opens and starts one.
    ///
    /// # Errors
    /// Those of [`OpenSegment::new`] and [`OpenSegment::start`].
    pub fn spawn(
        name: &str,
        backend: Box<dyn Backend>,
        clock: fn() -> Instant,
    ) -> io::Result<Self> {
        OpenSegment::new(name, backend, clock)?.start()
    }

    /// A handle to it.
    pub fn handle(&self) -> SegmentHandle {
        self.handle.clone()
    }

    /// The counters.
    pub fn stats(&self) -> Arc<Stats> {
        self.handle.stats()
    }

    /// Ends the worker and waits for it. The station, if there is one, is detached and dropped.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        if let Some(thread) = self.thread.take() {
            self.handle.stop();
            if thread.join().is_err() {
                tracing::error!("the segment's worker had panicked");
            }
        }
    }
}

impl Drop for Segment {
    fn drop(&mut self) {
        self.end();
    }
}

/// Stands in for a station that isn't there.
struct NullRing;

impl RxRing for NullRing {
    fn offloads(&self) -> Offloads {
        Offloads::default()
    }

    fn reserve(&mut self, _most: usize, _least: usize) -> Option<usize> {
        None
    }

    fn slices(&self) -> &[VolatileSlice<'_>] {
        &[]
    }

    fn commit(&mut self, _len: usize, _offload: Offload) {}

    fn release(&mut self) {}
}

/// Where the station's frames stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tx {
    /// The port reports when there are frames.
    Idle,
    /// There may be frames.
    Pending,
    /// There is a frame that the backend can't take.
    Blocked,
    /// The port is out of order.
    Broken,
}

/// What the worker has beside the port.
struct Side {
    backend: Box<dyn Backend>,
    poll: Poller,
    stats: Arc<Stats>,
    clock: fn() -> Instant,
}

impl Side {
    /// Runs `f` on the backend with the receive side `rx`.
    fn with<R>(
        &mut self,
        now: Instant,
        rx: &mut dyn RxRing,
        f: impl FnOnce(&mut dyn Backend, &mut Io<'_>) -> R,
    ) -> R {
        let mut io = Io { now, rx, poll: &self.poll, stats: &self.stats };
        f(&mut *self.backend, &mut io)
    }
}

// Fields drop in this order: `port` goes before `messages`, so a detach that finds the worker
// ended returns when the port is gone.
struct Worker {
    port: Option<Box<dyn Port>>,
    side: Side,
    null: NullRing,
    tx: Tx,
    /// Bytes of a frame in the station's last batch.
    frame_len: usize,
    /// Receive buffers came.
    rx: bool,
    wake: Arc<OwnedFd>,
    messages: Receiver<Control>,
}

impl Worker {
    fn new(opened: OpenSegment) -> Self {
        let OpenSegment { handle, backend, epoll, clock, messages, .. } = opened;
        // Of the handle, this keeps what does not keep `messages` open.
        let (stats, wake) = (handle.stats(), Arc::clone(&handle.0.wake));
        Self {
            port: None,
            side: Side { backend, poll: Poller::from_fd(epoll), stats, clock },
            null: NullRing,
            tx: Tx::Idle,
            frame_len: 0,
            rx: false,
            wake,
            messages,
        }
    }

    fn run(&mut self) {
        loop {
            let timeout = match (self.tx, self.side.backend.deadline()) {
                (Tx::Pending, _) => Some(Duration::ZERO),
                (_, Some(due)) => Some(due.saturating_duration_since((self.side.clock)())),
                (_, None) => None,
            };
            let events = match self.side.poll.wait(timeout) {
                Ok(n) => n,
                Err(e) => {
                    tracing::error!("the network segment ends: epoll fails: {e}");
                    break;
                }
            };
            let now = (self.side.clock)();
            self.side.stats.wakeups.add(1);
            if !self.turn(now, events) {
                break;
            }
        }
        let now = (self.side.clock)();
        drop(self.take_port(now));
    }

    /// One round after a wait that saw `events` events. False when the worker is to end.
    fn turn(&mut self, now: Instant, events: usize) -> bool {
        let mut stale = false;
        if (0..events).any(|i| self.side.poll.event(i).0.source == Source::Control) {
            match self.control(now) {
                Some(changed) => stale = changed,
                None => return false,
            }
        }
        // Events of a port that has gone are not for the one that has come since; the kernel
        // reports that one's own in the next round.
        if !stale {
            self.port_events(events);
        }
        if std::mem::take(&mut self.rx) {
            self.backend(now, |backend, io| backend.rx_available(io));
        }
        for i in 0..events {
            let (token, ready) = self.side.poll.event(i);
            if !matches!(token.source, Source::Control | Source::Port) {
                let writable = self.backend(now, |backend, io| backend.ready(io, token, ready));
                if writable && self.tx == Tx::Blocked {
                    self.tx = Tx::Pending;
                }
            }
        }
        if self.tx == Tx::Pending {
            self.drain(now);
        }
        if self.side.backend.deadline().is_some_and(|due| due <= now) {
            self.backend(now, |backend, io| backend.expire(io));
        }
        if let Some(port) = &mut self.port {
            port.flush(&self.side.stats);
        }
        true
    }

    fn port_events(&mut self, events: usize) {
        let Some(port) = &mut self.port else { return };
        for i in 0..events {
            let (token, ready) = self.side.poll.event(i);
            if token.source == Source::Port {
                let ready = port.ready(token.id, ready);
                if ready.tx && self.tx == Tx::Idle {
                    self.tx = Tx::Pending;
                }
                self.rx |= ready.rx;
            }
        }
    }

    /// Hands a batch of the station's frames to the backend.
    fn drain(&mut self, now: Instant) {
        let Some(port) = &mut self.port else { return };
        let Side { backend, poll, stats, .. } = &mut self.side;
        let budget = (TX_BYTES / self.frame_len.max(1)).clamp(1, TX_BUDGET);
        let (mut frames, mut bytes) = (0, 0);
        let drained = port.drain(budget, stats, &mut |frame, rx| {
            let outcome = backend.send(&mut Io { now, rx, poll, stats }, frame);
            if outcome != TxOutcome::Busy {
                frames += 1;
                bytes += frame.len;
            }
            if let TxOutcome::Dropped(reason) = outcome {
                stats.dropped(reason);
            }
            outcome
        });
        stats.tx_frames.add(frames as u64);
        stats.tx_bytes.add(bytes as u64);
        self.frame_len = bytes.checked_div(frames).unwrap_or(self.frame_len);
        self.tx = match drained {
            Drained::Empty => Tx::Idle,
            Drained::More => Tx::Pending,
            Drained::Blocked => Tx::Blocked,
            Drained::Broken => Tx::Broken,
        };
        self.backend(now, |backend, io| backend.batch_end(io));
    }

    fn backend<R>(
        &mut self,
        now: Instant,
        f: impl FnOnce(&mut dyn Backend, &mut Io<'_>) -> R,
    ) -> R {
        let rx = match &mut self.port {
            Some(port) => port.rx(),
            None => &mut self.null,
        };
        self.side.with(now, rx, f)
    }

    /// Serves all control messages. True if the port is another one now, `None` when told to end.
    fn control(&mut self, now: Instant) -> Option<bool> {
        // Read first: a message that is sent after the last one below wakes us again.
        let _ = rustix::io::read(&*self.wake, &mut [0; 8]);
        let mut changed = false;
        loop {
            match self.messages.try_recv() {
                Ok(Control::Attach(port, offloads, reply)) => {
                    let outcome = self.attach(now, port, offloads);
                    changed |= outcome.is_ok();
                    let _ = reply.send(outcome);
                }
                Ok(Control::Detach(reply)) => {
                    changed = true;
                    let _ = reply.send(self.take_port(now));
                }
                Ok(Control::Stop) | Err(mpsc::TryRecvError::Disconnected) => return None,
                Err(mpsc::TryRecvError::Empty) => return Some(changed),
            }
        }
    }

    fn attach(
        &mut self,
        now: Instant,
        mut port: Box<dyn Port>,
        offloads: Offloads,
    ) -> Result<(), AttachError> {
        if self.port.is_some() {
            return Err(AttachError::Occupied);
        }
        port.attach(&self.side.poll)?;
        if let Err(e) = self.side.with(now, port.rx(), |backend, io| backend.attached(io, offloads))
        {
            port.detach(&self.side.poll);
            return Err(e.into());
        }
        self.port = Some(port);
        // What came before we listened did not wake us.
        (self.tx, self.rx) = (Tx::Pending, true);
        Ok(())
    }

    fn take_port(&mut self, now: Instant) -> Option<Box<dyn Port>> {
        let mut port = self.port.take()?;
        (self.tx, self.rx) = (Tx::Idle, false);
        port.flush(&self.side.stats);
        port.detach(&self.side.poll);
        self.side.backend.detached(now, &self.side.poll);
        Some(port)
    }
}

#[cfg(test)]
mod tests;
