//! Physical memory, which is all of our address space: boot data, device registers, and an arena for everything that is
//! too large for the image.
#![expect(unsafe_code, reason = "physical addresses are turned into pointers here")]

use core::ptr;

use minivmm_probe::acpi::Memory;

use crate::paging;

unsafe extern "C" {
    static image_end: u8;
}

/// The end of our image.
pub fn end_of_image() -> u64 {
    (&raw const image_end).addr() as u64
}

/// Reads of what the VMM and firmware left in memory.
pub struct Physical;

impl Memory for Physical {
    fn read(&self, address: u64, buffer: &mut [u8]) {
        let end = address.checked_add(buffer.len() as u64);
        if address < 0x1000 || !end.is_some_and(|end| paging::map(address, end)) {
            buffer.fill(0);
            return;
        }
        for (i, byte) in buffer.iter_mut().enumerate() {
            // SAFETY: mapped (checked above); tables of the VMM lie outside our image, so no reference of ours aliases.
            *byte = unsafe { (address as *const u8).add(i).read_volatile() };
        }
    }
}

/// A window of device registers.
#[derive(Clone, Copy)]
pub struct Registers {
    base: *mut u8,
}

impl Registers {
    /// Registers at a physical address. `None` if it cannot be mapped.
    ///
    /// # Safety
    /// The `length` bytes must be device registers, not memory that Rust uses.
    pub unsafe fn new(address: u64, length: u64) -> Option<Self> {
        let end = address.checked_add(length)?;
        (address >= 0x1000 && paging::map(address, end))
            .then_some(Self { base: address as *mut u8 })
    }

    /// The address of a register.
    pub fn address(self, offset: usize) -> *mut u8 {
        self.base.wrapping_add(offset)
    }

    /// Reads 8 bits.
    pub fn read8(self, offset: usize) -> u8 {
        // SAFETY: a device register by the promise of `new`.
        unsafe { self.address(offset).read_volatile() }
    }

    /// Reads 16 bits.
    pub fn read16(self, offset: usize) -> u16 {
        // SAFETY: as above; registers are aligned to their width.
        unsafe { self.address(offset).cast::<u16>().read_volatile() }
    }

    /// Reads 32 bits.
    pub fn read32(self, offset: usize) -> u32 {
        // SAFETY: as above.
        unsafe { self.address(offset).cast::<u32>().read_volatile() }
    }

    /// Writes 8 bits.
    pub fn write8(self, offset: usize, value: u8) {
        // SAFETY: as above; what a device does with a register is checked where it is given addresses.
        unsafe { self.address(offset).write_volatile(value) };
    }

    /// Writes 16 bits.
    pub fn write16(self, offset: usize, value: u16) {
        // SAFETY: as above.
        unsafe { self.address(offset).cast::<u16>().write_volatile(value) };
    }

    /// Writes 32 bits.
    pub fn write32(self, offset: usize, value: u32) {
        // SAFETY: as above.
        unsafe { self.address(offset).cast::<u32>().write_volatile(value) };
    }

    /// Writes 64 bits as two halves, low first.
    pub fn write64(self, offset: usize, value: u64) {
        self.write32(offset, value as u32);
        self.write32(offset + 4, (value >> 32) as u32);
    }
}

/// Memory handed out for good.
pub struct Arena {
    next: u64,
    end: u64,
}

impl Arena {
    /// All RAM from the end of the image to `end`.
    ///
    /// # Safety
    /// `end_of_image()..end` must be RAM that nothing else uses from now on, and no other arena may exist.
    pub unsafe fn new(end: u64) -> Self {
        let next = end_of_image().next_multiple_of(4096);
        Self { next, end: end.min(paging::STATIC_LIMIT).max(next) }
    }

    /// How many bytes are left.
    pub fn left(&self) -> u64 {
        self.end - self.next
    }

    /// Takes `length` bytes aligned to `align`. The content is whatever was there.
    pub fn take(&mut self, length: usize, align: u64) -> Option<&'static mut [u8]> {
        let start = self.next.checked_next_multiple_of(align)?;
        let end = start.checked_add(length as u64).filter(|end| *end <= self.end)?;
        self.next = end;
        // SAFETY: RAM by the promise of `new`, identity-mapped, and never handed out twice.
        Some(unsafe {
            core::slice::from_raw_parts_mut(
                ptr::with_exposed_provenance_mut(start as usize),
                length,
            )
        })
    }

    /// Takes zeroed memory.
    pub fn take_zeroed(&mut self, length: usize, align: u64) -> Option<&'static mut [u8]> {
        let memory = self.take(length, align)?;
        memory.fill(0);
        Some(memory)
    }

    /// Takes room for `count` values.
    pub fn array<T>(&mut self, count: usize, value: impl Fn() -> T) -> Option<&'static mut [T]> {
        let memory = self.take(size_of::<T>().checked_mul(count)?, align_of::<T>() as u64)?;
        let first = memory.as_mut_ptr().cast::<T>();
        for i in 0..count {
            // SAFETY: inside the memory just taken, aligned for T.
            unsafe { first.add(i).write(value()) };
        }
        // SAFETY: all values are written, and the memory is ours for good.
        Some(unsafe { core::slice::from_raw_parts_mut(first, count) })
    }
}
