//! virtio-mmio, Virtio 1.2 §4.2, and its legacy interface (§4.2.4), which is QEMU microvm's default.

use super::queue::{Notify, Rings};
use crate::mem::Registers;

const MAGIC: usize = 0x000;
const VERSION: usize = 0x004;
const DEVICE_ID: usize = 0x008;
const DEVICE_FEATURES: usize = 0x010;
const DEVICE_FEATURES_SEL: usize = 0x014;
const DRIVER_FEATURES: usize = 0x020;
const DRIVER_FEATURES_SEL: usize = 0x024;
const LEGACY_PAGE_SIZE: usize = 0x028;
const QUEUE_SEL: usize = 0x030;
const QUEUE_NUM_MAX: usize = 0x034;
const QUEUE_NUM: usize = 0x038;
const LEGACY_QUEUE_ALIGN: usize = 0x03c;
const LEGACY_QUEUE_PFN: usize = 0x040;
const QUEUE_READY: usize = 0x044;
const QUEUE_NOTIFY: usize = 0x050;
const INTERRUPT_ACK: usize = 0x064;
const STATUS: usize = 0x070;
const QUEUE_DESC: usize = 0x080;
const QUEUE_DRIVER: usize = 0x090;
const QUEUE_DEVICE: usize = 0x0a0;
const CONFIG: usize = 0x100;

/// Size of the register window.
pub const WINDOW: u64 = 0x200;

/// A device behind memory-mapped registers.
pub struct Mmio {
    registers: Registers,
    legacy: bool,
}

impl Mmio {
    /// Looks whether a network device is there.
    pub fn probe(registers: Registers) -> Option<Self> {
        if registers.read32(MAGIC) != u32::from_le_bytes(*b"virt")
            || registers.read32(DEVICE_ID) != 1
        {
            return None;
        }
        match registers.read32(VERSION) {
            1 => Some(Self { registers, legacy: true }),
            2 => Some(Self { registers, legacy: false }),
            _ => None,
        }
    }

    /// Whether it is a legacy device.
    pub fn legacy(&self) -> bool {
        self.legacy
    }

    /// See [`super::transport::Transport`], as everything below.
    pub fn reset(&mut self) {
        self.registers.write32(STATUS, 0);
        if self.legacy {
            self.registers.write32(LEGACY_PAGE_SIZE, 4096);
        }
    }

    pub fn set_status(&mut self, status: u8) {
        self.registers.write32(STATUS, status.into());
    }

    pub fn status(&self) -> u8 {
        self.registers.read32(STATUS) as u8
    }

    pub fn features(&mut self) -> u64 {
        let half = |index| {
            self.registers.write32(DEVICE_FEATURES_SEL, index);
            u64::from(self.registers.read32(DEVICE_FEATURES))
        };
        half(0) | half(1) << 32
    }

    pub fn accept(&mut self, features: u64) {
        for (index, half) in [(0, features as u32), (1, (features >> 32) as u32)] {
            self.registers.write32(DRIVER_FEATURES_SEL, index);
            self.registers.write32(DRIVER_FEATURES, half);
        }
    }

    pub fn config8(&self, offset: usize) -> u8 {
        self.registers.read8(CONFIG + offset)
    }

    pub fn config16(&self, offset: usize) -> u16 {
        self.registers.read16(CONFIG + offset)
    }

    pub fn queue_size(&mut self, index: u16) -> u16 {
        self.registers.write32(QUEUE_SEL, index.into());
        u16::try_from(self.registers.read32(QUEUE_NUM_MAX)).unwrap_or(1 << 15)
    }

    pub fn enable_queue(&mut self, index: u16, rings: &Rings, _interrupt: bool) -> Notify {
        let r = self.registers;
        r.write32(QUEUE_SEL, index.into());
        r.write32(QUEUE_NUM, rings.size.into());
        if self.legacy {
            r.write32(LEGACY_QUEUE_ALIGN, 4096);
            r.write32(LEGACY_QUEUE_PFN, (rings.descriptors >> 12) as u32);
        } else {
            r.write64(QUEUE_DESC, rings.descriptors);
            r.write64(QUEUE_DRIVER, rings.available);
            r.write64(QUEUE_DEVICE, rings.used);
            r.write32(QUEUE_READY, 1);
        }
        Notify::Wide(r, QUEUE_NOTIFY, index)
    }

    pub fn acknowledge(&self) {
        self.registers.write32(INTERRUPT_ACK, 3);
    }
}
