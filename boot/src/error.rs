//! Why a machine is not started.

use crate::cmdline::CmdlineError;
use crate::initrd::InitrdError;
use crate::kernel::KernelError;
use crate::layout::{self, MmioDevice};

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
