//! The machine's devices and the buses they are on.

use std::io::{self, Write};
use std::sync::Arc;

use minivmm_boot::MmioDevice;
use minivmm_boot::layout;
use minivmm_devices::acpi_pm::AcpiPm;
use minivmm_devices::bus::{Bus, BusDevice, BusError};
use minivmm_devices::debug_exit::DebugExit;
use minivmm_devices::events::{EventSink, GuestEvent};
use minivmm_devices::i8042::I8042;
use minivmm_devices::irq::IrqLine;
use minivmm_devices::pci::{BarChange, ConfigPorts, Ecam, PciBus};
use minivmm_devices::serial::{Serial, SerialHooks};
use minivmm_devices::virtio::{GuestRam, MmioTransport, PciTransport, VirtioDevice};
use vm_memory::GuestMemoryMmap;

use crate::config::VirtioTransport;
use crate::ending::Ending;
use crate::error::Error;
use crate::exit::Exit;
use crate::kvm::{self, IrqLines, Vm};
use crate::vcpu::Buses;

// The layout has room for what the devices take.
const _: () = {
    assert!(Serial::PORTS == layout::COM1_PORTS as u64);
    assert!(I8042::PORTS == layout::I8042_PORTS as u64);
    assert!(ConfigPorts::PORTS == layout::PCI_CONFIG_PORTS as u64);
    assert!(Ecam::SIZE == layout::PCI_ECAM_SIZE);
    assert!(MmioTransport::SIZE == layout::VIRTIO_MMIO_SLOT);
    assert!(
        AcpiPm::PORTS == (layout::ACPI_RESET_PORT - layout::ACPI_SLEEP_CONTROL_PORT + 1) as u64
    );
    assert!(DebugExit::PORTS == 1);
};

/// What devices need of the host.
pub struct Host {
    /// Takes the serial port's output.
    pub sink: Box<dyn Write + Send>,
    /// The serial port's events.
    pub hooks: SerialHooks,
    /// Takes the guest's end.
    pub ending: Arc<Ending>,
}

/// All devices of a machine.
pub struct Devices {
    buses: Buses,
    serial: Arc<Serial>,
    debug_exit: Arc<DebugExit>,
    mmio_slots: Vec<MmioDevice>,
}

impl std::fmt::Debug for Devices {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Devices").field("mmio_slots", &self.mmio_slots).finish_non_exhaustive()
    }
}

impl Devices {
    /// Builds the fixed devices, and the transports of `virtio`.
    pub fn build(
        vm: &Vm,
        irq_lines: &Arc<IrqLines>,
        memory: &GuestMemoryMmap,
        transport: VirtioTransport,
        virtio: Vec<Box<dyn VirtioDevice>>,
        host: Host,
    ) -> Result<Self, Error> {
        let buses = Buses { pio: Arc::new(Bus::new()), mmio: Arc::new(Bus::new()) };
        let ram = memory.clone();
        let events: EventSink = Arc::new(move |event| {
            host.ending.set(match event {
                GuestEvent::PowerOff => Exit::PowerOff,
                GuestEvent::Reset => Exit::reset(&ram),
            });
        });
        let serial = Arc::new(Serial::new(irq_lines.pin(layout::COM1_GSI)?, host.sink, host.hooks));
        let debug_exit = Arc::new(DebugExit::new());
        let acpi = AcpiPm::new(layout::ACPI_S5_SLP_TYP, layout::ACPI_RESET_VALUE, events.clone());
        let ports: [(u64, u64, Arc<dyn BusDevice>); 4] = [
            (layout::COM1_PORT.into(), Serial::PORTS, serial.clone()),
            (layout::I8042_DATA_PORT.into(), I8042::PORTS, Arc::new(I8042::new(events))),
            (layout::ACPI_SLEEP_CONTROL_PORT.into(), AcpiPm::PORTS, Arc::new(acpi)),
            (layout::DEBUG_EXIT_PORT.into(), DebugExit::PORTS, debug_exit.clone()),
        ];
        for (base, len, device) in ports {
            buses.pio.insert(base, len, device).map_err(placed)?;
        }
        let mut devices = Self { buses, serial, debug_exit, mmio_slots: Vec::new() };
        let ram = GuestRam::new(memory.clone());
        match transport {
            VirtioTransport::Pci => devices.attach_pci(vm, irq_lines, &ram, virtio)?,
            VirtioTransport::Mmio => devices.attach_mmio(vm, irq_lines, &ram, virtio)?,
        }
        Ok(devices)
    }

    /// A PCI bus with one function for each virtio device.
    fn attach_pci(
        &mut self,
        vm: &Vm,
        irq_lines: &Arc<IrqLines>,
        ram: &GuestRam,
        virtio: Vec<Box<dyn VirtioDevice>>,
    ) -> Result<(), Error> {
        let window = layout::PCI_MMIO..layout::PCI_MMIO + layout::PCI_MMIO_SIZE;
        let handle = vm.handle();
        let pci = PciBus::new(
            Arc::clone(&self.buses.mmio),
            window,
            Arc::new(move |change: &BarChange| {
                for event in &change.ioeventfds {
                    let result = if change.mapped {
                        kvm::register_ioevent(&handle, event)
                    } else {
                        kvm::unregister_ioevent(&handle, event)
                    };
                    // The write then exits to the bus, which kicks: slower, not broken.
                    if let Err(e) = result {
                        tracing::debug!("{e}");
                    }
                }
            }),
        );
        for device in virtio {
            let lines = (0..PciTransport::lines(device.queue_sizes().len()))
                .map(|_| irq_lines.message().map(|line| line as Arc<dyn IrqLine>))
                .collect::<Result<Vec<_>, _>>()?;
            let function = PciTransport::new(device, ram.clone(), lines)
                .map_err(Error::host("make a PCI device"))?;
            pci.add(Arc::new(function))
                .map_err(|e| Error::host("place a PCI device")(io::Error::other(e)))?;
        }
        let ports = Arc::new(ConfigPorts::new(Arc::clone(&pci)));
        self.buses
            .pio
            .insert(layout::PCI_CONFIG_PORT.into(), ConfigPorts::PORTS, ports)
            .map_err(placed)?;
        self.buses
            .mmio
            .insert(layout::PCI_ECAM, Ecam::SIZE, Arc::new(Ecam::new(pci)))
            .map_err(placed)
    }

    /// One register window and one interrupt pin for each virtio device.
    fn attach_mmio(
        &mut self,
        vm: &Vm,
        irq_lines: &Arc<IrqLines>,
        ram: &GuestRam,
        virtio: Vec<Box<dyn VirtioDevice>>,
    ) -> Result<(), Error> {
        for (index, device) in (0..).zip(virtio) {
            let slot = layout::virtio_mmio_slot(index)
                .expect("validation allows fewer devices than there are slots");
            let line = irq_lines.pin(slot.gsi)?;
            let transport = MmioTransport::new(device, ram.clone(), line)
                .map_err(Error::host("make an MMIO device"))?;
            for event in transport.ioeventfds(slot.base) {
                kvm::register_ioevent(&vm.handle(), &event)?;
            }
            self.buses
                .mmio
                .insert(slot.base, MmioTransport::SIZE, Arc::new(transport))
                .map_err(placed)?;
            self.mmio_slots.push(slot);
        }
        Ok(())
    }

    /// The buses.
    pub fn buses(&self) -> &Buses {
        &self.buses
    }

    /// The first serial port.
    pub fn serial(&self) -> Arc<Serial> {
        Arc::clone(&self.serial)
    }

    /// The guest's result code.
    pub fn debug_exit(&self) -> Arc<DebugExit> {
        Arc::clone(&self.debug_exit)
    }

    /// Where virtio-mmio devices are.
    pub fn mmio_slots(&self) -> &[MmioDevice] {
        &self.mmio_slots
    }
}

impl Drop for Devices {
    /// The memory bus leads to the PCI bus, and that back to it: without this neither would go,
    /// and with them the guest's memory would stay.
    fn drop(&mut self) {
        self.buses.mmio.remove(layout::PCI_ECAM);
    }
}

/// Addresses are fixed by `boot::layout` and by the PCI allocator, neither of which overlaps.
fn placed(e: BusError) -> Error {
    Error::host("place a device")(io::Error::other(e))
}
