//! The device side of a split virtqueue (Virtio 1.2 §2.7), made for batches.
//!
//! * The rings are checked and translated once, at construction; a transport lets nobody change
//!   them while the queue lives.
//! * Every descriptor is read once, into our own copy. [`VirtQueue::pop`] checks a whole chain
//!   before the caller sees any of it: indices, loops, order, total length, all bytes in RAM.
//! * Used elements become visible together, at [`VirtQueue::publish`]: a frame that lies in
//!   several receive buffers is never seen in pieces.
//! * Nothing allocates once the scratch has grown.
//!
//! The worker's loop: [`disable_notification`](VirtQueue::disable_notification); pop until empty;
//! [`push_used`](VirtQueue::push_used) …; one [`publish`](VirtQueue::publish), and if it says so
//! one interrupt; then sleep unless
//! [`enable_notification`](VirtQueue::enable_notification) says that more has come.

use std::sync::atomic::{AtomicU16, Ordering, fence};

use thiserror::Error;
use virtio_queue::desc::split::Descriptor;
use vm_memory::{GuestAddress, VolatileMemory, VolatileSlice};

use super::memory::{GuestRam, GuestSlice, Slices};
use super::spec::ring;

/// Where a driver put a queue and how it wants it served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueLayout {
    /// Descriptors; a power of two of at most 32768.
    pub size: u16,
    /// Guest address of the descriptor table.
    pub desc: u64,
    /// Guest address of the available ring.
    pub avail: u64,
    /// Guest address of the used ring.
    pub used: u64,
    /// `VIRTIO_F_RING_EVENT_IDX` was negotiated.
    pub event_idx: bool,
    /// `VIRTIO_F_RING_INDIRECT_DESC` was negotiated.
    pub indirect: bool,
}

/// Why a layout cannot be a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum LayoutError {
    /// Not a power of two of at most 32768.
    #[error("queue size {0} is not a power of two from 1 to 32768")]
    Size(u16),
    /// A ring's address has low bits set that its alignment (§2.7) forbids.
    #[error("{ring} at {addr:#x} is misaligned")]
    Misaligned {
        /// Which one.
        ring: &'static str,
        /// Its guest address.
        addr: u64,
    },
    /// A ring does not lie in one region of RAM.
    #[error("{ring} at {addr:#x} is not in guest RAM")]
    NotRam {
        /// Which one.
        ring: &'static str,
        /// Its guest address.
        addr: u64,
    },
}

/// What is wrong with a descriptor chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Error)]
pub enum ChainFault {
    /// `next` points outside the table.
    #[error("next descriptor outside the table")]
    NextOutOfRange,
    /// More descriptors than the queue has: a loop, or against §2.7.5.3.1.
    #[error("chain longer than the queue")]
    TooManyDescriptors,
    /// A readable buffer after a writable one (§2.7.4.2).
    #[error("readable buffer after a writable one")]
    Order,
    /// 4 GiB or more in one direction.
    #[error("chain of 4 GiB or more")]
    TooLong,
    /// Some byte is not RAM.
    #[error("buffer outside guest RAM")]
    NotRam,
    /// An indirect table that was not negotiated, is nested, is chained, is empty or is not in
    /// one region of RAM (§2.7.5.3).
    #[error("bad indirect table")]
    Indirect,
}

/// Why nothing was popped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum QueueError {
    /// One chain is malformed. It is consumed: give `head` back with length 0, count, go on.
    #[error("descriptor chain {head}: {fault}")]
    Chain {
        /// Its first descriptor.
        head: u16,
        /// What is wrong.
        fault: ChainFault,
    },
    /// The available index claims more chains than the queue holds. The queue is dead; the
    /// device needs a reset.
    #[error("available index is ahead by {0}, more than the queue holds")]
    AvailIndex(u16),
    /// The available ring names a descriptor that does not exist. The queue is dead; the device
    /// needs a reset.
    #[error("available ring names descriptor {0}, which does not exist")]
    Head(u16),
}

/// A popped chain: its number and which slices of a [`Slices`] are its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chain {
    /// Its first descriptor, to give back by [`VirtQueue::push_used`].
    pub head: u16,
    /// Bytes that the device may read.
    pub readable_len: u32,
    /// Bytes that the device may write.
    pub writable_len: u32,
    /// Entries of the queue's own table that it takes.
    pub descriptors: u16,
    start: usize,
    split: usize,
    end: usize,
}

impl Chain {
    /// The memory to read, in order; `segments` is what the chain was popped into.
    pub fn readable<'a>(&self, segments: &'a Slices) -> &'a [VolatileSlice<'a>] {
        segments.as_slice().get(self.start..self.split).unwrap_or_default()
    }

    /// The memory to write, in order.
    pub fn writable<'a>(&self, segments: &'a Slices) -> &'a [VolatileSlice<'a>] {
        segments.as_slice().get(self.split..self.end).unwrap_or_default()
    }
}

/// A live split virtqueue.
#[derive(Debug)]
pub struct VirtQueue {
    ram: GuestRam,
    desc: GuestSlice,
    avail: GuestSlice,
    used: GuestSlice,
    size: u16,
    event_idx: bool,
    indirect: bool,
    /// Next entry of the available ring to pop.
    next_avail: u16,
    /// The driver's index when last looked at; `next_avail` never passes it.
    avail_idx: u16,
    /// Next entry of the used ring to write.
    next_used: u16,
    /// What the driver can see of `next_used`.
    published: u16,
    dead: Option<QueueError>,
    /// The table of the chain that is being walked.
    table: Slices,
}

const AVAIL_FLAGS: usize = 0;
const AVAIL_IDX: usize = 2;
const AVAIL_RING: usize = 4;
const USED_FLAGS: usize = 0;
const USED_IDX: usize = 2;
const USED_RING: usize = 4;

impl VirtQueue {
    /// Builds an empty queue, both indices 0.
    ///
    /// # Errors
    /// [`LayoutError`] where the layout breaks §2.7 or leaves RAM.
    pub fn new(ram: &GuestRam, layout: &QueueLayout) -> Result<Self, LayoutError> {
        let size = layout.size;
        if !size.is_power_of_two() || size > ring::MAX_SIZE {
            return Err(LayoutError::Size(size));
        }
        let map = |name, addr: u64, align: u64, len: u64| {
            if addr & (align - 1) != 0 {
                return Err(LayoutError::Misaligned { ring: name, addr });
            }
            let slice = ram
                .slice(GuestAddress(addr), len)
                .ok_or(LayoutError::NotRam { ring: name, addr })?;
            // RAM whose host address is odd has no place for an atomic index.
            if slice.as_volatile().get_atomic_ref::<AtomicU16>(0).is_err() {
                return Err(LayoutError::Misaligned { ring: name, addr });
            }
            Ok(slice)
        };
        let desc = map("descriptor table", layout.desc, ring::DESC_ALIGN, ring::desc_len(size))?;
        let avail = map("available ring", layout.avail, ring::AVAIL_ALIGN, ring::avail_len(size))?;
        let used = map("used ring", layout.used, ring::USED_ALIGN, ring::used_len(size))?;
        Ok(Self {
            ram: ram.clone(),
            desc,
            avail,
            used,
            size,
            event_idx: layout.event_idx,
            indirect: layout.indirect,
            next_avail: 0,
            avail_idx: 0,
            next_used: 0,
            published: 0,
            dead: None,
            table: Slices::with_capacity(1),
        })
    }

    /// Descriptors in the queue.
    pub fn size(&self) -> u16 {
        self.size
    }

    /// The guest's RAM.
    pub fn ram(&self) -> &GuestRam {
        &self.ram
    }

    /// Pops the next chain and appends its memory to `segments`; `None` when there is none.
    ///
    /// # Errors
    /// [`QueueError`]; `segments` is then as it was. A fatal error repeats for ever.
    // Once for each chain, and by itself the compiler leaves it out of line.
    #[inline(always)]
    pub fn pop(&mut self, segments: &mut Slices) -> Result<Option<Chain>, QueueError> {
        if self.next_avail == self.avail_idx && self.available()? == 0 {
            return Ok(None);
        }
        let slot = usize::from(self.next_avail & (self.size - 1));
        let head = load(&self.avail, AVAIL_RING + 2 * slot, Ordering::Relaxed);
        if head >= self.size {
            return Err(self.die(QueueError::Head(head)));
        }
        self.next_avail = self.next_avail.wrapping_add(1);
        let mark = segments.len();
        match self.walk(head, segments) {
            Ok(chain) => Ok(Some(chain)),
            Err(fault) => {
                segments.truncate(mark);
                Err(QueueError::Chain { head, fault })
            }
        }
    }

    /// Chains that wait to be popped, by a fresh look at the driver's index.
    ///
    /// # Errors
    /// [`QueueError::AvailIndex`] or what killed the queue before.
    pub fn available(&mut self) -> Result<u16, QueueError> {
        if let Some(error) = self.dead {
            return Err(error);
        }
        // Acquire: what the driver wrote to ring and descriptors before is seen after.
        let idx = load(&self.avail, AVAIL_IDX, Ordering::Acquire);
        // Chains the driver made available and has not been given back: never more than `size`,
        // so this also bounds what a consumer may hold.
        let outstanding = idx.wrapping_sub(self.published);
        let waiting = idx.wrapping_sub(self.next_avail);
        if outstanding > self.size || waiting > self.size {
            return Err(self.die(QueueError::AvailIndex(outstanding.max(waiting))));
        }
        self.avail_idx = idx;
        Ok(waiting)
    }

    /// Puts the last `n` popped chains back, to be popped again in the same order. None of them
    /// may have been pushed to the used ring.
    pub fn undo_pop(&mut self, n: u16) {
        debug_assert!(n <= self.size);
        if self.dead.is_some() {
            return;
        }
        self.next_avail = self.next_avail.wrapping_sub(n);
    }

    /// Gives the chain `head` back, `len` bytes of it written; the driver sees it at the next
    /// [`publish`](Self::publish). At most as many as were popped.
    #[inline]
    pub fn push_used(&mut self, head: u16, len: u32) {
        let slot = usize::from(self.next_used & (self.size - 1));
        let element = u64::from(head) | u64::from(len) << 32;
        self.used
            .as_volatile()
            .get_ref::<u64>(USED_RING + 8 * slot)
            .expect("slot < size, and the used ring holds size elements")
            .store(element.to_le());
        self.next_used = self.next_used.wrapping_add(1);
    }

    /// Chains pushed since the last [`publish`](Self::publish).
    pub fn unpublished(&self) -> u16 {
        self.next_used.wrapping_sub(self.published)
    }

    /// Shows the driver all pushed chains at once. True if it wants an interrupt for them; the
    /// answer holds for this batch only, so act on it or remember it.
    pub fn publish(&mut self) -> bool {
        let (old, new) = (self.published, self.next_used);
        if old == new {
            return false;
        }
        // Release: elements and buffers are seen before the index that announces them.
        store(&self.used, USED_IDX, new, Ordering::Release);
        self.published = new;
        // The driver arms its interrupt and then looks at the index; we store the index and then
        // look whether it is armed. Either may miss the other's write, not both.
        fence(Ordering::SeqCst);
        if self.event_idx {
            let used_event =
                load(&self.avail, AVAIL_RING + 2 * usize::from(self.size), Ordering::Relaxed);
            need_event(used_event, new, old)
        } else {
            load(&self.avail, AVAIL_FLAGS, Ordering::Relaxed) & ring::AVAIL_F_NO_INTERRUPT == 0
        }
    }

    /// Asks the driver for no kicks. A hint: some may still come.
    pub fn disable_notification(&mut self) {
        // With event_idx, an avail_event that is not advanced asks for none for 65535 chains.
        if !self.event_idx {
            store(&self.used, USED_FLAGS, ring::USED_F_NO_NOTIFY, Ordering::Relaxed);
        }
    }

    /// Asks the driver for a kick at the next chain. True if one has come meanwhile, for which no
    /// kick may come: pop again before sleeping.
    ///
    /// # Errors
    /// As for [`available`](Self::available).
    pub fn enable_notification(&mut self) -> Result<bool, QueueError> {
        if self.event_idx {
            let at = USED_RING + 8 * usize::from(self.size);
            store(&self.used, at, self.next_avail, Ordering::Relaxed);
        } else {
            store(&self.used, USED_FLAGS, 0, Ordering::Relaxed);
        }
        // The driver stores its index and then looks whether we want a kick: the mirror image of
        // `publish`.
        fence(Ordering::SeqCst);
        Ok(self.available()? != 0)
    }

    fn die(&mut self, error: QueueError) -> QueueError {
        // Nothing is left to pop without asking `available`, which refuses.
        self.avail_idx = self.next_avail;
        self.dead = Some(error);
        error
    }

    fn walk(&mut self, head: u16, out: &mut Slices) -> Result<Chain, ChainFault> {
        let start = out.len();
        let mut split = None;
        let (mut readable_len, mut writable_len) = (0u32, 0u32);
        let (mut index, mut seen, mut in_table) = (head, 0, false);
        // Those before the table, the one that points to it included.
        let mut direct = 0;
        loop {
            let d = if in_table {
                descriptor(self.table.as_slice()[0], index)
            } else {
                descriptor(self.desc.as_volatile(), index)
            }
            .ok_or(ChainFault::NextOutOfRange)?;
            let (flags, len) = (d.flags(), d.len());

            if flags & ring::DESC_F_INDIRECT != 0 {
                let usable = self.indirect && !in_table && flags & ring::DESC_F_NEXT == 0;
                if !usable || len == 0 || len % 16 != 0 {
                    return Err(ChainFault::Indirect);
                }
                self.table.clear();
                if !self.table.push(&self.ram, d.addr().0, len) || self.table.len() != 1 {
                    return Err(ChainFault::Indirect);
                }
                // After direct descriptors (§2.7.5.3.2 allows it) the chain goes on in the table.
                (index, in_table) = (0, true);
                direct = seen + 1;
                continue;
            }

            seen += 1;
            if seen > self.size {
                return Err(ChainFault::TooManyDescriptors);
            }
            let total = if flags & ring::DESC_F_WRITE != 0 {
                split.get_or_insert(out.len());
                &mut writable_len
            } else if split.is_some() {
                return Err(ChainFault::Order);
            } else {
                &mut readable_len
            };
            *total = total.checked_add(len).ok_or(ChainFault::TooLong)?;
            if !out.push(&self.ram, d.addr().0, len) {
                return Err(ChainFault::NotRam);
            }
            if flags & ring::DESC_F_NEXT == 0 {
                break;
            }
            index = d.next();
        }
        let end = out.len();
        let split = split.unwrap_or(end);
        let descriptors = if in_table { direct } else { seen };
        Ok(Chain { head, readable_len, writable_len, descriptors, start, split, end })
    }
}

/// Our copy of descriptor `index` of `table`.
fn descriptor(table: VolatileSlice<'_>, index: u16) -> Option<Descriptor> {
    Some(table.get_ref::<Descriptor>(16 * usize::from(index)).ok()?.load())
}

/// Whether moving an index from `old` to `new` passed the entry after `event` (§2.7.7.1).
fn need_event(event: u16, new: u16, old: u16) -> bool {
    new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
}

fn load(slice: &GuestSlice, offset: usize, order: Ordering) -> u16 {
    let slice = slice.as_volatile();
    u16::from_le(index_ref(&slice, offset).load(order))
}

fn store(slice: &GuestSlice, offset: usize, value: u16, order: Ordering) {
    let slice = slice.as_volatile();
    index_ref(&slice, offset).store(value.to_le(), order);
}

fn index_ref<'a>(slice: &'a VolatileSlice<'_>, offset: usize) -> &'a AtomicU16 {
    slice
        .get_atomic_ref::<AtomicU16>(offset)
        .expect("even offsets below the length that the ring was mapped with")
}

#[cfg(test)]
mod tests;
