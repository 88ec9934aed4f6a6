//! One PCI bus: configuration space, BARs placed without firmware, MSI-X.
//!
//! * Bus 0 only, single-function devices, the host bridge in slot 0.
//! * BARs are 32-bit memory BARs. [`PciBus::add`] gives them addresses in the window; nothing
//!   answers until the guest turns memory decoding on. A guest may move a BAR anywhere in the
//!   window: its range on the memory bus follows, and the owner hears of it by [`BarChange`].
//! * Interrupts are MSI-X only: no function has an interrupt pin, so there is no INTx to route.
//! * Bus mastering is not enforced: virtio's own device status decides when a device works.

mod access;
pub mod config;
pub mod msix;

use std::ops::Range;
use std::sync::{Arc, Mutex};

use thiserror::Error;

pub use self::access::{ConfigPorts, Ecam};
use self::config::{ConfigSpace, Identity};
use crate::bus::{Bus, BusDevice};
use crate::lock;
use crate::virtio::IoEventFd;

/// Slots of a bus.
pub const SLOTS: usize = 32;

/// A BAR of a function.
#[derive(Clone)]
pub struct BarSpec {
    /// 0 to 5.
    pub index: usize,
    /// Bytes, a power of two.
    pub size: u32,
    /// Who answers in it.
    pub device: Arc<dyn BusDevice>,
}

impl std::fmt::Debug for BarSpec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BarSpec")
            .field("index", &self.index)
            .field("size", &self.size)
            .finish_non_exhaustive()
    }
}

/// A function on the bus. The bus calls it under its own lock, never from two threads at once; a
/// function must not call back into the bus.
pub trait PciFunction: Send + Sync {
    /// A read of configuration space at `register`, any length.
    fn read_config(&self, register: u16, data: &mut [u8]);

    /// A write to configuration space at `register`, any length.
    fn write_config(&self, register: u16, data: &[u8]);

    /// The BARs.
    fn bars(&self) -> Vec<BarSpec>;

    /// Sets a BAR's address before the guest runs.
    fn place_bar(&self, index: usize, address: u32);

    /// Where BAR `index` should answer now; `None` while memory decoding is off.
    fn bar_address(&self, index: usize) -> Option<u32>;

    /// The notification addresses in BAR `index` if it were at `base`.
    fn ioeventfds(&self, index: usize, base: u64) -> Vec<IoEventFd>;
}

/// A BAR began or ceased to answer; a move is one of each.
#[derive(Debug)]
pub struct BarChange {
    /// The function's slot.
    pub slot: u8,
    /// The BAR.
    pub bar: usize,
    /// Its guest address.
    pub base: u64,
    /// It answers from now on; else it no longer does.
    pub mapped: bool,
    /// The notification addresses in it: to be registered if `mapped`, else to be unregistered.
    /// One that cannot be registered is no harm: the write then reaches the bus, and the device
    /// kicks itself.
    pub ioeventfds: Vec<IoEventFd>,
}

/// Hears of [`BarChange`]s, on a vCPU thread with the bus locked: it must not access
/// configuration space.
pub type BarObserver = Arc<dyn Fn(&BarChange) + Send + Sync>;

/// Why a function was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum PciError {
    /// All 31 slots are in use.
    #[error("no free PCI slot: at most 31 devices fit; attach fewer, or use virtio-mmio")]
    Slots,
    /// The BAR window is full.
    #[error("no room for {0:#x} bytes of BAR in the PCI window")]
    Window(u32),
}

/// Bus 0 and its functions.
pub struct PciBus {
    memory: Arc<Bus>,
    window: Range<u64>,
    observer: BarObserver,
    slots: Mutex<Slots>,
}

struct Slots {
    functions: Vec<Slot>,
    next_address: u64,
}

struct Slot {
    function: Arc<dyn PciFunction>,
    bars: Vec<Bar>,
}

struct Bar {
    spec: BarSpec,
    wanted: Option<u64>,
    mapped: Option<u64>,
}

impl PciBus {
    /// A bus with a host bridge. BARs answer on `memory`, inside `window` (below 4 GiB).
    pub fn new(memory: Arc<Bus>, window: Range<u64>, observer: BarObserver) -> Arc<Self> {
        let bridge = Slot { function: Arc::new(HostBridge::new()), bars: Vec::new() };
        let slots = Slots { functions: vec![bridge], next_address: window.start };
        Arc::new(Self { memory, window, observer, slots: Mutex::new(slots) })
    }

    /// Adds a function in the next slot, its BARs placed. Returns the slot.
    ///
    /// # Errors
    /// [`PciError`] when the bus is full.
    ///
    /// # Panics
    /// If a BAR's size is not a power of two.
    pub fn add(&self, function: Arc<dyn PciFunction>) -> Result<u8, PciError> {
        let mut slots = lock(&self.slots);
        let slot = slots.functions.len();
        if slot >= SLOTS {
            return Err(PciError::Slots);
        }
        let specs = function.bars();
        let mut next = slots.next_address;
        let mut places = Vec::with_capacity(specs.len());
        for spec in &specs {
            assert!(spec.size.is_power_of_two());
            let base = next.next_multiple_of(u64::from(spec.size));
            let end = base + u64::from(spec.size);
            let address = u32::try_from(base).map_err(|_| PciError::Window(spec.size))?;
            if end > self.window.end {
                return Err(PciError::Window(spec.size));
            }
            next = end;
            places.push((spec.index, address));
        }
        for (index, address) in places {
            function.place_bar(index, address);
        }
        slots.next_address = next;
        let bars = specs.into_iter().map(|spec| Bar { spec, wanted: None, mapped: None }).collect();
        slots.functions.push(Slot { function, bars });
        Ok(u8::try_from(slot).expect("below 32"))
    }

    /// Reads configuration space; an empty slot reads as ones. `data` is cut at the end of the
    /// function's 4 KiB.
    pub fn read_config(&self, slot: u8, register: u16, data: &mut [u8]) {
        data.fill(0xff);
        let len = data.len().min(usize::from(0x1000u16.saturating_sub(register)));
        let slots = lock(&self.slots);
        if let Some(s) = slots.functions.get(usize::from(slot)) {
            s.function.read_config(register, &mut data[..len]);
        }
    }

    /// Writes configuration space, and moves BARs where that asks for it.
    pub fn write_config(&self, slot: u8, register: u16, data: &[u8]) {
        let len = data.len().min(usize::from(0x1000u16.saturating_sub(register)));
        let mut slots = lock(&self.slots);
        let Some(s) = slots.functions.get_mut(usize::from(slot)) else { return };
        s.function.write_config(register, &data[..len]);
        let mut changed = false;
        for bar in &mut s.bars {
            let wanted = s.function.bar_address(bar.spec.index).map(u64::from);
            changed |= wanted != bar.wanted;
            bar.wanted = wanted;
        }
        if changed {
            self.remap(&mut slots);
        }
    }

    /// Brings the memory bus in line with what the BARs say. One that was in another's way may
    /// have gone, so all are looked at.
    fn remap(&self, slots: &mut Slots) {
        let bars = |slots: &mut Slots, each: &mut dyn FnMut(u8, &dyn PciFunction, &mut Bar)| {
            for (slot, s) in (0u8..).zip(&mut slots.functions) {
                for bar in s.bars.iter_mut().filter(|b| b.mapped != b.wanted) {
                    each(slot, &*s.function, bar);
                }
            }
        };
        // Vacate first, so that BARs can change places.
        bars(slots, &mut |slot, function, bar| {
            if let Some(base) = bar.mapped.take() {
                self.memory.remove(base);
                self.report(slot, function, bar, base, false);
            }
        });
        bars(slots, &mut |slot, function, bar| {
            let Some(base) = bar.wanted else { return };
            if self.map(bar, base) {
                bar.mapped = Some(base);
                self.report(slot, function, bar, base, true);
            }
        });
    }

    fn map(&self, bar: &Bar, base: u64) -> bool {
        let len = u64::from(bar.spec.size);
        base >= self.window.start
            && base + len <= self.window.end
            && self.memory.insert(base, len, bar.spec.device.clone()).is_ok()
    }

    fn report(&self, slot: u8, function: &dyn PciFunction, bar: &Bar, base: u64, mapped: bool) {
        let ioeventfds = function.ioeventfds(bar.spec.index, base);
        (self.observer)(&BarChange { slot, bar: bar.spec.index, base, mapped, ioeventfds });
    }
}

impl std::fmt::Debug for PciBus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PciBus").field("window", &self.window).finish_non_exhaustive()
    }
}

/// 00:00.0: an identity and nothing else. The ids are those of the generic PCI Express bridge
/// that Linux knows no quirks for.
struct HostBridge(Mutex<ConfigSpace>);

impl HostBridge {
    fn new() -> Self {
        Self(Mutex::new(ConfigSpace::new(&Identity {
            vendor: 0x1b36,
            device: 0x0008,
            subsystem_vendor: 0,
            subsystem: 0,
            class: 0x06_00_00,
            revision: 0,
        })))
    }
}

impl PciFunction for HostBridge {
    fn read_config(&self, register: u16, data: &mut [u8]) {
        lock(&self.0).read(usize::from(register), data);
    }

    fn write_config(&self, register: u16, data: &[u8]) {
        lock(&self.0).write(usize::from(register), data);
    }

    fn bars(&self) -> Vec<BarSpec> {
        Vec::new()
    }

    fn place_bar(&self, _index: usize, _address: u32) {}

    fn bar_address(&self, _index: usize) -> Option<u32> {
        None
    }

    fn ioeventfds(&self, _index: usize, _base: u64) -> Vec<IoEventFd> {
        Vec::new()
    }
}

#[cfg(test)]
mod tests;
