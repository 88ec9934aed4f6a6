//! Virtio 1.2: the queue, the device trait, the transports and the devices.

mod device;
mod memory;
pub mod net;
mod queue;
pub mod spec;
#[cfg(any(test, feature = "test-utils"))]
pub mod testing;
mod transport;

pub use device::{
    ActivateError, Activation, ActiveQueue, DeviceInterrupt, QueueInterrupt, VirtioDevice,
    VirtioInterrupt,
};
pub use memory::{GuestRam, Slices};
pub use queue::{Chain, ChainFault, QueueError, QueueLayout, VirtQueue};
pub use transport::{IoEventFd, MmioTransport, PciTransport};
