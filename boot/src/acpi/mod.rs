//! ACPI tables of a hardware-reduced machine (ACPI 6.5 §4.1).
//!
//! There is no PM timer, no SCI and no 8259: power-off and reset are one I/O port each, interrupts
//! are the I/O APIC's, PCI devices use MSI-X. All tables lie behind the RSDP at
//! [`layout::ACPI`], 16-byte aligned, in memory that the guest is told to keep.

mod dsdt;
mod oem;

use acpi_tables::Aml;
use acpi_tables::fadt::{FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::madt::{
    EnabledStatus, IoApic, LocalInterruptController, MADT, ProcessorLocalApic,
};
use acpi_tables::mcfg::MCFG;
use acpi_tables::rsdp::Rsdp;
use acpi_tables::xsdt::XSDT;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use self::oem::{OEM_ID, OEM_REVISION, OEM_TABLE_ID};
use crate::{BootError, Platform, layout};

/// Bytes of the RSDP, revision 2.
const RSDP_LEN: usize = 36;

// IAPC_BOOT_ARCH (ACPI 6.5 §5.2.9.3).
const BOOT_8042: u16 = 1 << 1;
const BOOT_NO_VGA: u16 = 1 << 2;
const BOOT_NO_ASPM: u16 = 1 << 4;
const BOOT_NO_CMOS_RTC: u16 = 1 << 5;

/// Every table of the machine, as they are to lie from `base` on; the RSDP is first.
///
/// Describes at most [`layout::MAX_CPUS`] CPUs and [`layout::VIRTIO_MMIO_SLOTS`] virtio-mmio
/// devices, whose addresses must be below 4 GiB; the result is then far below
/// [`layout::ACPI_SIZE`].
#[must_use]
pub fn build(platform: &Platform, base: u64) -> Vec<u8> {
    let mut image = vec![0; RSDP_LEN];
    let mut place = |table: &dyn Aml| {
        image.resize(image.len().next_multiple_of(16), 0);
        let at = base + image.len() as u64;
        table.to_aml_bytes(&mut image);
        at
    };
    let dsdt = place(&dsdt::build(platform));
    let mut xsdt = XSDT::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    xsdt.add_entry(place(&fadt(platform, dsdt)));
    xsdt.add_entry(place(&madt(platform)));
    if platform.pci {
        let mut mcfg = MCFG::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION);
        mcfg.add_ecam(layout::PCI_ECAM, 0, 0, 0);
        xsdt.add_entry(place(&mcfg));
    }
    let xsdt = place(&xsdt);
    let mut rsdp = Vec::with_capacity(RSDP_LEN);
    Rsdp::new(OEM_ID, xsdt).to_aml_bytes(&mut rsdp);
    image[..RSDP_LEN].copy_from_slice(&rsdp);
    image
}

/// Writes the tables to guest memory and returns the address of the RSDP.
pub(crate) fn write(mem: &GuestMemoryMmap, platform: &Platform) -> Result<u64, BootError> {
    let image = build(platform, layout::ACPI);
    debug_assert!(image.len() as u64 <= layout::ACPI_SIZE);
    mem.write_slice(&image, GuestAddress(layout::ACPI))?;
    Ok(layout::ACPI)
}

fn port(address: u16) -> GAS {
    GAS::new(AddressSpace::SystemIo, 8, 0, AccessSize::ByteAccess, address.into())
}

fn fadt(platform: &Platform, dsdt: u64) -> impl Aml {
    let mut fadt = FADTBuilder::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION)
        .dsdt_64(dsdt)
        .flag(Flags::HwReducedAcpi)
        .flag(Flags::ResetRegSup)
        .flag(Flags::Wbinvd)
        // No power or sleep button in fixed hardware.
        .flag(Flags::PwrButton)
        .flag(Flags::SlpButton);
    let i8042 = if platform.i8042 { BOOT_8042 } else { 0 };
    fadt.iapc_boot_arch = (i8042 | BOOT_NO_VGA | BOOT_NO_ASPM | BOOT_NO_CMOS_RTC).into();
    fadt.reset_reg = port(layout::ACPI_RESET_PORT);
    fadt.reset_value = layout::ACPI_RESET_VALUE;
    fadt.sleep_control_reg = port(layout::ACPI_SLEEP_CONTROL_PORT);
    fadt.sleep_status_reg = port(layout::ACPI_SLEEP_STATUS_PORT);
    fadt.finalize()
}

fn madt(platform: &Platform) -> MADT {
    let lapic = LocalInterruptController::Address(layout::LAPIC as u32);
    let mut madt = MADT::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION, lapic);
    for cpu in 0..platform.cpus.min(layout::MAX_CPUS) as u8 {
        madt.add_structure(ProcessorLocalApic::new(cpu, cpu, EnabledStatus::Enabled));
    }
    // KVM's I/O APIC has ID 0 after reset, and GSI 0 is its pin 0.
    madt.add_structure(IoApic::new(0, layout::IOAPIC as u32, 0));
    madt
}

#[cfg(test)]
mod tests;
