//! The transports: how a driver finds, configures and notifies a device.
//!
//! Both are a register file in front of the same state machine (`core`), which owns the device
//! while it is configured and hands its queues over at `DRIVER_OK`. Notifications are eventfds
//! that the VMM binds to guest addresses ([`IoEventFd`]); a notification that arrives by the bus
//! instead does the same, later. Interrupts bypass the state machine and take no lock.

mod core;
mod mmio;
mod pci;
mod pci_bar;

use std::sync::Arc;

use vmm_sys_util::eventfd::EventFd;

pub use self::mmio::MmioTransport;
pub use self::pci::PciTransport;

/// A guest address whose writes are to become kicks without waking a vCPU thread.
#[derive(Clone)]
pub struct IoEventFd {
    /// Guest-physical address.
    pub address: u64,
    /// `Some(v)`: only 4-byte writes of `v` count. `None`: any write at the address counts.
    pub datamatch: Option<u32>,
    /// To be signalled.
    pub fd: Arc<EventFd>,
}

impl std::fmt::Debug for IoEventFd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IoEventFd")
            .field("address", &self.address)
            .field("datamatch", &self.datamatch)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
