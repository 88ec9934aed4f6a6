//! The one BAR of a virtio PCI device, and its registers (Virtio 1.2 §4.1.4).
//!
//! ```text
//! 0x0000 common configuration   0x3000 notifications, 4 bytes a queue
//! 0x1000 ISR status             0x4000 MSI-X table
//! 0x2000 device configuration   0x5000 MSI-X pending bits
//! ```

use std::fmt::Display;
use std::io;
use std::sync::atomic::{AtomicU8, AtomicU16, Ordering};
use std::sync::{Arc, Mutex};

use super::core::{Kicks, Ring, Shared, TransportCore};
use crate::bus::BusDevice;
use crate::lock;
use crate::pci::msix::Msix;
use crate::virtio::device::VirtioInterrupt;

pub(super) const COMMON: u64 = 0x0000;
pub(super) const ISR: u64 = 0x1000;
pub(super) const DEVICE: u64 = 0x2000;
pub(super) const NOTIFY: u64 = 0x3000;
pub(super) const MSIX_TABLE: u64 = 0x4000;
pub(super) const MSIX_PBA: u64 = 0x5000;
pub(super) const SIZE: u32 = 0x8000;
/// Bytes between the notification addresses of two queues.
pub(super) const NOTIFY_MULTIPLIER: u32 = 4;
/// Bytes of `struct virtio_pci_common_cfg` without the optional fields at its end.
pub(super) const COMMON_LEN: u32 = 0x38;

const PART: u64 = 0x1000;
const NO_VECTOR: u16 = 0xffff;
const ISR_QUEUE: u8 = 1;
const ISR_CONFIG: u8 = 2;

/// Fields of the common configuration (§4.1.4.3).
mod field {
    pub const DEVICE_FEATURE_SELECT: u64 = 0x00;
    pub const DEVICE_FEATURE: u64 = 0x04;
    pub const DRIVER_FEATURE_SELECT: u64 = 0x08;
    pub const DRIVER_FEATURE: u64 = 0x0c;
    pub const CONFIG_MSIX_VECTOR: u64 = 0x10;
    pub const NUM_QUEUES: u64 = 0x12;
    pub const DEVICE_STATUS: u64 = 0x14;
    pub const CONFIG_GENERATION: u64 = 0x15;
    pub const QUEUE_SELECT: u64 = 0x16;
    pub const QUEUE_SIZE: u64 = 0x18;
    pub const QUEUE_MSIX_VECTOR: u64 = 0x1a;
    pub const QUEUE_ENABLE: u64 = 0x1c;
    pub const QUEUE_NOTIFY_OFF: u64 = 0x1e;
    pub const QUEUE_DESC: u64 = 0x20;
    pub const QUEUE_DESC_HIGH: u64 = 0x24;
    pub const QUEUE_DRIVER: u64 = 0x28;
    pub const QUEUE_DRIVER_HIGH: u64 = 0x2c;
    pub const QUEUE_DEVICE: u64 = 0x30;
    pub const QUEUE_DEVICE_HIGH: u64 = 0x34;
}

/// MSI-X vectors, and the ISR byte for drivers that poll it.
pub(super) struct PciInterrupt {
    pub msix: Msix,
    config_vector: AtomicU16,
    queue_vectors: Box<[AtomicU16]>,
    isr: AtomicU8,
    shared: Arc<Shared>,
}

impl PciInterrupt {
    pub fn new(msix: Msix, queues: usize, shared: Arc<Shared>) -> Self {
        Self {
            msix,
            config_vector: AtomicU16::new(NO_VECTOR),
            queue_vectors: (0..queues).map(|_| AtomicU16::new(NO_VECTOR)).collect(),
            isr: AtomicU8::new(0),
            shared,
        }
    }

    fn reset(&self) {
        self.config_vector.store(NO_VECTOR, Ordering::Release);
        for v in &self.queue_vectors {
            v.store(NO_VECTOR, Ordering::Release);
        }
        self.isr.store(0, Ordering::Release);
        self.msix.reset();
    }

    fn queue_vector(&self, queue: u32) -> Option<&AtomicU16> {
        self.queue_vectors.get(usize::try_from(queue).ok()?)
    }

    /// A vector that does not exist is refused by reading back as none (§4.1.5.1.2.1).
    fn set(&self, vector: &AtomicU16, value: u16) {
        let known = usize::from(value) < self.msix.len();
        vector.store(if known { value } else { NO_VECTOR }, Ordering::Release);
    }

    fn config_interrupt(&self) -> io::Result<()> {
        self.isr.fetch_or(ISR_CONFIG, Ordering::AcqRel);
        self.msix.signal(self.config_vector.load(Ordering::Acquire))
    }
}

impl VirtioInterrupt for PciInterrupt {
    fn queue(&self, index: u16) -> io::Result<()> {
        if !self.msix.enabled() {
            // No INTx to raise; a polling driver finds it here (§4.1.4.5.1).
            self.isr.fetch_or(ISR_QUEUE, Ordering::AcqRel);
        }
        match self.queue_vector(u32::from(index)) {
            Some(v) => self.msix.signal(v.load(Ordering::Acquire)),
            None => Ok(()),
        }
    }

    fn config(&self) -> io::Result<()> {
        self.shared.generation.fetch_add(1, Ordering::AcqRel);
        self.config_interrupt()
    }

    fn needs_reset(&self, why: &dyn Display) -> io::Result<()> {
        self.shared.give_up(why);
        self.config_interrupt()
    }
}

/// What answers in the BAR.
pub(super) struct PciBar {
    pub core: Mutex<TransportCore>,
    pub interrupt: Arc<PciInterrupt>,
    pub kicks: Kicks,
}

impl PciBar {
    /// A field of the common configuration, by its offset and width.
    fn read_common(&self, offset: u64, width: usize) -> u32 {
        let core = lock(&self.core);
        let queue = core.queue();
        let u16_of = |n: usize| u32::try_from(n).unwrap_or(0);
        let low = |v: u64| (v & u64::from(u32::MAX)) as u32;
        let high = |v: u64| (v >> 32) as u32;
        match (offset, width) {
            (field::DEVICE_FEATURE_SELECT, 4) => core.device_features_select,
            (field::DEVICE_FEATURE, 4) => core.device_features(),
            (field::DRIVER_FEATURE_SELECT, 4) => core.driver_features_select,
            (field::DRIVER_FEATURE, 4) => core.driver_features(),
            (field::CONFIG_MSIX_VECTOR, 2) => {
                u32::from(self.interrupt.config_vector.load(Ordering::Acquire))
            }
            (field::NUM_QUEUES, 2) => u16_of(core.queue_count()),
            (field::DEVICE_STATUS, 1) => u32::from(core.status()),
            (field::CONFIG_GENERATION, 1) => core.generation() & 0xff,
            (field::QUEUE_SELECT, 2) => core.queue_select,
            (field::QUEUE_SIZE, 2) => queue.map_or(0, |q| u32::from(q.size)),
            (field::QUEUE_MSIX_VECTOR, 2) => self
                .interrupt
                .queue_vector(core.queue_select)
                .map_or(u32::from(NO_VECTOR), |v| u32::from(v.load(Ordering::Acquire))),
            (field::QUEUE_ENABLE, 2) => queue.map_or(0, |q| u32::from(q.enabled)),
            (field::QUEUE_NOTIFY_OFF, 2) => queue.map_or(0, |_| core.queue_select),
            (field::QUEUE_DESC, 4) => queue.map_or(0, |q| low(q.desc)),
            (field::QUEUE_DESC_HIGH, 4) => queue.map_or(0, |q| high(q.desc)),
            (field::QUEUE_DRIVER, 4) => queue.map_or(0, |q| low(q.avail)),
            (field::QUEUE_DRIVER_HIGH, 4) => queue.map_or(0, |q| high(q.avail)),
            (field::QUEUE_DEVICE, 4) => queue.map_or(0, |q| low(q.used)),
            (field::QUEUE_DEVICE_HIGH, 4) => queue.map_or(0, |q| high(q.used)),
            _ => 0,
        }
    }

    fn write_common(&self, offset: u64, width: usize, value: u32) {
        let mut core = lock(&self.core);
        // The truncations below take no bits off: `value` came from `width` bytes.
        match (offset, width) {
            (field::DEVICE_FEATURE_SELECT, 4) => core.device_features_select = value,
            (field::DRIVER_FEATURE_SELECT, 4) => core.driver_features_select = value,
            (field::DRIVER_FEATURE, 4) => core.set_driver_features(value),
            (field::CONFIG_MSIX_VECTOR, 2) => {
                self.interrupt.set(&self.interrupt.config_vector, value as u16);
            }
            (field::DEVICE_STATUS, 1) if core.set_status(value as u8) => self.interrupt.reset(),
            (field::QUEUE_SELECT, 2) => core.queue_select = value,
            (field::QUEUE_SIZE, 2) => core.set_queue_size(value),
            (field::QUEUE_MSIX_VECTOR, 2) => {
                if let Some(v) = self.interrupt.queue_vector(core.queue_select) {
                    self.interrupt.set(v, value as u16);
                }
            }
            // A driver cannot disable a queue by this field (§4.1.4.3.2).
            (field::QUEUE_ENABLE, 2) if value == 1 => core.set_queue_enabled(true),
            (field::QUEUE_DESC, 4) => core.set_ring(Ring::Desc, false, value),
            (field::QUEUE_DESC_HIGH, 4) => core.set_ring(Ring::Desc, true, value),
            (field::QUEUE_DRIVER, 4) => core.set_ring(Ring::Avail, false, value),
            (field::QUEUE_DRIVER_HIGH, 4) => core.set_ring(Ring::Avail, true, value),
            (field::QUEUE_DEVICE, 4) => core.set_ring(Ring::Used, false, value),
            (field::QUEUE_DEVICE_HIGH, 4) => core.set_ring(Ring::Used, true, value),
            _ => {}
        }
    }
}

impl BusDevice for PciBar {
    fn read(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        let at = offset % PART;
        match offset - at {
            // 64-bit fields are read as two halves; any other access is one field.
            COMMON if data.len() == 8 => {
                for (at, half) in (at..).step_by(4).zip(data.chunks_exact_mut(4)) {
                    half.copy_from_slice(&self.read_common(at, 4).to_le_bytes());
                }
            }
            COMMON => {
                let bytes = self.read_common(at, data.len()).to_le_bytes();
                for (to, from) in data.iter_mut().zip(bytes) {
                    *to = from;
                }
            }
            ISR if at == 0 => {
                if let Some(byte) = data.first_mut() {
                    // Reading acknowledges (§4.1.4.5).
                    *byte = self.interrupt.isr.swap(0, Ordering::AcqRel);
                }
            }
            DEVICE => lock(&self.core).read_config(at, data),
            MSIX_TABLE => self.interrupt.msix.read_table(at, data),
            MSIX_PBA => self.interrupt.msix.read_pba(at, data),
            _ => {}
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let at = offset % PART;
        match offset - at {
            COMMON => match *data {
                [a] => self.write_common(at, 1, u32::from(a)),
                [a, b] => self.write_common(at, 2, u32::from(u16::from_le_bytes([a, b]))),
                [a, b, c, d] => self.write_common(at, 4, u32::from_le_bytes([a, b, c, d])),
                [a, b, c, d, e, f, g, h] => {
                    self.write_common(at, 4, u32::from_le_bytes([a, b, c, d]));
                    self.write_common(at + 4, 4, u32::from_le_bytes([e, f, g, h]));
                }
                _ => {}
            },
            DEVICE => lock(&self.core).write_config(at, data),
            // The address tells the queue; the value, its number, is not looked at.
            NOTIFY => {
                if let Ok(queue) = u32::try_from(at / u64::from(NOTIFY_MULTIPLIER)) {
                    self.kicks.kick(queue);
                }
            }
            MSIX_TABLE => self.interrupt.msix.write_table(at, data),
            _ => {}
        }
    }
}
