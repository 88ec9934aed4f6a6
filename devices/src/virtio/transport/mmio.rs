//! virtio-mmio, version 2 (Virtio 1.2 §4.2).

use std::fmt::Display;
use std::io;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use super::IoEventFd;
use super::core::{Kicks, Ring, Shared, TransportCore};
use crate::bus::BusDevice;
use crate::irq::IrqLine;
use crate::lock;
use crate::virtio::device::{VirtioDevice, VirtioInterrupt};
use crate::virtio::memory::GuestRam;

/// Registers (§4.2.2).
mod reg {
    pub const MAGIC: u64 = 0x000;
    pub const VERSION: u64 = 0x004;
    pub const DEVICE_ID: u64 = 0x008;
    pub const VENDOR_ID: u64 = 0x00c;
    pub const DEVICE_FEATURES: u64 = 0x010;
    pub const DEVICE_FEATURES_SEL: u64 = 0x014;
    pub const DRIVER_FEATURES: u64 = 0x020;
    pub const DRIVER_FEATURES_SEL: u64 = 0x024;
    pub const QUEUE_SEL: u64 = 0x030;
    pub const QUEUE_NUM_MAX: u64 = 0x034;
    pub const QUEUE_NUM: u64 = 0x038;
    pub const QUEUE_READY: u64 = 0x044;
    pub const QUEUE_NOTIFY: u64 = 0x050;
    pub const INTERRUPT_STATUS: u64 = 0x060;
    pub const INTERRUPT_ACK: u64 = 0x064;
    pub const STATUS: u64 = 0x070;
    pub const QUEUE_DESC_LOW: u64 = 0x080;
    pub const QUEUE_DESC_HIGH: u64 = 0x084;
    pub const QUEUE_DRIVER_LOW: u64 = 0x090;
    pub const QUEUE_DRIVER_HIGH: u64 = 0x094;
    pub const QUEUE_DEVICE_LOW: u64 = 0x0a0;
    pub const QUEUE_DEVICE_HIGH: u64 = 0x0a4;
    pub const SHM_LEN_LOW: u64 = 0x0b0;
    pub const SHM_BASE_HIGH: u64 = 0x0bc;
    pub const CONFIG_GENERATION: u64 = 0x0fc;
    pub const CONFIG: u64 = 0x100;
}

const MAGIC: u32 = u32::from_le_bytes(*b"virt");
const VENDOR: u32 = u32::from_le_bytes(*b"mini");
const INTERRUPT_USED: u32 = 1;
const INTERRUPT_CONFIG: u32 = 2;

/// A device behind memory-mapped registers and one interrupt line.
pub struct MmioTransport {
    device_type: u32,
    core: Mutex<TransportCore>,
    interrupt: Arc<MmioInterrupt>,
    kicks: Kicks,
}

struct MmioInterrupt {
    status: AtomicU32,
    line: Arc<dyn IrqLine>,
    shared: Arc<Shared>,
}

impl MmioInterrupt {
    /// The cause is there before the interrupt is: the driver reads it first thing.
    fn raise(&self, cause: u32) -> io::Result<()> {
        self.status.fetch_or(cause, Ordering::SeqCst);
        self.line.signal()
    }
}

impl VirtioInterrupt for MmioInterrupt {
    fn queue(&self, _index: u16) -> io::Result<()> {
        self.raise(INTERRUPT_USED)
    }

    fn config(&self) -> io::Result<()> {
        self.shared.generation.fetch_add(1, Ordering::AcqRel);
        self.raise(INTERRUPT_CONFIG)
    }

    fn needs_reset(&self, why: &dyn Display) -> io::Result<()> {
        self.shared.give_up(why);
        self.raise(INTERRUPT_CONFIG)
    }
}

impl MmioTransport {
    /// Bytes of registers to claim on the memory bus.
    pub const SIZE: u64 = 0x1000;

    /// Puts `device` behind registers and `line`, an edge-triggered interrupt.
    ///
    /// # Errors
    /// When there are no more file descriptors for eventfds.
    pub fn new(
        device: Box<dyn VirtioDevice>,
        ram: GuestRam,
        line: Arc<dyn IrqLine>,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared::new(&*device));
        let interrupt =
            Arc::new(MmioInterrupt { status: AtomicU32::new(0), line, shared: shared.clone() });
        let device_type = device.device_type();
        let core = TransportCore::new(device, ram, interrupt.clone(), shared)?;
        Ok(Self { device_type, kicks: core.kicks(), core: Mutex::new(core), interrupt })
    }

    /// The notification addresses when the registers are at `base`.
    pub fn ioeventfds(&self, base: u64) -> Vec<IoEventFd> {
        (0u32..)
            .zip(self.kicks.iter())
            .map(|(queue, fd)| IoEventFd {
                address: base + reg::QUEUE_NOTIFY,
                datamatch: Some(queue),
                fd: fd.clone(),
            })
            .collect()
    }

    fn read_register(&self, offset: u64) -> u32 {
        if offset == reg::INTERRUPT_STATUS {
            return self.interrupt.status.load(Ordering::SeqCst);
        }
        let core = lock(&self.core);
        match offset {
            reg::MAGIC => MAGIC,
            reg::VERSION => 2,
            reg::DEVICE_ID => self.device_type,
            reg::VENDOR_ID => VENDOR,
            reg::DEVICE_FEATURES => core.device_features(),
            reg::QUEUE_NUM_MAX => core.queue().map_or(0, |q| u32::from(q.max_size)),
            reg::QUEUE_READY => core.queue().map_or(0, |q| u32::from(q.enabled)),
            reg::STATUS => u32::from(core.status()),
            // There are no shared memory regions: length and base are -1 (§4.2.2).
            reg::SHM_LEN_LOW..=reg::SHM_BASE_HIGH => u32::MAX,
            reg::CONFIG_GENERATION => core.generation(),
            _ => 0,
        }
    }

    fn write_register(&self, offset: u64, value: u32) {
        match offset {
            reg::QUEUE_NOTIFY => return self.kicks.kick(value),
            reg::INTERRUPT_ACK => {
                self.interrupt.status.fetch_and(!value, Ordering::SeqCst);
                return;
            }
            _ => {}
        }
        let mut core = lock(&self.core);
        match offset {
            reg::DEVICE_FEATURES_SEL => core.device_features_select = value,
            reg::DRIVER_FEATURES => core.set_driver_features(value),
            reg::DRIVER_FEATURES_SEL => core.driver_features_select = value,
            reg::QUEUE_SEL => core.queue_select = value,
            reg::QUEUE_NUM => core.set_queue_size(value),
            reg::QUEUE_READY => core.set_queue_enabled(value & 1 != 0),
            // Status is one byte in a 32-bit register.
            reg::STATUS if core.set_status((value & 0xff) as u8) => {
                self.interrupt.status.store(0, Ordering::SeqCst);
            }
            reg::QUEUE_DESC_LOW => core.set_ring(Ring::Desc, false, value),
            reg::QUEUE_DESC_HIGH => core.set_ring(Ring::Desc, true, value),
            reg::QUEUE_DRIVER_LOW => core.set_ring(Ring::Avail, false, value),
            reg::QUEUE_DRIVER_HIGH => core.set_ring(Ring::Avail, true, value),
            reg::QUEUE_DEVICE_LOW => core.set_ring(Ring::Used, false, value),
            reg::QUEUE_DEVICE_HIGH => core.set_ring(Ring::Used, true, value),
            _ => {}
        }
    }
}

impl BusDevice for MmioTransport {
    /// Registers are 32 bits wide and accessed whole (§4.2.2.2); configuration in any width.
    fn read(&self, offset: u64, data: &mut [u8]) {
        if let Some(at) = offset.checked_sub(reg::CONFIG) {
            lock(&self.core).read_config(at, data);
        } else if offset.is_multiple_of(4) && data.len() == 4 {
            data.copy_from_slice(&self.read_register(offset).to_le_bytes());
        } else {
            data.fill(0);
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        if let Some(at) = offset.checked_sub(reg::CONFIG) {
            lock(&self.core).write_config(at, data);
        } else if let (0, Ok(bytes)) = (offset % 4, data.try_into()) {
            self.write_register(offset, u32::from_le_bytes(bytes));
        }
    }
}

impl std::fmt::Debug for MmioTransport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MmioTransport")
            .field("device_type", &self.device_type)
            .finish_non_exhaustive()
    }
}
