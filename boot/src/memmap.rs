//! The memory map the guest is given: e820 entries, also used for PVH.

use vm_memory::{Address, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};

use crate::layout;

/// What a range of guest-physical memory is, with its e820 and PVH type number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum MemoryKind {
    /// Usable RAM.
    Ram = 1,
    /// Not to be used.
    Reserved = 2,
    /// ACPI tables.
    Acpi = 3,
}

/// One entry of the memory map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryRange {
    /// First byte.
    pub addr: u64,
    /// Length in bytes, never 0.
    pub size: u64,
    /// What is there.
    pub kind: MemoryKind,
}

/// Most entries that [`build`] returns: four for the low MiB, one per region, ECAM.
pub const MAX_ENTRIES: usize = 64;

/// Describes `mem` and the fixed reserved ranges, in ascending order, without overlaps.
#[must_use]
pub fn build(mem: &GuestMemoryMmap) -> Vec<MemoryRange> {
    let entry = |start: u64, end: u64, kind| MemoryRange { addr: start, size: end - start, kind };
    let mut map = vec![
        entry(layout::LOW_RAM_END, layout::LEGACY_HOLE, MemoryKind::Reserved),
        entry(layout::ACPI, layout::ACPI + layout::ACPI_SIZE, MemoryKind::Acpi),
        entry(layout::ACPI + layout::ACPI_SIZE, layout::HIGH_MEMORY, MemoryKind::Reserved),
        entry(layout::PCI_ECAM, layout::PCI_ECAM + layout::PCI_ECAM_SIZE, MemoryKind::Reserved),
    ];
    for region in mem.iter().take(MAX_ENTRIES - 5) {
        let start = region.start_addr().raw_value();
        let end = start + region.len();
        for (from, to) in
            [(start, end.min(layout::LOW_RAM_END)), (start.max(layout::HIGH_MEMORY), end)]
        {
            if from < to {
                map.push(entry(from, to, MemoryKind::Ram));
            }
        }
    }
    map.sort_by_key(|e| e.addr);
    map
}

/// End of the RAM that starts at or holds 1 MiB, at most [`layout::RAM_LOW_MAX`].
///
/// Kernel and initrd go below it. 0 if there is no RAM at 1 MiB.
#[must_use]
pub fn low_ram_end(mem: &GuestMemoryMmap) -> u64 {
    mem.iter()
        .map(|r| (r.start_addr().raw_value(), r.start_addr().raw_value() + r.len()))
        .find(|&(start, end)| start <= layout::HIGH_MEMORY && layout::HIGH_MEMORY < end)
        .map_or(0, |(_, end)| end.min(layout::RAM_LOW_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::{GIB, MIB};
    use vm_memory::GuestAddress;

    #[test]
    fn map_of_a_machine_with_ram_above_the_hole() {
        // Sparse anonymous mappings: nothing is touched.
        let mem = GuestMemoryMmap::from_ranges(&layout::ram_regions(4 * GIB)).unwrap();
        let e = |addr, end: u64, kind| MemoryRange { addr, size: end - addr, kind };
        assert_eq!(
            build(&mem),
            [
                e(0, 0x9_FC00, MemoryKind::Ram),
                e(0x9_FC00, 0xA_0000, MemoryKind::Reserved),
                e(0xE_0000, 0xF_0000, MemoryKind::Acpi),
                e(0xF_0000, 0x10_0000, MemoryKind::Reserved),
                e(0x10_0000, 0xC000_0000, MemoryKind::Ram),
                e(0xE000_0000, 0xE010_0000, MemoryKind::Reserved),
                e(0x1_0000_0000, 0x1_4000_0000, MemoryKind::Ram),
            ]
        );
        assert_eq!(low_ram_end(&mem), 3 * GIB);
    }

    #[test]
    fn no_ram_at_one_mib() {
        let mem = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MIB as usize)]).unwrap();
        assert_eq!(low_ram_end(&mem), 0);
        assert!(build(&mem).iter().all(|e| e.kind != MemoryKind::Ram || e.addr < MIB));
    }
}
