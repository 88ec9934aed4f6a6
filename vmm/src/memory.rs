//! Guest memory: one sealed memfd, mapped lazily, not executable and not dumped.

use std::fs::File;
use std::io;
use std::sync::Arc;

use minivmm_boot::layout;
use rustix::fs::{MemfdFlags, SealFlags};
use rustix::io::Errno;
use rustix::mm::{Advice, madvise};
use vm_memory::mmap::{MmapRegionBuilder, MmapRegionError};
use vm_memory::{
    FileOffset, GuestMemoryMmap, GuestRegionCollectionError, GuestRegionMmap, MmapRegion,
};

use crate::error::limit_cure;

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
    match limit_cure(source) {
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
    let memfd = |source: Errno| MemoryError::Memfd { mib, source: source.into() };
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let create = |flags| rustix::fs::memfd_create("minivmm-guest", flags);
    let fd = match create(flags | MemfdFlags::NOEXEC_SEAL) {
        // Before Linux 6.3.
        Err(Errno::INVAL) => create(flags),
        other => other,
    }
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
        keep_out_of_dumps(&mapping);
        let region = GuestRegionMmap::new(mapping, base);
        regions.push(region.expect("no region of the layout ends beyond the address space"));
        offset += len as u64;
    }
    Ok(GuestMemoryMmap::from_regions(regions)?)
}

/// The guest's secrets are none of a core dump's, nor its size of the dump's.
#[expect(unsafe_code, reason = "advice is given by address")]
fn keep_out_of_dumps(mapping: &MmapRegion) {
    let (start, len) = (mapping.as_ptr().cast(), mapping.size());
    // SAFETY: that range is one live mapping, whose content and use this advice does not change.
    let done = unsafe { madvise(start, len, Advice::LinuxDontDump) };
    // Only a dump would show that it failed.
    if let Err(e) = done {
        tracing::debug!("cannot keep guest memory out of core dumps: {e}");
    }
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

    /// By the flag `dd` of the mapping (proc(5), `VmFlags`).
    #[test]
    fn memory_is_not_dumped() {
        let mem = create(16 << 20).unwrap();
        let start = mem.find_region(GuestAddress(0)).unwrap().as_ptr() as usize;
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let mapping = maps.lines().skip_while(|l| !l.starts_with(&format!("{start:x}-")));
        let flags = mapping.skip(1).find(|l| l.starts_with("VmFlags:")).unwrap();
        assert!(flags.split_whitespace().any(|flag| flag == "dd"), "{flags}");
    }
}
