//! The transmit queue.

use minivmm_net::nic::{
    Drained, ETHERNET_LEN, FRAME_MAX, FrameSink, HEAD_MAX, IOV_MAX, Offload, Offloads, TxFrame,
    TxOutcome, VNET_HEADER_LEN,
};
use minivmm_net::{DropReason, Stats};

use super::queues::{PUBLISH_BATCH, QueueIrq};
use super::rx::RxQueue;
use crate::virtio::memory::Slices;
use crate::virtio::queue::{Chain, QueueError, VirtQueue};

/// Pieces of a frame that stay for others to put in front.
const IOV_SPARE: usize = 8;

#[derive(Debug)]
pub struct TxQueue {
    queue: VirtQueue,
    irq: QueueIrq,
    offloads: Offloads,
    segments: Slices,
    /// Our copy of the virtio-net header and the head of the frame.
    copy: [u8; VNET_HEADER_LEN + HEAD_MAX],
}

impl TxQueue {
    pub fn new(queue: VirtQueue, irq: QueueIrq, offloads: Offloads) -> Self {
        let segments = Slices::with_capacity(usize::from(queue.size()) + 1);
        Self { queue, irq, offloads, segments, copy: [0; VNET_HEADER_LEN + HEAD_MAX] }
    }

    /// Hands up to `budget` frames to `sink`.
    ///
    /// # Errors
    /// The queue is dead.
    pub fn drain(
        &mut self,
        rx: &mut RxQueue,
        budget: usize,
        stats: &Stats,
        sink: &mut FrameSink<'_>,
    ) -> Result<Drained, QueueError> {
        self.queue.disable_notification();
        for _ in 0..budget {
            self.segments.clear();
            let chain = match self.queue.pop(&mut self.segments) {
                Ok(Some(chain)) => chain,
                Ok(None) if self.queue.enable_notification()? => {
                    self.queue.disable_notification();
                    continue;
                }
                Ok(None) => return Ok(Drained::Empty),
                Err(QueueError::Chain { head, .. }) => {
                    stats.dropped(DropReason::BadChain);
                    self.done(head);
                    continue;
                }
                Err(fatal) => return Err(fatal),
            };
            match self.send(&chain, rx, sink) {
                Ok(TxOutcome::Busy) => {
                    self.queue.undo_pop(1);
                    return Ok(Drained::Blocked);
                }
                Ok(_) => {}
                Err(reason) => stats.dropped(reason),
            }
            self.done(chain.head);
        }
        Ok(Drained::More)
    }

    /// Checks and sends one chain, which is in `segments`.
    fn send(
        &mut self,
        chain: &Chain,
        rx: &mut RxQueue,
        sink: &mut FrameSink<'_>,
    ) -> Result<TxOutcome, DropReason> {
        // §5.1.6.2: a header and a frame, all of it for the device to read.
        let total = chain.readable_len as usize;
        let len = total.checked_sub(VNET_HEADER_LEN).ok_or(DropReason::BadChain)?;
        if chain.writable_len != 0 || len > FRAME_MAX || self.segments.len() > IOV_MAX - IOV_SPARE {
            return Err(DropReason::BadChain);
        }
        if len < ETHERNET_LEN {
            return Err(DropReason::Truncated);
        }
        let copied = self.segments.take_front(0, &mut self.copy);
        let (header, head) = self.copy[..copied]
            .split_first_chunk::<VNET_HEADER_LEN>()
            .ok_or(DropReason::BadChain)?;
        let offload = Offload::decode(header, len)?;
        if !offload.is_within(self.offloads) {
            return Err(DropReason::BadOffload);
        }
        let first = self.segments.as_slice().iter().position(|s| !s.is_empty());
        let tail = first.map_or(&[][..], |at| &self.segments.as_slice()[at..]);
        // §5.1.6.2.1: a driver has nothing to say about checksums it did not leave open.
        let frame = TxFrame { head, tail, len, offload: Offload { validated: false, ..offload } };
        Ok(sink(&frame, rx))
    }

    fn done(&mut self, head: u16) {
        self.queue.push_used(head, 0);
        if self.queue.unpublished() >= PUBLISH_BATCH {
            self.irq.wanted |= self.queue.publish();
        }
    }

    pub fn flush(&mut self) {
        self.irq.wanted |= self.queue.publish();
        self.irq.raise();
    }
}
