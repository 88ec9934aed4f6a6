use std::sync::{Arc, Mutex};

use crate::bus::Bus;
use crate::irq::IrqLine;
use crate::irq::testing::TestIrq;
use crate::lock;
use crate::pci::{BarObserver, ConfigPorts, Ecam, PciBus};
use crate::virtio::device::VirtioDevice;
use crate::virtio::memory::GuestRam;
use crate::virtio::queue::QueueLayout;
use crate::virtio::spec::{feature, status};
use crate::virtio::transport::{IoEventFd, PciTransport};

/// A transport as a driver sees it.
pub trait Driver {
    /// Reads device status.
    fn status(&self) -> u8;
    /// Writes device status.
    fn set_status(&self, value: u8);
    /// The features offered.
    fn device_features(&self) -> u64;
    /// Chooses features.
    fn set_driver_features(&self, features: u64);
    /// The largest size of a queue, 0 if there is none.
    fn queue_max(&self, index: u16) -> u16;
    /// Writes size and addresses of a queue; does not enable it.
    fn set_queue(&self, index: u16, layout: &QueueLayout);
    /// Enables a queue.
    fn enable_queue(&self, index: u16);
    /// Whether a queue is enabled.
    fn queue_enabled(&self, index: u16) -> bool;
    /// Kicks through the bus.
    fn notify(&self, index: u16);
    /// Reads device configuration.
    fn read_config(&self, offset: u64, data: &mut [u8]);
    /// The config generation.
    fn generation(&self) -> u32;
}

/// At which step a device turned a driver away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// A wanted feature is not offered; the bits that are missing.
    NotOffered(u64),
    /// `FEATURES_OK` did not stick.
    Features,
    /// A queue does not exist or is too small.
    Queue(u16),
    /// The device needs a reset right after `DRIVER_OK`.
    NeedsReset,
}

/// Initialises a device as §3.1.1 orders, with the features `want` and `VERSION_1`, and the given
/// queues from number 0 on (`None` leaves one out).
///
/// # Errors
/// [`Refused`]; the status is then left as it was at that step.
pub fn initialise(
    driver: &dyn Driver,
    want: u64,
    queues: &[Option<QueueLayout>],
) -> Result<(), Refused> {
    driver.set_status(0);
    assert_eq!(driver.status(), 0, "a reset completes at once");
    driver.set_status(status::ACKNOWLEDGE);
    driver.set_status(driver.status() | status::DRIVER);
    let want = want | feature::VERSION_1;
    let missing = want & !driver.device_features();
    if missing != 0 {
        return Err(Refused::NotOffered(missing));
    }
    driver.set_driver_features(want);
    driver.set_status(driver.status() | status::FEATURES_OK);
    if driver.status() & status::FEATURES_OK == 0 {
        return Err(Refused::Features);
    }
    for (index, layout) in (0u16..).zip(queues) {
        let Some(layout) = layout else { continue };
        if driver.queue_max(index) < layout.size {
            return Err(Refused::Queue(index));
        }
        driver.set_queue(index, layout);
        driver.enable_queue(index);
    }
    driver.set_status(driver.status() | status::DRIVER_OK);
    if driver.status() & status::DEVICE_NEEDS_RESET != 0 {
        return Err(Refused::NeedsReset);
    }
    Ok(())
}

fn low(v: u64) -> u32 {
    (v & u64::from(u32::MAX)) as u32
}

fn high(v: u64) -> u32 {
    (v >> 32) as u32
}

fn read<const N: usize>(bus: &Bus, addr: u64) -> [u8; N] {
    let mut data = [0; N];
    bus.read(addr, &mut data);
    data
}

fn read32(bus: &Bus, addr: u64) -> u32 {
    u32::from_le_bytes(read(bus, addr))
}

fn read16(bus: &Bus, addr: u64) -> u16 {
    u16::from_le_bytes(read(bus, addr))
}

fn write32(bus: &Bus, addr: u64, value: u32) {
    bus.write(addr, &value.to_le_bytes());
}

fn write16(bus: &Bus, addr: u64, value: u16) {
    bus.write(addr, &value.to_le_bytes());
}

/// Drives a virtio-mmio device.
#[derive(Debug)]
pub struct MmioDriver {
    bus: Arc<Bus>,
    base: u64,
}

impl MmioDriver {
    /// A driver for the registers at `base`.
    pub fn new(bus: Arc<Bus>, base: u64) -> Self {
        assert_eq!(read32(&bus, base), 0x7472_6976);
        assert_eq!(read32(&bus, base + 4), 2);
        Self { bus, base }
    }

    /// Reads a register.
    pub fn read(&self, offset: u64) -> u32 {
        read32(&self.bus, self.base + offset)
    }

    /// Writes a register.
    pub fn write(&self, offset: u64, value: u32) {
        write32(&self.bus, self.base + offset, value);
    }

    /// Reads and acknowledges the interrupt causes.
    pub fn take_interrupts(&self) -> u32 {
        let causes = self.read(0x60);
        self.write(0x64, causes);
        causes
    }
}

impl Driver for MmioDriver {
    fn status(&self) -> u8 {
        self.read(0x70).to_le_bytes()[0]
    }

    fn set_status(&self, value: u8) {
        self.write(0x70, value.into());
    }

    fn device_features(&self) -> u64 {
        self.write(0x14, 1);
        let high = u64::from(self.read(0x10));
        self.write(0x14, 0);
        high << 32 | u64::from(self.read(0x10))
    }

    fn set_driver_features(&self, features: u64) {
        self.write(0x24, 1);
        self.write(0x20, high(features));
        self.write(0x24, 0);
        self.write(0x20, low(features));
    }

    fn queue_max(&self, index: u16) -> u16 {
        self.write(0x30, index.into());
        u16::try_from(self.read(0x34)).expect("a queue size")
    }

    fn set_queue(&self, index: u16, layout: &QueueLayout) {
        self.write(0x30, index.into());
        self.write(0x38, layout.size.into());
        for (at, addr) in [(0x80, layout.desc), (0x90, layout.avail), (0xa0, layout.used)] {
            self.write(at, low(addr));
            self.write(at + 4, high(addr));
        }
    }

    fn enable_queue(&self, index: u16) {
        self.write(0x30, index.into());
        self.write(0x44, 1);
    }

    fn queue_enabled(&self, index: u16) -> bool {
        self.write(0x30, index.into());
        self.read(0x44) != 0
    }

    fn notify(&self, index: u16) {
        self.write(0x50, index.into());
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        self.bus.read(self.base + 0x100 + offset, data);
    }

    fn generation(&self) -> u32 {
        self.read(0xfc)
    }
}

/// Buses with a PCI bus on them, and a record of its notification addresses.
#[derive(Debug)]
pub struct PciMachine {
    /// Ports, with the configuration ports at 0xCF8.
    pub ports: Arc<Bus>,
    /// Memory, with ECAM at [`Self::ECAM`] and BARs in [`Self::WINDOW`].
    pub memory: Arc<Bus>,
    /// The bus.
    pub pci: Arc<PciBus>,
    registered: Arc<Mutex<Vec<IoEventFd>>>,
}

impl PciMachine {
    /// Where ECAM is.
    pub const ECAM: u64 = 0xe000_0000;
    /// Where BARs are.
    pub const WINDOW: std::ops::Range<u64> = 0xc000_0000..0xc010_0000;

    /// An empty bus.
    pub fn new() -> Self {
        let (ports, memory) = (Arc::new(Bus::new()), Arc::new(Bus::new()));
        let registered = Arc::new(Mutex::new(Vec::<IoEventFd>::new()));
        let record = registered.clone();
        let observer: BarObserver = Arc::new(move |change| {
            let mut fds = lock(&record);
            if change.mapped {
                fds.extend(change.ioeventfds.iter().cloned());
            } else {
                let gone: Vec<u64> = change.ioeventfds.iter().map(|f| f.address).collect();
                let before = fds.len();
                fds.retain(|f| !gone.contains(&f.address));
                assert_eq!(before - fds.len(), gone.len(), "only what was registered goes");
            }
        });
        let pci = PciBus::new(memory.clone(), Self::WINDOW, observer);
        let config = Arc::new(ConfigPorts::new(pci.clone()));
        ports.insert(0xcf8, ConfigPorts::PORTS, config).expect("an empty bus");
        let ecam = Arc::new(Ecam::new(pci.clone()));
        memory.insert(Self::ECAM, Ecam::SIZE, ecam).expect("an empty bus");
        Self { ports, memory, pci, registered }
    }

    /// Attaches a device; one line for each vector comes back with a driver for it.
    pub fn attach(
        &self,
        device: Box<dyn VirtioDevice>,
        ram: &GuestRam,
    ) -> (PciDriver<'_>, Vec<Arc<TestIrq>>) {
        let vectors = PciTransport::lines(device.queue_sizes().len());
        let irqs: Vec<Arc<TestIrq>> = (0..vectors).map(|_| Arc::default()).collect();
        let lines = irqs.iter().map(|i| i.clone() as Arc<dyn IrqLine>).collect();
        let transport = PciTransport::new(device, ram.clone(), lines).expect("eventfds");
        let slot = self.pci.add(Arc::new(transport)).expect("room on the bus");
        (PciDriver::probe(self, slot), irqs)
    }

    /// A write of the guest to memory, as KVM handles it: an ioeventfd takes it, or the bus.
    /// True if it was an ioeventfd.
    pub fn write_memory(&self, addr: u64, data: &[u8]) -> bool {
        let fds = lock(&self.registered);
        if let Some(f) = fds.iter().find(|f| f.address == addr) {
            assert_eq!(f.datamatch, None);
            f.fd.write(1).expect("eventfd");
            return true;
        }
        drop(fds);
        self.memory.write(addr, data);
        false
    }

    /// The addresses of all registered ioeventfds.
    pub fn ioeventfds(&self) -> Vec<u64> {
        lock(&self.registered).iter().map(|f| f.address).collect()
    }

    /// Reads configuration space by mechanism #1.
    pub fn read_config(&self, slot: u8, register: u8, data: &mut [u8]) {
        self.select(slot, register);
        self.ports.read(0xcfc + u64::from(register & 3), data);
    }

    /// Writes configuration space by mechanism #1.
    pub fn write_config(&self, slot: u8, register: u8, data: &[u8]) {
        self.select(slot, register);
        self.ports.write(0xcfc + u64::from(register & 3), data);
    }

    fn select(&self, slot: u8, register: u8) {
        let address = 1 << 31 | u32::from(slot) << 11 | u32::from(register & !3);
        self.ports.write(0xcf8, &address.to_le_bytes());
    }

    fn config32(&self, slot: u8, register: u8) -> u32 {
        let mut data = [0; 4];
        self.read_config(slot, register, &mut data);
        u32::from_le_bytes(data)
    }
}

impl Default for PciMachine {
    fn default() -> Self {
        Self::new()
    }
}

/// Drives a virtio PCI device.
#[derive(Debug)]
pub struct PciDriver<'a> {
    machine: &'a PciMachine,
    /// The device's slot.
    pub slot: u8,
    /// Where the configuration access capability is.
    pub access: u8,
    /// Where the MSI-X capability is.
    pub msix: u8,
    common: u64,
    isr: u64,
    device: u64,
    notify: u64,
    multiplier: u64,
    table: u64,
}

impl<'a> PciDriver<'a> {
    /// Finds the device in `slot`: checks its identity, walks its capabilities, sizes its BAR and
    /// turns memory decoding on.
    pub fn probe(machine: &'a PciMachine, slot: u8) -> Self {
        let id = machine.config32(slot, 0);
        assert_eq!(id & 0xffff, 0x1af4);
        assert!(id >> 16 > 0x1040);
        let bar = machine.config32(slot, 0x10);
        machine.write_config(slot, 0x10, &u32::MAX.to_le_bytes());
        assert_eq!(machine.config32(slot, 0x10), 0xffff_8000, "a 32 KiB memory BAR");
        machine.write_config(slot, 0x10, &bar.to_le_bytes());
        let bar = u64::from(bar);
        machine.write_config(slot, 4, &[6, 4]);

        let mut d = Self {
            machine,
            slot,
            access: 0,
            msix: 0,
            common: 0,
            isr: 0,
            device: 0,
            notify: 0,
            multiplier: 0,
            table: 0,
        };
        let mut at = machine.config32(slot, 0x34).to_le_bytes()[0];
        while at != 0 {
            let [id, next, len, kind] = machine.config32(slot, at).to_le_bytes();
            let offset = u64::from(machine.config32(slot, at + 8));
            match (id, kind) {
                (0x09, 1) => d.common = bar + offset,
                (0x09, 2) => {
                    assert_eq!(len, 20);
                    d.notify = bar + offset;
                    d.multiplier = u64::from(machine.config32(slot, at + 16));
                }
                (0x09, 3) => d.isr = bar + offset,
                (0x09, 4) => d.device = bar + offset,
                (0x09, 5) => d.access = at,
                (0x11, _) => {
                    d.msix = at;
                    d.table = bar + u64::from(machine.config32(slot, at + 4) & !7);
                }
                other => panic!("unknown capability {other:?}"),
            }
            at = next;
        }
        assert!(d.common != 0 && d.isr != 0 && d.device != 0 && d.notify != 0 && d.table != 0);
        d
    }

    /// Moves the BAR, as an operating system that resizes windows does.
    pub fn move_bar(&mut self, to: u32) {
        let from = u64::from(self.machine.config32(self.slot, 0x10));
        self.machine.write_config(self.slot, 0x10, &to.to_le_bytes());
        for address in
            [&mut self.common, &mut self.isr, &mut self.device, &mut self.notify, &mut self.table]
        {
            *address = *address - from + u64::from(to);
        }
    }

    /// Writes the MSI-X message control register.
    pub fn set_msix_control(&self, control: u16) {
        self.machine.write_config(self.slot, self.msix + 2, &control.to_le_bytes());
    }

    /// Programs a vector of the MSI-X table.
    pub fn set_vector(&self, vector: u16, address: u32, data: u32, masked: bool) {
        let at = self.table + 16 * u64::from(vector);
        for (i, word) in (0u64..).zip([address, 0, data, u32::from(masked)]) {
            write32(&self.machine.memory, at + 4 * i, word);
        }
    }

    /// Assigns a vector to a queue; returns what reads back.
    pub fn set_queue_vector(&self, queue: u16, vector: u16) -> u16 {
        self.select(queue);
        write16(&self.machine.memory, self.common + 0x1a, vector);
        read16(&self.machine.memory, self.common + 0x1a)
    }

    /// Assigns a vector to configuration changes; returns what reads back.
    pub fn set_config_vector(&self, vector: u16) -> u16 {
        write16(&self.machine.memory, self.common + 0x10, vector);
        read16(&self.machine.memory, self.common + 0x10)
    }

    /// Enables MSI-X and gives configuration vector 0 and queue `n` vector `n + 1`.
    pub fn use_msix(&self, queues: u16) {
        self.set_msix_control(0x8000);
        for v in 0..=queues {
            self.set_vector(v, 0xfee0_0000, 0x40 + u32::from(v), false);
        }
        assert_eq!(self.set_config_vector(0), 0);
        for q in 0..queues {
            assert_eq!(self.set_queue_vector(q, q + 1), q + 1);
        }
    }

    /// Reads, and so clears, the ISR byte.
    pub fn take_isr(&self) -> u8 {
        read::<1>(&self.machine.memory, self.isr)[0]
    }

    /// Where queue `index` is notified.
    pub fn notify_address(&self, index: u16) -> u64 {
        self.select(index);
        let off = read16(&self.machine.memory, self.common + 0x1e);
        self.notify + u64::from(off) * self.multiplier
    }

    /// Kicks as a guest does: by ioeventfd where one is registered. True if one was.
    pub fn kick(&self, index: u16) -> bool {
        self.machine.write_memory(self.notify_address(index), &index.to_le_bytes())
    }

    fn select(&self, queue: u16) {
        write16(&self.machine.memory, self.common + 0x16, queue);
    }
}

impl Driver for PciDriver<'_> {
    fn status(&self) -> u8 {
        read::<1>(&self.machine.memory, self.common + 0x14)[0]
    }

    fn set_status(&self, value: u8) {
        self.machine.memory.write(self.common + 0x14, &[value]);
    }

    fn device_features(&self) -> u64 {
        let bus = &self.machine.memory;
        write32(bus, self.common, 1);
        let high = u64::from(read32(bus, self.common + 4));
        write32(bus, self.common, 0);
        high << 32 | u64::from(read32(bus, self.common + 4))
    }

    fn set_driver_features(&self, features: u64) {
        let bus = &self.machine.memory;
        write32(bus, self.common + 8, 1);
        write32(bus, self.common + 12, high(features));
        write32(bus, self.common + 8, 0);
        write32(bus, self.common + 12, low(features));
    }

    fn queue_max(&self, index: u16) -> u16 {
        self.select(index);
        read16(&self.machine.memory, self.common + 0x18)
    }

    fn set_queue(&self, index: u16, layout: &QueueLayout) {
        let bus = &self.machine.memory;
        self.select(index);
        write16(bus, self.common + 0x18, layout.size);
        for (at, addr) in [(0x20, layout.desc), (0x28, layout.avail), (0x30, layout.used)] {
            write32(bus, self.common + at, low(addr));
            write32(bus, self.common + at + 4, high(addr));
        }
    }

    fn enable_queue(&self, index: u16) {
        self.select(index);
        write16(&self.machine.memory, self.common + 0x1c, 1);
    }

    fn queue_enabled(&self, index: u16) -> bool {
        self.select(index);
        read16(&self.machine.memory, self.common + 0x1c) != 0
    }

    fn notify(&self, index: u16) {
        write16(&self.machine.memory, self.notify_address(index), index);
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        self.machine.memory.read(self.device + offset, data);
    }

    fn generation(&self) -> u32 {
        u32::from(read::<1>(&self.machine.memory, self.common + 0x15)[0])
    }
}
