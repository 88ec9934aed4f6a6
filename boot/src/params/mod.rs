//! What the kernel is told at entry: PVH start info or the Linux zero page.

mod pvh;
mod zero_page;

use std::ops::Range;

use vm_memory::GuestMemoryMmap;

use crate::BootError;
use crate::kernel::{Entry, Loaded};
use crate::memmap;

/// Writes the parameters for the protocol that `kernel` is entered by.
///
/// The command line is expected at [`crate::layout::CMDLINE`].
pub(crate) fn write(
    mem: &GuestMemoryMmap,
    kernel: &Loaded,
    initrd: Option<&Range<u64>>,
    cmdline_len: usize,
    rsdp: u64,
) -> Result<(), BootError> {
    let memmap = memmap::build(mem);
    match kernel.entry {
        Entry::Pvh(_) => pvh::write(mem, &memmap, initrd, rsdp),
        Entry::Linux64(_) => {
            zero_page::write(mem, &memmap, initrd, kernel.header, cmdline_len, rsdp)
        }
    }
}
