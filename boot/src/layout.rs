//! Guest-physical memory map: every fixed address of the machine, in one place.
//!
//! ```text
//! 0x0000_0000  RAM (page 0 to 640 KiB): reset flag, descriptor tables, boot parameters, page tables, cmdline
//! 0x0009_FC00  MP table
//! 0x000A_0000  legacy hole
//! 0x000E_0000  ACPI tables
//! 0x000F_FFF0  reset code
//! 0x0010_0000  RAM: kernel, initrd at the top
//! 0xC000_0000  PCI 32-bit BAR window
//! 0xD000_0000  virtio-mmio slots
//! 0xE000_0000  PCI ECAM, bus 0
//! 0xFEC0_0000  I/O APIC
//! 0xFEE0_0000  local APICs
//! 0xFFFB_C000  KVM's own pages
//! 0x1_0000_0000 RAM that did not fit below 3 GiB
//! ```

use vm_memory::GuestAddress;

/// One mebibyte.
pub const MIB: u64 = 1 << 20;
/// One gibibyte.
pub const GIB: u64 = 1 << 30;
/// x86 page size in bytes.
pub const PAGE_SIZE: u64 = 4096;

/// Reset flag: a 16-bit word of the BIOS data area that says how a reset is meant, 0 at first.
///
/// x86 Linux writes it just before each reset (`native_machine_emergency_restart`): 0, or
/// [`RESET_FLAG_WARM`] where its `reboot=` says so. With `reboot=panic_warm` (Linux 5.2) that is
/// for a panic alone, so the word tells a panic from a reboot.
pub const RESET_FLAG: u64 = 0x472;
/// The value of [`RESET_FLAG`] for a warm reset.
pub const RESET_FLAG_WARM: u16 = 0x1234;
/// Global descriptor table of the boot processor.
pub const GDT: u64 = 0x500;
/// Bytes reserved for the GDT (eight descriptors).
pub const GDT_SIZE: u64 = 64;
/// Base of the (empty) interrupt descriptor table.
pub const IDT: u64 = 0x540;
/// `hvm_start_info`, its module list and memory map (PVH).
pub const PVH_INFO: u64 = 0x6000;
/// Bytes reserved for the PVH structures.
pub const PVH_INFO_SIZE: u64 = PAGE_SIZE;
/// `boot_params`, the "zero page" (64-bit Linux boot protocol).
pub const ZERO_PAGE: u64 = 0x7000;
/// Bytes of the zero page.
pub const ZERO_PAGE_SIZE: u64 = PAGE_SIZE;
/// Identity page tables: PML4, PDPT, then four page directories of 2 MiB pages.
pub const PAGE_TABLES: u64 = 0x9000;
/// Bytes of page tables: 6 pages that map [`IDENTITY_MAPPED`] bytes.
pub const PAGE_TABLES_SIZE: u64 = 6 * PAGE_SIZE;
/// Bytes, from 0, that the boot page tables map one to one.
pub const IDENTITY_MAPPED: u64 = 4 * GIB;
/// The kernel command line.
pub const CMDLINE: u64 = 0x2_0000;
/// Bytes reserved for the command line with its NUL.
pub const CMDLINE_SIZE: u64 = PAGE_SIZE;

/// End of conventional memory; the last KiB below 640 KiB is where firmware keeps its EBDA.
pub const LOW_RAM_END: u64 = 0x9_FC00;
/// The MP table, in the last KiB of base memory, where a guest looks for it (MultiProcessor
/// Specification 1.4 §4).
pub const MP_TABLE: u64 = LOW_RAM_END;
/// Bytes reserved for the MP table.
pub const MP_TABLE_SIZE: u64 = LEGACY_HOLE - MP_TABLE;
/// Start of the legacy video and ROM hole.
pub const LEGACY_HOLE: u64 = 0xA_0000;
/// ACPI tables; the RSDP comes first, where a scan for it also finds it (ACPI 6.5 §5.2.5.1).
pub const ACPI: u64 = 0xE_0000;
/// Bytes reserved for ACPI tables.
pub const ACPI_SIZE: u64 = 0x1_0000;
/// Where a reset in real mode jumps to (F000:FFF0); up to 16 bytes of code.
pub const RESET_VECTOR: u64 = 0xF_FFF0;
/// Start of extended memory: the lowest address a kernel may be loaded at.
pub const HIGH_MEMORY: u64 = MIB;

/// End of RAM below 4 GiB, start of the device hole.
pub const RAM_LOW_MAX: u64 = 3 * GIB;
/// RAM beyond [`RAM_LOW_MAX`] continues here.
pub const RAM_HIGH: u64 = 4 * GIB;

/// 32-bit window for PCI BARs.
pub const PCI_MMIO: u64 = 0xC000_0000;
/// Bytes of the PCI BAR window.
pub const PCI_MMIO_SIZE: u64 = 0x1000_0000;
/// First virtio-mmio slot.
pub const VIRTIO_MMIO: u64 = 0xD000_0000;
/// Bytes of one virtio-mmio slot.
pub const VIRTIO_MMIO_SLOT: u64 = PAGE_SIZE;
/// Number of virtio-mmio slots: one per GSI that is free for them.
pub const VIRTIO_MMIO_SLOTS: u32 = GSI_LAST - GSI_FIRST + 1;
/// PCI Express enhanced configuration space (ECAM) of segment 0.
pub const PCI_ECAM: u64 = 0xE000_0000;
/// Bytes of ECAM: one bus.
pub const PCI_ECAM_SIZE: u64 = MIB;
/// I/O APIC registers.
pub const IOAPIC: u64 = 0xFEC0_0000;
/// Local APIC registers.
pub const LAPIC: u64 = 0xFEE0_0000;
/// A page table of KVM's own, one page: processors that can't run real mode without paging (Intel
/// without unrestricted guest) have it in guest memory.
pub const KVM_IDENTITY_MAP: u64 = 0xFFFB_C000;
/// KVM's task state segment for the same processors.
pub const KVM_TSS: u64 = 0xFFFB_D000;
/// Bytes that KVM takes there (Linux `Documentation/virt/kvm/api.rst`, `KVM_SET_TSS_ADDR`).
pub const KVM_TSS_SIZE: u64 = 3 * PAGE_SIZE;

/// COM1, first I/O port.
pub const COM1_PORT: u16 = 0x3F8;
/// COM1, number of I/O ports.
pub const COM1_PORTS: u16 = 8;
/// COM1, interrupt.
pub const COM1_GSI: u32 = 4;
/// Keyboard controller data port; status is at [`I8042_COMMAND_PORT`].
pub const I8042_DATA_PORT: u16 = 0x60;
/// Keyboard controller command and status port.
pub const I8042_COMMAND_PORT: u16 = 0x64;
/// I/O ports from one to the other.
pub const I8042_PORTS: u16 = I8042_COMMAND_PORT - I8042_DATA_PORT + 1;
/// Keyboard interrupt.
pub const I8042_GSI: u32 = 1;
/// PCI configuration mechanism #1, first I/O port.
pub const PCI_CONFIG_PORT: u16 = 0xCF8;
/// PCI configuration mechanism #1, number of I/O ports.
pub const PCI_CONFIG_PORTS: u16 = 8;
/// Where a guest leaves its result code, one byte.
pub const DEBUG_EXIT_PORT: u16 = 0xF4;

/// ACPI SLEEP_CONTROL_REG, one byte (ACPI 6.5 §4.8.3.7). A write of [`ACPI_S5_SLP_TYP`] in bits 2 to
/// 4, with SLP_EN in bit 5, powers off.
pub const ACPI_SLEEP_CONTROL_PORT: u16 = 0x600;
/// ACPI SLEEP_STATUS_REG, one byte; writes of WAK_STS (0x80) are to be accepted, reads give 0.
pub const ACPI_SLEEP_STATUS_PORT: u16 = 0x601;
/// ACPI RESET_REG, one byte. A write of [`ACPI_RESET_VALUE`] resets the machine.
pub const ACPI_RESET_PORT: u16 = 0x602;
/// Value of SLP_TYP for S5, as `\_S5` names it.
pub const ACPI_S5_SLP_TYP: u8 = 5;
/// The byte that the guest writes to reset.
pub const ACPI_RESET_VALUE: u8 = 1;

/// Interrupt of the power button, by a Generic Event Device (ACPI 6.5 §5.6.9). It would be COM2's,
/// which there is none of.
pub const POWER_BUTTON_GSI: u32 = 3;

/// First GSI for devices.
pub const GSI_FIRST: u32 = 5;
/// Last GSI of the one I/O APIC.
pub const GSI_LAST: u32 = 23;

/// Most vCPUs that the tables describe.
pub const MAX_CPUS: u32 = 32;

const fn disjoint(regions: &[(u64, u64)]) -> bool {
    let mut i = 1;
    while i < regions.len() {
        // Ascending and not touching into the next one implies that no two overlap.
        if regions[i - 1].0 + regions[i - 1].1 > regions[i].0 {
            return false;
        }
        i += 1;
    }
    true
}

const _: () = assert!(disjoint(&[
    (RESET_FLAG, 2),
    (GDT, GDT_SIZE),
    (IDT, 0),
    (PVH_INFO, PVH_INFO_SIZE),
    (ZERO_PAGE, ZERO_PAGE_SIZE),
    (PAGE_TABLES, PAGE_TABLES_SIZE),
    (CMDLINE, CMDLINE_SIZE),
    (MP_TABLE, MP_TABLE_SIZE),
    (ACPI, ACPI_SIZE),
    (RESET_VECTOR, 16),
    (HIGH_MEMORY, RAM_LOW_MAX - HIGH_MEMORY),
    (PCI_MMIO, PCI_MMIO_SIZE),
    (VIRTIO_MMIO, VIRTIO_MMIO_SLOT * VIRTIO_MMIO_SLOTS as u64),
    (PCI_ECAM, PCI_ECAM_SIZE),
    (IOAPIC, PAGE_SIZE),
    (LAPIC, PAGE_SIZE),
    (KVM_IDENTITY_MAP, PAGE_SIZE),
    (KVM_TSS, KVM_TSS_SIZE),
    (RAM_HIGH, 0),
]));
const _: () = assert!(disjoint(&[
    (I8042_DATA_PORT as u64, I8042_PORTS as u64),
    (DEBUG_EXIT_PORT as u64, 1),
    (COM1_PORT as u64, COM1_PORTS as u64),
    (ACPI_SLEEP_CONTROL_PORT as u64, 1),
    (ACPI_SLEEP_STATUS_PORT as u64, 1),
    (ACPI_RESET_PORT as u64, 1),
    (PCI_CONFIG_PORT as u64, PCI_CONFIG_PORTS as u64),
]));
// ECAM of n buses must be aligned to n MiB (PCI Express 5.0 §7.2.2).
const _: () = assert!(PCI_ECAM.is_multiple_of(PCI_ECAM_SIZE));

/// Splits `size` bytes of RAM around the device hole, as `(address, length)` in ascending order.
///
/// `size` is to be a multiple of [`PAGE_SIZE`]; the result is empty for 0.
///
/// ```
/// let gib = 1usize << 30;
/// let regions = minivmm_boot::layout::ram_regions(4 * gib as u64);
/// assert_eq!(regions.len(), 2);
/// assert_eq!((regions[1].0.0, regions[1].1), (4 << 30, gib));
/// ```
#[must_use]
pub fn ram_regions(size: u64) -> Vec<(GuestAddress, usize)> {
    let low = size.min(RAM_LOW_MAX);
    [(0, low), (RAM_HIGH, size - low)]
        .into_iter()
        .filter(|&(_, len)| len > 0)
        .map(|(addr, len)| (GuestAddress(addr), len as usize))
        .collect()
}

/// The slot and GSI of virtio-mmio device `index`, or `None` past the last slot.
#[must_use]
pub fn virtio_mmio_slot(index: u32) -> Option<MmioDevice> {
    (index < VIRTIO_MMIO_SLOTS).then(|| MmioDevice {
        base: VIRTIO_MMIO + u64::from(index) * VIRTIO_MMIO_SLOT,
        size: VIRTIO_MMIO_SLOT,
        gsi: GSI_FIRST + index,
    })
}

/// A virtio-mmio device as the guest is told of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MmioDevice {
    /// Guest-physical address of its registers, below 4 GiB.
    pub base: u64,
    /// Bytes of register space.
    pub size: u64,
    /// Its interrupt, edge-triggered.
    pub gsi: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ram_is_split_around_the_hole() {
        let r =
            |size| ram_regions(size).into_iter().map(|(a, l)| (a.0, l as u64)).collect::<Vec<_>>();
        assert_eq!(r(0), []);
        assert_eq!(r(128 * MIB), [(0, 128 * MIB)]);
        assert_eq!(r(3 * GIB), [(0, 3 * GIB)]);
        assert_eq!(r(3 * GIB + 4096), [(0, 3 * GIB), (4 * GIB, 4096)]);
    }

    #[test]
    fn mmio_slots_end_with_the_ioapic() {
        assert_eq!(virtio_mmio_slot(0).unwrap().gsi, 5);
        let last = virtio_mmio_slot(VIRTIO_MMIO_SLOTS - 1).unwrap();
        assert_eq!((last.gsi, last.base), (23, 0xD001_2000));
        assert_eq!(virtio_mmio_slot(VIRTIO_MMIO_SLOTS), None);
    }

    #[test]
    fn power_off_value_is_what_linux_writes() {
        assert_eq!(ACPI_S5_SLP_TYP << 2 | 1 << 5, 0x34);
    }
}
