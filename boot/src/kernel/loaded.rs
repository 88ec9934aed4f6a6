//! How a kernel is to be entered, and where one is.

use std::ops::Range;

use linux_loader::loader::bootparam::setup_header;

use super::format::Format;

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
pub enum EntryPoint {
    /// 32-bit protected mode, paging off, EBX = `hvm_start_info` (Xen PVH, `docs/misc/pvh.pandoc`).
    Pvh(u32),
    /// Long mode, identity-mapped, RSI = `boot_params` (Linux `Documentation/arch/x86/boot.rst`).
    Linux64(u64),
}

/// A kernel in guest memory.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// What the file was.
    pub format: Format,
    /// Where and how it is entered.
    pub entry: EntryPoint,
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
