//! A TAP as the station: the network stack behind it is the guest. For tests and benches of a
//! backend on the machine's own stack.

use std::io::{self, IoSliceMut};

use vm_memory::VolatileSlice;

use super::{Failure, Tap};
use crate::buffer::HostBuffer;
use crate::frame::{FRAME_MAX, HEAD_MAX, Offload, Offloads, TxFrame, TxOutcome, VNET_HEADER_LEN};
use crate::poll::{Poller, Ready, Source, Token};
use crate::port::{Drained, FrameSink, Port, PortReady};
use crate::rx::RxRing;
use crate::stats::{DropReason, Stats};
use crate::sys;

/// A station that is a TAP.
#[derive(Debug)]
pub struct TapPort {
    ring: TapRing,
    frame: Box<[u8]>,
    /// A frame in `frame` that the backend could not take.
    waiting: Option<(usize, Offload)>,
}

/// Frames that may be filled before the first of them is committed.
const FRAMES: usize = 4;

/// Its receive side: a frame is written to the TAP when committed.
#[derive(Debug)]
struct TapRing {
    tap: Tap,
    /// One for each frame, in turn.
    buffers: [HostBuffer; FRAMES],
    /// Whose turn it is.
    at: usize,
    /// A committed frame that the TAP could not take.
    held: Option<(usize, Offload)>,
    frames: u64,
    bytes: u64,
    failed: u64,
}

impl TapPort {
    /// Makes `tap` a station, whose stack may leave to the link what `offloads` says the backend
    /// does.
    ///
    /// # Errors
    /// Those of `TUNSETOFFLOAD`.
    pub fn new(tap: Tap, offloads: Offloads) -> io::Result<Self> {
        tap.set_offloads(offloads)?;
        Ok(Self {
            ring: TapRing {
                tap,
                buffers: std::array::from_fn(|_| HostBuffer::new(FRAME_MAX)),
                at: 0,
                held: None,
                frames: 0,
                bytes: 0,
                failed: 0,
            },
            frame: vec![0; FRAME_MAX].into_boxed_slice(),
            waiting: None,
        })
    }

    /// What a host's stack takes: all of it.
    pub fn rx_offloads() -> Offloads {
        Offloads { checksum: true, tso4: true, tso6: true }
    }

    /// The TAP.
    pub fn tap(&self) -> &Tap {
        &self.ring.tap
    }

    /// The next frame, in `self.frame`.
    fn next(&mut self, stats: &Stats) -> Result<(usize, Offload), Drained> {
        loop {
            let mut vnet = [0; VNET_HEADER_LEN];
            let mut into = [IoSliceMut::new(&mut vnet), IoSliceMut::new(&mut self.frame)];
            let read = match rustix::io::readv(&self.ring.tap, &mut into) {
                Ok(n) => n.saturating_sub(VNET_HEADER_LEN),
                Err(e) => {
                    return Err(match Failure::of(&e.into()) {
                        Failure::Again => Drained::Empty,
                        Failure::Frame | Failure::Gone => {
                            stats.dropped(DropReason::TapFailed);
                            Drained::Broken
                        }
                    });
                }
            };
            match Offload::decode(&vnet, read) {
                Ok(offload) => return Ok((read, offload)),
                Err(reason) => stats.dropped(reason),
            }
        }
    }
}

impl Port for TapPort {
    fn attach(&mut self, poll: &Poller) -> io::Result<()> {
        // Edges: a frame that waits for the backend must not wake the worker again and again.
        let interest = Ready::IN | Ready::OUT | Ready::ET;
        poll.add(&self.ring.tap, Token::new(Source::Port, 0), interest)
    }

    fn detach(&mut self, poll: &Poller) {
        let _ = poll.remove(&self.ring.tap);
    }

    fn ready(&mut self, _id: u32, ready: Ready) -> PortReady {
        PortReady {
            tx: ready.intersects(Ready::IN | Ready::ERR | Ready::HUP),
            rx: ready.intersects(Ready::OUT) && self.ring.retry(),
        }
    }

    fn drain(&mut self, budget: usize, stats: &Stats, sink: &mut FrameSink<'_>) -> Drained {
        for _ in 0..budget {
            let (len, offload) = match self.waiting.take() {
                Some(waiting) => waiting,
                None => match self.next(stats) {
                    Ok(frame) => frame,
                    Err(end) => return end,
                },
            };
            let (head, tail) = self.frame[..len].split_at_mut(len.min(HEAD_MAX));
            let tail = [VolatileSlice::from(tail)];
            let frame = TxFrame { head, tail: &tail, len, offload };
            if sink(&frame, &mut self.ring) == TxOutcome::Busy {
                self.waiting = Some((len, offload));
                return Drained::Blocked;
            }
        }
        Drained::More
    }

    fn rx(&mut self) -> &mut dyn RxRing {
        &mut self.ring
    }

    fn flush(&mut self, stats: &Stats) {
        let ring = &mut self.ring;
        stats.rx_frames.add(std::mem::take(&mut ring.frames));
        stats.rx_bytes.add(std::mem::take(&mut ring.bytes));
        for _ in 0..std::mem::take(&mut ring.failed) {
            stats.dropped(DropReason::TapFailed);
        }
    }
}

impl TapRing {
    /// Writes the frame of the buffer whose turn it is.
    fn write(&mut self, len: usize, offload: Offload) {
        let frame = self.buffers[self.at].slices()[0]
            .subslice(0, len)
            .expect("a frame is no longer than its reservation");
        match sys::write_frame(&self.tap, &[&offload.encode(0)], &[frame]) {
            Ok(_) => {
                self.frames += 1;
                self.bytes += len as u64;
            }
            Err(e) if Failure::of(&e) == Failure::Again => {
                self.held = Some((len, offload));
                return;
            }
            Err(_) => self.failed += 1,
        }
        self.at = (self.at + 1) % FRAMES;
    }

    /// Writes the held frame. True if there was one and it is gone now.
    fn retry(&mut self) -> bool {
        match self.held.take() {
            Some((len, offload)) => {
                self.write(len, offload);
                self.held.is_none()
            }
            None => false,
        }
    }
}

impl RxRing for TapRing {
    fn offloads(&self) -> Offloads {
        TapPort::rx_offloads()
    }

    fn reserve(&mut self, most: usize, least: usize) -> Option<usize> {
        (self.held.is_none() && least <= FRAME_MAX).then_some(most.min(FRAME_MAX))
    }

    fn slices(&self) -> &[VolatileSlice<'_>] {
        self.buffers[self.at].slices()
    }

    fn look_ahead(&mut self, _len: usize, most: usize) -> usize {
        most.min(FRAMES - 1)
    }

    fn ahead(&self, n: usize) -> (&[VolatileSlice<'_>], usize) {
        (self.buffers[(self.at + 1 + n) % FRAMES].slices(), 0)
    }

    fn commit(&mut self, len: usize, offload: Offload) {
        self.write(len, offload);
    }

    fn release(&mut self) {}
}
