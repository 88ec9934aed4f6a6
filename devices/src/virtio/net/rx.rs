//! The receive queue, lent to whoever has a frame.

use std::collections::VecDeque;

use minivmm_net::nic::{
    FRAME_MAX, HostBuffer, IOV_MAX, Offload, Offloads, RxRing, Scatter, VNET_HEADER_LEN,
};
use minivmm_net::{DropReason, Stats};
use vm_memory::VolatileSlice;

use super::{PUBLISH_BATCH, QueueIrq};
use crate::virtio::memory::Segments;
use crate::virtio::queue::{QueueError, VirtQueue};

/// Slices that one reservation may have, so that it fits one system call with something in front.
const MAX_SLICES: usize = IOV_MAX - 16;

/// Slices that may lie unused before the first live one.
const COMPACT: usize = 512;

/// A chain that the driver gave for receiving.
#[derive(Debug)]
struct Buffer {
    head: u16,
    /// Bytes, all writable.
    len: usize,
    /// How many slices of the list are its own.
    slices: usize,
    /// How many descriptors of the ring it takes.
    descriptors: u16,
}

/// What [`RxRing::slices`] refers to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reservation {
    None,
    /// The first `slices` live slices of the guest.
    Guest {
        slices: usize,
    },
    /// Our own memory: the guest's buffers may not do, whatever it adds, and only the length of
    /// the frame will tell.
    Own,
}

/// The receive side of a NIC.
///
/// Chains are popped and parsed once and stay here until a frame fills them, however many
/// reservations look at them.
#[derive(Debug)]
pub struct RxQueue {
    queue: VirtQueue,
    irq: QueueIrq,
    offloads: Offloads,
    /// Frames may spread over several buffers.
    mergeable: bool,
    buffers: VecDeque<Buffer>,
    /// Bytes of `buffers` together.
    room: usize,
    /// The memory of `buffers`, in order, from number `first` on. Without its first 12 bytes, if
    /// `header` has these.
    segments: Segments,
    first: usize,
    /// Where the virtio-net header of the next frame goes.
    header: Segments,
    reservation: Reservation,
    own: Option<HostBuffer>,
    /// We asked for a kick, and none has come.
    waiting: bool,
    dead: Option<QueueError>,
    frames: u64,
    bytes: u64,
    bad_chains: u64,
    too_small: u64,
}

impl RxQueue {
    pub fn new(mut queue: VirtQueue, irq: QueueIrq, offloads: Offloads, mergeable: bool) -> Self {
        let size = usize::from(queue.size());
        queue.disable_notification();
        Self {
            irq,
            offloads,
            mergeable,
            buffers: VecDeque::with_capacity(size),
            room: 0,
            segments: Segments::with_capacity(COMPACT + 2 * size),
            first: 0,
            header: Segments::with_capacity(VNET_HEADER_LEN),
            reservation: Reservation::None,
            own: None,
            waiting: false,
            dead: None,
            frames: 0,
            bytes: 0,
            bad_chains: 0,
            too_small: 0,
            queue,
        }
    }

    /// What killed the queue.
    pub fn dead(&self) -> Option<QueueError> {
        self.dead
    }

    /// Takes no more frames.
    pub fn stop(&mut self, error: QueueError) {
        self.dead.get_or_insert(error);
    }

    /// The driver has kicked. Whoever still lacks room asks for the next one.
    ///
    /// Only this ends the wait, not a reservation that succeeds: it may be a smaller one than that
    /// which waits.
    pub fn kicked(&mut self) {
        if std::mem::take(&mut self.waiting) {
            self.queue.disable_notification();
        }
    }

    pub fn flush(&mut self, stats: &Stats) {
        stats.rx_frames.add(std::mem::take(&mut self.frames));
        stats.rx_bytes.add(std::mem::take(&mut self.bytes));
        for _ in 0..std::mem::take(&mut self.bad_chains) {
            stats.dropped(DropReason::BadChain);
        }
        for _ in 0..std::mem::take(&mut self.too_small) {
            stats.dropped(DropReason::RxBufferTooSmall);
        }
        self.irq.wanted |= self.queue.publish();
        self.irq.raise();
    }

    /// Whether there are buffers for `len` bytes, or one that more buffers would not make larger.
    fn has(&self, len: usize) -> bool {
        if self.mergeable { self.room >= len + VNET_HEADER_LEN } else { !self.buffers.is_empty() }
    }

    /// Pops chains until it [`has`](Self::has) `len` or there are none.
    // The path of each frame; the other use of it waits.
    #[inline(always)]
    fn fill(&mut self, len: usize) -> Result<bool, QueueError> {
        while !self.has(len) {
            let before = self.segments.len();
            let chain = match self.queue.pop(&mut self.segments) {
                Ok(Some(chain)) => chain,
                Ok(None) => return Ok(false),
                Err(QueueError::Chain { head, .. }) => {
                    self.refuse(head);
                    continue;
                }
                Err(fatal) => return Err(fatal),
            };
            // §5.1.6.3: for the device to write, and with room for the header.
            let len = chain.writable_len as usize;
            if chain.readable_len != 0 || len < VNET_HEADER_LEN {
                self.segments.truncate(before);
                self.refuse(chain.head);
                continue;
            }
            let slices = self.segments.len() - before;
            let descriptors = chain.descriptors;
            self.buffers.push_back(Buffer { head: chain.head, len, slices, descriptors });
            self.room += len;
        }
        Ok(true)
    }

    fn refuse(&mut self, head: u16) {
        self.bad_chains += 1;
        self.queue.push_used(head, 0);
    }

    /// As `fill`, and asks for a kick where that is not enough.
    fn fill_or_wait(&mut self, len: usize) -> Result<bool, QueueError> {
        loop {
            if self.fill(len)? {
                return Ok(true);
            }
            self.waiting = true;
            // Ends: what was refused is not published here, so no more than a ring of it comes.
            if !self.queue.enable_notification()? {
                return Ok(false);
            }
        }
    }

    /// Live slices that `need` bytes take.
    fn covering(&self, need: usize) -> usize {
        let mut left = need;
        let mut count = 0;
        for slice in &self.segments.as_slice()[self.first..] {
            if left == 0 {
                break;
            }
            left -= left.min(slice.len());
            count += 1;
        }
        count
    }

    /// Whether a system call takes the slices of a frame of `len` bytes.
    fn is_callable(&self, len: usize) -> bool {
        let live = self.segments.len() - self.first;
        live <= MAX_SLICES
            || if self.mergeable {
                self.covering(len + VNET_HEADER_LEN) <= MAX_SLICES
            } else {
                self.buffers.front().is_some_and(|b| b.slices <= MAX_SLICES)
            }
    }

    fn try_reserve(&mut self, most: usize, least: usize) -> Result<Option<usize>, QueueError> {
        self.fill(most)?;
        let len = most.min(self.fits());
        if len < least || self.buffers.is_empty() || !self.is_callable(len) {
            return self.reserve_least(least);
        }
        self.lend();
        Ok(Some(len))
    }

    /// Reserves `len` bytes, ours where the guest's will never do, or asks for a kick.
    #[cold]
    fn reserve_least(&mut self, len: usize) -> Result<Option<usize>, QueueError> {
        let filled = self.fill_or_wait(len)?;
        if !(filled || self.mergeable && self.is_full()) {
            return Ok(None);
        }
        // Waiting does not make the first buffer larger, nor a full ring.
        if self.fits() >= len && self.is_callable(len) {
            self.lend();
        } else {
            self.own.get_or_insert_with(|| HostBuffer::new(FRAME_MAX));
            self.reservation = Reservation::Own;
        }
        Ok(Some(len))
    }

    /// The longest frame that the buffers hold.
    fn fits(&self) -> usize {
        let room =
            if self.mergeable { self.room } else { self.buffers.front().map_or(0, |b| b.len) };
        room.saturating_sub(VNET_HEADER_LEN)
    }

    /// Reserves the guest's first buffers.
    fn lend(&mut self) {
        self.open_header();
        let slices = if self.mergeable {
            self.segments.len() - self.first
        } else {
            self.buffers.front().map_or(0, |b| b.slices)
        };
        self.reservation = Reservation::Guest { slices };
    }

    /// The driver has no descriptors left that it could add buffers with.
    fn is_full(&self) -> bool {
        let taken: usize = self.buffers.iter().map(|b| usize::from(b.descriptors)).sum();
        taken >= usize::from(self.queue.size())
    }

    /// Splits the header's place from the first buffer.
    fn open_header(&mut self) {
        if self.header.is_empty() {
            self.segments.move_front(self.first, VNET_HEADER_LEN, &mut self.header);
        }
    }

    /// Hands the first buffers to the driver with a frame of `len` bytes in them.
    fn deliver(&mut self, len: usize, offload: Offload) {
        let mut left = len + VNET_HEADER_LEN;
        let (mut count, mut slices) = (0u16, 0);
        while left > 0 {
            let Some(buffer) = self.buffers.pop_front() else { break };
            let used = left.min(buffer.len);
            // A chain's length is a u32.
            self.queue.push_used(buffer.head, u32::try_from(used).unwrap_or(u32::MAX));
            left -= used;
            self.room -= buffer.len;
            slices += buffer.slices;
            count += 1;
        }
        let validated = offload.validated && self.offloads.checksum;
        let bytes = Offload { validated, ..offload }.encode(count);
        Scatter::new(self.header.as_slice()).copy_from(0, &bytes);
        self.header.clear();
        self.first += slices;
        if self.buffers.is_empty() {
            self.segments.clear();
            self.first = 0;
        } else if self.first >= COMPACT {
            self.segments.drop_front(self.first);
            self.first = 0;
        }
        self.frames += 1;
        self.bytes += len as u64;
        // All buffers of a frame were pushed, so the driver never sees a part of one.
        if self.queue.unpublished() >= PUBLISH_BATCH {
            self.irq.wanted |= self.queue.publish();
        }
    }

    /// Copies a frame of `len` bytes from our own memory to the guest's buffers, if it fits them.
    fn deliver_copy(&mut self, len: usize, offload: Offload) {
        let need = len + VNET_HEADER_LEN;
        if !self.buffers.is_empty() {
            self.open_header();
        }
        let fits = if self.mergeable {
            self.room >= need
        } else {
            self.buffers.front().is_some_and(|b| b.len >= need)
        };
        let Some(own) = self.own.as_ref().filter(|_| fits) else {
            self.too_small += 1;
            return;
        };
        let mut frame = own.slices()[0];
        for piece in Scatter::new(&self.segments.as_slice()[self.first..]).pieces(0, len) {
            frame.copy_to_volatile_slice(piece);
            frame = frame.offset(piece.len()).expect("pieces are no longer than what is reserved");
        }
        self.deliver(len, offload);
    }
}

impl RxRing for RxQueue {
    fn offloads(&self) -> Offloads {
        self.offloads
    }

    fn reserve(&mut self, most: usize, least: usize) -> Option<usize> {
        if self.dead.is_some() || least > FRAME_MAX {
            return None;
        }
        match self.try_reserve(most.min(FRAME_MAX), least) {
            Ok(reserved) => reserved,
            Err(e) => {
                self.dead = Some(e);
                None
            }
        }
    }

    fn slices(&self) -> &[VolatileSlice<'_>] {
        match (self.reservation, &self.own) {
            (Reservation::Guest { slices }, _) => {
                &self.segments.as_slice()[self.first..self.first + slices]
            }
            (Reservation::Own, Some(own)) => own.slices(),
            _ => &[],
        }
    }

    fn commit(&mut self, len: usize, offload: Offload) {
        match std::mem::replace(&mut self.reservation, Reservation::None) {
            Reservation::Guest { .. } => self.deliver(len, offload),
            Reservation::Own => self.deliver_copy(len, offload),
            Reservation::None => {}
        }
    }

    fn release(&mut self) {
        self.reservation = Reservation::None;
    }
}
