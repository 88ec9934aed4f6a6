//! What the kernel is told at entry: PVH start info or the Linux zero page.

mod pvh;
mod zero_page;

use std::ops::Range;

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use crate::cmdline::{Cmdline, CmdlineError, MAX_LEN};
use crate::kernel::{EntryPoint, Loaded};
use crate::{BootError, layout, memmap};

/// Writes the parameters for the protocol that `kernel` is entered by.
///
/// The command line is expected at [`layout::CMDLINE`].
pub(crate) fn write(
    mem: &GuestMemoryMmap,
    kernel: &Loaded,
    initrd: Option<&Range<u64>>,
    cmdline_len: usize,
    rsdp: u64,
) -> Result<(), BootError> {
    let memmap = memmap::build(mem);
    match kernel.entry {
        EntryPoint::Pvh(_) => pvh::write(mem, &memmap, initrd, rsdp),
        EntryPoint::Linux64(_) => {
            zero_page::write(mem, &memmap, initrd, kernel.header, cmdline_len, rsdp)
        }
    }
}

/// Writes the command line with its NUL at [`layout::CMDLINE`]; `max` is the kernel's own limit.
pub(crate) fn write_cmdline(
    mem: &GuestMemoryMmap,
    cmdline: &Cmdline,
    max: usize,
) -> Result<(), BootError> {
    let line = cmdline.as_str();
    let max = max.min(MAX_LEN);
    if line.len() > max {
        return Err(CmdlineError::TooLong { len: line.len(), max }.into());
    }
    mem.write_slice(line.as_bytes(), GuestAddress(layout::CMDLINE))?;
    mem.write_obj(0u8, GuestAddress(layout::CMDLINE + line.len() as u64))?;
    Ok(())
}
