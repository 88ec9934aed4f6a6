//! Buses, serial, PCI, the virtio core, its transports and the virtio devices.

pub mod irq;
pub mod virtio;
