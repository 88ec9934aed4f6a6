//! The split virtqueue, Virtio 1.2 §2.7.
#![expect(unsafe_code, reason = "memory shared with the device")]

use core::sync::atomic::{AtomicU16, Ordering, fence};

use crate::mem::{Arena, Registers};

/// The device writes this buffer.
pub const WRITE: u16 = 2;

const NO_INTERRUPT: u16 = 1;
const NO_NOTIFY: u16 = 1;

/// Where a queue lies, for the transport.
pub struct Rings {
    /// Number of entries.
    pub size: u16,
    /// Descriptor table.
    pub descriptors: u64,
    /// Available ring.
    pub available: u64,
    /// Used ring.
    pub used: u64,
}

/// How to notify the device of a queue.
#[derive(Clone, Copy)]
pub enum Notify {
    /// A 32-bit register that takes the queue's index.
    Wide(Registers, usize, u16),
    /// A 16-bit register that takes the queue's index.
    Narrow(Registers, usize, u16),
}

impl Notify {
    fn send(self) {
        match self {
            Self::Wide(registers, offset, index) => registers.write32(offset, index.into()),
            Self::Narrow(registers, offset, index) => registers.write16(offset, index),
        }
    }
}

/// One queue, driver side. Every buffer is one descriptor, whose index names it.
pub struct Queue {
    size: u16,
    descriptors: *mut u8,
    available: *mut u8,
    used: *mut u8,
    notify: Option<Notify>,
    event_idx: bool,
    /// Next available index, published or not.
    next: u16,
    /// What the device was last told of by a notification check.
    checked: u16,
    /// Next used index to take.
    taken: u16,
    /// Notifications sent.
    pub kicks: u64,
}

impl Queue {
    /// Memory for a queue of `size` entries, a power of two. Contiguous and page-aligned, as legacy devices need it.
    pub fn new(arena: &mut Arena, size: u16, event_idx: bool) -> Option<Self> {
        let entries = usize::from(size);
        let used_at = (entries * 16 + 6 + entries * 2).next_multiple_of(4096);
        let memory = arena.take_zeroed(used_at + 6 + entries * 8, 4096)?.as_mut_ptr();
        let mut queue = Self {
            size,
            descriptors: memory,
            available: memory.wrapping_add(entries * 16),
            used: memory.wrapping_add(used_at),
            notify: None,
            event_idx,
            next: 0,
            checked: 0,
            taken: 0,
            kicks: 0,
        };
        queue.disarm();
        Some(queue)
    }

    /// Where it lies.
    pub fn rings(&self) -> Rings {
        Rings {
            size: self.size,
            descriptors: self.descriptors as u64,
            available: self.available as u64,
            used: self.used as u64,
        }
    }

    /// Number of entries.
    pub fn size(&self) -> u16 {
        self.size
    }

    /// Sets the way to notify the device.
    pub fn set_notify(&mut self, notify: Notify) {
        self.notify = Some(notify);
    }

    fn index(ring: *mut u8, offset: usize) -> &'static AtomicU16 {
        // SAFETY: `offset` is even and inside the ring that `new` took for good; both sides use it atomically.
        unsafe { AtomicU16::from_ptr(ring.add(offset).cast()) }
    }

    fn avail_event(&self) -> &'static AtomicU16 {
        Self::index(self.used, 4 + 8 * usize::from(self.size))
    }

    fn used_event(&self) -> &'static AtomicU16 {
        Self::index(self.available, 4 + 2 * usize::from(self.size))
    }

    /// Describes buffer `id`.
    ///
    /// # Safety
    /// The memory must stay valid, and ours alone, while the buffer is with the device.
    pub unsafe fn describe(&mut self, id: u16, address: u64, length: u32, flags: u16) {
        assert!(id < self.size, "descriptor in range");
        // SAFETY: in range; the device reads a descriptor only while it is available, which it is not now.
        unsafe {
            let entry = self.descriptors.add(16 * usize::from(id));
            entry.cast::<u64>().write_volatile(address);
            entry.add(8).cast::<u32>().write_volatile(length);
            entry.add(12).cast::<u16>().write_volatile(flags);
        }
    }

    /// Changes the length of buffer `id`.
    pub fn set_length(&mut self, id: u16, length: u32) {
        assert!(id < self.size, "descriptor in range");
        // SAFETY: as in `describe`.
        unsafe {
            self.descriptors.add(16 * usize::from(id) + 8).cast::<u32>().write_volatile(length);
        };
    }

    /// Gives buffer `id` to the device.
    pub fn push(&mut self, id: u16) {
        let slot = usize::from(self.next & (self.size - 1));
        Self::index(self.available, 4 + 2 * slot).store(id, Ordering::Relaxed);
        self.next = self.next.wrapping_add(1);
        Self::index(self.available, 2).store(self.next, Ordering::Release);
    }

    /// Notifies the device of everything pushed, if it wants to know.
    pub fn kick(&mut self) {
        if self.next == self.checked {
            return;
        }
        fence(Ordering::SeqCst);
        let wanted = if self.event_idx {
            let event = self.avail_event().load(Ordering::Relaxed);
            // §2.7.7.1: the index crossed the one the device waits for.
            self.next.wrapping_sub(event).wrapping_sub(1) < self.next.wrapping_sub(self.checked)
        } else {
            Self::index(self.used, 0).load(Ordering::Relaxed) & NO_NOTIFY == 0
        };
        self.checked = self.next;
        if let (true, Some(notify)) = (wanted, self.notify) {
            self.kicks += 1;
            notify.send();
        }
    }

    /// How many buffers the device has returned.
    pub fn returned(&self) -> u16 {
        Self::index(self.used, 2).load(Ordering::Acquire).wrapping_sub(self.taken)
    }

    /// The `nth` returned buffer: its descriptor and how much was written.
    pub fn peek(&self, nth: u16) -> Option<(u16, u32)> {
        if nth >= self.returned() {
            return None;
        }
        let slot = usize::from(self.taken.wrapping_add(nth) & (self.size - 1));
        // SAFETY: inside the used ring; the device has published this entry.
        let (id, length) = unsafe {
            let entry = self.used.add(4 + 8 * slot).cast::<u32>();
            (entry.read_volatile(), entry.add(1).read_volatile())
        };
        u16::try_from(id).ok().filter(|id| *id < self.size).map(|id| (id, length))
    }

    /// Takes `count` returned buffers.
    pub fn take(&mut self, count: u16) {
        self.taken = self.taken.wrapping_add(count);
    }

    /// Asks for an interrupt at the next returned buffer. `true` if there already is one: then none may come.
    pub fn arm(&mut self) -> bool {
        if self.event_idx {
            self.used_event().store(self.taken, Ordering::Relaxed);
        } else {
            Self::index(self.available, 0).store(0, Ordering::Relaxed);
        }
        fence(Ordering::SeqCst);
        self.returned() > 0
    }

    /// Asks for no interrupts.
    pub fn disarm(&mut self) {
        if self.event_idx {
            // As far away as an index can be.
            self.used_event().store(self.taken.wrapping_sub(1), Ordering::Relaxed);
        } else {
            Self::index(self.available, 0).store(NO_INTERRUPT, Ordering::Relaxed);
        }
    }
}
