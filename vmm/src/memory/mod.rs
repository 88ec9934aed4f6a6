//! Guest memory: mapped lazily, not executable and not dumped.

mod aligned;

use std::ffi::{CStr, c_void};
use std::fmt;
use std::fs::{self, File};
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

use crate::cure::limit_cure;

/// The name of guest memory among this process's mappings.
const NAME: &CStr = c"minivmm-guest";

/// What guest memory is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Backing {
    /// Memory of this process alone. The host backs it with huge pages where it has them: a guest
    /// that starts takes hundreds of page faults less, and its addresses are translated in a step
    /// less.
    #[default]
    Anonymous,
    /// A memfd, for another process that serves the guest to map as well. It is sealed against a
    /// change of its size, so no holder of the descriptor can make an access fault.
    Memfd,
}

impl fmt::Display for Backing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Anonymous => "anonymous",
            Self::Memfd => "memfd",
        })
    }
}

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
    #[error("cannot map {mib} MiB of guest memory: {source} (give the guest less memory)")]
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
        "" => " (give the guest less memory)",
        cure => cure,
    }
}

/// Creates `size` bytes of guest memory, all zero, none of them resident yet.
///
/// # Errors
/// [`MemoryError`].
pub fn create(size: u64, backing: Backing) -> Result<GuestMemoryMmap, MemoryError> {
    let mib = size >> 20;
    let file = match backing {
        Backing::Anonymous => None,
        Backing::Memfd => {
            let memfd = memfd(size);
            Some(memfd.map_err(|e| MemoryError::Memfd { mib, source: e.into() })?)
        }
    };
    let mut offset = 0;
    let mut regions = Vec::new();
    let mut pages = Pages::Small;
    for (base, len) in layout::ram_regions(size) {
        let builder = || match &file {
            None => MmapRegionBuilder::new(len)
                .with_mmap_flags(libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE),
            Some(file) => MmapRegionBuilder::new(len)
                .with_file_offset(FileOffset::from_arc(Arc::clone(file), offset))
                .with_mmap_flags(libc::MAP_SHARED | libc::MAP_NORESERVE),
        };
        let map = || builder().with_mmap_prot(libc::PROT_READ | libc::PROT_WRITE).build();
        let mapping = aligned::map(len, map).map_err(|source| MemoryError::Map { mib, source })?;
        keep_out_of_dumps(&mapping);
        if backing == Backing::Anonymous {
            name(&mapping);
            pages = advise_huge_pages(&mapping);
        }
        let region = GuestRegionMmap::new(mapping, base);
        regions.push(region.expect("no region of the layout ends beyond the address space"));
        offset += len as u64;
    }
    tracing::info!("guest memory: {mib} MiB, {backing}, {pages}");
    Ok(GuestMemoryMmap::from_regions(regions)?)
}

/// A memfd of a size that is final.
fn memfd(size: u64) -> Result<Arc<File>, Errno> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let create = |flags| rustix::fs::memfd_create(NAME, flags);
    let fd = match create(flags | MemfdFlags::NOEXEC_SEAL) {
        // Before Linux 6.3.
        Err(Errno::INVAL) => create(flags),
        other => other,
    }?;
    rustix::fs::ftruncate(&fd, size)?;
    rustix::fs::fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    Ok(Arc::new(File::from(fd)))
}

/// The guest's secrets are none of a core dump's, nor its size of the dump's.
fn keep_out_of_dumps(mapping: &MmapRegion) {
    // Only a dump would show that it failed.
    if let Err(e) = advise(mapping, Advice::LinuxDontDump) {
        tracing::debug!("cannot keep guest memory out of core dumps: {e}");
    }
}

/// The pages that back guest memory.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Pages {
    /// Pages of 4 KiB.
    Small,
    /// Those of 2 MiB were advised; the host's setting for them, where it can be read.
    Huge(Option<String>),
    /// Those of 2 MiB were refused.
    Refused(Errno),
}

impl fmt::Display for Pages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Small => f.write_str("4 KiB pages"),
            Self::Huge(Some(setting)) if setting == "never" => {
                f.write_str("4 KiB pages, as transparent huge pages are off in the host")
            }
            Self::Huge(Some(setting)) => write!(f, "huge pages advised (the host's: {setting})"),
            Self::Huge(None) => f.write_str("huge pages advised"),
            Self::Refused(e) => write!(f, "4 KiB pages, as the host refuses huge ones ({e})"),
        }
    }
}

/// Asks for huge pages.
fn advise_huge_pages(mapping: &MmapRegion) -> Pages {
    match advise(mapping, Advice::LinuxHugepage) {
        Ok(()) => {
            let setting = fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled");
            Pages::Huge(setting.ok().as_deref().and_then(chosen).map(str::to_owned))
        }
        // A host built without them; small ones do as well.
        Err(e) => Pages::Refused(e),
    }
}

/// The word in brackets of a file that lists all choices, as in `always [madvise] never`.
fn chosen(choices: &str) -> Option<&str> {
    choices.split_whitespace().find_map(|word| word.strip_prefix('[')?.strip_suffix(']'))
}

#[expect(unsafe_code, reason = "advice is given by address")]
fn advise(mapping: &MmapRegion, advice: Advice) -> Result<(), Errno> {
    // SAFETY: that range is one live mapping, whose content no advice that is given here changes.
    unsafe { madvise(mapping.as_ptr().cast::<c_void>(), mapping.size(), advice) }
}

/// Names an anonymous mapping in `/proc/PID/maps`, where the host's kernel can (since Linux 5.17,
/// `CONFIG_ANON_VMA_NAME`).
#[expect(unsafe_code, reason = "the mapping is named by address")]
fn name(mapping: &MmapRegion) {
    // SAFETY: that range is one live mapping, whose content and use this does not change; the name
    // ends with a NUL and is copied.
    let done = unsafe {
        libc::prctl(
            libc::PR_SET_VMA,
            libc::PR_SET_VMA_ANON_NAME,
            mapping.as_ptr(),
            mapping.size(),
            NAME.as_ptr(),
        )
    };
    if done != 0 {
        tracing::debug!("cannot name guest memory: {}", io::Error::last_os_error());
    }
}

#[cfg(test)]
mod tests {
    use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryRegion};

    use super::*;

    const BOTH: [Backing; 2] = [Backing::Anonymous, Backing::Memfd];

    /// What `/proc/self/smaps` says of the mapping with the first byte of `mem` at its beginning.
    fn smaps(mem: &GuestMemoryMmap) -> Vec<String> {
        let start = mem.find_region(GuestAddress(0)).unwrap().as_ptr() as usize;
        let maps = fs::read_to_string("/proc/self/smaps").unwrap();
        let mapping = maps.lines().skip_while(|l| !l.starts_with(&format!("{start:x}-")));
        let (lines, mut done) = (mapping.map(str::to_owned), false);
        lines.take_while(|l| !std::mem::replace(&mut done, l.starts_with("VmFlags:"))).collect()
    }

    fn has_flag(mem: &GuestMemoryMmap, flag: &str) -> bool {
        let lines = smaps(mem);
        lines.last().unwrap().split_whitespace().any(|f| f == flag)
    }

    #[test]
    fn memory_is_zero_and_split_at_the_hole() {
        for backing in BOTH {
            let mem = create(4 << 30, backing).unwrap();
            assert_eq!(mem.num_regions(), 2);
            let last = GuestAddress((1 << 32) + (1 << 30) - 8);
            assert_eq!(mem.read_obj::<u64>(last).unwrap(), 0);
        }
    }

    #[test]
    fn a_memfd_keeps_its_size_and_can_be_mapped_elsewhere() {
        let mem = create(16 << 20, Backing::Memfd).unwrap();
        let file = mem.find_region(GuestAddress(0)).unwrap().file_offset().unwrap().file();
        assert!(file.set_len(1 << 20).is_err());
        assert!(file.set_len(32 << 20).is_err());
        let other =
            MmapRegion::<()>::from_file(FileOffset::new(file.try_clone().unwrap(), 0), 4096);
        let other = GuestMemoryMmap::from_regions(vec![
            GuestRegionMmap::new(other.unwrap(), GuestAddress(0)).unwrap(),
        ])
        .unwrap();
        mem.write_obj(0x1234_5678u32, GuestAddress(8)).unwrap();
        assert_eq!(other.read_obj::<u32>(GuestAddress(8)).unwrap(), 0x1234_5678);
    }

    #[test]
    fn anonymous_memory_is_no_file() {
        let mem = create(16 << 20, Backing::Anonymous).unwrap();
        assert!(mem.find_region(GuestAddress(0)).unwrap().file_offset().is_none());
    }

    /// By the flags `dd` and `hg` of the mapping (proc(5), `VmFlags`).
    #[test]
    fn memory_is_not_dumped_and_only_anonymous_is_advised() {
        for backing in BOTH {
            let mem = create(16 << 20, backing).unwrap();
            assert!(has_flag(&mem, "dd"), "{backing}");
        }
        let advised = create(16 << 20, Backing::Anonymous).unwrap();
        let has_them = fs::exists("/sys/kernel/mm/transparent_hugepage").unwrap();
        assert_eq!(has_flag(&advised, "hg"), has_them);
        assert!(!has_flag(&create(16 << 20, Backing::Memfd).unwrap(), "hg"));
    }

    #[test]
    fn one_byte_takes_one_huge_page_at_most() {
        let mem = create(16 << 20, Backing::Anonymous).unwrap();
        mem.write_obj(1u8, GuestAddress(5 << 20)).unwrap();
        let rss = smaps(&mem).into_iter().find(|l| l.starts_with("Rss:")).unwrap();
        let kib: usize = rss.split_whitespace().nth(1).unwrap().parse().unwrap();
        assert!((4..=2048).contains(&kib), "{rss}");
    }

    /// What a host without transparent huge pages answers.
    #[test]
    fn refused_huge_pages_are_told_of() {
        assert_eq!(
            Pages::Refused(Errno::INVAL).to_string(),
            "4 KiB pages, as the host refuses huge ones (Invalid argument (os error 22))"
        );
    }

    #[test]
    fn the_hosts_choice_is_read() {
        assert_eq!(chosen("always [madvise] never\n"), Some("madvise"));
        assert_eq!(chosen("always madvise [never]\n"), Some("never"));
        assert_eq!(chosen(""), None);
        assert!(Pages::Huge(Some("never".into())).to_string().contains("are off in the host"));
    }
}
