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

pub mod acpi;
mod announce;
pub mod cmdline;
pub mod cpuid;
pub mod initrd;
pub mod kernel;
pub mod layout;
pub mod memmap;
pub mod mptable;
mod params;
pub mod regs;
pub mod source;
#[cfg(any(test, feature = "test-utils"))]
pub mod testing;

use std::ops::Range;

use vm_memory::GuestMemoryMmap;

pub use cmdline::{Cmdline, CmdlineError};
pub use initrd::InitrdError;
pub use kernel::{Entry, Format, KernelError, Protocol};
pub use layout::MmioDevice;
pub use regs::EntryState;
pub use source::{Source, Store, Unpacked};

/// What to boot.
#[derive(Clone, Debug)]
pub struct BootSpec<'a> {
    /// The kernel.
    pub kernel: Source<'a>,
    /// Where unpacked kernels are kept.
    pub store: Option<&'a dyn Store>,
    /// Archives that together are the initrd; empty for none.
    pub initrd: Vec<Source<'a>>,
    /// Kernel command line.
    pub cmdline: Cmdline,
    /// Boot protocol.
    pub protocol: Protocol,
    /// Devices and CPUs the guest is told of.
    pub platform: Platform,
}

/// What the guest is told of the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Platform {
    /// vCPUs, 1 to [`layout::MAX_CPUS`]; APIC IDs count from 0.
    pub cpus: u32,
    /// A PCI host bridge with ECAM.
    pub pci: bool,
    /// virtio-mmio devices: told by ACPI, or by the command line where the kernel has no ACPI.
    pub virtio_mmio: Vec<MmioDevice>,
    /// COM1 at [`layout::COM1_PORT`].
    pub serial: bool,
    /// A keyboard controller at port 0x60. Without it Linux does not probe for one.
    pub i8042: bool,
}

impl Default for Platform {
    fn default() -> Self {
        Self { cpus: 1, pci: true, virtio_mmio: Vec::new(), serial: true, i8042: false }
    }
}

impl<'a> BootSpec<'a> {
    /// Boots `kernel` on the default [`Platform`], and nothing else.
    #[must_use]
    pub fn new(kernel: Source<'a>) -> Self {
        Self {
            kernel,
            store: None,
            initrd: Vec::new(),
            cmdline: Cmdline::default(),
            protocol: Protocol::default(),
            platform: Platform::default(),
        }
    }
}

/// A machine ready for its first instruction.
#[derive(Clone, Debug)]
pub struct BootState {
    /// Registers of the boot processor.
    pub registers: EntryState,
    /// Boot protocol and entry point.
    pub entry: Entry,
    /// What the kernel file was.
    pub format: Format,
    /// Guest memory that the kernel occupies at first.
    pub kernel: Range<u64>,
    /// Guest memory of the initrd.
    pub initrd: Option<Range<u64>>,
}

/// Why a machine cannot be started. The caller names the file.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// The kernel was refused.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The initrd was refused.
    #[error(transparent)]
    Initrd(#[from] InitrdError),
    /// The command line was refused.
    #[error(transparent)]
    Cmdline(#[from] CmdlineError),
    /// Guest memory has no RAM where boot data go.
    #[error("guest memory is too small to boot: give the guest at least 2 MiB")]
    MemoryTooSmall,
    /// vCPUs outside what the tables describe.
    #[error("cannot boot with {0} CPUs: give the guest 1 to {max}", max = layout::MAX_CPUS)]
    Cpus(u32),
    /// More virtio-mmio devices than GSIs for them.
    #[error("cannot boot with {0} virtio-mmio devices: at most {max}", max = layout::VIRTIO_MMIO_SLOTS)]
    TooManyDevices(usize),
    /// A virtio-mmio device outside the slots.
    #[error("virtio-mmio device at 0x{:x} with GSI {} is outside the device hole", .0.base, .0.gsi)]
    MmioDevice(MmioDevice),
    /// A write to guest memory failed.
    #[error("cannot write boot data to guest memory: {0}")]
    Memory(#[from] vm_memory::GuestMemoryError),
    /// Writing boot parameters failed.
    #[error("cannot write boot parameters to guest memory: {0}")]
    Parameters(#[from] linux_loader::configurator::Error),
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
    cmdline.write(mem, kernel.cmdline_max)?;
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
