//! A TAP as what a station is wired to: bridge, host-only and kernel-NAT networks.

use std::io;
use std::time::{Duration, Instant};

use super::{Failure, Tap};
use crate::frame::{FRAME_MAX, Offload, Offloads, TxFrame, TxOutcome, VNET_HEADER_LEN};
use crate::poll::{Poller, Ready, Source, Token};
use crate::port::{Backend, Io};
use crate::rx::RxSlot;
use crate::scatter::Scatter;
use crate::stats::DropReason;
use crate::sys;
use crate::wire::ETHERNET_LEN;

/// Frames read before the station's own get their turn.
const RX_BUDGET: usize = 64;

/// Failed reads in a row that no frame can explain; the TAP is then given up, for its descriptor
/// would stay readable for ever.
const MAX_READ_FAILURES: u32 = 64;

/// Frames in the TAP's queue that a former station left; well above any `txqueuelen` in use.
const MAX_STALE: usize = 16384;

/// How long a frame waits for a station that has room, but not enough. One that keeps few buffers
/// never has more, and nothing reaches it past that frame. By now its sender sends it again, in
/// pieces that may fit.
const HOLD: Duration = Duration::from_millis(200);

const TOKEN: Token = Token::new(Source::Backend(0), 0);

/// Bytes of an 802.1Q tag, which interfaces carry on top of their MTU.
const VLAN_TAG: usize = 4;

/// A TAP that a station is wired to.
///
/// Frames from the host are read straight into the station's buffers, as long as it has some:
/// what it can't take waits in the TAP's own queue.
#[derive(Debug)]
pub struct TapBackend {
    tap: Tap,
    mtu: u16,
    /// What the station takes; `None` while there is none.
    station: Option<Offloads>,
    /// What the descriptor is watched for; `None` once it was given up.
    interest: Option<Ready>,
    /// The end of a frame that was longer than the room reserved for it, or a whole one.
    spill: Box<[u8]>,
    /// A whole frame in `spill` that the station has no room for yet.
    held: Option<Held>,
    read_failures: u32,
    complained: bool,
}

#[derive(Debug, Clone, Copy)]
struct Held {
    len: usize,
    offload: Offload,
    until: Instant,
}

/// How an attempt to read a frame went.
enum Pulled {
    /// One frame less in the queue.
    Frame,
    /// The queue is empty.
    Empty,
    /// The station has no room.
    NoRoom,
}

impl TapBackend {
    /// Wires stations to `tap`, whose interface has an MTU of `mtu` bytes.
    pub fn new(tap: Tap, mtu: u16) -> Self {
        Self {
            tap,
            mtu,
            station: None,
            interest: Some(Ready::empty()),
            spill: vec![0; FRAME_MAX + VLAN_TAG + 1].into_boxed_slice(),
            held: None,
            read_failures: 0,
            complained: false,
        }
    }

    fn watch(&mut self, poll: &Poller, interest: Ready) {
        if self.interest.is_none_or(|now| now == interest) {
            return;
        }
        match poll.modify(&self.tap, TOKEN, interest) {
            Ok(()) => self.interest = Some(interest),
            Err(e) => self.give_up(poll, &e),
        }
    }

    fn listen(&mut self, poll: &Poller, what: Ready, on: bool) {
        let mut interest = self.interest.unwrap_or(Ready::empty());
        interest.set(what, on);
        self.watch(poll, interest);
    }

    fn give_up(&mut self, poll: &Poller, error: &io::Error) {
        if self.interest.take().is_some() {
            tracing::error!("TAP {} is gone, its network is cut off: {error}", self.tap.name());
            let _ = poll.remove(&self.tap);
        }
    }

    /// Says once that the interface is down, which is what EIO means. Other errors are about one
    /// frame, which the station may have made for them.
    fn complain(&mut self, what: &str, error: &io::Error) {
        if error.raw_os_error() == Some(libc::EIO) && !std::mem::replace(&mut self.complained, true)
        {
            tracing::warn!(
                "cannot {what} TAP {}: {error} (is it up? sudo ip link set {0} up)",
                self.tap.name()
            );
        }
    }

    /// Reads frames to the station until the TAP is empty, the station is full or the budget is
    /// used up.
    fn pull(&mut self, io: &mut Io<'_>) {
        let Some(station) = self.station else { return };
        if !self.deliver_held(io) {
            self.listen(io.poll, Ready::IN, false);
            return;
        }
        for _ in 0..RX_BUDGET {
            match self.pull_one(io, station) {
                Pulled::Frame => {}
                Pulled::Empty => break,
                Pulled::NoRoom => {
                    self.listen(io.poll, Ready::IN, false);
                    return;
                }
            }
        }
        self.listen(io.poll, Ready::IN, true);
    }

    fn pull_one(&mut self, io: &mut Io<'_>, station: Offloads) -> Pulled {
        let plain = usize::from(self.mtu) + ETHERNET_LEN;
        // Where there is no room for a segment a short frame may fit; a long one will be held.
        let most = if station.tso4 || station.tso6 { FRAME_MAX } else { plain };
        let Some(slot) = RxSlot::reserve_most(io.rx, most, plain) else { return Pulled::NoRoom };
        let room = slot.len();
        let mut vnet = [0; VNET_HEADER_LEN];
        let read = sys::read_frame(
            &self.tap,
            &mut vnet,
            slot.slices(),
            room,
            &mut self.spill[room.min(FRAME_MAX)..],
        );
        let n = match read {
            Ok(n) => n.saturating_sub(VNET_HEADER_LEN),
            Err(e) => {
                drop(slot);
                match Failure::of(&e) {
                    Failure::Again => {}
                    Failure::Gone => self.give_up(io.poll, &e),
                    Failure::Frame => {
                        io.stats.dropped(DropReason::TapFailed);
                        self.complain("read from", &e);
                        self.read_failures += 1;
                        if self.read_failures > MAX_READ_FAILURES {
                            self.give_up(io.poll, &e);
                        }
                    }
                }
                return Pulled::Empty;
            }
        };
        self.read_failures = 0;
        let offload = match Offload::decode(&vnet, n) {
            _ if n > FRAME_MAX => Err(DropReason::TooBig),
            _ if n < ETHERNET_LEN => Err(DropReason::Truncated),
            // The TAP's queue may hold frames from before its offloads were changed.
            Ok(offload) if !offload.is_within(station) => Err(DropReason::BadOffload),
            decoded => decoded,
        };
        match offload {
            Err(reason) => io.stats.dropped(reason),
            Ok(offload) if n <= room => slot.commit(n, offload),
            Ok(offload) => {
                Scatter::new(slot.slices()).copy_to(0, &mut self.spill[..room]);
                drop(slot);
                self.held = Some(Held { len: n, offload, until: io.now + HOLD });
                if !self.deliver_held(io) {
                    return Pulled::NoRoom;
                }
            }
        }
        Pulled::Frame
    }

    /// True when no frame is held any more.
    fn deliver_held(&mut self, io: &mut Io<'_>) -> bool {
        if let Some(Held { len, offload, .. }) = self.held {
            let Some(slot) = RxSlot::reserve(io.rx, len) else { return false };
            slot.write_at(0, &self.spill[..len]);
            slot.commit(len, offload);
            self.held = None;
        }
        true
    }
}

impl Backend for TapBackend {
    fn tx_offloads(&self) -> Offloads {
        Offloads { checksum: true, tso4: true, tso6: true }
    }

    fn mtu(&self) -> u16 {
        self.mtu
    }

    fn start(&mut self, poll: &Poller) -> io::Result<()> {
        poll.add(&self.tap, TOKEN, Ready::empty())
    }

    fn attached(&mut self, io: &mut Io<'_>, offloads: Offloads) -> io::Result<()> {
        self.tap.set_offloads(offloads)?;
        // What is queued was for the station before, with offloads that this one may not take.
        for _ in 0..MAX_STALE {
            match rustix::io::read(&self.tap, &mut self.spill[..]) {
                Ok(_) => io.stats.dropped(DropReason::Detached),
                Err(_) => break,
            }
        }
        self.station = Some(offloads);
        self.watch(io.poll, Ready::IN);
        Ok(())
    }

    fn detached(&mut self, _now: Instant, poll: &Poller) {
        self.station = None;
        self.held = None;
        self.watch(poll, Ready::empty());
    }

    fn send(&mut self, io: &mut Io<'_>, frame: &TxFrame<'_>) -> TxOutcome {
        // Nobody vouches for a checksum that the guest says is right.
        let vnet = Offload { validated: false, ..frame.offload }.encode(0);
        match sys::write_frame(&self.tap, &[&vnet, frame.head], frame.tail) {
            Ok(_) => TxOutcome::Sent,
            Err(e) => match Failure::of(&e) {
                Failure::Again if self.interest.is_some() => {
                    self.listen(io.poll, Ready::OUT, true);
                    TxOutcome::Busy
                }
                Failure::Gone => {
                    self.give_up(io.poll, &e);
                    TxOutcome::Dropped(DropReason::TapFailed)
                }
                Failure::Again | Failure::Frame => {
                    self.complain("write to", &e);
                    TxOutcome::Dropped(DropReason::TapFailed)
                }
            },
        }
    }

    fn batch_end(&mut self, _cx: &mut Io<'_>) {}

    fn ready(&mut self, io: &mut Io<'_>, _token: Token, ready: Ready) -> bool {
        let writable = ready.intersects(Ready::OUT);
        if writable {
            self.listen(io.poll, Ready::OUT, false);
        }
        if ready.intersects(Ready::IN) {
            self.pull(io);
        } else if ready.intersects(Ready::ERR | Ready::HUP) {
            self.give_up(io.poll, &io::Error::other("the interface was deleted"));
        }
        // What waits for a TAP that is gone is to be offered again, and dropped.
        writable || self.interest.is_none()
    }

    fn rx_available(&mut self, io: &mut Io<'_>) {
        self.pull(io);
    }

    fn deadline(&self) -> Option<Instant> {
        self.held.map(|held| held.until)
    }

    fn expire(&mut self, io: &mut Io<'_>) {
        if self.held.take_if(|held| held.until <= io.now).is_some() {
            io.stats.dropped(DropReason::RxBufferTooSmall);
            self.pull(io);
        }
    }
}
