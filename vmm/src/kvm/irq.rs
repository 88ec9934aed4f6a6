//! Interrupt lines: each is an eventfd that KVM turns into an interrupt without a system call of
//! ours (irqfd), routed to a pin of the I/O APIC or to an MSI message.

use std::io;
use std::sync::{Arc, Mutex};

use kvm_bindings::{
    KVM_IRQ_ROUTING_IRQCHIP, KVM_IRQ_ROUTING_MSI, KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER,
    KVM_IRQCHIP_PIC_SLAVE, KvmIrqRouting, kvm_irq_routing_entry, kvm_irqchip,
};
use kvm_ioctls::VmFd;
use minivmm_boot::layout;
use minivmm_devices::irq::{IrqLine, MsiMessage};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::error::{KvmError, refused};

/// Pins of the I/O APIC; the GSIs above are for messages.
const PINS: u32 = layout::GSI_LAST + 1;
/// Pins of the two legacy controllers together.
const PIC_PINS: u32 = 16;

/// The machine's GSIs and where they lead.
pub struct IrqLines {
    vm: Arc<VmFd>,
    /// The message of each GSI above [`PINS`], by index.
    messages: Mutex<Vec<Option<MsiMessage>>>,
}

impl std::fmt::Debug for IrqLines {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IrqLines").field("messages", &self.messages).finish_non_exhaustive()
    }
}

impl IrqLines {
    pub(super) fn new(vm: Arc<VmFd>) -> Arc<Self> {
        Arc::new(Self { vm, messages: Mutex::new(Vec::new()) })
    }

    /// A line to pin `gsi` of the I/O APIC, edge-triggered.
    ///
    /// # Errors
    /// [`KvmError::Ioctl`].
    pub fn pin(self: &Arc<Self>, gsi: u32) -> Result<Arc<Line>, KvmError> {
        debug_assert!(gsi < PINS);
        self.line(gsi)
    }

    /// A line that carries whatever message it is given.
    ///
    /// # Errors
    /// [`KvmError::Ioctl`].
    pub fn message(self: &Arc<Self>) -> Result<Arc<Line>, KvmError> {
        let gsi = {
            let mut messages = self.messages.lock().expect("no panic while locked");
            messages.push(None);
            PINS + messages.len() as u32 - 1
        };
        self.line(gsi)
    }

    fn line(self: &Arc<Self>, gsi: u32) -> Result<Arc<Line>, KvmError> {
        let io = |source| KvmError::Ioctl { what: "create an interrupt line", source };
        let event = EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK).map_err(io)?;
        self.vm.register_irqfd(&event, gsi).map_err(refused("register an interrupt line"))?;
        Ok(Arc::new(Line { lines: Arc::clone(self), event, gsi }))
    }

    /// Changes one message. KVM takes the whole table at once, the fixed pins included.
    fn route(&self, gsi: u32, message: MsiMessage) -> io::Result<()> {
        let mut messages = self.messages.lock().expect("no panic while locked");
        let Some(slot) = messages.get_mut((gsi - PINS) as usize) else {
            return Err(io::ErrorKind::NotFound.into());
        };
        if *slot == Some(message) {
            return Ok(());
        }
        let old = slot.replace(message);
        let result = self.apply(&messages);
        if result.is_err() {
            messages[(gsi - PINS) as usize] = old;
        }
        result
    }

    fn apply(&self, messages: &[Option<MsiMessage>]) -> io::Result<()> {
        let mut entries = Vec::with_capacity((PINS + PIC_PINS) as usize + messages.len());
        for gsi in 0..PINS {
            if gsi < PIC_PINS {
                let chip = if gsi < 8 { KVM_IRQCHIP_PIC_MASTER } else { KVM_IRQCHIP_PIC_SLAVE };
                entries.push(pin_entry(gsi, chip, gsi % 8));
            }
            entries.push(pin_entry(gsi, KVM_IRQCHIP_IOAPIC, gsi));
        }
        for (i, message) in messages.iter().enumerate() {
            if let Some(message) = message {
                let mut entry = kvm_irq_routing_entry {
                    gsi: PINS + i as u32,
                    type_: KVM_IRQ_ROUTING_MSI,
                    ..Default::default()
                };
                entry.u.msi.address_lo = message.address as u32;
                entry.u.msi.address_hi = (message.address >> 32) as u32;
                entry.u.msi.data = message.data;
                entries.push(entry);
            }
        }
        let table = KvmIrqRouting::from_entries(&entries)
            .map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
        self.vm.set_gsi_routing(&table).map_err(|e| io::Error::from_raw_os_error(e.errno()))
    }
}

/// Whether the guest has masked a pin of the I/O APIC, as all are until a driver takes one.
///
/// # Errors
/// [`KvmError::Ioctl`].
#[expect(unsafe_code, reason = "KVM gives the state of an interrupt controller as a union")]
pub fn pin_is_masked(vm: &VmFd, pin: u32) -> Result<bool, KvmError> {
    /// The mask bit of a redirection table entry (82093AA datasheet §3.2.4).
    const MASKED: u64 = 1 << 16;
    let mut chip = kvm_irqchip { chip_id: KVM_IRQCHIP_IOAPIC, ..Default::default() };
    vm.get_irqchip(&mut chip).map_err(refused("read the interrupt controller"))?;
    // SAFETY: KVM wrote the state of the chip that was asked for, an I/O APIC; all of it is plain
    // numbers.
    let table = unsafe { chip.chip.ioapic.redirtbl };
    // SAFETY: as above; both views of an entry are of its 64 bits.
    let entry = table.get(pin as usize).map(|entry| unsafe { entry.bits });
    Ok(entry.is_none_or(|entry| entry & MASKED != 0))
}

fn pin_entry(gsi: u32, irqchip: u32, pin: u32) -> kvm_irq_routing_entry {
    let mut entry =
        kvm_irq_routing_entry { gsi, type_: KVM_IRQ_ROUTING_IRQCHIP, ..Default::default() };
    entry.u.irqchip.irqchip = irqchip;
    entry.u.irqchip.pin = pin;
    entry
}

/// One interrupt line.
#[derive(Debug)]
pub struct Line {
    lines: Arc<IrqLines>,
    event: EventFd,
    gsi: u32,
}

impl IrqLine for Line {
    fn signal(&self) -> io::Result<()> {
        self.event.write(1)
    }

    fn set_msi(&self, message: MsiMessage) -> io::Result<()> {
        self.lines.route(self.gsi, message)
    }
}
