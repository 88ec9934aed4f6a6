use std::collections::HashMap;
use std::sync::atomic::Ordering;

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use crate::virtio::memory::GuestRam;
use crate::virtio::queue::QueueLayout;
use crate::virtio::spec::ring;

/// Guest RAM of `len` bytes from address 0, in one region.
pub fn ram(len: usize) -> GuestRam {
    GuestRam::new(GuestMemoryMmap::from_ranges(&[(GuestAddress(0), len)]).expect("mmap"))
}

/// One buffer of a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Buffer {
    /// Guest address.
    pub addr: u64,
    /// Bytes.
    pub len: u32,
    /// The device writes it.
    pub writable: bool,
}

impl Buffer {
    /// A buffer that the device reads.
    pub fn readable(addr: u64, len: u32) -> Self {
        Self { addr, len, writable: false }
    }

    /// A buffer that the device writes.
    pub fn writable(addr: u64, len: u32) -> Self {
        Self { addr, len, writable: true }
    }
}

/// An element of the used ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Used {
    /// Head of the chain.
    pub id: u32,
    /// Bytes written.
    pub len: u32,
}

/// The driver's view of a split virtqueue.
#[derive(Debug)]
pub struct DriverQueue {
    mem: GuestMemoryMmap,
    layout: QueueLayout,
    next_avail: u16,
    next_used: u16,
    /// The available index when [`Self::needs_kick`] was last asked.
    asked: u16,
    free: Vec<u16>,
    chains: HashMap<u16, Vec<u16>>,
}

impl DriverQueue {
    /// Lays a queue of `size` descriptors out from `base` (16-byte aligned); it takes
    /// [`Self::footprint`] bytes. The rings are zeroed and don't touch each other.
    pub fn new(ram: &GuestRam, base: u64, size: u16) -> Self {
        assert_eq!(base % 16, 0);
        let avail = base + ring::desc_len(size) + 64;
        let used = (avail + ring::avail_len(size) + 64).next_multiple_of(4);
        let layout =
            QueueLayout { size, desc: base, avail, used, event_idx: false, indirect: true };
        let mem = ram.guest_memory().clone();
        let zeros = vec![0; usize::try_from(Self::footprint(size)).expect("small")];
        mem.write_slice(&zeros, GuestAddress(base)).expect("the queue is in RAM");
        Self {
            mem,
            layout,
            next_avail: 0,
            next_used: 0,
            asked: 0,
            free: (0..size).rev().collect(),
            chains: HashMap::new(),
        }
    }

    /// Bytes of guest memory that a queue takes.
    pub fn footprint(size: u16) -> u64 {
        ring::desc_len(size) + ring::avail_len(size) + ring::used_len(size) + 160
    }

    /// Where the rings are; event_idx off, indirect on.
    pub fn layout(&self) -> QueueLayout {
        self.layout
    }

    /// The same with event_idx on.
    pub fn with_event_idx(mut self) -> Self {
        self.layout.event_idx = true;
        self
    }

    /// Writes descriptor `index` of the table at `table`.
    pub fn write_descriptor(
        &self,
        table: u64,
        index: u16,
        addr: u64,
        len: u32,
        flags: u16,
        next: u16,
    ) {
        let at = GuestAddress(table + 16 * u64::from(index));
        let mut d = [0; 16];
        d[..8].copy_from_slice(&addr.to_le_bytes());
        d[8..12].copy_from_slice(&len.to_le_bytes());
        d[12..14].copy_from_slice(&flags.to_le_bytes());
        d[14..].copy_from_slice(&next.to_le_bytes());
        self.mem.write_slice(&d, at).expect("the table is in RAM");
    }

    /// Writes descriptor `index` of the queue's own table.
    pub fn raw(&self, index: u16, addr: u64, len: u32, flags: u16, next: u16) {
        self.write_descriptor(self.layout.desc, index, addr, len, flags, next);
    }

    /// Makes `head` available, whatever it is.
    pub fn offer(&mut self, head: u16) {
        let slot = self.next_avail % self.layout.size;
        self.mem
            .store(
                head,
                GuestAddress(self.layout.avail + 4 + 2 * u64::from(slot)),
                Ordering::Relaxed,
            )
            .expect("ring");
        self.set_avail_idx(self.next_avail.wrapping_add(1));
    }

    /// Sets the available index, whatever is in the ring.
    pub fn set_avail_idx(&mut self, idx: u16) {
        self.next_avail = idx;
        self.mem.store(idx, GuestAddress(self.layout.avail + 2), Ordering::SeqCst).expect("ring");
    }

    /// Descriptors that are free.
    pub fn free(&self) -> usize {
        self.free.len()
    }

    /// Chains `buffers` and makes them available; `None` if descriptors are short.
    pub fn try_add(&mut self, buffers: &[Buffer]) -> Option<u16> {
        assert!(!buffers.is_empty());
        if self.free.len() < buffers.len() {
            return None;
        }
        let ids = self.free.split_off(self.free.len() - buffers.len());
        for (i, b) in buffers.iter().enumerate() {
            let next = ids.get(i + 1).copied();
            let flags = write_flag(b) | if next.is_some() { ring::DESC_F_NEXT } else { 0 };
            self.raw(ids[i], b.addr, b.len, flags, next.unwrap_or(0));
        }
        let head = ids[0];
        self.chains.insert(head, ids);
        self.offer(head);
        Some(head)
    }

    /// As [`Self::try_add`], with descriptors at hand.
    pub fn add(&mut self, buffers: &[Buffer]) -> u16 {
        self.try_add(buffers).expect("descriptors are free")
    }

    /// Writes `buffers` as an indirect table at `table` and makes it available.
    pub fn add_indirect(&mut self, table: u64, buffers: &[Buffer]) -> u16 {
        for (i, b) in (0u16..).zip(buffers) {
            let last = usize::from(i) + 1 == buffers.len();
            let flags = write_flag(b) | if last { 0 } else { ring::DESC_F_NEXT };
            self.write_descriptor(table, i, b.addr, b.len, flags, i + 1);
        }
        let head = self.free.pop().expect("descriptors are free");
        let len = u32::try_from(16 * buffers.len()).expect("small");
        self.raw(head, table, len, ring::DESC_F_INDIRECT, 0);
        self.chains.insert(head, vec![head]);
        self.offer(head);
        head
    }

    /// The device's used index.
    pub fn used_idx(&self) -> u16 {
        self.load(self.layout.used + 2)
    }

    /// Continues as if the device had used `idx` buffers.
    pub fn jump_used(&mut self, idx: u16) {
        self.next_used = idx;
    }

    /// Takes the next used element and frees its descriptors.
    pub fn pop_used(&mut self) -> Option<Used> {
        if self.next_used == self.used_idx() {
            return None;
        }
        let at = self.layout.used + 4 + 8 * u64::from(self.next_used % self.layout.size);
        let [id, len]: [u32; 2] = self.mem.read_obj(GuestAddress(at)).expect("ring");
        self.next_used = self.next_used.wrapping_add(1);
        if let Some(ids) = u16::try_from(id).ok().and_then(|h| self.chains.remove(&h)) {
            self.free.extend(ids.into_iter().rev());
        }
        Some(Used { id, len })
    }

    /// Sets `used_event`: interrupt when the used index passes `event`.
    pub fn set_used_event(&self, event: u16) {
        let at = self.layout.avail + 4 + 2 * u64::from(self.layout.size);
        self.mem.store(event, GuestAddress(at), Ordering::SeqCst).expect("ring");
    }

    /// Sets or clears `VIRTQ_AVAIL_F_NO_INTERRUPT`.
    pub fn set_no_interrupt(&self, on: bool) {
        let flags = if on { ring::AVAIL_F_NO_INTERRUPT } else { 0 };
        self.mem.store(flags, GuestAddress(self.layout.avail), Ordering::SeqCst).expect("ring");
    }

    /// The device's `avail_event`.
    pub fn avail_event(&self) -> u16 {
        self.load(self.layout.used + 4 + 8 * u64::from(self.layout.size))
    }

    /// The device's `used.flags`.
    pub fn used_flags(&self) -> u16 {
        self.load(self.layout.used)
    }

    /// Whether a driver would kick for what was made available since the last call.
    pub fn needs_kick(&mut self) -> bool {
        let (old, new) = (self.asked, self.next_avail);
        self.asked = new;
        if old == new {
            return false;
        }
        if self.layout.event_idx {
            let event = self.avail_event();
            new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
        } else {
            self.used_flags() & ring::USED_F_NO_NOTIFY == 0
        }
    }

    fn load(&self, at: u64) -> u16 {
        self.mem.load(GuestAddress(at), Ordering::SeqCst).expect("ring")
    }
}

fn write_flag(b: &Buffer) -> u16 {
    if b.writable { ring::DESC_F_WRITE } else { 0 }
}
