//! The virtio network device (Virtio 1.2 §5.1).
//!
//! [`Net`] is what the transport sees: features and configuration. On activation the queues move
//! into a [`NicPort`], which the worker of a network segment drives; reset takes it out again and
//! returns when that worker touches it no more. No vCPU thread ever handles a frame.

use minivmm_net::nic::Offloads;
use minivmm_net::{AttachError, MacAddr, SegmentHandle};

use super::device::{ActivateError, Activation, VirtioDevice};
use super::spec::device_type;

mod buffers;
pub mod features;
mod kick;
mod port;
mod queues;
mod rx;
#[cfg(any(test, feature = "test-utils"))]
pub mod testing;
mod tx;

pub use port::NicPort;
use queues::QUEUE_SIZES;
pub use queues::{RX_QUEUE, TX_QUEUE};

/// `VIRTIO_NET_S_LINK_UP` (§5.1.4).
const LINK_UP: u16 = 1;

/// Bytes of configuration: address, status, number of queue pairs, MTU (§5.1.4).
const CONFIG_LEN: usize = 12;

/// What a network device is made of.
#[derive(Debug, Clone, Copy)]
pub struct NicConfig {
    /// The driver's address.
    pub mac: MacAddr,
    /// Bytes of the largest IP packet, 68 to 65535.
    pub mtu: u16,
    /// The offloads of what the segment leads to.
    pub tx_offloads: Offloads,
}

/// A network device, wired to a segment.
#[derive(Debug)]
pub struct Net {
    config: [u8; CONFIG_LEN],
    features: u64,
    segment: SegmentHandle,
    attached: bool,
}

impl Net {
    /// A device that is to be wired to `segment` when a driver makes it live.
    pub fn new(config: NicConfig, segment: SegmentHandle) -> Self {
        let mut space = [0; CONFIG_LEN];
        space[..6].copy_from_slice(&config.mac.0);
        space[6..8].copy_from_slice(&LINK_UP.to_le_bytes());
        space[8..10].copy_from_slice(&1u16.to_le_bytes());
        space[10..12].copy_from_slice(&config.mtu.to_le_bytes());
        Self {
            config: space,
            features: features::offered(config.tx_offloads),
            segment,
            attached: false,
        }
    }
}

impl VirtioDevice for Net {
    fn device_type(&self) -> u32 {
        device_type::NET
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn features(&self) -> u64 {
        self.features
    }

    fn accept_features(&self, features: u64) -> bool {
        features::consistent(features)
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let rest = usize::try_from(offset).ok().and_then(|at| self.config.get(at..));
        for (to, from) in data.iter_mut().zip(rest.unwrap_or_default()) {
            *to = *from;
        }
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        let offloads = features::rx_offloads(activation.acked_features);
        let port = NicPort::new(activation)?;
        self.segment.attach(Box::new(port), offloads).map_err(|e| match e {
            AttachError::Ended => ActivateError::State("the network segment has ended"),
            AttachError::Occupied => ActivateError::State("the network segment has another NIC"),
            AttachError::Refused(source) => {
                ActivateError::Host { what: "attach to the network segment", source }
            }
        })?;
        self.attached = true;
        Ok(())
    }

    fn reset(&mut self) {
        // Only our own port: the segment may be another's.
        if std::mem::take(&mut self.attached) {
            drop(self.segment.detach());
        }
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        self.reset();
    }
}

#[cfg(test)]
mod tests;
