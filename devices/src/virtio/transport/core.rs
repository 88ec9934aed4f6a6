//! What both transports share: device status, features, queue set-up (Virtio 1.2 §2, §3.1).
//!
//! * Status bits are only ever added, in any order a driver likes, until it writes 0.
//! * `FEATURES_OK` sticks only for a subset of the offer that has `VERSION_1`; features are
//!   frozen from then on.
//! * A queue's registers are frozen while it is enabled, and all are from `DRIVER_OK` on, so what
//!   [`VirtQueue`] checked stays true. A live queue that is taken away stops the device.
//! * A set-up that can't work is answered with `DEVICE_NEEDS_RESET`.

use std::fmt::Display;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use crate::virtio::device::{
    ActivateError, Activation, ActiveQueue, DeviceInterrupt, QueueInterrupt, VirtioDevice,
    VirtioInterrupt,
};
use crate::virtio::memory::GuestRam;
use crate::virtio::queue::{LayoutError, QueueLayout, VirtQueue};
use crate::virtio::spec::{device_type, feature, status};

/// What the device's threads and the state machine both touch.
#[derive(Debug)]
pub(super) struct Shared {
    /// What messages call the device.
    name: &'static str,
    /// The device is broken until reset.
    needs_reset: AtomicBool,
    /// The user was told that the device does not work.
    told: AtomicBool,
    /// Counts changes of device configuration.
    pub generation: AtomicU32,
}

impl Shared {
    pub fn new(device: &dyn VirtioDevice) -> Self {
        Self {
            name: device_type::name(device.device_type()),
            needs_reset: AtomicBool::new(false),
            told: AtomicBool::new(false),
            generation: AtomicU32::new(0),
        }
    }

    /// The device is broken until reset.
    pub fn give_up(&self, why: &dyn Display) {
        self.needs_reset.store(true, Ordering::Release);
        self.tell(why);
    }

    /// Says once why the device does not work: a guest can bring that about as often as it likes.
    fn tell(&self, why: &dyn Display) {
        if !self.told.swap(true, Ordering::Relaxed) {
            tracing::warn!("{} does not work for the guest: {why}", self.name);
        }
    }
}

/// The eventfds that notify a device's queues.
#[derive(Debug, Clone)]
pub(super) struct Kicks(Arc<[Arc<EventFd>]>);

impl Kicks {
    fn new(queues: usize) -> io::Result<Self> {
        (0..queues)
            .map(|_| Ok(Arc::new(EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?)))
            .collect::<io::Result<Arc<[_]>>>()
            .map(Self)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Arc<EventFd>> {
        self.0.iter()
    }

    /// A notification that did not come by an ioeventfd.
    pub fn kick(&self, queue: u32) {
        if let Some(fd) = usize::try_from(queue).ok().and_then(|q| self.0.get(q)) {
            // Only a full counter fails, and then the device has been kicked.
            let _ = fd.write(1);
        }
    }

    fn drain(&self) {
        for fd in self.iter() {
            // Not readable is what is wanted.
            let _ = fd.read();
        }
    }
}

#[derive(Debug, Clone, Copy)]
pub(super) struct QueueState {
    pub max_size: u16,
    pub size: u16,
    pub enabled: bool,
    pub desc: u64,
    pub avail: u64,
    pub used: u64,
}

impl QueueState {
    fn new(max_size: u16) -> Self {
        Self { max_size, size: max_size, enabled: false, desc: 0, avail: 0, used: 0 }
    }
}

/// Which ring address a register names.
#[derive(Debug, Clone, Copy)]
pub(super) enum Ring {
    Desc,
    Avail,
    Used,
}

/// The state machine in front of a device.
pub(super) struct TransportCore {
    device: Box<dyn VirtioDevice>,
    ram: GuestRam,
    interrupt: Arc<dyn VirtioInterrupt>,
    shared: Arc<Shared>,
    kicks: Kicks,
    offered: u64,
    /// `device.activate` was called after the last reset.
    active: bool,
    status: u8,
    pub driver_features: u64,
    pub device_features_select: u32,
    pub driver_features_select: u32,
    pub queue_select: u32,
    queues: Vec<QueueState>,
}

impl TransportCore {
    pub fn new(
        device: Box<dyn VirtioDevice>,
        ram: GuestRam,
        interrupt: Arc<dyn VirtioInterrupt>,
        shared: Arc<Shared>,
    ) -> io::Result<Self> {
        let queues: Vec<_> = device.queue_sizes().iter().map(|&n| QueueState::new(n)).collect();
        debug_assert!(queues.iter().all(|q| q.max_size.is_power_of_two() && q.max_size <= 32768));
        Ok(Self {
            kicks: Kicks::new(queues.len())?,
            offered: device.features() | feature::CORE,
            device,
            ram,
            interrupt,
            shared,
            active: false,
            status: 0,
            driver_features: 0,
            device_features_select: 0,
            driver_features_select: 0,
            queue_select: 0,
            queues,
        })
    }

    pub fn kicks(&self) -> Kicks {
        self.kicks.clone()
    }

    pub fn queue_count(&self) -> usize {
        self.queues.len()
    }

    pub fn status(&self) -> u8 {
        let broken = self.shared.needs_reset.load(Ordering::Acquire);
        self.status | if broken { status::DEVICE_NEEDS_RESET } else { 0 }
    }

    /// Writes device status. True if it was a reset.
    pub fn set_status(&mut self, value: u8) -> bool {
        if value == 0 {
            self.reset();
            return true;
        }
        let had = self.status;
        // FEATURES_OK and DRIVER_OK are earned below; NEEDS_RESET is the device's.
        self.status |= value & (status::ACKNOWLEDGE | status::DRIVER | status::FAILED);
        if value & status::FEATURES_OK != 0 && had & status::FEATURES_OK == 0 {
            let known = self.driver_features & !self.offered == 0;
            let modern = self.driver_features & feature::VERSION_1 != 0;
            if known && modern && self.device.accept_features(self.driver_features) {
                self.status |= status::FEATURES_OK;
            } else {
                let chosen = self.driver_features;
                self.shared.tell(&format_args!("its driver's features {chosen:#x} are refused"));
            }
        }
        let ready = self.status & status::FEATURES_OK != 0;
        if value & status::DRIVER_OK != 0 && had & status::DRIVER_OK == 0 && ready {
            self.status |= status::DRIVER_OK;
            if let Err(error) = self.activate() {
                // The driver reads the status where the interrupt does not reach it.
                let _ = self.interrupt.needs_reset(&error);
            }
        }
        false
    }

    fn activate(&mut self) -> Result<(), SetupError> {
        let mut queues = Vec::with_capacity(self.queues.len());
        for ((index, q), kick) in (0u16..).zip(&self.queues).zip(self.kicks.iter()) {
            if !q.enabled {
                continue;
            }
            let layout = QueueLayout {
                size: q.size,
                desc: q.desc,
                avail: q.avail,
                used: q.used,
                event_idx: self.driver_features & feature::RING_EVENT_IDX != 0,
                indirect: self.driver_features & feature::RING_INDIRECT_DESC != 0,
            };
            let queue = VirtQueue::new(&self.ram, &layout)
                .map_err(|error| SetupError::Queue { index, error })?;
            let interrupt = QueueInterrupt::new(self.interrupt.clone(), index);
            queues.push(ActiveQueue { index, queue, kick: kick.clone(), interrupt });
        }
        self.active = true;
        self.device.activate(Activation {
            mem: self.ram.clone(),
            queues,
            config_interrupt: DeviceInterrupt::new(self.interrupt.clone()),
            acked_features: self.driver_features,
        })?;
        Ok(())
    }

    /// The device is quiet when this returns.
    fn stop(&mut self) {
        if std::mem::take(&mut self.active) {
            self.device.reset();
        }
    }

    /// Back to power-on. The device is quiet when this returns.
    fn reset(&mut self) {
        self.stop();
        self.shared.needs_reset.store(false, Ordering::Release);
        self.kicks.drain();
        self.status = 0;
        self.driver_features = 0;
        self.device_features_select = 0;
        self.driver_features_select = 0;
        self.queue_select = 0;
        for q in &mut self.queues {
            *q = QueueState::new(q.max_size);
        }
    }

    /// The half of the offered features that the driver selected.
    pub fn device_features(&self) -> u32 {
        half(self.offered, self.device_features_select)
    }

    /// The half of the driver's features that it selected.
    pub fn driver_features(&self) -> u32 {
        half(self.driver_features, self.driver_features_select)
    }

    pub fn set_driver_features(&mut self, value: u32) {
        if self.status & status::FEATURES_OK != 0 || self.driver_features_select > 1 {
            return;
        }
        let shift = 32 * self.driver_features_select;
        self.driver_features &= !(u64::from(u32::MAX) << shift);
        self.driver_features |= u64::from(value) << shift;
    }

    /// The selected queue.
    pub fn queue(&self) -> Option<&QueueState> {
        self.queues.get(usize::try_from(self.queue_select).ok()?)
    }

    /// The selected queue, if its registers may be written.
    fn queue_mut(&mut self) -> Option<&mut QueueState> {
        if self.status & status::DRIVER_OK != 0 {
            return None;
        }
        self.queues.get_mut(usize::try_from(self.queue_select).ok()?)
    }

    /// Ignores what is not a power of two up to the queue's largest size.
    pub fn set_queue_size(&mut self, size: u32) {
        let Some(q) = self.queue_mut().filter(|q| !q.enabled) else { return };
        if let Ok(size) = u16::try_from(size)
            && size.is_power_of_two()
            && size <= q.max_size
        {
            q.size = size;
        }
    }

    /// Before `DRIVER_OK` a queue can be enabled and, to set it up anew, disabled.
    ///
    /// A driver that takes a queue away later polls until that is done (§4.2.2.2). No device goes
    /// on without one, so it stops as a whole, and needs a reset.
    pub fn set_queue_enabled(&mut self, enabled: bool) {
        if let Some(q) = self.queue_mut() {
            q.enabled = enabled;
            return;
        }
        let index = usize::try_from(self.queue_select).unwrap_or(usize::MAX);
        if !enabled
            && let Some(q) = self.queues.get_mut(index)
            && std::mem::take(&mut q.enabled)
        {
            self.stop();
            let _ = self.interrupt.needs_reset(&"its driver took a queue away");
        }
    }

    /// Sets the low or high half of a ring's address.
    pub fn set_ring(&mut self, ring: Ring, high: bool, value: u32) {
        let Some(q) = self.queue_mut().filter(|q| !q.enabled) else { return };
        let address = match ring {
            Ring::Desc => &mut q.desc,
            Ring::Avail => &mut q.avail,
            Ring::Used => &mut q.used,
        };
        let shift = if high { 32 } else { 0 };
        *address = *address & !(u64::from(u32::MAX) << shift) | u64::from(value) << shift;
    }

    pub fn read_config(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        self.device.read_config(offset, data);
    }

    pub fn write_config(&mut self, offset: u64, data: &[u8]) {
        self.device.write_config(offset, data);
    }

    pub fn generation(&self) -> u32 {
        self.shared.generation.load(Ordering::Acquire)
    }
}

impl Drop for TransportCore {
    fn drop(&mut self) {
        self.reset();
    }
}

fn half(features: u64, select: u32) -> u32 {
    let shift = match select {
        0 => 0,
        1 => 32,
        _ => return 0,
    };
    // The truncation is the selection.
    (features >> shift & u64::from(u32::MAX)) as u32
}

#[derive(Debug, thiserror::Error)]
enum SetupError {
    #[error("queue {index}: {error}")]
    Queue { index: u16, error: LayoutError },
    #[error(transparent)]
    Device(#[from] ActivateError),
}
