//! Kernel formats: ELF `vmlinux` and bzImage, recognised, checked and put into guest memory.
//!
//! * Nothing is written before the whole image was checked, and nothing outside
//!   `1 MiB .. end of low RAM` ever is.
//! * Lengths and addresses in the image are claims: each is checked against the image and against
//!   guest memory before it is used, and no allocation is larger than the image or
//!   [`crate::source::MAX_IMAGE`].
//! * Memory that a segment wants zeroed is not written: guest memory is to be freshly mapped.

pub(crate) mod bzimage;
mod decompress;
mod elf;
#[cfg(test)]
mod tests;

use std::io;
use std::ops::Range;

use linux_loader::loader::bootparam::setup_header;
use vm_memory::GuestMemoryMmap;

pub use decompress::Compression;

use crate::memmap;
use crate::source::{Image, Source, Store};

/// Which boot protocol to use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocol {
    /// PVH where the kernel has the note, else the 64-bit Linux boot protocol.
    #[default]
    Auto,
    /// PVH or an error.
    Pvh,
    /// The 64-bit Linux boot protocol or an error.
    Linux64,
}

/// How the first CPU enters the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// 32-bit protected mode, paging off, EBX = `hvm_start_info` (Xen PVH, `docs/misc/pvh.pandoc`).
    Pvh(u32),
    /// Long mode, identity-mapped, RSI = `boot_params` (Linux `Documentation/arch/x86/boot.rst`).
    Linux64(u64),
}

/// What the kernel file was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// An ELF executable.
    Elf,
    /// A bzImage whose payload was unpacked by us and is an ELF executable.
    BzImage(Compression),
    /// A bzImage that unpacks itself in the guest.
    BzImageSelfExtracting,
}

impl std::fmt::Display for Format {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Elf => f.write_str("ELF"),
            Self::BzImage(compression) => write!(f, "bzImage ({compression})"),
            Self::BzImageSelfExtracting => f.write_str("bzImage (self-extracting)"),
        }
    }
}

/// A kernel in guest memory.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// What the file was.
    pub format: Format,
    /// Where and how it is entered.
    pub entry: Entry,
    /// Guest memory that the kernel occupies before it manages memory itself, bss included.
    pub range: Range<u64>,
    /// Guest memory that holds its constants, if anything does; none where the kernel unpacks itself.
    pub(crate) constants: Vec<Range<u64>>,
    /// First address past the highest that an initrd may use.
    pub initrd_max: u64,
    /// Longest command line in bytes, without the NUL.
    pub cmdline_max: usize,
    /// The bzImage's own header, for the zero page.
    pub(crate) header: Option<setup_header>,
}

/// Why a kernel was refused. The caller names the file.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// Reading failed.
    #[error("cannot read the kernel: {0}")]
    Read(#[from] io::Error),
    /// No bytes at all.
    #[error("the kernel file is empty")]
    Empty,
    /// Neither ELF nor bzImage.
    #[error("not a kernel: {0}")]
    NotAKernel(&'static str),
    /// The file ends early.
    #[error("the kernel file is truncated: its {what} need {need} bytes, it has {have}")]
    Truncated {
        /// The part that is missing.
        what: &'static str,
        /// Bytes the file would need.
        need: u64,
        /// Bytes it has.
        have: u64,
    },
    /// For another CPU.
    #[error("the kernel is for {0}, this machine runs x86_64 kernels")]
    ForeignArchitecture(String),
    /// An ELF header field makes no sense.
    #[error("damaged kernel: {0}")]
    Malformed(&'static str),
    /// Protocol was forced to PVH.
    #[error("the kernel has no PVH entry (built without CONFIG_PVH)")]
    NoPvhEntry,
    /// Protocol was forced to PVH, and the note is in a payload of another format.
    #[error(
        "the kernel's PVH entry can't be found, as its payload is not gzip, xz, lzma, lz4 or zstd: \
         use its vmlinux, or another boot protocol"
    )]
    NoPvhInPayload,
    /// No way in that we know.
    #[error("the kernel cannot be entered in 64-bit mode (32-bit or older than Linux 3.8)")]
    No64BitEntry,
    /// An entry point outside what is loaded.
    #[error("damaged kernel: its {protocol} entry 0x{entry:x} is outside its own code")]
    EntryOutside {
        /// "PVH" or "ELF".
        protocol: &'static str,
        /// The address.
        entry: u64,
    },
    /// A part of the kernel below 1 MiB.
    #[error(
        "the kernel wants guest address 0x{0:x}; below 1 MiB is kept for boot data, link it higher"
    )]
    TooLow(u64),
    /// Guest memory ends before the kernel.
    #[error(
        "the kernel needs guest memory up to 0x{end:x}, RAM below the device hole ends at \
         0x{ram_end:x}: {}", advice(*.end)
    )]
    DoesNotFit {
        /// First address past the kernel.
        end: u64,
        /// First address past RAM.
        ram_end: u64,
    },
    /// The payload is damaged.
    #[error("cannot unpack the kernel ({compression}): {reason}")]
    Unpack {
        /// Its compression.
        compression: Compression,
        /// What the decoder said.
        reason: String,
    },
    /// The payload is larger than it may be.
    #[error("cannot unpack the kernel ({compression}): it exceeds {} MiB", limit.div_ceil(1 << 20))]
    TooLarge {
        /// Its compression.
        compression: Compression,
        /// Bytes allowed.
        limit: u64,
    },
}

/// What to do about a kernel that ends at `end`.
fn advice(end: u64) -> String {
    if end > crate::layout::RAM_LOW_MAX {
        "it is linked too high for this machine".to_owned()
    } else {
        format!("give the guest at least {} MiB", end.div_ceil(1 << 20))
    }
}

/// Loads a kernel into `mem`, which must be freshly mapped (all zero). The unpacked payload of a
/// bzImage is taken from `store`, or kept there.
///
/// # Errors
/// [`KernelError`]; guest memory may then have been written in part.
pub fn load(
    source: Source<'_>,
    mem: &GuestMemoryMmap,
    protocol: Protocol,
    store: Option<&dyn Store>,
) -> Result<Loaded, KernelError> {
    let image = Image::open(source)?;
    if image.len() == 0 {
        return Err(KernelError::Empty);
    }
    let head_len = image.len().min(bzimage::HEADER_END) as usize;
    let head = image.read(0, head_len)?.unwrap_or_default();
    if head.starts_with(b"\x7fELF") {
        let elf = elf::load(&image, mem, protocol)?;
        return Ok(Loaded {
            format: Format::Elf,
            entry: elf.entry,
            range: elf.range,
            constants: elf.constants,
            initrd_max: memmap::low_ram_end(mem),
            cmdline_max: crate::cmdline::MAX_LEN,
            header: None,
        });
    }
    if bzimage::is_bzimage(&head) {
        return bzimage::load(&image, &head, mem, protocol, store);
    }
    Err(foreign(&head, image.len()))
}

/// Says what a file is that is no kernel for us.
fn foreign(head: &[u8], len: u64) -> KernelError {
    let at = |offset: usize, magic: &[u8]| head.get(offset..).is_some_and(|h| h.starts_with(magic));
    if at(0x38, b"ARM\x64") {
        return KernelError::ForeignArchitecture("arm64".to_owned());
    }
    if at(0x38, b"RSC\x05") || at(0x30, b"RISCV") {
        return KernelError::ForeignArchitecture("riscv64".to_owned());
    }
    if at(510, b"\x55\xaa") && (len < bzimage::HEADER_END) {
        return KernelError::Truncated { what: "headers", need: bzimage::HEADER_END, have: len };
    }
    KernelError::NotAKernel(if at(0, b"MZ") {
        "an EFI program without a Linux boot header (a unified kernel image? extract its .linux \
         section with objcopy)"
    } else if at(0, b"\x1f\x8b") || at(0, b"\x28\xb5\x2f\xfd") || at(0, b"\xfd7zXZ\0") {
        "a compressed file (unpack it first, or use the bzImage, usually named vmlinuz)"
    } else if at(0, b"070701") || at(0, b"070702") {
        "a cpio archive (is it the initrd?)"
    } else if at(0, b"#!") {
        "a script"
    } else if len < 64 {
        "it is too short to be an ELF vmlinux or a bzImage"
    } else {
        "neither an ELF vmlinux nor a bzImage"
    })
}

/// Little-endian fields at fixed offsets of a header whose length was checked.
pub(crate) mod field {
    pub(crate) fn bytes<const N: usize>(b: &[u8], at: usize) -> [u8; N] {
        b.get(at..).and_then(|b| b.first_chunk()).copied().unwrap_or([0; N])
    }
    pub(crate) fn u16(b: &[u8], at: usize) -> u16 {
        u16::from_le_bytes(bytes(b, at))
    }
    pub(crate) fn u32(b: &[u8], at: usize) -> u32 {
        u32::from_le_bytes(bytes(b, at))
    }
    pub(crate) fn u64(b: &[u8], at: usize) -> u64 {
        u64::from_le_bytes(bytes(b, at))
    }
}
