//! What both transports offer to the driver.

use super::mmio::Mmio;
use super::pci::Pci;
use super::queue::{Notify, Rings};

/// Device status bits (Virtio 1.2 §2.1).
pub mod status {
    /// The guest has found the device.
    pub const ACKNOWLEDGE: u8 = 1;
    /// The guest knows how to drive it.
    pub const DRIVER: u8 = 2;
    /// The driver is ready.
    pub const DRIVER_OK: u8 = 4;
    /// Feature negotiation is complete.
    pub const FEATURES_OK: u8 = 8;
}

/// A device behind one of the transports.
pub enum Transport {
    /// Memory-mapped registers.
    Mmio(Mmio),
    /// PCI.
    Pci(Pci),
}

macro_rules! forward {
    ($self:ident, $t:ident => $call:expr) => {
        match $self {
            Self::Mmio($t) => $call,
            Self::Pci($t) => $call,
        }
    };
}

impl Transport {
    /// How the transport is called.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Mmio(t) if t.legacy() => "virtio-mmio (legacy)",
            Self::Mmio(_) => "virtio-mmio",
            Self::Pci(_) => "virtio-pci",
        }
    }

    /// Whether the device is a legacy one: no FEATURES_OK, rings given as page numbers.
    pub fn legacy(&self) -> bool {
        matches!(self, Self::Mmio(t) if t.legacy())
    }

    /// Resets the device.
    pub fn reset(&mut self) {
        forward!(self, t => t.reset());
    }

    /// Writes the device status.
    pub fn set_status(&mut self, status: u8) {
        forward!(self, t => t.set_status(status));
    }

    /// Reads the device status.
    pub fn status(&self) -> u8 {
        forward!(self, t => t.status())
    }

    /// Features of the device.
    pub fn features(&mut self) -> u64 {
        forward!(self, t => t.features())
    }

    /// Features taken by the driver.
    pub fn accept(&mut self, features: u64) {
        forward!(self, t => t.accept(features));
    }

    /// A byte of the device's configuration.
    pub fn config8(&self, offset: usize) -> u8 {
        forward!(self, t => t.config8(offset))
    }

    /// Two bytes of the device's configuration.
    pub fn config16(&self, offset: usize) -> u16 {
        forward!(self, t => t.config16(offset))
    }

    /// How many entries queue `index` can have, 0 if there is no such queue.
    pub fn queue_size(&mut self, index: u16) -> u16 {
        forward!(self, t => t.queue_size(index))
    }

    /// Enables queue `index`. With `interrupt`, PCI devices signal it by MSI-X vector 0.
    pub fn enable_queue(&mut self, index: u16, rings: &Rings, interrupt: bool) -> Notify {
        forward!(self, t => t.enable_queue(index, rings, interrupt))
    }

    /// Acknowledges whatever interrupt is pending.
    pub fn acknowledge(&self) {
        if let Self::Mmio(t) = self {
            t.acknowledge();
        }
    }
}
