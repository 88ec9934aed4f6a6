//! What both queues have: their numbers, sizes and interrupts.

use crate::virtio::device::QueueInterrupt;

/// Number of the queue with buffers for frames to the driver (§5.1.2).
pub const RX_QUEUE: u16 = 0;

/// Number of the queue with frames of the driver (§5.1.2).
pub const TX_QUEUE: u16 = 1;

/// Descriptors of each queue at most.
pub(super) const QUEUE_SIZES: [u16; 2] = [256, 256];

/// Used chains that the driver is not shown yet, at most: enough to share the cost of showing,
/// few enough that it can work on some while we work on others.
pub(super) const PUBLISH_BATCH: u16 = 32;

/// The interrupt of a queue, and whether it is due.
#[derive(Debug)]
pub(super) struct QueueIrq {
    interrupt: QueueInterrupt,
    /// The driver wants to know.
    pub(super) wanted: bool,
}

impl From<QueueInterrupt> for QueueIrq {
    fn from(interrupt: QueueInterrupt) -> Self {
        Self { interrupt, wanted: false }
    }
}

impl QueueIrq {
    pub(super) fn raise(&mut self) {
        if std::mem::take(&mut self.wanted)
            && let Err(e) = self.interrupt.signal()
        {
            tracing::debug!("an interrupt of virtio-net is lost: {e}");
        }
    }
}
