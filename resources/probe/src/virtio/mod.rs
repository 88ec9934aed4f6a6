//! A driver for one virtio-net device, over PCI or MMIO.

pub mod find;
pub mod mmio;
pub mod net;
pub mod pci;
pub mod queue;
pub mod transport;

/// Feature bits (Virtio 1.2 §5.1.3 and §6).
pub mod feature {
    /// Device handles packets with partial checksum.
    pub const CSUM: u64 = 1 << 0;
    /// Driver handles packets with partial checksum.
    pub const GUEST_CSUM: u64 = 1 << 1;
    /// The device states its MTU.
    pub const MTU: u64 = 1 << 3;
    /// The device has a MAC address.
    pub const MAC: u64 = 1 << 5;
    /// Driver receives TSOv4.
    pub const GUEST_TSO4: u64 = 1 << 7;
    /// Driver receives TSOv6.
    pub const GUEST_TSO6: u64 = 1 << 8;
    /// Device receives TSOv4.
    pub const HOST_TSO4: u64 = 1 << 11;
    /// Device receives TSOv6.
    pub const HOST_TSO6: u64 = 1 << 12;
    /// Driver merges receive buffers.
    pub const MRG_RXBUF: u64 = 1 << 15;
    /// The device states its link.
    pub const STATUS: u64 = 1 << 16;
    /// Any descriptor layout (legacy devices).
    pub const ANY_LAYOUT: u64 = 1 << 27;
    /// Notifications by index.
    pub const EVENT_IDX: u64 = 1 << 29;
    /// Not a legacy device.
    pub const VERSION_1: u64 = 1 << 32;
}
