//! Constants of Virtio 1.2 that the core and the transports use.

/// Device status bits (§2.1).
pub mod status {
    /// The guest has seen the device.
    pub const ACKNOWLEDGE: u8 = 1;
    /// The guest has a driver for it.
    pub const DRIVER: u8 = 2;
    /// The driver is ready; the device is live.
    pub const DRIVER_OK: u8 = 4;
    /// Feature negotiation is complete.
    pub const FEATURES_OK: u8 = 8;
    /// The device met an error it can't recover from.
    pub const DEVICE_NEEDS_RESET: u8 = 64;
    /// The driver gave up.
    pub const FAILED: u8 = 128;
}

/// Device-independent feature bits, as masks (§6).
pub mod feature {
    /// Descriptors may point to a table of descriptors (§2.7.5.3).
    pub const RING_INDIRECT_DESC: u64 = 1 << 28;
    /// Suppression of notifications by ring index (§2.7.7.1, §2.7.10).
    pub const RING_EVENT_IDX: u64 = 1 << 29;
    /// Not a legacy device; negotiation fails without it.
    pub const VERSION_1: u64 = 1 << 32;

    /// What the transports offer for every device.
    pub const CORE: u64 = VERSION_1 | RING_INDIRECT_DESC | RING_EVENT_IDX;
}

/// Device types (§5).
pub mod device_type {
    /// Network card.
    pub const NET: u32 = 1;
    /// Block device.
    pub const BLOCK: u32 = 2;
    /// Console.
    pub const CONSOLE: u32 = 3;
    /// Entropy source.
    pub const RNG: u32 = 4;
    /// Shared file system.
    pub const FS: u32 = 26;
    /// Host-guest sockets.
    pub const VSOCK: u32 = 19;

    /// What messages call a device.
    pub const fn name(kind: u32) -> &'static str {
        match kind {
            NET => "virtio-net",
            BLOCK => "virtio-blk",
            CONSOLE => "virtio-console",
            RNG => "virtio-rng",
            FS => "virtio-fs",
            VSOCK => "virtio-vsock",
            _ => "a virtio device",
        }
    }
}

/// Split virtqueue layout (§2.7).
pub mod ring {
    /// The largest queue size.
    pub const MAX_SIZE: u16 = 32768;
    /// Bytes of a descriptor (`struct virtq_desc`).
    pub const DESC_SIZE: u64 = 16;
    /// The descriptor continues in `next`.
    pub const DESC_F_NEXT: u16 = 1;
    /// The device writes the buffer; else it reads it.
    pub const DESC_F_WRITE: u16 = 2;
    /// The buffer is a table of descriptors.
    pub const DESC_F_INDIRECT: u16 = 4;
    /// The driver wants no interrupt (`avail.flags`).
    pub const AVAIL_F_NO_INTERRUPT: u16 = 1;
    /// The device wants no kick (`used.flags`).
    pub const USED_F_NO_NOTIFY: u16 = 1;
    /// Alignment of the descriptor table.
    pub const DESC_ALIGN: u64 = 16;
    /// Alignment of the available ring.
    pub const AVAIL_ALIGN: u64 = 2;
    /// Alignment of the used ring.
    pub const USED_ALIGN: u64 = 4;

    /// Bytes of the descriptor table.
    pub const fn desc_len(size: u16) -> u64 {
        DESC_SIZE * size as u64
    }

    /// Bytes of the available ring, `used_event` included.
    pub const fn avail_len(size: u16) -> u64 {
        6 + 2 * size as u64
    }

    /// Bytes of the used ring, `avail_event` included.
    pub const fn used_len(size: u16) -> u64 {
        6 + 8 * size as u64
    }
}
