//! Feature bits of the network device (Virtio 1.2 §5.1.3) and what depends on what.

use minivmm_net::nic::Offloads;

/// The device takes frames with an open checksum.
pub const CSUM: u64 = 1 << 0;
/// The driver takes frames with an open checksum.
pub const GUEST_CSUM: u64 = 1 << 1;
/// The device tells the MTU.
pub const MTU: u64 = 1 << 3;
/// The device tells its address.
pub const MAC: u64 = 1 << 5;
/// The driver takes TCP/IPv4 segments.
pub const GUEST_TSO4: u64 = 1 << 7;
/// The driver takes TCP/IPv6 segments.
pub const GUEST_TSO6: u64 = 1 << 8;
/// The device takes TCP/IPv4 segments.
pub const HOST_TSO4: u64 = 1 << 11;
/// The device takes TCP/IPv6 segments.
pub const HOST_TSO6: u64 = 1 << 12;
/// The driver merges receive buffers.
pub const MRG_RXBUF: u64 = 1 << 15;
/// The device tells the link's state.
pub const STATUS: u64 = 1 << 16;

/// What is offered whatever the device is wired to: the guest may always take less work than it
/// could be left with.
const ALWAYS: u64 = MAC | STATUS | MTU | MRG_RXBUF | GUEST_CSUM | GUEST_TSO4 | GUEST_TSO6;

/// Pairs of a feature and one that it requires (§5.1.3.1).
const REQUIRES: [(u64, u64); 4] =
    [(GUEST_TSO4, GUEST_CSUM), (GUEST_TSO6, GUEST_CSUM), (HOST_TSO4, CSUM), (HOST_TSO6, CSUM)];

/// The device features for a backend that takes `tx`.
pub fn offered(tx: Offloads) -> u64 {
    let mut features = ALWAYS;
    if tx.checksum {
        features |= CSUM;
        if tx.tso4 {
            features |= HOST_TSO4;
        }
        if tx.tso6 {
            features |= HOST_TSO6;
        }
    }
    features
}

/// Whether every feature in `acked` has what it requires.
pub fn consistent(acked: u64) -> bool {
    REQUIRES.iter().all(|(f, required)| acked & f == 0 || acked & required != 0)
}

/// What a driver that acked `acked` may leave to the device.
pub fn tx_offloads(acked: u64) -> Offloads {
    Offloads {
        checksum: acked & CSUM != 0,
        tso4: acked & HOST_TSO4 != 0,
        tso6: acked & HOST_TSO6 != 0,
    }
}

/// What a driver that acked `acked` takes.
pub fn rx_offloads(acked: u64) -> Offloads {
    Offloads {
        checksum: acked & GUEST_CSUM != 0,
        tso4: acked & GUEST_TSO4 != 0,
        tso6: acked & GUEST_TSO6 != 0,
    }
}
