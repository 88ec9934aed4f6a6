//! The MP table (Intel MultiProcessor Specification 1.4): processors and interrupts, for kernels
//! that have no ACPI or were told not to use it (`acpi=off`).
//!
//! Linux looks for the floating pointer structure in the last KiB of base memory, among other
//! places, and does not read it where ACPI's MADT has told it the same.
//!
//! Every GSI is KVM's I/O APIC's pin of that number, and everything is raised by edges, active high,
//! which is how the ISA bus is by default. Only pins with a device behind them are listed.

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use crate::{BootError, Platform, layout};

/// Specification revision 1.4.
const REVISION: u8 = 4;
const POINTER_LEN: usize = 16;
const HEADER_LEN: usize = 44;
/// What KVM's local APIC and I/O APIC have in their version registers.
const LAPIC_VERSION: u8 = 0x14;
const IOAPIC_VERSION: u8 = 0x11;
/// A processor of family 6, with an FPU and a local APIC. CPUID has the rest, and is what counts.
const CPU_SIGNATURE: u32 = 0x600;
const CPU_FEATURES: u32 = 1 << 9 | 1;
/// The one bus of the table.
const ISA: u8 = 0;
/// Every local APIC.
const ALL: u8 = 0xFF;

// Entry types (§4.3).
const PROCESSOR: u8 = 0;
const BUS: u8 = 1;
const IOAPIC: u8 = 2;
const IO_INTERRUPT: u8 = 3;
const LOCAL_INTERRUPT: u8 = 4;

// Interrupt types (table 4-10).
const INT: u8 = 0;
const NMI: u8 = 1;
const EXT_INT: u8 = 3;

/// The floating pointer structure and, behind it, the configuration table, as they are to lie at
/// `base`, which is a multiple of 16 below 4 GiB.
///
/// Describes at most [`layout::MAX_CPUS`] CPUs, whose APIC IDs count from 0, and the interrupts of at
/// most [`layout::VIRTIO_MMIO_SLOTS`] virtio-mmio devices; the result is then not longer than
/// [`layout::MP_TABLE_SIZE`].
#[must_use]
pub fn build(platform: &Platform, base: u64) -> Vec<u8> {
    let table = table(platform);
    let mut image = Vec::with_capacity(POINTER_LEN + table.len());
    image.extend(b"_MP_");
    image.extend((base as u32 + POINTER_LEN as u32).to_le_bytes());
    // Its length in paragraphs, the revision, the checksum.
    image.extend([1, REVISION, 0]);
    // No default configuration; no IMCR: the local APIC lets the PIC through (virtual wire mode).
    image.extend([0; 5]);
    image[10] = complement(&image);
    image.extend(table);
    image
}

/// Writes the table to guest memory.
pub(crate) fn write(mem: &GuestMemoryMmap, platform: &Platform) -> Result<(), BootError> {
    let image = build(platform, layout::MP_TABLE);
    debug_assert!(image.len() as u64 <= layout::MP_TABLE_SIZE);
    mem.write_slice(&image, GuestAddress(layout::MP_TABLE))?;
    Ok(())
}

/// The configuration table (§4.2).
fn table(platform: &Platform) -> Vec<u8> {
    let entries = entries(platform);
    let len = HEADER_LEN + entries.iter().map(Vec::len).sum::<usize>();
    let mut table = Vec::with_capacity(len);
    table.extend(b"PCMP");
    table.extend((len as u16).to_le_bytes());
    table.extend([REVISION, 0]);
    table.extend(b"MINIVMM minivmm     ");
    // No table of the manufacturer's own.
    table.extend([0; 6]);
    table.extend((entries.len() as u16).to_le_bytes());
    table.extend((layout::LAPIC as u32).to_le_bytes());
    // No extended table.
    table.extend([0; 4]);
    table.extend(entries.concat());
    table[7] = complement(&table);
    table
}

/// All entries, in ascending order of their types as §4.3 wants it.
fn entries(platform: &Platform) -> Vec<Vec<u8>> {
    let cpus = platform.cpus.min(layout::MAX_CPUS) as u8;
    // The first ID that no processor has: on the bus that the specification knows they share one
    // space. KVM's register says 0 until the guest writes it.
    let ioapic = cpus;
    let mut entries = Vec::new();
    for id in 0..cpus {
        // Enabled; the first is the boot processor.
        let flags = if id == 0 { 0b11 } else { 0b01 };
        let mut entry = vec![PROCESSOR, id, LAPIC_VERSION, flags];
        entry.extend([CPU_SIGNATURE, CPU_FEATURES, 0, 0].map(u32::to_le_bytes).concat());
        entries.push(entry);
    }
    entries.push([&[BUS, ISA][..], b"ISA   "].concat());
    let address = (layout::IOAPIC as u32).to_le_bytes();
    entries.push([&[IOAPIC, ioapic, IOAPIC_VERSION, 1][..], &address].concat());
    // Polarity and trigger mode are 0: as is usual for the bus.
    let interrupt = |kind, what, from, to, pin| vec![kind, what, 0, 0, ISA, from, to, pin];
    for gsi in interrupts(platform) {
        entries.push(interrupt(IO_INTERRUPT, INT, gsi as u8, ioapic, gsi as u8));
    }
    entries.push(interrupt(LOCAL_INTERRUPT, EXT_INT, 0, 0, 0));
    entries.push(interrupt(LOCAL_INTERRUPT, NMI, 0, ALL, 1));
    entries
}

/// The GSIs with a device behind them.
fn interrupts(platform: &Platform) -> impl Iterator<Item = u32> {
    let i8042 = platform.i8042.then_some(layout::I8042_GSI);
    let serial = platform.serial.then_some(layout::COM1_GSI);
    let slots = platform.virtio_mmio.iter().take(layout::VIRTIO_MMIO_SLOTS as usize);
    i8042.into_iter().chain(serial).chain(slots.map(|slot| slot.gsi))
}

/// The byte that makes the sum of all zero.
fn complement(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0u8, |sum, byte| sum.wrapping_sub(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::field;

    fn sum(bytes: &[u8]) -> u8 {
        bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
    }

    /// Entries as a guest walks them, after the checks that Linux makes (`smp_check_mpc`).
    fn walk(image: &[u8], base: u64) -> Vec<&[u8]> {
        assert_eq!((&image[..4], image[8], image[9]), (&b"_MP_"[..], 1, 4));
        assert_eq!(sum(&image[..16]), 0, "checksum of the pointer");
        let at = (u64::from(field::u32(image, 4)) - base) as usize;
        let table = &image[at..];
        assert_eq!((&table[..4], table[6]), (&b"PCMP"[..], 4));
        assert_eq!(field::u16(table, 4) as usize, table.len());
        assert_eq!(sum(table), 0, "checksum of the table");
        assert_eq!(field::u32(table, 36), 0xFEE0_0000);
        let mut rest = &table[44..];
        let mut entries = Vec::new();
        while let Some(kind) = rest.first() {
            let (entry, behind) = rest.split_at(if *kind == 0 { 20 } else { 8 });
            entries.push(entry);
            rest = behind;
        }
        assert_eq!(field::u16(table, 34) as usize, entries.len());
        assert!(entries.is_sorted_by_key(|e| e[0]));
        entries
    }

    fn machine(cpus: u32, slots: u32, i8042: bool) -> Platform {
        let virtio_mmio = (0..slots).map_while(layout::virtio_mmio_slot).collect();
        Platform { cpus, virtio_mmio, i8042, ..Platform::default() }
    }

    #[test]
    fn golden_bytes_of_one_cpu() {
        let image = build(&machine(1, 1, false), 0x9_FC00);
        // The configuration table at 0x9FC10; one paragraph, revision 4, the checksum.
        assert_eq!(&image[..16], b"_MP_\x10\xfc\x09\0\x01\x04\x8b\0\0\0\0\0");
        assert_eq!(
            walk(&image, 0x9_FC00),
            [
                // Processor 0: APIC version 0x14, enabled, boot processor.
                &[0, 0, 0x14, 3, 0, 6, 0, 0, 1, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0][..],
                b"\x01\x00ISA   ",
                &[2, 1, 0x11, 1, 0, 0, 0xC0, 0xFE],
                &[3, 0, 0, 0, 0, 4, 1, 4],
                &[3, 0, 0, 0, 0, 5, 1, 5],
                &[4, 3, 0, 0, 0, 0, 0, 0],
                &[4, 1, 0, 0, 0, 0, 0xFF, 1],
            ]
        );
    }

    #[test]
    fn every_cpu_and_every_interrupt_is_told_of() {
        for (cpus, slots, i8042) in [(1, 0, false), (2, 2, true), (32, 19, true)] {
            let image = build(&machine(cpus, slots, i8042), layout::MP_TABLE);
            assert!(image.len() as u64 <= layout::MP_TABLE_SIZE, "{}", image.len());
            let entries = walk(&image, layout::MP_TABLE);
            let of = |kind| entries.iter().filter(move |e| e[0] == kind);
            let ids: Vec<_> = of(PROCESSOR).map(|e| u32::from(e[1])).collect();
            assert_eq!(ids, (0..cpus).collect::<Vec<_>>());
            assert_eq!(of(PROCESSOR).filter(|e| e[3] & 2 != 0).count(), 1, "one boots");
            let ioapic = of(IOAPIC).next().unwrap()[1];
            assert!(!ids.contains(&ioapic.into()));
            // As the DSDT and the MADT have it: pin N is GSI N.
            let pins = of(IO_INTERRUPT).map(|e| {
                assert_eq!((e[4], e[6], e[5]), (ISA, ioapic, e[7]));
                u32::from(e[7])
            });
            let devices = (0..slots).map(|i| layout::virtio_mmio_slot(i).unwrap().gsi);
            let keyboard = i8042.then_some(1);
            assert!(pins.eq(keyboard.into_iter().chain([4]).chain(devices)));
        }
    }

    #[test]
    fn more_than_there_may_be_is_cut_off() {
        let most = machine(layout::MAX_CPUS, layout::VIRTIO_MMIO_SLOTS, true);
        let mut more = machine(u32::MAX, layout::VIRTIO_MMIO_SLOTS, true);
        more.virtio_mmio.extend(layout::virtio_mmio_slot(0));
        assert_eq!(build(&more, layout::MP_TABLE), build(&most, layout::MP_TABLE));
    }
}
