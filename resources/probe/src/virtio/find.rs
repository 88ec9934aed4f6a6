//! Where a NIC may be: on the command line, in the DSDT, on PCI.
#![expect(unsafe_code, reason = "register windows at addresses the VMM told")]

use minivmm_probe::acpi::{self, Facts};
use minivmm_probe::cmdline::{MmioDevice, mmio_devices};

use super::mmio::{Mmio, WINDOW};
use super::pci::{self, Config};
use super::transport::Transport;
use crate::apic::Apic;
use crate::mem::{Physical, Registers};

/// The `wanted`-th network device, its interrupt routed to our vector.
pub fn find(cmdline: &str, facts: &Facts, apic: &Apic, wanted: u32) -> Option<Transport> {
    let mut skip = wanted;
    let mut take = || {
        let this = skip == 0;
        skip = skip.wrapping_sub(1);
        this
    };
    let told = mmio_devices(cmdline);
    let in_dsdt = facts.dsdt.map(|dsdt| acpi::virtio_mmio::<32>(&Physical, dsdt));
    let in_dsdt =
        in_dsdt.into_iter().flatten().flatten().map(|(base, gsi)| MmioDevice { base, gsi });
    // A VMM may name a device in both places.
    let in_dsdt =
        in_dsdt.filter(|device| mmio_devices(cmdline).all(|other| other.base != device.base));
    for device in told.chain(in_dsdt) {
        // SAFETY: the VMM says that a virtio-mmio device is there.
        let mmio = unsafe { Registers::new(device.base, WINDOW) }.and_then(Mmio::probe);
        if let Some(mmio) = mmio
            && take()
        {
            apic.route(&facts.ioapics, device.gsi);
            return Some(Transport::Mmio(mmio));
        }
    }
    let config = facts.ecam.map_or(Config::Ports, |(base, first_bus)| {
        Config::Ecam(base.wrapping_sub(u64::from(first_bus) << 20))
    });
    pci::scan(config, apic.message(), |pci| take().then_some(Transport::Pci(pci)))
}
