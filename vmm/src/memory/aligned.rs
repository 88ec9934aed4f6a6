//! Mappings that begin at a boundary of huge pages, as the regions of guest memory do in the guest.
//!
//! Where they don't, KVM can't map what the host backs with a huge page as one.

use std::ffi::c_void;

use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};
use vm_memory::MmapRegion;
use vm_memory::mmap::MmapRegionError;

/// A large page of x86-64, and so a transparent huge page.
pub(super) const HUGE_PAGE: usize = 2 << 20;

/// Gaps that are made at most.
const TRIES: usize = 8;

/// Calls `make` for a mapping of `len` bytes, in such a way that its beginning is aligned.
///
/// It has to be made by `make`, as what that returns owns it, and that takes no address. But Linux
/// puts a mapping into the highest gap that it fits in: so where the first try is not aligned, a
/// gap is made below it that begins where it should. Another thread that maps something at the same
/// moment can take its place, but not each time. If all fails, which costs only speed, the mapping
/// is as it came.
pub(super) fn map(
    len: usize,
    make: impl Fn() -> Result<MmapRegion, MmapRegionError>,
) -> Result<MmapRegion, MmapRegionError> {
    let aligned = |mapping: &MmapRegion| (mapping.as_ptr() as usize).is_multiple_of(HUGE_PAGE);
    let mut mapping = make()?;
    let mut too_small = Vec::new();
    for _ in 0..TRIES {
        if aligned(&mapping) || len < HUGE_PAGE {
            return Ok(mapping);
        }
        let Some(gap) = Gap::new(len) else { break };
        let Ok(next) = make() else { break };
        // Until the end they keep what has room for one, but none for one that is aligned.
        too_small.push(std::mem::replace(&mut mapping, next));
        drop(gap);
    }
    if !aligned(&mapping) {
        tracing::debug!("guest memory is not aligned for huge pages");
    }
    Ok(mapping)
}

/// Address space that is taken around an aligned gap, until this is dropped.
#[derive(Debug)]
struct Gap(Vec<(*mut c_void, usize)>);

impl Gap {
    /// A gap of `len` bytes; `None` where the address space has no room for it.
    #[expect(unsafe_code, reason = "a mapping is cut in its middle")]
    fn new(len: usize) -> Option<Self> {
        let size = len.checked_add(HUGE_PAGE)?;
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: a new mapping at a place of the kernel's choice.
        let start =
            unsafe { mmap_anonymous(std::ptr::null_mut(), size, ProtFlags::empty(), flags).ok()? };
        let ahead = (start as usize).next_multiple_of(HUGE_PAGE) - start as usize;
        let gap = start.wrapping_byte_add(ahead);
        // SAFETY: a part of the mapping above, which nobody else knows of.
        let cut = unsafe { munmap(gap, len) };
        match cut {
            Ok(()) => {
                Some(Self(vec![(start, ahead), (gap.wrapping_byte_add(len), HUGE_PAGE - ahead)]))
            }
            // At the limit of mappings.
            Err(_) => {
                drop(Self(vec![(start, size)]));
                None
            }
        }
    }
}

impl Drop for Gap {
    #[expect(unsafe_code, reason = "a mapping is given back by its address")]
    fn drop(&mut self) {
        for &(start, len) in self.0.iter().filter(|(_, len)| *len > 0) {
            // SAFETY: a mapping that `new` made and nobody else knows of. It is unmapped once.
            let _ = unsafe { munmap(start, len) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_no_gap_without_room() {
        assert!(Gap::new(usize::MAX).is_none());
        assert!(Gap::new(1 << 60).is_none());
    }
}
