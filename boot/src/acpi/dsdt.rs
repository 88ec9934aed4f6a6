//! The DSDT: what the guest cannot find out by itself.

use acpi_tables::Aml;
use acpi_tables::aml::{
    AddressSpace, AddressSpaceCacheable, Device, EISAName, IO, Interrupt, Memory32Fixed, Method,
    Name, Notify, Package, Path, ResourceTemplate, Scope,
};
use acpi_tables::sdt::Sdt;

use super::oem::{OEM_ID, OEM_REVISION, OEM_TABLE_ID};
use crate::{MmioDevice, Platform, layout};

const HEADER_LEN: u32 = 36;
/// From revision 2 on, AML integers have 64 bits.
const REVISION: u8 = 2;
const COM1_PORT: u16 = layout::COM1_PORT;

pub(super) fn build(platform: &Platform) -> Sdt {
    let mut aml = Vec::new();
    // Nothing is encoded in SLP_TYPb: there is one sleep control register.
    let s5 = Package::new(vec![&layout::ACPI_S5_SLP_TYP, &0u8, &0u8, &0u8]);
    Name::new("_S5_".into(), &s5).to_aml_bytes(&mut aml);
    power_button(&mut aml);
    if platform.serial {
        serial(&mut aml);
    }
    if platform.i8042 {
        i8042(&mut aml);
    }
    if platform.pci {
        pci(&mut aml);
    }
    let slots = layout::VIRTIO_MMIO_SLOTS as usize;
    for (index, device) in platform.virtio_mmio.iter().take(slots).enumerate() {
        virtio_mmio(&mut aml, index, device);
    }
    let mut sdt = Sdt::new(*b"DSDT", HEADER_LEN, REVISION, OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    sdt.append_slice(&aml);
    sdt
}

/// Adds `\_SB.name` with its objects.
fn device(aml: &mut Vec<u8>, name: &str, objects: Vec<&dyn Aml>) {
    let device = Device::new(name.into(), objects);
    Scope::new("\\_SB_".into(), vec![&device]).to_aml_bytes(aml);
}

fn interrupt(gsi: u32) -> Interrupt {
    // Consumer, edge-triggered, active high, not shared: what an irqfd without resampling is.
    Interrupt::new(true, true, false, false, gsi)
}

/// A power button, and the Generic Event Device whose interrupt says that it was pressed (ACPI 6.5
/// §4.8.2.2.1.2, §5.6.9): a hardware-reduced machine has no fixed one.
fn power_button(aml: &mut Vec<u8>) {
    /// "S0 Power Button Pressed" (ACPI 6.5 §5.6.6, table 5.172).
    const PRESSED: u8 = 0x80;
    device(aml, "PWRB", vec![&Name::new("_HID".into(), &EISAName::new("PNP0C0C"))]);
    let irq = interrupt(layout::POWER_BUTTON_GSI);
    let crs = ResourceTemplate::new(vec![&irq]);
    let button = Path::new("\\_SB_.PWRB");
    let notify = Notify::new(&button, &PRESSED);
    device(
        aml,
        "GED_",
        vec![
            &Name::new("_HID".into(), &"ACPI0013"),
            &Name::new("_CRS".into(), &crs),
            &Method::new("_EVT".into(), 1, true, vec![&notify]),
        ],
    );
}

fn serial(aml: &mut Vec<u8>) {
    let ports = IO::new(COM1_PORT, COM1_PORT, 1, layout::COM1_PORTS as u8);
    let irq = interrupt(layout::COM1_GSI);
    let crs = ResourceTemplate::new(vec![&ports, &irq]);
    device(
        aml,
        "COM1",
        vec![
            &Name::new("_HID".into(), &EISAName::new("PNP0501")),
            &Name::new("_UID".into(), &0u8),
            &Name::new("_DDN".into(), &"COM1"),
            &Name::new("_CRS".into(), &crs),
        ],
    );
}

fn i8042(aml: &mut Vec<u8>) {
    let data = IO::new(layout::I8042_DATA_PORT, layout::I8042_DATA_PORT, 1, 1);
    let command = IO::new(layout::I8042_COMMAND_PORT, layout::I8042_COMMAND_PORT, 1, 1);
    let irq = interrupt(layout::I8042_GSI);
    let crs = ResourceTemplate::new(vec![&data, &command, &irq]);
    device(
        aml,
        "KBD_",
        vec![&Name::new("_HID".into(), &EISAName::new("PNP0303")), &Name::new("_CRS".into(), &crs)],
    );
}

fn pci(aml: &mut Vec<u8>) {
    let buses = AddressSpace::new_bus_number(0u16, 0u16);
    let config = IO::new(
        layout::PCI_CONFIG_PORT,
        layout::PCI_CONFIG_PORT,
        1,
        layout::PCI_CONFIG_PORTS as u8,
    );
    let window = AddressSpace::new_memory(
        AddressSpaceCacheable::NotCacheable,
        true,
        layout::PCI_MMIO as u32,
        (layout::PCI_MMIO + layout::PCI_MMIO_SIZE - 1) as u32,
        None,
    );
    let crs = ResourceTemplate::new(vec![&buses, &config, &window]);
    device(
        aml,
        "PCI0",
        vec![
            &Name::new("_HID".into(), &EISAName::new("PNP0A08")),
            &Name::new("_CID".into(), &EISAName::new("PNP0A03")),
            &Name::new("_SEG".into(), &0u8),
            &Name::new("_BBN".into(), &0u8),
            &Name::new("_UID".into(), &0u8),
            &Name::new("_CRS".into(), &crs),
        ],
    );
    // Linux uses ECAM only where a motherboard resource claims it (PCI Firmware 3.3 §4.1.2).
    let ecam = Memory32Fixed::new(true, layout::PCI_ECAM as u32, layout::PCI_ECAM_SIZE as u32);
    let crs = ResourceTemplate::new(vec![&ecam]);
    device(
        aml,
        "MRES",
        vec![&Name::new("_HID".into(), &EISAName::new("PNP0C02")), &Name::new("_CRS".into(), &crs)],
    );
}

fn virtio_mmio(aml: &mut Vec<u8>, index: usize, slot: &MmioDevice) {
    let registers = Memory32Fixed::new(true, slot.base as u32, slot.size as u32);
    let irq = interrupt(slot.gsi);
    let crs = ResourceTemplate::new(vec![&registers, &irq]);
    let uid = index as u32;
    device(
        aml,
        &format!("VM{index:02X}"),
        vec![
            &Name::new("_HID".into(), &"LNRO0005"),
            &Name::new("_UID".into(), &uid),
            &Name::new("_CRS".into(), &crs),
        ],
    );
}
