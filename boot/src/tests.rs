use super::*;
use crate::kernel::Compression;
use crate::layout::MIB;
use crate::testing::{BzImage, Elf};
use vm_memory::{Bytes, GuestAddress};

fn memory(bytes: u64) -> GuestMemoryMmap {
    GuestMemoryMmap::from_ranges(&layout::ram_regions(bytes)).unwrap()
}

fn u64_at(mem: &GuestMemoryMmap, at: u64) -> u64 {
    mem.read_obj(GuestAddress(at)).unwrap()
}

fn vmlinux() -> Vec<u8> {
    Elf::new(MIB, &[0xF4; 5000]).pvh(MIB as u32 + 0x40).build()
}

#[test]
fn a_machine_by_pvh() {
    let (mem, vmlinux) = (memory(16 * MIB), vmlinux());
    let mut spec = BootSpec::new(Source::Bytes(&vmlinux));
    spec.cmdline = Cmdline::new("console=ttyS0 quiet").unwrap();
    spec.initrd = vec![Source::Bytes(b"archive"), Source::Bytes(b"more")];
    let state = load(&mem, &spec).unwrap();
    assert_eq!(state.entry, EntryPoint::Pvh(MIB as u32 + 0x40));
    assert_eq!((state.registers.rip, state.registers.rbx), (MIB + 0x40, layout::PVH_INFO));
    assert_eq!(state.initrd, Some(0xFF_F000..0xFF_F00C));
    // No reset is meant to be a panic yet.
    assert_eq!(mem.read_obj::<u16>(GuestAddress(layout::RESET_FLAG)).unwrap(), 0);
    // As the guest follows it: start info, command line, RSDP, module.
    let info = layout::PVH_INFO;
    let mut line = [0; 20];
    mem.read_slice(&mut line, GuestAddress(u64_at(&mem, info + 24))).unwrap();
    assert_eq!(&line, b"console=ttyS0 quiet\0");
    let mut rsdp = [0; 8];
    mem.read_slice(&mut rsdp, GuestAddress(u64_at(&mem, info + 32))).unwrap();
    assert_eq!(&rsdp, b"RSD PTR ");
    let module = u64_at(&mem, info + 16);
    assert_eq!((u64_at(&mem, module), u64_at(&mem, module + 8)), (0xFF_F000, 12));
    let mut archives = [0; 12];
    mem.read_slice(&mut archives, GuestAddress(0xFF_F000)).unwrap();
    assert_eq!(&archives, b"archive\0more");
}

#[test]
fn a_bzimage_by_the_64_bit_protocol() {
    let vmlinux = vmlinux();
    let file = BzImage::new(&vmlinux, Compression::Xz).unwrap().build();
    let mem = memory(16 * MIB);
    let mut spec = BootSpec::new(Source::Bytes(&file));
    spec.protocol = Protocol::Linux64;
    let state = load(&mem, &spec).unwrap();
    assert_eq!(state.format.to_string(), "bzImage (xz)");
    assert_eq!(state.registers.rsi, layout::ZERO_PAGE);
    let zero_page = layout::ZERO_PAGE;
    assert_eq!(u64_at(&mem, zero_page + 0x70), layout::ACPI);
    // The kernel's own header went along: pref_address.
    assert_eq!(u64_at(&mem, zero_page + 0x258), MIB);
    assert_eq!(u64_at(&mem, layout::PAGE_TABLES), (layout::PAGE_TABLES + 0x1000) | 3);
}

#[test]
fn the_kernel_bounds_the_command_line() {
    let mut bz = BzImage::new(&vmlinux(), Compression::Lz4).unwrap();
    bz.cmdline_size = 255;
    let file = bz.build();
    let mut spec = BootSpec::new(Source::Bytes(&file));
    spec.cmdline = Cmdline::new(&"x".repeat(255)).unwrap();
    load(&memory(16 * MIB), &spec).unwrap();
    spec.cmdline = Cmdline::new(&"x".repeat(256)).unwrap();
    assert_eq!(
        load(&memory(16 * MIB), &spec).unwrap_err().to_string(),
        "the kernel command line has 256 bytes, this kernel reads at most 255: shorten it"
    );
}

#[test]
fn the_initrd_must_fit_beside_the_kernel() {
    let (vmlinux, big) = (vmlinux(), vec![1; 15 << 20]);
    let mut spec = BootSpec::new(Source::Bytes(&vmlinux));
    spec.initrd = vec![Source::Bytes(&big)];
    assert_eq!(
        load(&memory(16 * MIB), &spec).unwrap_err().to_string(),
        "the initrd has 15 MiB, guest memory has room for 14 MiB beside the kernel: \
         give the guest more memory or use a smaller initrd"
    );
    load(&memory(17 * MIB), &spec).unwrap();
}

#[test]
fn machines_that_cannot_be_described() {
    let vmlinux = vmlinux();
    let refused = |size: u64, change: &dyn Fn(&mut Platform)| {
        let mut spec = BootSpec::new(Source::Bytes(&vmlinux));
        change(&mut spec.platform);
        load(&memory(size), &spec).unwrap_err().to_string()
    };
    assert!(refused(MIB, &|_| {}).contains("at least 2 MiB"));
    for cpus in [0, 33, u32::MAX] {
        assert!(refused(16 * MIB, &|p| p.cpus = cpus).contains("give the guest 1 to 32"));
    }
    let slot = |i| layout::virtio_mmio_slot(i).unwrap();
    let many = |p: &mut Platform| p.virtio_mmio = vec![slot(0); 20];
    assert!(refused(16 * MIB, &many).contains("20 virtio-mmio devices: at most 19"));
    for bad in [
        MmioDevice { base: 0x1000, ..slot(0) },
        MmioDevice { size: u64::MAX, ..slot(0) },
        MmioDevice { gsi: 24, ..slot(0) },
        MmioDevice { gsi: layout::COM1_GSI, ..slot(0) },
    ] {
        let change = |p: &mut Platform| p.virtio_mmio = vec![bad];
        assert!(refused(16 * MIB, &change).contains("outside the device hole"));
    }
}
