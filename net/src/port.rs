//! The two sides of a segment with two ports: a station and what it is wired to.
//!
//! Both belong to one worker thread, hence `&mut self` everywhere and no locks.

use std::io;
use std::time::Instant;

use crate::frame::{Offloads, TxFrame, TxOutcome};
use crate::poll::{Poller, Ready, Token};
use crate::rx::RxRing;
use crate::stats::Stats;

/// What an event at a port means for the worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PortReady {
    /// There may be frames to take: call [`Port::drain`].
    pub tx: bool,
    /// There are receive buffers again: call [`Backend::rx_available`].
    pub rx: bool,
}

/// How a drain ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drained {
    /// Nothing is left; the port will report an event when that changes.
    Empty,
    /// The budget is used up and there may be more.
    More,
    /// The sink said [`TxOutcome::Busy`]; the frame stays first in line until the worker drains
    /// again, because the backend became writable.
    Blocked,
    /// The port can't go on (the driver broke the protocol); it takes no part until detached.
    Broken,
}

/// Where a port's frames go: the frame, and the same port's receive side for answers.
pub type FrameSink<'s> = dyn FnMut(&TxFrame<'_>, &mut dyn RxRing) -> TxOutcome + 's;

/// A station: a guest's NIC, or a TAP device whose other side is a network stack.
pub trait Port: Send {
    /// Registers its event sources, with [`Source::Port`](crate::poll::Source::Port) tokens.
    ///
    /// # Errors
    /// Those of `epoll_ctl(2)`.
    fn attach(&mut self, poll: &Poller) -> io::Result<()>;

    /// Takes its event sources out again.
    fn detach(&mut self, poll: &Poller);

    /// One of its sources is ready.
    fn ready(&mut self, id: u32, ready: Ready) -> PortReady;

    /// Hands up to `budget` frames to `sink`, in order. Frames the sink drops are consumed;
    /// drops of the port's own are counted in `stats`.
    fn drain(&mut self, budget: usize, stats: &Stats, sink: &mut FrameSink<'_>) -> Drained;

    /// The receive side.
    fn rx(&mut self) -> &mut dyn RxRing;

    /// Publishes what was consumed and delivered since the last flush, with at most one interrupt
    /// a queue, and counts what was delivered (`rx_frames`, `rx_bytes`).
    fn flush(&mut self, stats: &Stats);
}

/// What a backend may use while it handles an event.
pub struct Io<'a> {
    /// The time; one reading serves a whole batch.
    pub now: Instant,
    /// The station's receive side.
    pub rx: &'a mut dyn RxRing,
    /// The worker's event loop.
    pub poll: &'a Poller,
    /// The segment's counters.
    pub stats: &'a Stats,
}

impl std::fmt::Debug for Io<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Io").field("now", &self.now).finish_non_exhaustive()
    }
}

/// What a station is wired to.
pub trait Backend: Send {
    /// The offloads it takes in frames from the station.
    fn tx_offloads(&self) -> Offloads;

    /// The largest IP packet it takes, in bytes, without segmentation.
    fn mtu(&self) -> u16;

    /// Called once, before the worker's thread and anything else: registers its sources.
    ///
    /// # Errors
    /// Those of `epoll_ctl(2)` and of the sockets it opens.
    fn start(&mut self, poll: &Poller) -> io::Result<()>;

    /// A station has come (again), with these offloads.
    ///
    /// # Errors
    /// Where the host refuses the offloads; the station then stays detached.
    fn attached(&mut self, io: &mut Io<'_>, offloads: Offloads) -> io::Result<()>;

    /// The station is gone: what was in flight for it is to be dropped.
    fn detached(&mut self, now: Instant, poll: &Poller);

    /// A frame from the station.
    fn send(&mut self, io: &mut Io<'_>, frame: &TxFrame<'_>) -> TxOutcome;

    /// The batch of frames is over: answers that were put off are due.
    fn batch_end(&mut self, io: &mut Io<'_>);

    /// One of its sources is ready. True when frames that were [`TxOutcome::Busy`] can be
    /// offered again.
    fn ready(&mut self, io: &mut Io<'_>, token: Token, ready: Ready) -> bool;

    /// The station has receive buffers again.
    fn rx_available(&mut self, io: &mut Io<'_>);

    /// When [`expire`](Self::expire) is to be called next.
    fn deadline(&self) -> Option<Instant>;

    /// Does what is due at `io.now`.
    fn expire(&mut self, io: &mut Io<'_>);
}
