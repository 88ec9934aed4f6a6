//! `hvm_start_info` version 1 (Xen `public/arch-x86/hvm/start_info.h`).

use std::ops::Range;

use linux_loader::configurator::pvh::PvhBootConfigurator;
use linux_loader::configurator::{BootConfigurator, BootParams};
use linux_loader::loader::elf::start_info::{
    XEN_HVM_START_MAGIC_VALUE, hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info,
};
use vm_memory::{GuestAddress, GuestMemoryMmap};

use crate::BootError;
use crate::{layout, memmap};

/// The module list follows the start info, the memory map the module list.
const MODLIST: u64 = layout::PVH_INFO + size_of::<hvm_start_info>() as u64;
const MEMMAP: u64 = MODLIST + size_of::<hvm_modlist_entry>() as u64;
const _: () = assert!(
    MEMMAP + (memmap::MAX_ENTRIES * size_of::<hvm_memmap_table_entry>()) as u64
        <= layout::PVH_INFO + layout::PVH_INFO_SIZE
);

pub(super) fn write(
    mem: &GuestMemoryMmap,
    memmap: &[memmap::MemoryRange],
    initrd: Option<&Range<u64>>,
    rsdp: u64,
) -> Result<(), BootError> {
    let entries: Vec<_> = memmap
        .iter()
        .map(|e| hvm_memmap_table_entry {
            addr: e.addr,
            size: e.size,
            type_: e.kind as u32,
            reserved: 0,
        })
        .collect();
    let modules: Vec<_> = initrd
        .map(|range| hvm_modlist_entry {
            paddr: range.start,
            size: range.end - range.start,
            cmdline_paddr: 0,
            reserved: 0,
        })
        .into_iter()
        .collect();
    let info = hvm_start_info {
        magic: XEN_HVM_START_MAGIC_VALUE,
        version: 1,
        flags: 0,
        nr_modules: modules.len() as u32,
        modlist_paddr: if modules.is_empty() { 0 } else { MODLIST },
        cmdline_paddr: layout::CMDLINE,
        rsdp_paddr: rsdp,
        memmap_paddr: MEMMAP,
        memmap_entries: entries.len() as u32,
        reserved: 0,
    };
    let mut params = BootParams::new(&info, GuestAddress(layout::PVH_INFO));
    params.set_sections(&entries, GuestAddress(MEMMAP));
    params.set_modules(&modules, GuestAddress(MODLIST));
    PvhBootConfigurator::write_bootparams(&params, mem)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use vm_memory::Bytes;

    #[test]
    fn golden_bytes() {
        let mem = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 2 << 20)]).unwrap();
        write(&mem, &memmap::build(&mem), Some(&(0x1F_0000..0x1F_0123)), 0xE_0000).unwrap();
        let u32_at = |at: u64| mem.read_obj::<u32>(GuestAddress(0x6000 + at)).unwrap();
        let u64_at = |at: u64| mem.read_obj::<u64>(GuestAddress(0x6000 + at)).unwrap();
        // magic, version, flags, nr_modules
        assert_eq!([0, 4, 8, 12].map(u32_at), [0x336E_C578, 1, 0, 1]);
        // modlist, cmdline, rsdp, memmap
        assert_eq!([16, 24, 32, 40].map(u64_at), [0x6038, 0x2_0000, 0xE_0000, 0x6058]);
        assert_eq!(u32_at(48), 6);
        assert_eq!([0x38, 0x40, 0x48].map(u64_at), [0x1F_0000, 0x123, 0]);
        // First map entry: conventional memory.
        assert_eq!([0x58, 0x60].map(u64_at), [0, 0x9_FC00]);
        assert_eq!(u32_at(0x68), 1);
    }

    #[test]
    fn no_initrd_means_no_modules() {
        let mem = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 2 << 20)]).unwrap();
        write(&mem, &memmap::build(&mem), None, 0).unwrap();
        assert_eq!(mem.read_obj::<u32>(GuestAddress(0x600C)).unwrap(), 0);
        assert_eq!(mem.read_obj::<u64>(GuestAddress(0x6010)).unwrap(), 0);
    }
}
