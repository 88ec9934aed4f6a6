//! Kernel formats, guest memory layout, ACPI and MP tables, CPUID policy and first register state.
//!
//! Bytes in, values out: nothing here opens a device or makes an ioctl. [`load`] puts a kernel
//! and everything it is told into fresh guest memory and returns the registers that the boot
//! processor starts with. What a guest could later change (memory, registers) is never read back.
//!
//! ```
//! use minivmm_boot::{BootSpec, Source, layout};
//! use vm_memory::GuestMemoryMmap;
//!
//! let mem = GuestMemoryMmap::<()>::from_ranges(&layout::ram_regions(64 << 20))?;
//! let spec = BootSpec::new(Source::Bytes(b"not a kernel"));
//! let error = minivmm_boot::load(&mem, &spec).unwrap_err();
//! assert_eq!(
//!     error.to_string(),
//!     "not a kernel: it is too short to be an ELF vmlinux or a bzImage"
//! );
//! # Ok::<(), vm_memory::mmap::FromRangesError>(())
//! ```

mod acpi;
mod announce;
mod cmdline;
pub mod cpuid;
mod error;
mod initrd;
mod kernel;
pub mod layout;
mod memmap;
mod mptable;
mod params;
pub mod regs;
pub mod source;
mod spec;
#[cfg(any(test, feature = "test-utils"))]
pub mod testing;

use std::ops::Range;

use vm_memory::GuestMemoryMmap;

pub use cmdline::{Cmdline, CmdlineError};
pub use error::BootError;
pub use initrd::InitrdError;
pub use kernel::{Compression, EntryPoint, Format, KernelError, Protocol};
pub use layout::MmioDevice;
pub use regs::EntryState;
pub use source::{Source, Store, Unpacked};
pub use spec::{BootSpec, Platform};

/// A machine ready for its first instruction.
#[derive(Clone, Debug)]
pub struct BootState {
    /// Registers of the boot processor.
    pub registers: EntryState,
    /// Boot protocol and entry point.
    pub entry: EntryPoint,
    /// What the kernel file was.
    pub format: Format,
    /// Guest memory that the kernel occupies at first.
    pub kernel: Range<u64>,
    /// Guest memory of the initrd.
    pub initrd: Option<Range<u64>>,
}

/// Loads kernel, initrd, command line and tables into `mem`.
///
/// `mem` must be freshly mapped (all zero) and laid out as [`layout::ram_regions`] does.
///
/// # Errors
/// [`BootError`], one line each; `mem` may then have been written in part.
pub fn load(mem: &GuestMemoryMmap, spec: &BootSpec<'_>) -> Result<BootState, BootError> {
    if memmap::low_ram_end(mem) < 2 * layout::MIB {
        return Err(BootError::MemoryTooSmall);
    }
    check(&spec.platform)?;
    let kernel = kernel::load(spec.kernel, mem, spec.protocol, spec.store)?;
    let initrd = initrd::load(&spec.initrd, mem, &kernel.range, kernel.initrd_max)?;
    let cmdline = announce::cmdline(mem, spec, &kernel)?;
    params::write_cmdline(mem, &cmdline, kernel.cmdline_max)?;
    let rsdp = acpi::write(mem, &spec.platform)?;
    mptable::write(mem, &spec.platform)?;
    regs::write_reset_vector(mem)?;
    params::write(mem, &kernel, initrd.as_ref(), cmdline.as_str().len(), rsdp)?;
    Ok(BootState {
        registers: regs::set_up(kernel.entry, mem)?,
        entry: kernel.entry,
        format: kernel.format,
        kernel: kernel.range,
        initrd,
    })
}

/// Refuses what the tables cannot describe.
fn check(platform: &Platform) -> Result<(), BootError> {
    if !(1..=layout::MAX_CPUS).contains(&platform.cpus) {
        return Err(BootError::Cpus(platform.cpus));
    }
    let devices = &platform.virtio_mmio;
    if devices.len() > layout::VIRTIO_MMIO_SLOTS as usize {
        return Err(BootError::TooManyDevices(devices.len()));
    }
    let slots = layout::VIRTIO_MMIO..layout::PCI_ECAM;
    let outside = |d: &&MmioDevice| {
        let end = d.base.checked_add(d.size);
        !slots.contains(&d.base)
            || end.is_none_or(|end| end > slots.end)
            || !(layout::GSI_FIRST..=layout::GSI_LAST).contains(&d.gsi)
    };
    devices.iter().find(outside).map_or(Ok(()), |d| Err(BootError::MmioDevice(*d)))
}

#[cfg(test)]
mod tests;
