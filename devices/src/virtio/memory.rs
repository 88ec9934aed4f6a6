//! Guest RAM as devices use it: region look-ups cached, slices that keep their memory mapped.
//!
//! Everything below holds because of three facts. A region of [`GuestMemoryMmap`] is never
//! unmapped, moved or shrunk while a clone of it lives. Each [`GuestSlice`] and each
//! [`Slices`] holds such a clone. A slice is made only for a range that was checked to lie in
//! one region. Access is volatile or atomic, since vCPUs write the same bytes at any time.
#![expect(unsafe_code, reason = "slices of guest memory that outlive a borrow of it")]

use std::sync::Arc;

use vm_memory::{
    Address, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion, VolatileSlice,
};

/// One RAM region, as found at start.
#[derive(Debug, Clone, Copy)]
struct Region {
    start: u64,
    len: u64,
    host: *mut u8,
}

#[derive(Debug)]
struct Inner {
    mem: GuestMemoryMmap,
    /// Sorted by `start`, disjoint; taken from `mem`, which never changes.
    regions: Box<[Region]>,
}

// SAFETY: the pointers are addresses of mappings that `mem`, itself Send and Sync, owns; they
// are only made into `VolatileSlice`s, for which concurrent access is part of the contract.
unsafe impl Send for Inner {}
// SAFETY: as above; `Inner` is immutable.
unsafe impl Sync for Inner {}

/// All RAM of the guest; clones are cheap and share.
#[derive(Debug, Clone)]
pub struct GuestRam(Arc<Inner>);

impl GuestRam {
    /// Takes the regions of `mem`. Regions added to another clone later are not seen.
    pub fn new(mem: GuestMemoryMmap) -> Self {
        let mut regions: Vec<Region> = mem
            .iter()
            .filter_map(|r| {
                let whole = r.as_volatile_slice().ok()?;
                Some(Region {
                    start: r.start_addr().raw_value(),
                    len: whole.len() as u64,
                    host: whole.ptr_guard_mut().as_ptr(),
                })
            })
            .collect();
        regions.sort_unstable_by_key(|r| r.start);
        Self(Arc::new(Inner { mem, regions: regions.into_boxed_slice() }))
    }

    /// The memory itself, for cold paths.
    pub fn guest_memory(&self) -> &GuestMemoryMmap {
        &self.0.mem
    }

    /// The region that holds `addr` and the offset of `addr` in it.
    fn find(&self, addr: u64) -> Option<(&Region, u64)> {
        self.0.regions.iter().find_map(|r| {
            let offset = addr.checked_sub(r.start)?;
            (offset < r.len).then_some((r, offset))
        })
    }

    /// `len` bytes at `addr`, if they lie in one region.
    pub fn slice(&self, addr: GuestAddress, len: u64) -> Option<GuestSlice> {
        let (region, offset) = self.find(addr.raw_value())?;
        if len > region.len - offset {
            return None;
        }
        // SAFETY: offset < region.len, which is the length of the mapping that starts at `host`.
        let host = unsafe { region.host.add(usize::try_from(offset).ok()?) };
        Some(GuestSlice { _ram: self.clone(), host, len: usize::try_from(len).ok()? })
    }

    /// Appends `len` bytes at `addr` to `out`, one slice for each region they touch. On false
    /// some byte is not RAM and `out` is as it was.
    fn append(&self, out: &mut Vec<VolatileSlice<'static>>, addr: u64, len: u64) -> bool {
        let before = out.len();
        let (mut addr, mut left) = (addr, len);
        while left > 0 {
            let Some((region, offset)) = self.find(addr) else {
                out.truncate(before);
                return false;
            };
            let n = left.min(region.len - offset);
            // Both fit usize: they are inside a mapping of this process.
            #[expect(clippy::cast_possible_truncation, reason = "offset and n lie in a mapping")]
            // SAFETY: offset + n <= region.len, the length of the mapping at `host`. The caller
            // keeps a clone of `self` beside `out`, so the mapping outlives the slice, whose
            // `'static` never leaves this module.
            out.push(unsafe { VolatileSlice::new(region.host.add(offset as usize), n as usize) });
            left -= n;
            // No overflow while bytes are left: a region ends below 2^64.
            addr = addr.wrapping_add(n);
        }
        true
    }

    fn same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

/// Consecutive guest memory in one region, kept mapped.
#[derive(Debug, Clone)]
pub struct GuestSlice {
    /// Keeps the mapping of `host`.
    _ram: GuestRam,
    host: *mut u8,
    len: usize,
}

// SAFETY: a pointer into memory that `_ram` keeps mapped, only used as `VolatileSlice`.
unsafe impl Send for GuestSlice {}
// SAFETY: as above.
unsafe impl Sync for GuestSlice {}

impl GuestSlice {
    /// The memory.
    #[inline]
    pub fn as_volatile(&self) -> VolatileSlice<'_> {
        // SAFETY: `host..host + len` was checked to be in one region of `_ram`, which lives as
        // long as `self`.
        unsafe { VolatileSlice::new(self.host, self.len) }
    }

    /// Bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True for no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// Guest memory of one or more descriptor chains: the scratch that [`VirtQueue::pop`] fills.
///
/// Reused, it does not allocate once it has grown. The slices stay valid whatever becomes of the
/// queue, since the list keeps their memory mapped.
///
/// [`VirtQueue::pop`]: super::queue::VirtQueue::pop
#[derive(Debug, Default)]
pub struct Slices {
    /// Made for `ram` only; the lifetime is a lie that `as_slice` corrects.
    slices: Vec<VolatileSlice<'static>>,
    ram: Option<GuestRam>,
}

// SAFETY: the slices point into memory that `ram`, itself Send, keeps mapped.
unsafe impl Send for Slices {}

impl Slices {
    /// An empty list with room for `n` slices.
    pub fn with_capacity(n: usize) -> Self {
        Self { slices: Vec::with_capacity(n), ram: None }
    }

    /// The slices, in chain order.
    #[inline]
    pub fn as_slice(&self) -> &[VolatileSlice<'_>] {
        &self.slices
    }

    /// Number of slices.
    pub fn len(&self) -> usize {
        self.slices.len()
    }

    /// True for no slices.
    pub fn is_empty(&self) -> bool {
        self.slices.is_empty()
    }

    /// Forgets all slices, keeps the room.
    pub fn clear(&mut self) {
        self.slices.clear();
    }

    /// Forgets all slices from number `len` on.
    pub fn truncate(&mut self, len: usize) {
        self.slices.truncate(len);
    }

    /// Appends guest memory. On false some byte of it is not RAM and nothing was appended.
    ///
    /// # Panics
    /// If the list holds slices of another machine's memory, a mistake of the caller.
    pub(super) fn push(&mut self, ram: &GuestRam, addr: u64, len: u32) -> bool {
        self.adopt(ram);
        ram.append(&mut self.slices, addr, u64::from(len))
    }

    /// Makes this a list of `ram`'s slices, which it keeps mapped from here on.
    fn adopt(&mut self, ram: &GuestRam) {
        match &self.ram {
            Some(mine) if mine.same(ram) => {}
            _ => {
                assert!(self.slices.is_empty(), "one list holds slices of one guest's memory");
                self.ram = Some(ram.clone());
            }
        }
    }

    /// Copies the first bytes of the slices from number `at` on to `buf` and cuts them off, so
    /// that nobody reads them again. Returns how many there were. No slice is removed; some may
    /// be empty afterwards.
    pub(super) fn take_front(&mut self, at: usize, buf: &mut [u8]) -> usize {
        let mut done = 0;
        self.cut_front(at, buf.len(), |piece| {
            done += piece.copy_to(&mut buf[done..]);
        });
        done
    }

    /// Cuts the first `n` bytes off the slices from number `at` on and appends them to `to`. No
    /// slice is removed; some may be empty afterwards.
    pub(super) fn move_front(&mut self, at: usize, n: usize, to: &mut Self) {
        let Some(ram) = &self.ram else { return };
        to.adopt(ram);
        self.cut_front(at, n, |piece| to.slices.push(piece));
    }

    fn cut_front(&mut self, at: usize, n: usize, mut f: impl FnMut(VolatileSlice<'static>)) {
        let mut left = n;
        for slice in self.slices.iter_mut().skip(at) {
            if left == 0 {
                break;
            }
            let (piece, rest) = slice
                .split_at(left.min(slice.len()))
                .expect("the middle is no further than the end");
            left -= piece.len();
            *slice = rest;
            f(piece);
        }
    }

    /// Forgets the first `n` slices.
    pub(super) fn drop_front(&mut self, n: usize) {
        self.slices.drain(..n);
    }
}

#[cfg(test)]
mod tests {
    use vm_memory::Bytes;

    use super::*;

    fn two_regions() -> GuestRam {
        GuestRam::new(
            GuestMemoryMmap::from_ranges(&[
                (GuestAddress(0), 0x1000),
                (GuestAddress(0x1000), 0x1000),
                (GuestAddress(0x8000), 0x1000),
            ])
            .unwrap(),
        )
    }

    #[test]
    fn a_range_over_two_regions_becomes_two_slices() {
        let ram = two_regions();
        let mut s = Slices::default();
        assert!(s.push(&ram, 0xff0, 0x20));
        assert_eq!(s.as_slice().iter().map(VolatileSlice::len).collect::<Vec<_>>(), [16, 16]);
        s.as_slice()[1].copy_from(&[7u8; 16]);
        let b: u8 = ram.guest_memory().read_obj(GuestAddress(0x1000)).unwrap();
        assert_eq!(b, 7);
    }

    #[test]
    fn a_range_with_a_hole_leaves_the_list_alone() {
        let ram = two_regions();
        let mut s = Slices::default();
        assert!(s.push(&ram, 0, 16));
        assert!(!s.push(&ram, 0x1ff0, 0x20));
        assert!(!s.push(&ram, 0x8ff0, 0x11));
        assert!(!s.push(&ram, u64::MAX, 2));
        assert_eq!(s.len(), 1);
    }

    #[test]
    fn bytes_cut_off_the_front_are_gone_from_the_slices() {
        let ram = two_regions();
        let bytes: Vec<u8> = (0..32).collect();
        ram.guest_memory().write_slice(&bytes, GuestAddress(0xff0)).unwrap();
        let mut s = Slices::default();
        assert!(s.push(&ram, 0, 4) && s.push(&ram, 0xff0, 0x20));
        let mut copy = [0; 20];
        assert_eq!(s.take_front(1, &mut copy), 20);
        assert_eq!(copy[..], bytes[..20]);
        assert_eq!(s.as_slice().iter().map(VolatileSlice::len).collect::<Vec<_>>(), [4, 0, 12]);

        let mut moved = Slices::default();
        s.move_front(0, 6, &mut moved);
        assert_eq!(moved.as_slice().iter().map(VolatileSlice::len).collect::<Vec<_>>(), [4, 0, 2]);
        let mut rest = [0; 99];
        assert_eq!(s.take_front(0, &mut rest), 10);
        assert_eq!(rest[..10], bytes[22..]);
        s.drop_front(2);
        assert_eq!(s.len(), 1);
    }

    #[test]
    fn a_slice_must_fit_one_region() {
        let ram = two_regions();
        assert!(ram.slice(GuestAddress(0xff0), 0x10).is_some());
        assert!(ram.slice(GuestAddress(0xff0), 0x11).is_none());
        assert!(ram.slice(GuestAddress(0x8000), u64::MAX).is_none());
        assert!(ram.slice(GuestAddress(0x2000), 1).is_none());
    }

    #[test]
    fn slices_outlive_every_other_handle() {
        let ram = two_regions();
        let mut s = Slices::default();
        assert!(s.push(&ram, 0x8000, 8));
        drop(ram);
        s.as_slice()[0].copy_from(&[1u8; 8]);
        let mut out = [0u8; 8];
        s.as_slice()[0].copy_to(&mut out);
        assert_eq!(out, [1; 8]);
    }
}
