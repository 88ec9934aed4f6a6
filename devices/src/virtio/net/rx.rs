//! The receive queue, lent to whoever has a frame.

use minivmm_net::nic::{FRAME_MAX, HostBuffer, Offload, Offloads, RxRing, VNET_HEADER_LEN};
use minivmm_net::{DropReason, Stats};
use vm_memory::VolatileSlice;

use super::buffers::{Buffers, Popped};
use super::queues::{PUBLISH_BATCH, QueueIrq};
use crate::virtio::queue::{QueueError, VirtQueue};

/// What [`RxRing::slices`] refers to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reservation {
    None,
    /// The guest's buffers, of which so many slices.
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
    buffers: Buffers,
    reservation: Reservation,
    /// Memory for [`Reservation::Own`], made when it is first needed.
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
        queue.disable_notification();
        Self {
            irq,
            offloads,
            buffers: Buffers::new(queue.size(), mergeable),
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

    /// Pops chains until the buffers [`have`](Buffers::has) as much or there are no more.
    // The path of each frame; the other uses of it are rarer.
    #[inline(always)]
    fn fill(&mut self, frames: usize, len: usize) -> Result<bool, QueueError> {
        while !self.buffers.has(frames, len) {
            match self.buffers.pop(&mut self.queue)? {
                Popped::Buffer => {}
                Popped::Refused(head) => self.refuse(head),
                Popped::Nothing => return Ok(false),
            }
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
            if self.fill(1, len)? {
                return Ok(true);
            }
            self.waiting = true;
            // Ends: what was refused is not published here, so no more than a ring of it comes.
            if !self.queue.enable_notification()? {
                return Ok(false);
            }
        }
    }

    fn try_reserve(&mut self, most: usize, least: usize) -> Result<Option<usize>, QueueError> {
        self.fill(1, most)?;
        let len = most.min(self.buffers.longest());
        if len < least || self.buffers.is_empty() || !self.buffers.is_callable(len) {
            return self.reserve_least(least);
        }
        self.lend();
        Ok(Some(len))
    }

    /// Reserves `len` bytes, ours where the guest's will never do, or asks for a kick.
    #[cold]
    fn reserve_least(&mut self, len: usize) -> Result<Option<usize>, QueueError> {
        let filled = self.fill_or_wait(len)?;
        // Waiting does not make the first buffer larger, nor a full ring.
        if !filled && self.buffers.may_grow(self.queue.size()) {
            return Ok(None);
        }
        if self.buffers.longest() >= len && self.buffers.is_callable(len) {
            self.lend();
        } else {
            self.own.get_or_insert_with(|| HostBuffer::new(FRAME_MAX));
            self.reservation = Reservation::Own;
        }
        Ok(Some(len))
    }

    fn try_look_ahead(&mut self, len: usize, most: usize) -> Result<usize, QueueError> {
        // The rest of a frame's last buffer holds nothing, so it may take a little more.
        let mut frames = 1 + most;
        loop {
            let filled = self.fill(frames, len)?;
            let ahead = self.buffers.look_ahead(len, most);
            if ahead == most || !filled {
                return Ok(ahead);
            }
            frames += 1;
        }
    }

    /// Reserves the guest's first buffers.
    fn lend(&mut self) {
        self.reservation = Reservation::Guest { slices: self.buffers.open() };
    }

    /// Hands the first buffers to the driver with a frame of `len` bytes in them.
    fn deliver(&mut self, len: usize, offload: Offload) {
        let validated = offload.validated && self.offloads.checksum;
        let header = |count| Offload { validated, ..offload }.encode(count);
        self.buffers.deliver(&mut self.queue, len, header);
        self.frames += 1;
        self.bytes += len as u64;
        // All buffers of a frame were pushed, so the driver never sees a part of one.
        if self.queue.unpublished() >= PUBLISH_BATCH {
            self.irq.wanted |= self.queue.publish();
        }
    }

    /// Copies a frame of `len` bytes from our own memory to the guest's buffers, if it fits them.
    fn deliver_copy(&mut self, len: usize, offload: Offload) {
        let Some(own) = self.own.as_ref().filter(|_| self.buffers.fits(len)) else {
            self.too_small += 1;
            return;
        };
        let frame = own.slices()[0].subslice(0, len).expect("at most what was reserved");
        self.buffers.copy_from(frame);
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
            (Reservation::Guest { slices }, _) => self.buffers.slices(slices),
            (Reservation::Own, Some(own)) => own.slices(),
            _ => &[],
        }
    }

    fn look_ahead(&mut self, len: usize, most: usize) -> usize {
        if !matches!(self.reservation, Reservation::Guest { .. }) {
            return 0;
        }
        self.try_look_ahead(len, most).unwrap_or_else(|e| {
            self.dead = Some(e);
            0
        })
    }

    fn ahead(&self, n: usize) -> (&[VolatileSlice<'_>], usize) {
        (self.buffers.ahead(n), VNET_HEADER_LEN)
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
