//! What a virtio device is to its transport, and what a live device is given.

use std::fmt::Display;
use std::io;
use std::sync::Arc;

use thiserror::Error;
use vmm_sys_util::eventfd::EventFd;

use super::memory::GuestRam;
use super::queue::VirtQueue;

/// A virtio device behind a transport.
///
/// Life: offered (`device_type` … `read_config`), then [`activate`](Self::activate) at
/// `DRIVER_OK`, then [`reset`](Self::reset), and so on. The transport calls it on vCPU threads
/// under its own lock; what a device does after activation it does on a thread of its own, on the
/// queues that moved into it.
pub trait VirtioDevice: Send {
    /// The device type of Virtio 1.2 §5.
    fn device_type(&self) -> u32;

    /// The largest size of each queue, powers of two of at most 32768; its length is the number
    /// of queues.
    fn queue_sizes(&self) -> &[u16];

    /// The device-specific features offered (bits 0 to 23 and 50 to 63). The transport adds
    /// [`feature::CORE`](super::spec::feature::CORE).
    fn features(&self) -> u64;

    /// Whether the driver's choice can be served; `features` holds only what was offered. False
    /// leaves `FEATURES_OK` unset (§2.2.2).
    fn accept_features(&self, _features: u64) -> bool {
        true
    }

    /// Reads device configuration. Bytes beyond its end read as zero: `data` is zeroed before.
    fn read_config(&self, offset: u64, data: &mut [u8]);

    /// Writes device configuration. Most devices have nothing to write.
    fn write_config(&mut self, _offset: u64, _data: &[u8]) {}

    /// Takes memory, rings and interrupts; the device is live from here on. It must look at its
    /// queues once without being kicked.
    ///
    /// # Errors
    /// The transport then sets `DEVICE_NEEDS_RESET`.
    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError>;

    /// Back to the state before activation; idempotent. Returns only when nothing of the device
    /// touches guest memory, its queues or its interrupts any more.
    fn reset(&mut self);
}

/// Why a device did not become live.
#[derive(Debug, Error)]
pub enum ActivateError {
    /// The driver left a queue out that the device can't do without.
    #[error("queue {0} is not enabled; the driver must set it up before DRIVER_OK")]
    MissingQueue(u16),
    /// The host refused something.
    #[error("cannot {what}: {source}")]
    Host {
        /// What was tried.
        what: &'static str,
        /// The refusal.
        source: io::Error,
    },
    /// The device is live, or its worker is gone.
    #[error("{0}")]
    State(&'static str),
}

/// All that a live device owns.
#[derive(Debug)]
pub struct Activation {
    /// The guest's RAM.
    pub mem: GuestRam,
    /// The queues that the driver enabled, by rising index.
    pub queues: Vec<ActiveQueue>,
    /// To tell the driver of changed configuration or of a broken device.
    pub config_interrupt: DeviceInterrupt,
    /// The features that both sides agreed on, core and device-specific.
    pub acked_features: u64,
}

impl Activation {
    /// Takes queue `index` out.
    ///
    /// # Errors
    /// [`ActivateError::MissingQueue`] if the driver did not enable it.
    pub fn take_queue(&mut self, index: u16) -> Result<ActiveQueue, ActivateError> {
        match self.queues.iter().position(|q| q.index == index) {
            Some(at) => Ok(self.queues.remove(at)),
            None => Err(ActivateError::MissingQueue(index)),
        }
    }
}

/// A queue that a driver set up.
#[derive(Debug)]
pub struct ActiveQueue {
    /// Its number.
    pub index: u16,
    /// The rings.
    pub queue: VirtQueue,
    /// Readable when the driver has kicked (non-blocking; shared with the transport, so a stale
    /// kick of before a reset is possible and harmless).
    pub kick: Arc<EventFd>,
    /// Tells the driver of used buffers.
    pub interrupt: QueueInterrupt,
}

/// The interrupt side of a transport. Lock-free: devices call it on their data path.
pub trait VirtioInterrupt: Send + Sync {
    /// Used buffers in queue `index`.
    fn queue(&self, index: u16) -> io::Result<()>;

    /// Configuration changed: advances the config generation and raises the config interrupt.
    fn config(&self) -> io::Result<()>;

    /// Sets `DEVICE_NEEDS_RESET` and raises the config interrupt (§2.1.2). The user is told why, the
    /// first time.
    fn needs_reset(&self, why: &dyn Display) -> io::Result<()>;
}

/// The interrupt of one queue.
#[derive(Clone)]
pub struct QueueInterrupt {
    transport: Arc<dyn VirtioInterrupt>,
    index: u16,
}

impl QueueInterrupt {
    /// The interrupt of queue `index`.
    pub fn new(transport: Arc<dyn VirtioInterrupt>, index: u16) -> Self {
        Self { transport, index }
    }

    /// Raises it. Ask [`VirtQueue::publish`] first whether the driver wants it.
    ///
    /// # Errors
    /// What the interrupt line reports.
    pub fn signal(&self) -> io::Result<()> {
        self.transport.queue(self.index)
    }
}

impl std::fmt::Debug for QueueInterrupt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("QueueInterrupt").field("index", &self.index).finish_non_exhaustive()
    }
}

/// The interrupt of the device itself.
#[derive(Clone)]
pub struct DeviceInterrupt(Arc<dyn VirtioInterrupt>);

impl DeviceInterrupt {
    /// The device interrupt of a transport.
    pub fn new(transport: Arc<dyn VirtioInterrupt>) -> Self {
        Self(transport)
    }

    /// Tells the driver to read the configuration again.
    ///
    /// # Errors
    /// What the interrupt line reports.
    pub fn config_changed(&self) -> io::Result<()> {
        self.0.config()
    }

    /// Tells the driver that only a reset helps, as after a [`QueueError`](super::QueueError), and
    /// the user `why`.
    ///
    /// # Errors
    /// What the interrupt line reports.
    pub fn needs_reset(&self, why: &dyn Display) -> io::Result<()> {
        self.0.needs_reset(why)
    }
}

impl std::fmt::Debug for DeviceInterrupt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DeviceInterrupt").finish_non_exhaustive()
    }
}
