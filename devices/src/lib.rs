//! The machine's devices: buses, serial port, PCI, and virtio with its two transports.
//!
//! # Boundary
//!
//! Nothing here opens a host device or names KVM. An interrupt is an [`irq::IrqLine`], which the
//! VMM backs by an irqfd. A notification address is data, [`virtio::IoEventFd`], which the VMM
//! registers as an ioeventfd. Guest memory comes in as [`virtio::GuestRam`]. What a guest asks of
//! the machine, to power off or reset, goes out as an [`events::GuestEvent`]. What a network is,
//! `minivmm-net` knows; [`virtio::net`] only lends it guest buffers.
//!
//! # Wiring
//!
//! 1. Two [`bus::Bus`]es, ports and memory. A vCPU thread hands each exit to `Bus::read` or
//!    `Bus::write`; the bus holds no lock meanwhile, each device has its own.
//! 2. Port devices: [`serial::Serial`], [`i8042::I8042`], [`acpi_pm::AcpiPm`],
//!    [`debug_exit::DebugExit`], and for PCI [`pci::ConfigPorts`]; on memory [`pci::Ecam`].
//! 3. A virtio device becomes a [`virtio::PciTransport`], given to [`pci::PciBus::add`], or a
//!    [`virtio::MmioTransport`], put on the memory bus. On PCI, notification addresses come and go
//!    with [`pci::BarChange`]; on MMIO they stand from the start.
//!
//! There is no real-time clock at ports 0x70 and 0x71: guests read the time from kvm-clock, and
//! the FADT says that there is no CMOS RTC.
//!
//! # Life of a virtio device
//!
//! The transport owns the device. At `DRIVER_OK` it checks the rings once and moves them into the
//! device with their eventfds and interrupts ([`virtio::Activation`]); from there on the device's
//! own thread works, and vCPU threads are only in configuration registers. A reset, by the driver,
//! by `reset()` of the transport or by its drop, returns when the device is quiet.
//!
//! # Trust
//!
//! The guest is hostile. Accesses have any width, alignment and order. Rings and descriptors may
//! change at any moment, so each is read once and our copy is checked. Nothing the guest does
//! panics, loops or allocates without bound; a driver that breaks the rules gets
//! `DEVICE_NEEDS_RESET` or is ignored.

pub mod acpi_pm;
pub mod bus;
pub mod debug_exit;
pub mod events;
pub mod i8042;
pub mod irq;
pub mod pci;
pub mod serial;
pub mod virtio;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks whatever happened to another holder: each critical section here leaves a state that is
/// valid, if perhaps not the one wanted.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
