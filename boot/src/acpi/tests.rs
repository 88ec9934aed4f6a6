use super::*;
use crate::kernel::field;

fn machine(cpus: u32, pci: bool, mmio: u32, i8042: bool) -> Platform {
    Platform {
        cpus,
        pci,
        virtio_mmio: (0..mmio).map_while(layout::virtio_mmio_slot).collect(),
        serial: true,
        i8042,
    }
}

fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |a, b| a.wrapping_add(*b))
}

/// Follows RSDP and XSDT as a guest does; every checksum must hold.
fn tables(image: &[u8]) -> Vec<(String, &[u8])> {
    let at = |addr: u64| {
        let table = &image[(addr - layout::ACPI) as usize..];
        let table = &table[..field::u32(table, 4) as usize];
        assert_eq!(addr % 16, 0);
        assert_eq!(sum(table), 0, "checksum of {:?}", &table[..4]);
        table
    };
    assert_eq!(&image[..8], b"RSD PTR ");
    assert_eq!((sum(&image[..20]), sum(&image[..36]), image[15]), (0, 0, 2));
    let xsdt = at(field::u64(image, 24));
    assert_eq!(&xsdt[..4], b"XSDT");
    let mut found: Vec<_> =
        xsdt[36..].chunks_exact(8).map(|e| at(u64::from_le_bytes(e.try_into().unwrap()))).collect();
    let fadt = *found.iter().find(|t| t.starts_with(b"FACP")).unwrap();
    found.push(at(field::u64(fadt, 140)));
    found.into_iter().map(|t| (String::from_utf8_lossy(&t[..4]).into_owned(), t)).collect()
}

fn table<'t>(tables: &'t [(String, &[u8])], name: &str) -> &'t [u8] {
    tables.iter().find(|(n, _)| n == name).unwrap().1
}

#[test]
fn every_table_is_reachable_and_sums_to_zero() {
    for (cpus, pci, mmio) in [(1, true, 0), (32, true, 19), (4, false, 2)] {
        let image = build(&machine(cpus, pci, mmio, true), layout::ACPI);
        assert!((image.len() as u64) < layout::ACPI_SIZE, "{}", image.len());
        let names: Vec<_> = tables(&image).into_iter().map(|(n, _)| n).collect();
        let want: &[&str] =
            if pci { &["FACP", "APIC", "MCFG", "DSDT"] } else { &["FACP", "APIC", "DSDT"] };
        assert_eq!(names, want);
    }
}

#[test]
fn fadt_has_reset_and_sleep_ports() {
    let image = build(&machine(1, true, 0, false), layout::ACPI);
    let tables = tables(&image);
    let fadt = table(&tables, "FACP");
    assert_eq!((fadt.len(), fadt[8], fadt[131]), (276, 6, 5), "length and version 6.5");
    let flags = field::u32(fadt, 112);
    assert_eq!(flags & (1 << 20 | 1 << 10), 1 << 20 | 1 << 10, "HW_REDUCED, RESET_REG_SUP");
    // Space 1 (I/O), 8 bits, byte access, port.
    let gas = |port: u64| [&[1, 8, 0, 1][..], &port.to_le_bytes()].concat();
    assert_eq!(fadt[116..128], gas(0x602), "RESET_REG");
    assert_eq!(fadt[128], layout::ACPI_RESET_VALUE);
    assert_eq!(fadt[244..256], gas(0x600), "SLEEP_CONTROL_REG");
    assert_eq!(fadt[256..268], gas(0x601), "SLEEP_STATUS_REG");
    // No VGA, no ASPM, no CMOS RTC; no 8042; MSI allowed.
    assert_eq!(field::u16(fadt, 109), 0b11_0100);
    let image = build(&machine(1, true, 0, true), layout::ACPI);
    assert_eq!(field::u16(table(&self::tables(&image), "FACP"), 109), 0b11_0110);
}

#[test]
fn madt_lists_every_cpu_and_the_ioapic() {
    let image = build(&machine(3, true, 0, false), layout::ACPI);
    let tables = tables(&image);
    let madt = table(&tables, "APIC");
    assert_eq!(field::u32(madt, 36), 0xFEE0_0000);
    let want =
        [[0, 8, 0, 0, 1, 0, 0, 0], [0, 8, 1, 1, 1, 0, 0, 0], [0, 8, 2, 2, 1, 0, 0, 0]].concat();
    assert_eq!(madt[44..68], want);
    assert_eq!(madt[68..], [1, 12, 0, 0, 0, 0, 0xC0, 0xFE, 0, 0, 0, 0]);
}

#[test]
fn mcfg_names_ecam() {
    let image = build(&machine(1, true, 0, false), layout::ACPI);
    let tables = tables(&image);
    let mcfg = table(&tables, "MCFG");
    assert_eq!(mcfg[44..], [0, 0, 0, 0xE0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
}

#[test]
fn dsdt_golden() {
    let image = build(&machine(1, false, 1, false), layout::ACPI);
    let tables = tables(&image);
    let dsdt = &table(&tables, "DSDT")[36..];
    // Name (_S5, Package {5, 0, 0, 0})
    assert_eq!(
        dsdt[..14],
        *b"\x08_S5_\x12\x07\x04\x0a\x05\x00\x00\x00\x10"[..].first_chunk::<14>().unwrap()
    );
    let holds = |part: &[u8]| dsdt.windows(part.len()).any(|w| w == part);
    // IO (Decode16, 0x3F8, 0x3F8, 1, 8), Interrupt (ResourceConsumer, Edge, ActiveHigh) {4}, end
    assert!(holds(&[0x47, 1, 0xF8, 3, 0xF8, 3, 1, 8, 0x89, 6, 0, 3, 1, 4, 0, 0, 0, 0x79]));
    // Name (_HID, "LNRO0005")
    assert!(holds(b"\x08_HID\x0dLNRO0005\0"));
    // Memory32Fixed (ReadWrite, 0xD0000000, 0x1000), Interrupt {5}
    assert!(holds(&[0x86, 9, 0, 1, 0, 0, 0, 0xD0, 0, 0x10, 0, 0, 0x89, 6, 0, 3, 1, 5, 0, 0, 0]));
    assert!(!holds(b"PCI0"));
}

#[test]
fn tables_stay_in_their_area() {
    let mem = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 2 << 20)]).unwrap();
    assert_eq!(write(&mem, &machine(32, true, 19, true)).unwrap(), 0xE_0000);
    // As large as it gets, with many devices cut off.
    let mut many = machine(layout::MAX_CPUS, true, 0, true);
    many.virtio_mmio = vec![layout::virtio_mmio_slot(0).unwrap(); 4000];
    assert!((build(&many, layout::ACPI).len() as u64) < layout::ACPI_SIZE / 4);
}
