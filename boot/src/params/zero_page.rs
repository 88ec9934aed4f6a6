//! `boot_params`, the zero page (Linux `Documentation/arch/x86/zero-page.rst`, `boot.rst`).

use std::ops::Range;

use linux_loader::configurator::linux::LinuxBootConfigurator;
use linux_loader::configurator::{BootConfigurator, BootParams};
use linux_loader::loader::bootparam::{boot_e820_entry, boot_params, setup_header};
use vm_memory::{GuestAddress, GuestMemoryMmap};

use crate::BootError;
use crate::{layout, memmap};

const BOOT_FLAG: u16 = 0xAA55;
const HDRS: u32 = 0x5372_6448;
/// `type_of_loader`: a loader without an assigned number.
const LOADER_UNDEFINED: u8 = 0xFF;
/// `loadflags` LOADED_HIGH: protected-mode code is at 1 MiB or above.
const LOADED_HIGH: u8 = 1;
/// What an x86_64 vmlinux is built for; a bare ELF does not say.
const KERNEL_ALIGNMENT: u32 = 0x100_0000;

pub(super) fn write(
    mem: &GuestMemoryMmap,
    memmap: &[memmap::MemoryRange],
    initrd: Option<&Range<u64>>,
    header: Option<setup_header>,
    cmdline_len: usize,
    rsdp: u64,
) -> Result<(), BootError> {
    let mut hdr = header.unwrap_or(setup_header {
        boot_flag: BOOT_FLAG,
        header: HDRS,
        version: 0x20F,
        kernel_alignment: KERNEL_ALIGNMENT,
        ..Default::default()
    });
    hdr.type_of_loader = LOADER_UNDEFINED;
    hdr.loadflags |= LOADED_HIGH;
    hdr.cmd_line_ptr = layout::CMDLINE as u32;
    hdr.cmdline_size = cmdline_len as u32;
    if let Some(range) = initrd {
        // Below 3 GiB by construction.
        hdr.ramdisk_image = range.start as u32;
        hdr.ramdisk_size = (range.end - range.start) as u32;
    }
    // Not ours to pass on: a list that only a boot loader makes.
    hdr.setup_data = 0;
    let mut params = boot_params { hdr, acpi_rsdp_addr: rsdp, ..Default::default() };
    let mut table = params.e820_table;
    for (slot, e) in table.iter_mut().zip(memmap) {
        *slot = boot_e820_entry { addr: e.addr, size: e.size, r#type: e.kind as u32 };
    }
    params.e820_table = table;
    params.e820_entries = memmap.len().min(table.len()) as u8;
    LinuxBootConfigurator::write_bootparams(
        &BootParams::new(&params, GuestAddress(layout::ZERO_PAGE)),
        mem,
    )?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use vm_memory::Bytes;

    #[test]
    fn golden_bytes() {
        let mem = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 2 << 20)]).unwrap();
        let header = setup_header { version: 0x20D, setup_data: 0x1234, ..Default::default() };
        let initrd = 0x1F_0000..0x1F_0123;
        write(&mem, &memmap::build(&mem), Some(&initrd), Some(header), 77, 0xE_0000).unwrap();
        let u8_at = |at: u64| mem.read_obj::<u8>(GuestAddress(0x7000 + at)).unwrap();
        let u32_at = |at: u64| mem.read_obj::<u32>(GuestAddress(0x7000 + at)).unwrap();
        let u64_at = |at: u64| mem.read_obj::<u64>(GuestAddress(0x7000 + at)).unwrap();
        assert_eq!(u64_at(0x70), 0xE_0000, "acpi_rsdp_addr");
        assert_eq!(u8_at(0x1E8), 6, "e820_entries");
        assert_eq!(mem.read_obj::<u16>(GuestAddress(0x7206)).unwrap(), 0x20D, "version");
        assert_eq!(u8_at(0x210), 0xFF, "type_of_loader");
        assert_eq!(u8_at(0x211), 1, "loadflags");
        assert_eq!([0x218, 0x21C].map(u32_at), [0x1F_0000, 0x123], "ramdisk");
        assert_eq!([0x228, 0x238].map(u32_at), [0x2_0000, 77], "cmdline");
        assert_eq!(u64_at(0x250), 0, "setup_data");
        // e820[0] and e820[1], 20 bytes each.
        assert_eq!((u64_at(0x2D0), u64_at(0x2D8), u32_at(0x2E0)), (0, 0x9_FC00, 1));
        assert_eq!((u64_at(0x2E4), u64_at(0x2EC), u32_at(0x2F4)), (0x9_FC00, 0x400, 2));
    }

    #[test]
    fn a_bare_elf_gets_a_valid_header() {
        let mem = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 2 << 20)]).unwrap();
        write(&mem, &memmap::build(&mem), None, None, 0, 0).unwrap();
        let mut magic = [0; 6];
        mem.read_slice(&mut magic[..2], GuestAddress(0x71FE)).unwrap();
        mem.read_slice(&mut magic[2..], GuestAddress(0x7202)).unwrap();
        assert_eq!(&magic, b"\x55\xaaHdrS");
    }
}
