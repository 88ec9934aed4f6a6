//! What is booted, and on what.

use crate::cmdline::Cmdline;
use crate::kernel::Protocol;
use crate::layout::MmioDevice;
use crate::source::{Source, Store};

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
    /// vCPUs, 1 to [`crate::layout::MAX_CPUS`]; APIC IDs count from 0.
    pub cpus: u32,
    /// A PCI host bridge with ECAM.
    pub pci: bool,
    /// virtio-mmio devices: told by ACPI, or by the command line where the kernel has no ACPI.
    pub virtio_mmio: Vec<MmioDevice>,
    /// COM1 at [`crate::layout::COM1_PORT`].
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
