//! The two ways of a guest to configuration space: mechanism #1 and ECAM.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::PciBus;
use crate::bus::BusDevice;

/// Configuration mechanism #1: ports 0xCF8 to 0xCFF (PCI Local Bus 3.0 §3.2.2.3.2).
#[derive(Debug)]
pub struct ConfigPorts {
    bus: Arc<PciBus>,
    address: AtomicU32,
}

impl ConfigPorts {
    /// Ports to claim from 0xCF8.
    pub const PORTS: u64 = 8;
    const ENABLE: u32 = 1 << 31;

    /// The ports of `bus`, which is bus 0.
    pub fn new(bus: Arc<PciBus>) -> Self {
        Self { bus, address: AtomicU32::new(0) }
    }

    /// Slot and register that data port byte `offset - 4` stands for.
    fn target(&self, offset: u64) -> Option<(u8, u16)> {
        let address = self.address.load(Ordering::Relaxed);
        let [register, slot_function, bus, _] = address.to_le_bytes();
        if address & Self::ENABLE == 0 || bus != 0 || slot_function & 7 != 0 {
            return None;
        }
        let byte = u16::try_from(offset.checked_sub(4)?).ok()?;
        Some((slot_function >> 3, u16::from(register & !3) + byte))
    }
}

impl BusDevice for ConfigPorts {
    fn read(&self, offset: u64, data: &mut [u8]) {
        if offset < 4 {
            let bytes = self.address.load(Ordering::Relaxed).to_le_bytes();
            // The address register is a dword; parts of it read as the ports beside it, empty.
            if offset == 0 && data.len() == 4 {
                data.copy_from_slice(&bytes);
            }
        } else if let Some((slot, register)) = self.target(offset) {
            self.bus.read_config(slot, register, data);
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        if offset < 4 {
            if let (0, Ok(bytes)) = (offset, data.try_into()) {
                self.address.store(u32::from_le_bytes(bytes), Ordering::Relaxed);
            }
        } else if let Some((slot, register)) = self.target(offset) {
            self.bus.write_config(slot, register, data);
        }
    }
}

/// Memory-mapped configuration space of bus 0: 1 MiB (PCI Express 5.0 §7.2.2).
#[derive(Debug)]
pub struct Ecam {
    bus: Arc<PciBus>,
}

impl Ecam {
    /// Bytes to claim.
    pub const SIZE: u64 = 1 << 20;

    /// The space of `bus`.
    pub fn new(bus: Arc<PciBus>) -> Self {
        Self { bus }
    }

    fn target(offset: u64) -> Option<(u8, u16)> {
        let slot = u8::try_from(offset >> 15 & 0x1f).ok()?;
        let register = u16::try_from(offset & 0xfff).ok()?;
        (offset >> 12 & 7 == 0 && offset < Self::SIZE).then_some((slot, register))
    }
}

impl BusDevice for Ecam {
    fn read(&self, offset: u64, data: &mut [u8]) {
        if let Some((slot, register)) = Self::target(offset) {
            self.bus.read_config(slot, register, data);
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        if let Some((slot, register)) = Self::target(offset) {
            self.bus.write_config(slot, register, data);
        }
    }
}
