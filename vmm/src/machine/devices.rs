//! The machine's devices and the buses they are on.

use std::io::Write;
use std::sync::Arc;

use minivmm_boot::MmioDevice;
use minivmm_boot::layout;
use minivmm_devices::acpi_pm::AcpiPm;
use minivmm_devices::bus::{Bus, BusDevice, BusError};
use minivmm_devices::debug_exit::DebugExit;
use minivmm_devices::events::{EventSink, GuestEvent};
use minivmm_devices::i8042::I8042;
use minivmm_devices::serial::{Serial, SerialHooks};
use vm_memory::GuestMemoryMmap;

use super::Ending;
use crate::config::Transport;
use crate::error::Error;
use crate::exit::Exit;
use crate::kvm::{IrqLines, Vm};
use crate::vcpu::Buses;

/// Where a guest leaves its result code.
const DEBUG_EXIT_PORT: u64 = 0xf4;

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
    _irq_lines: Arc<IrqLines>,
}

impl std::fmt::Debug for Devices {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Devices").field("mmio_slots", &self.mmio_slots).finish_non_exhaustive()
    }
}

impl Devices {
    /// Builds the fixed devices.
    pub fn build(
        vm: &Vm,
        _memory: &GuestMemoryMmap,
        _transport: Transport,
        host: Host,
    ) -> Result<Self, Error> {
        let irq_lines = vm.irq_lines();
        let buses = Buses { pio: Arc::new(Bus::new()), mmio: Arc::new(Bus::new()) };
        let events: EventSink = Arc::new(move |event| {
            host.ending.set(match event {
                GuestEvent::PowerOff => Exit::PowerOff,
                GuestEvent::Reset => Exit::Reset,
            });
        });
        let serial = Arc::new(Serial::new(irq_lines.pin(layout::COM1_GSI)?, host.sink, host.hooks));
        let debug_exit = Arc::new(DebugExit::new());
        let acpi = AcpiPm::new(layout::ACPI_S5_SLP_TYP, layout::ACPI_RESET_VALUE, events.clone());
        let ports: [(u64, u64, Arc<dyn BusDevice>); 4] = [
            (layout::COM1_PORT.into(), Serial::PORTS, serial.clone()),
            (layout::I8042_DATA_PORT.into(), I8042::PORTS, Arc::new(I8042::new(events))),
            (layout::ACPI_SLEEP_CONTROL_PORT.into(), AcpiPm::PORTS, Arc::new(acpi)),
            (DEBUG_EXIT_PORT, DebugExit::PORTS, debug_exit.clone()),
        ];
        for (base, len, device) in ports {
            buses.pio.insert(base, len, device).map_err(placed)?;
        }
        Ok(Self { buses, serial, debug_exit, mmio_slots: Vec::new(), _irq_lines: irq_lines })
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

/// Addresses are fixed by `boot::layout` and by the PCI allocator, neither of which overlaps.
fn placed(e: BusError) -> Error {
    Error::host("place a device")(std::io::Error::other(e))
}
