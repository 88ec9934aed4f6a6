//! Guest memory: one sealed memfd, mapped lazily.

use std::fs::File;
use std::io;
use std::sync::Arc;

use minivmm_boot::layout;
use rustix::fs::{MemfdFlags, SealFlags};
use vm_memory::mmap::{MmapRegionBuilder, MmapRegionError};
use vm_memory::{FileOffset, GuestMemoryMmap, GuestRegionCollectionError, GuestRegionMmap};

use crate::error::descriptor_cure;

/// Why there is no guest memory.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// The memfd was refused.
    #[error("cannot create {mib} MiB of guest memory: {source}{}", cure(source))]
    Memfd {
        /// What was asked for.
        mib: u64,
        /// The refusal.
        source: io::Error,
    },
    /// The mapping was refused.
    #[error("cannot map {mib} MiB of guest memory: {source} (give the guest less: --memory)")]
    Map {
        /// What was asked for.
        mib: u64,
        /// The refusal.
        source: MmapRegionError,
    },
    /// The regions do not make a memory.
    #[error("cannot lay out guest memory: {0}")]
    Layout(#[from] GuestRegionCollectionError),
}

fn cure(source: &io::Error) -> &'static str {
    match descriptor_cure(source) {
        "" => " (give the guest less: --memory)",
        cure => cure,
    }
}

/// Creates `size` bytes of guest memory, all zero, none of them resident yet.
///
/// The memfd is sealed against a change of its size, so no holder of the descriptor can make an
/// access fault.
///
/// # Errors
/// [`MemoryError`].
pub fn create(size: u64) -> Result<GuestMemoryMmap, MemoryError> {
    let mib = size >> 20;
    let memfd = |source: rustix::io::Errno| MemoryError::Memfd { mib, source: source.into() };
    let fd =
        rustix::fs::memfd_create("minivmm-guest", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)
            .map_err(memfd)?;
    rustix::fs::ftruncate(&fd, size).map_err(memfd)?;
    rustix::fs::fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)
        .map_err(memfd)?;
    let file = Arc::new(File::from(fd));
    let mut offset = 0;
    let mut regions = Vec::new();
    for (base, len) in layout::ram_regions(size) {
        let mapping = MmapRegionBuilder::new(len)
            .with_file_offset(FileOffset::from_arc(Arc::clone(&file), offset))
            .with_mmap_prot(libc::PROT_READ | libc::PROT_WRITE)
            .with_mmap_flags(libc::MAP_SHARED | libc::MAP_NORESERVE)
            .build()
            .map_err(|source| MemoryError::Map { mib, source })?;
        let region = GuestRegionMmap::new(mapping, base);
        regions.push(region.expect("no region of the layout ends beyond the address space"));
        offset += len as u64;
    }
    Ok(GuestMemoryMmap::from_regions(regions)?)
}

#[cfg(test)]
mod tests {
    use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryRegion};

    use super::*;

    #[test]
    fn memory_is_zero_sealed_and_split_at_the_hole() {
        let mem = create(4 << 30).unwrap();
        assert_eq!(mem.num_regions(), 2);
        let last = GuestAddress((1 << 32) + (1 << 30) - 8);
        assert_eq!(mem.read_obj::<u64>(last).unwrap(), 0);
        let region = mem.find_region(GuestAddress(0)).unwrap();
        let file = region.file_offset().unwrap().file();
        assert!(file.set_len(1 << 20).is_err());
    }
}
