//! virtio-pci, modern interface only (Virtio 1.2 §4.1). The VMM or firmware has assigned the BARs.
#![expect(unsafe_code, reason = "BARs become register windows")]

use super::queue::{Notify, Rings};
use crate::mem::Registers;
use crate::ring0;

const VENDOR: u16 = 0x1af4;
const NET_MODERN: u16 = 0x1041;
const NET_TRANSITIONAL: u16 = 0x1000;

const COMMAND: u16 = 0x04;
const COMMAND_ON: u32 = 1 << 1 | 1 << 2; // memory, bus master
const HEADER_TYPE: u16 = 0x0c;
const BAR0: u16 = 0x10;
const CAPABILITIES: u16 = 0x34;
const CAP_VENDOR: u8 = 0x09;
const CAP_MSIX: u8 = 0x11;

const CFG_COMMON: u8 = 1;
const CFG_NOTIFY: u8 = 2;
const CFG_DEVICE: u8 = 4;

// struct virtio_pci_common_cfg
const DEVICE_FEATURE_SELECT: usize = 0;
const DEVICE_FEATURE: usize = 4;
const DRIVER_FEATURE_SELECT: usize = 8;
const DRIVER_FEATURE: usize = 12;
const DEVICE_STATUS: usize = 20;
const QUEUE_SELECT: usize = 22;
const QUEUE_SIZE: usize = 24;
const QUEUE_MSIX_VECTOR: usize = 26;
const QUEUE_ENABLE: usize = 28;
const QUEUE_NOTIFY_OFF: usize = 30;
const QUEUE_DESC: usize = 32;
const QUEUE_DRIVER: usize = 40;
const QUEUE_DEVICE: usize = 48;
const COMMON_LENGTH: u64 = 56;
/// `virtio_net_config` up to and including `mtu`.
const DEVICE_LENGTH: u64 = 12;

const NO_VECTOR: u16 = 0xffff;

/// How to reach configuration space.
#[derive(Clone, Copy)]
pub enum Config {
    /// Memory-mapped: bus 0 starts here.
    Ecam(u64),
    /// Ports 0xCF8 and 0xCFC.
    Ports,
}

/// One function's configuration space.
#[derive(Clone, Copy)]
struct Function {
    config: Config,
    device: u8,
}

impl Function {
    fn ecam(self, base: u64, offset: u16) -> Option<Registers> {
        let at = base.checked_add(u64::from(self.device) << 15)?;
        // SAFETY: the configuration space that the MCFG names.
        let registers = unsafe { Registers::new(at, 4096) }?;
        // SAFETY: inside the 4 KiB just mapped.
        unsafe { Registers::new(registers.address(offset.into()) as u64, 4) }
    }

    fn select(self, offset: u16) {
        ring0::out32(0xcf8, 1 << 31 | u32::from(self.device) << 11 | u32::from(offset & 0xfc));
    }

    fn read(self, offset: u16) -> u32 {
        match self.config {
            Config::Ecam(base) => self.ecam(base, offset).map_or(u32::MAX, |r| r.read32(0)),
            Config::Ports => {
                self.select(offset);
                ring0::in32(0xcfc)
            }
        }
    }

    fn write(self, offset: u16, value: u32) {
        match self.config {
            Config::Ecam(base) => {
                if let Some(registers) = self.ecam(base, offset) {
                    registers.write32(0, value);
                }
            }
            Config::Ports => {
                self.select(offset);
                ring0::out32(0xcfc, value);
            }
        }
    }

    fn bar(self, index: u8) -> Option<u64> {
        if index > 5 {
            return None;
        }
        let low = self.read(BAR0 + 4 * u16::from(index));
        if low & 1 != 0 {
            return None;
        }
        let wide = low & 6 == 4 && index < 5;
        let high = if wide { self.read(BAR0 + 4 * u16::from(index) + 4) } else { 0 };
        let base = u64::from(low & !15) | u64::from(high) << 32;
        (base != 0).then_some(base)
    }

    fn window(self, bar: u8, offset: u32, length: u64) -> Option<Registers> {
        let at = self.bar(bar)?.checked_add(offset.into())?;
        // SAFETY: a BAR of a virtio device; the VMM keeps BARs apart from RAM.
        unsafe { Registers::new(at, length) }
    }
}

/// A virtio-net device on PCI bus 0.
pub struct Pci {
    common: Registers,
    notify: Registers,
    multiplier: u32,
    device: Registers,
    msix: bool,
}

/// Calls `found` for each virtio-net function on bus 0 until it returns a value.
pub fn scan<T>(
    config: Config,
    message: (u64, u32),
    mut found: impl FnMut(Pci) -> Option<T>,
) -> Option<T> {
    for device in 0..32 {
        let function = Function { config, device };
        let id = function.read(0);
        let (vendor, kind) = (id as u16, (id >> 16) as u16);
        if vendor == VENDOR
            && (kind == NET_MODERN || kind == NET_TRANSITIONAL)
            && let Some(pci) = Pci::new(function, message)
            && let Some(result) = found(pci)
        {
            return Some(result);
        }
        if device == 0 && id == u32::MAX && matches!(config, Config::Ports) {
            return None; // no host bridge: nobody answers these ports
        }
    }
    None
}

impl Pci {
    fn new(function: Function, message: (u64, u32)) -> Option<Self> {
        if function.read(HEADER_TYPE) >> 16 & 0x7f != 0 {
            return None;
        }
        let (mut common, mut notify, mut device, mut msix) = (None, None, None, None);
        let mut at = (function.read(CAPABILITIES) & 0xfc) as u16;
        // A list of 4-byte aligned entries in 256 bytes has at most 48.
        for _ in 0..48 {
            if at < 0x40 {
                break;
            }
            let head = function.read(at);
            match head as u8 {
                CAP_VENDOR => {
                    let kind = (head >> 24) as u8;
                    let room = match kind {
                        CFG_COMMON if common.is_none() => COMMON_LENGTH,
                        CFG_DEVICE if device.is_none() => DEVICE_LENGTH,
                        CFG_NOTIFY if notify.is_none() => function.read(at + 12).into(),
                        _ => 0,
                    };
                    if room > 0 {
                        let bar = function.read(at + 4) as u8;
                        let window = function.window(bar, function.read(at + 8), room);
                        match kind {
                            CFG_COMMON => common = window,
                            CFG_DEVICE => device = window,
                            _ => notify = window.map(|window| (window, function.read(at + 16))),
                        }
                    }
                }
                CAP_MSIX => msix = Some(at),
                _ => {}
            }
            at = (head >> 8 & 0xfc) as u16;
        }
        let (notify, multiplier) = notify?;
        let mut pci = Self { common: common?, notify, multiplier, device: device?, msix: false };
        let command = function.read(COMMAND) & 0xffff;
        if command & COMMAND_ON != COMMAND_ON {
            function.write(COMMAND, command | COMMAND_ON);
        }
        if let Some(at) = msix {
            pci.msix = enable_msix(function, at, message).is_some();
        }
        Some(pci)
    }

    pub fn reset(&mut self) {
        self.set_status(0);
        // §4.1.4.3.2: the driver waits until the reset is done.
        for _ in 0..1000 {
            if self.status() == 0 {
                break;
            }
        }
    }

    pub fn set_status(&mut self, status: u8) {
        self.common.write8(DEVICE_STATUS, status);
    }

    pub fn status(&self) -> u8 {
        self.common.read8(DEVICE_STATUS)
    }

    pub fn features(&mut self) -> u64 {
        let half = |index| {
            self.common.write32(DEVICE_FEATURE_SELECT, index);
            u64::from(self.common.read32(DEVICE_FEATURE))
        };
        half(0) | half(1) << 32
    }

    pub fn accept(&mut self, features: u64) {
        for (index, half) in [(0, features as u32), (1, (features >> 32) as u32)] {
            self.common.write32(DRIVER_FEATURE_SELECT, index);
            self.common.write32(DRIVER_FEATURE, half);
        }
    }

    pub fn config8(&self, offset: usize) -> u8 {
        self.device.read8(offset)
    }

    pub fn config16(&self, offset: usize) -> u16 {
        self.device.read16(offset)
    }

    pub fn queue_size(&mut self, index: u16) -> u16 {
        self.common.write16(QUEUE_SELECT, index);
        self.common.read16(QUEUE_SIZE)
    }

    pub fn enable_queue(&mut self, index: u16, rings: &Rings, interrupt: bool) -> Notify {
        let c = self.common;
        c.write16(QUEUE_SELECT, index);
        c.write16(QUEUE_SIZE, rings.size);
        let vector = if interrupt && self.msix { 0 } else { NO_VECTOR };
        c.write16(QUEUE_MSIX_VECTOR, vector);
        c.write64(QUEUE_DESC, rings.descriptors);
        c.write64(QUEUE_DRIVER, rings.available);
        c.write64(QUEUE_DEVICE, rings.used);
        let offset =
            usize::from(c.read16(QUEUE_NOTIFY_OFF)).saturating_mul(self.multiplier as usize);
        c.write16(QUEUE_ENABLE, 1);
        Notify::Narrow(self.notify, offset, index)
    }
}

/// Points vector 0 at `message` and turns MSI-X on.
fn enable_msix(function: Function, at: u16, message: (u64, u32)) -> Option<()> {
    let place = function.read(at + 4);
    let table = function.window((place & 7) as u8, place & !7, 16)?;
    table.write64(0, message.0);
    table.write32(8, message.1);
    table.write32(12, 0);
    let head = function.read(at);
    function.write(at, head & 0x3fff_ffff | 1 << 31);
    Some(())
}
