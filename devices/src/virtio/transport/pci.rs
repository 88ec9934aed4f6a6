//! virtio over PCI, modern interface only (Virtio 1.2 §4.1).
//!
//! One 32-bit memory BAR of 32 KiB, MSI-X with a vector for each queue and one for configuration
//! changes, no INTx.

use std::io;
use std::sync::{Arc, Mutex};

use super::IoEventFd;
use super::core::{Shared, TransportCore};
use super::pci_bar::{self, PciBar, PciInterrupt};
use crate::bus::BusDevice;
use crate::irq::IrqLine;
use crate::lock;
use crate::pci::config::{CONFIG_SIZE, ConfigSpace, Identity};
use crate::pci::msix::{self, Msix};
use crate::pci::{BarSpec, PciFunction};
use crate::virtio::device::VirtioDevice;
use crate::virtio::memory::GuestRam;
use crate::virtio::spec::device_type;

const VENDOR: u16 = 0x1af4;
/// Device ids are this plus the device type (§4.1.2).
const DEVICE_BASE: u32 = 0x1040;
const CAPABILITY_VENDOR: u8 = 0x09;
const BAR: u8 = 0;

/// Types of virtio capabilities (§4.1.4).
mod cap {
    pub const COMMON: u8 = 1;
    pub const NOTIFY: u8 = 2;
    pub const ISR: u8 = 3;
    pub const DEVICE: u8 = 4;
    pub const PCI: u8 = 5;
}

/// Offsets in `struct virtio_pci_cap`.
const CAP_BAR: usize = 4;
const CAP_OFFSET: usize = 8;
const CAP_LENGTH: usize = 12;
const CAP_DATA: usize = 16;

/// A device behind a PCI function.
pub struct PciTransport {
    config: Mutex<ConfigSpace>,
    bar: Arc<PciBar>,
    /// Offset of the MSI-X message control register.
    msix_control: usize,
    /// Offset of the PCI configuration access capability (§4.1.4.9).
    access: usize,
}

impl PciTransport {
    /// Interrupt lines that a device with `queues` queues takes.
    pub const fn lines(queues: usize) -> usize {
        queues + 1
    }

    /// Puts `device` behind a PCI function. One line for each MSI-X vector; fewer than
    /// [`Self::lines`] make queues share.
    ///
    /// # Errors
    /// When there are no more file descriptors for eventfds, or for no lines or more than 256, or
    /// more than 1024 queues.
    pub fn new(
        device: Box<dyn VirtioDevice>,
        ram: GuestRam,
        lines: Vec<Arc<dyn IrqLine>>,
    ) -> io::Result<Self> {
        let queues = device.queue_sizes().len();
        if !(1..=256).contains(&lines.len()) || queues > 1024 {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "a virtio PCI device takes 1 to 256 interrupt lines and up to 1024 queues",
            ));
        }
        let kind = device.device_type();
        let shared = Arc::new(Shared::new(&*device));
        let interrupt = Arc::new(PciInterrupt::new(Msix::new(lines), queues, shared.clone()));
        let core = TransportCore::new(device, ram, interrupt.clone(), shared)?;

        let device_id = u16::try_from(DEVICE_BASE + kind)
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "unknown device type"))?;
        let mut config = ConfigSpace::new(&Identity {
            vendor: VENDOR,
            device: device_id,
            subsystem_vendor: VENDOR,
            subsystem: device_id,
            class: class(kind),
            revision: 1,
        });
        config.add_bar(usize::from(BAR), pci_bar::SIZE);
        let notify_len = pci_bar::NOTIFY_MULTIPLIER * queues.max(1) as u32;
        for (kind, offset, length) in [
            (cap::COMMON, pci_bar::COMMON, pci_bar::COMMON_LEN),
            (cap::ISR, pci_bar::ISR, 1),
            (cap::DEVICE, pci_bar::DEVICE, 0x1000),
        ] {
            config.add_capability(CAPABILITY_VENDOR, &capability(kind, offset, length, None));
        }
        let notify =
            capability(cap::NOTIFY, pci_bar::NOTIFY, notify_len, Some(pci_bar::NOTIFY_MULTIPLIER));
        config.add_capability(CAPABILITY_VENDOR, &notify);
        let window = capability(cap::PCI, 0, 0, Some(0));
        let access = config.add_capability(CAPABILITY_VENDOR, &window);
        config.set_writable(access + CAP_BAR, &[0xff]);
        config.set_writable(access + CAP_OFFSET, &[0xff; 4]);
        config.set_writable(access + CAP_LENGTH, &[0xff; 4]);
        config.set_writable(access + CAP_DATA, &[0xff; 4]);
        let (table, pba) = (pci_bar::MSIX_TABLE as u32, pci_bar::MSIX_PBA as u32);
        let body = interrupt.msix.capability(BAR, table, pba);
        let msix_control = config.add_capability(msix::CAPABILITY_ID, &body) + 2;
        let control = msix::CONTROL_ENABLE | msix::CONTROL_MASK_ALL;
        config.set_writable(msix_control, &control.to_le_bytes());

        let bar = Arc::new(PciBar { kicks: core.kicks(), core: Mutex::new(core), interrupt });
        Ok(Self { config: Mutex::new(config), bar, msix_control, access })
    }

    /// What the access capability points at, if it does so within the rules: BAR 0, width 1, 2
    /// or 4, aligned, inside the BAR.
    fn access_target(&self, config: &ConfigSpace) -> Option<(u64, usize)> {
        let bar = config.u16_at(self.access + CAP_BAR) & 0xff;
        let offset = config.u32_at(self.access + CAP_OFFSET);
        let length = config.u32_at(self.access + CAP_LENGTH);
        let fits = matches!(length, 1 | 2 | 4)
            && offset.is_multiple_of(length)
            && offset.checked_add(length).is_some_and(|end| end <= pci_bar::SIZE);
        (bar == u16::from(BAR) && fits).then_some((u64::from(offset), length as usize))
    }

    /// An access of `len` bytes at `register` that starts in the capability's data.
    fn hits_data(&self, register: usize, len: usize) -> bool {
        len > 0 && register == self.access + CAP_DATA
    }
}

/// `struct virtio_pci_cap` after id and link.
fn capability(kind: u8, offset: u64, length: u32, extra: Option<u32>) -> Vec<u8> {
    let len = if extra.is_some() { 20 } else { 16 };
    let mut body = vec![len, kind, BAR, 0, 0, 0];
    let offset = u32::try_from(offset).expect("inside the BAR");
    body.extend(offset.to_le_bytes());
    body.extend(length.to_le_bytes());
    body.extend(extra.into_iter().flat_map(u32::to_le_bytes));
    body
}

/// PCI class code of a virtio device type.
fn class(kind: u32) -> u32 {
    match kind {
        device_type::NET => 0x02_00_00,
        device_type::BLOCK | device_type::FS => 0x01_80_00,
        device_type::CONSOLE => 0x07_80_00,
        device_type::VSOCK => 0x02_80_00,
        _ => 0xff_00_00,
    }
}

impl PciFunction for PciTransport {
    fn read_config(&self, register: u16, data: &mut [u8]) {
        let register = usize::from(register);
        let mut config = lock(&self.config);
        if self.hits_data(register, data.len())
            && let Some((offset, width)) = self.access_target(&config)
        {
            // The BAR may call into the device: not under this lock.
            drop(config);
            let mut value = [0; 4];
            self.bar.read(offset, &mut value[..width]);
            config = lock(&self.config);
            config.set(self.access + CAP_DATA, &value);
        }
        config.read(register, data);
    }

    fn write_config(&self, register: u16, data: &[u8]) {
        let register = usize::from(register);
        let mut config = lock(&self.config);
        config.write(register, data);
        let control = config.u16_at(self.msix_control);
        let access = self
            .hits_data(register, data.len())
            .then(|| self.access_target(&config))
            .flatten()
            .map(|target| (target, config.u32_at(self.access + CAP_DATA).to_le_bytes()));
        drop(config);
        if register < CONFIG_SIZE {
            self.bar.interrupt.msix.set_control(control);
        }
        if let Some(((offset, width), value)) = access {
            self.bar.write(offset, &value[..width]);
        }
    }

    fn bars(&self) -> Vec<BarSpec> {
        let index = usize::from(BAR);
        vec![BarSpec { index, size: pci_bar::SIZE, device: self.bar.clone() }]
    }

    fn place_bar(&self, index: usize, address: u32) {
        lock(&self.config).set_bar(index, address);
    }

    fn bar_address(&self, index: usize) -> Option<u32> {
        lock(&self.config).bar(index)
    }

    fn ioeventfds(&self, _index: usize, base: u64) -> Vec<IoEventFd> {
        let first = base + pci_bar::NOTIFY;
        (first..)
            .step_by(pci_bar::NOTIFY_MULTIPLIER as usize)
            .zip(self.bar.kicks.iter())
            .map(|(address, fd)| IoEventFd { address, datamatch: None, fd: fd.clone() })
            .collect()
    }
}

impl std::fmt::Debug for PciTransport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PciTransport")
            .field("msix", &self.bar.interrupt.msix)
            .finish_non_exhaustive()
    }
}
