//! The boot processor's first register state, as plain data, and what it points at in memory.
//!
//! Other processors stay in their reset state until the guest sends INIT and SIPI.

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use crate::layout;
use crate::{BootError, kernel};

/// CR0.PE, protected mode.
const CR0_PE: u64 = 1;
/// CR0.ET, hard-wired to 1.
const CR0_ET: u64 = 1 << 4;
/// CR0.PG, paging.
const CR0_PG: u64 = 1 << 31;
/// CR4.PAE.
const CR4_PAE: u64 = 1 << 5;
/// EFER.LME and EFER.LMA.
const EFER_LONG: u64 = 1 << 8 | 1 << 10;
/// RFLAGS: only the bit that is always 1; interrupts off.
const RFLAGS: u64 = 2;

/// Model-specific registers that firmware would set, on every vCPU, as `(index, value)`.
///
/// * IA32_MISC_ENABLE: fast strings on, or Linux gives up ERMS; BTS and PEBS absent, as KVM has it.
/// * IA32_MTRR_DEF_TYPE: MTRRs on, write-back by default, or Linux runs with MTRRs disabled.
///
/// A hypervisor that refuses one of them boots Linux all the same.
pub const FIRMWARE_MSRS: [(u32, u64); 2] = [(0x1A0, 1 | 1 << 11 | 1 << 12), (0x2FF, 6 | 1 << 11)];

// Present, writable, user-inaccessible table entry; PS makes it a 2 MiB page.
const PTE_TABLE: u64 = 0b11;
const PTE_PAGE_2M: u64 = 0b1000_0011;

/// Descriptors with base 0 and limit 4 GiB, already accessed (Intel SDM vol. 3A §3.4.5).
const CODE64: u64 = 0x00AF_9B00_0000_FFFF;
const CODE32: u64 = 0x00CF_9B00_0000_FFFF;
const DATA: u64 = 0x00CF_9300_0000_FFFF;
/// A busy TSS at 0, 104 bytes: VMX entry wants a loaded task register.
const TSS: u64 = 0x0000_8B00_0000_0067;

/// One segment register with its hidden part, as `kvm_segment` holds it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SegmentRegister {
    /// Selector.
    pub selector: u16,
    /// Base address.
    pub base: u64,
    /// Limit in bytes, expanded.
    pub limit: u32,
    /// Type, bits 40..43 of the descriptor.
    pub type_: u8,
    /// Code or data, not system.
    pub s: bool,
    /// Privilege level.
    pub dpl: u8,
    /// Present.
    pub present: bool,
    /// Available to software.
    pub avl: bool,
    /// 64-bit code.
    pub l: bool,
    /// 32-bit default size.
    pub db: bool,
    /// Limit was in pages.
    pub g: bool,
}

impl SegmentRegister {
    /// Decodes an 8-byte descriptor, which has `selector` in the GDT.
    #[must_use]
    pub fn from_descriptor(selector: u16, descriptor: u64) -> Self {
        let bit = |n: u32| descriptor >> n & 1 == 1;
        let limit = (descriptor & 0xFFFF | descriptor >> 32 & 0xF_0000) as u32;
        Self {
            selector,
            base: descriptor >> 16 & 0xFF_FFFF | descriptor >> 32 & 0xFF00_0000,
            limit: if bit(55) { limit << 12 | 0xFFF } else { limit },
            type_: (descriptor >> 40 & 0xF) as u8,
            s: bit(44),
            dpl: (descriptor >> 45 & 3) as u8,
            present: bit(47),
            avl: bit(52),
            l: bit(53),
            db: bit(54),
            g: bit(55),
        }
    }
}

/// Base and limit of a descriptor table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TableRegister {
    /// Guest address.
    pub base: u64,
    /// Last valid byte offset.
    pub limit: u16,
}

/// Registers of the boot processor; all that are not named here are 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryState {
    /// Instruction pointer.
    pub rip: u64,
    /// Stack pointer; neither protocol promises a stack.
    pub rsp: u64,
    /// `boot_params` (64-bit Linux protocol).
    pub rsi: u64,
    /// `hvm_start_info` (PVH).
    pub rbx: u64,
    /// Flags.
    pub rflags: u64,
    /// Control register 0.
    pub cr0: u64,
    /// Control register 3.
    pub cr3: u64,
    /// Control register 4.
    pub cr4: u64,
    /// Extended feature enables.
    pub efer: u64,
    /// Code segment.
    pub cs: SegmentRegister,
    /// DS, ES, FS, GS and SS alike.
    pub data: SegmentRegister,
    /// Task register.
    pub tr: SegmentRegister,
    /// Global descriptor table.
    pub gdt: TableRegister,
    /// Interrupt descriptor table, empty.
    pub idt: TableRegister,
}

/// The register state for `entry`; writes the GDT and, for long mode, page tables to `mem`.
pub(crate) fn set_up(
    entry: kernel::EntryPoint,
    mem: &GuestMemoryMmap,
) -> Result<EntryState, BootError> {
    // Selectors as both Linux protocols want them: code 0x10, data 0x18.
    let code = if matches!(entry, kernel::EntryPoint::Pvh(_)) { CODE32 } else { CODE64 };
    let gdt = [0, 0, code, DATA, TSS, 0];
    for (i, descriptor) in (0u64..).zip(gdt) {
        mem.write_obj(u64::to_le(descriptor), GuestAddress(layout::GDT + i * 8))?;
    }
    let state = EntryState {
        rip: 0,
        rsp: 0,
        rsi: 0,
        rbx: 0,
        rflags: RFLAGS,
        cr0: CR0_PE | CR0_ET,
        cr3: 0,
        cr4: 0,
        efer: 0,
        cs: SegmentRegister::from_descriptor(0x10, code),
        data: SegmentRegister::from_descriptor(0x18, DATA),
        tr: SegmentRegister::from_descriptor(0x20, TSS),
        gdt: TableRegister { base: layout::GDT, limit: size_of_val(&gdt) as u16 - 1 },
        idt: TableRegister { base: layout::IDT, limit: 0 },
    };
    Ok(match entry {
        kernel::EntryPoint::Pvh(rip) => {
            EntryState { rip: rip.into(), rbx: layout::PVH_INFO, ..state }
        }
        kernel::EntryPoint::Linux64(rip) => {
            write_page_tables(mem)?;
            EntryState {
                rip,
                rsi: layout::ZERO_PAGE,
                cr0: state.cr0 | CR0_PG,
                cr3: layout::PAGE_TABLES,
                cr4: CR4_PAE,
                efer: EFER_LONG,
                ..state
            }
        }
    })
}

/// Puts code at the real-mode reset vector that resets the machine through its reset port.
///
/// Linux on reduced hardware without EFI reboots this way: it takes "reduced hardware" for EFI, and
/// falls back to the BIOS when there is none, without a look at the FADT's RESET_REG.
pub(crate) fn write_reset_vector(mem: &GuestMemoryMmap) -> Result<(), BootError> {
    let [low, high] = layout::ACPI_RESET_PORT.to_le_bytes();
    // mov dx, port; mov al, value; out dx, al; hlt; jmp to the hlt
    let code = [0xBA, low, high, 0xB0, layout::ACPI_RESET_VALUE, 0xEE, 0xF4, 0xEB, 0xFD];
    mem.write_slice(&code, GuestAddress(layout::RESET_VECTOR))?;
    Ok(())
}

/// Maps the first 4 GiB one to one with 2 MiB pages: every x86_64 CPU has these.
fn write_page_tables(mem: &GuestMemoryMmap) -> Result<(), BootError> {
    const ENTRIES: u64 = 512;
    let pml4 = layout::PAGE_TABLES;
    let pdpt = pml4 + layout::PAGE_SIZE;
    let pd = pdpt + layout::PAGE_SIZE;
    let gibs = layout::IDENTITY_MAPPED / layout::GIB;
    let put = |table: u64, index: u64, entry: u64| {
        mem.write_obj(u64::to_le(entry), GuestAddress(table + index * 8))
    };
    put(pml4, 0, pdpt | PTE_TABLE)?;
    for gib in 0..gibs {
        put(pdpt, gib, (pd + gib * layout::PAGE_SIZE) | PTE_TABLE)?;
    }
    let mut tables = Vec::with_capacity((gibs * layout::PAGE_SIZE) as usize);
    for page in 0..gibs * ENTRIES {
        tables.extend_from_slice(&(page << 21 | PTE_PAGE_2M).to_le_bytes());
    }
    mem.write_slice(&tables, GuestAddress(pd))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory() -> GuestMemoryMmap {
        GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap()
    }

    #[test]
    fn pvh_state() {
        let mem = memory();
        let s = set_up(kernel::EntryPoint::Pvh(0x10_0040), &mem).unwrap();
        assert_eq!((s.rip, s.rbx, s.rflags), (0x10_0040, 0x6000, 2));
        assert_eq!((s.cr0, s.cr4, s.efer), (0x11, 0, 0));
        // Flat 32-bit code: base 0, limit 4 GiB, execute/read, accessed.
        assert_eq!((s.cs.base, s.cs.limit, s.cs.type_), (0, u32::MAX, 0xB));
        assert!(s.cs.db && !s.cs.l && s.cs.g && s.cs.s && s.cs.present);
        assert_eq!((s.data.limit, s.data.type_), (u32::MAX, 3));
        assert_eq!((s.tr.limit, s.tr.type_, s.tr.s), (0x67, 0xB, false));
        assert_eq!(s.gdt, TableRegister { base: 0x500, limit: 47 });
        assert_eq!(mem.read_obj::<u64>(GuestAddress(0x510)).unwrap(), CODE32);
    }

    #[test]
    fn the_reset_vector_writes_the_reset_port() {
        let mem = memory();
        write_reset_vector(&mem).unwrap();
        let mut code = [0; 9];
        mem.read_slice(&mut code, GuestAddress(0xF_FFF0)).unwrap();
        assert_eq!(code, *b"\xBA\x02\x06\xB0\x01\xEE\xF4\xEB\xFD");
    }

    #[test]
    fn long_mode_state_maps_4_gib_one_to_one() {
        let mem = memory();
        let s = set_up(kernel::EntryPoint::Linux64(0x100_0000), &mem).unwrap();
        assert_eq!((s.rip, s.rsi), (0x100_0000, 0x7000));
        assert_eq!((s.cr0, s.cr4, s.efer), (0x8000_0011, 0x20, 0x500));
        assert!(s.cs.l && !s.cs.db);
        // Walk the tables as the CPU does.
        let read = |at: u64| mem.read_obj::<u64>(GuestAddress(at)).unwrap();
        let walk = |va: u64| {
            let pdpt = read(s.cr3 + (va >> 39 & 511) * 8);
            let pd = read((pdpt & !0xFFF) + (va >> 30 & 511) * 8);
            let page = read((pd & !0xFFF) + (va >> 21 & 511) * 8);
            assert!(pdpt & pd & page & 0b11 == 0b11 && page & 0x80 != 0);
            (page & !0x1F_FFFF) + (va & 0x1F_FFFF)
        };
        for va in [0, 0x1F_FFFF, 0x20_0000, 0x100_0000, 0x4000_0000, 0xFFFF_FFFF] {
            assert_eq!(walk(va), va);
        }
        assert_eq!(read(s.cr3 + layout::PAGE_SIZE + 4 * 8), 0);
    }
}
