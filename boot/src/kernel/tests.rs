use super::*;
use crate::layout::{self, MIB};
use crate::source::Unpacked;
use crate::testing::{BzImage, Elf, ElfSegment, note, pvh_note};
use proptest::prelude::*;
use std::cell::{Cell, RefCell};
use std::fs::File;
use std::io::{self, Write};
use vm_memory::{Bytes, GuestAddress};

const ALL: [Compression; 5] =
    [Compression::Gzip, Compression::Xz, Compression::Lzma, Compression::Lz4, Compression::Zstd];

fn memory(mib: u64) -> GuestMemoryMmap {
    GuestMemoryMmap::from_ranges(&layout::ram_regions(mib * MIB)).unwrap()
}

fn load_with(
    image: &[u8],
    mem: &GuestMemoryMmap,
    protocol: Protocol,
) -> Result<Loaded, KernelError> {
    load(Source::Bytes(image), mem, protocol, None)
}

fn try_load(image: &[u8]) -> Result<Loaded, KernelError> {
    load_with(image, &memory(16), Protocol::Auto)
}

fn message(image: &[u8]) -> String {
    try_load(image).unwrap_err().to_string()
}

/// Code that compresses neither to nothing nor not at all, with calls for the BCJ filter.
fn code(len: usize) -> Vec<u8> {
    let mut state = 1u32;
    let mut code = Vec::with_capacity(len + 8);
    while code.len() < len {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        code.extend([0xE8, (state >> 24) as u8, 0x10, 0, 0, 0x90, 0x90, (state >> 16) as u8]);
    }
    code.truncate(len);
    code
}

fn read(mem: &GuestMemoryMmap, at: u64, len: usize) -> Vec<u8> {
    let mut buf = vec![0; len];
    mem.read_slice(&mut buf, GuestAddress(at)).unwrap();
    buf
}

#[test]
fn elf_by_pvh_and_by_the_64_bit_protocol() {
    let code = code(5000);
    let elf = Elf::new(MIB, &code).pvh(0x10_0040).build();
    let mem = memory(16);
    let loaded = load_with(&elf, &mem, Protocol::Auto).unwrap();
    assert_eq!(loaded.entry, EntryPoint::Pvh(0x10_0040));
    assert_eq!(loaded.range, MIB..MIB + 5000 + 0x1000);
    assert_eq!(loaded.format, Format::Elf);
    assert_eq!(read(&mem, MIB, 5000), code);
    let loaded = load_with(&elf, &memory(16), Protocol::Linux64).unwrap();
    assert_eq!(loaded.entry, EntryPoint::Linux64(MIB));
    let plain = Elf::new(MIB, &code).build();
    assert_eq!(try_load(&plain).unwrap().entry, EntryPoint::Linux64(MIB));
    let err = load_with(&plain, &memory(16), Protocol::Pvh).unwrap_err();
    assert!(matches!(err, KernelError::NoPvhEntry));
}

#[test]
fn a_file_is_loaded_as_bytes_are() {
    let code = code(70_000);
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&Elf::new(MIB, &code).pvh(MIB as u32).build()).unwrap();
    let mem = memory(16);
    let loaded = load(Source::File(&file), &mem, Protocol::Auto, None).unwrap();
    assert_eq!(loaded.entry, EntryPoint::Pvh(MIB as u32));
    assert_eq!(read(&mem, MIB, code.len()), code);
}

#[test]
fn a_pipe_is_read_to_its_end() {
    let image = Elf::new(MIB, &code(3000)).pvh(MIB as u32).build();
    let (reader, mut writer) = io::pipe().unwrap();
    // Fits the pipe's buffer, so no second thread is needed.
    writer.write_all(&image).unwrap();
    drop(writer);
    let file = File::from(std::os::fd::OwnedFd::from(reader));
    assert!(load(Source::File(&file), &memory(16), Protocol::Auto, None).is_ok());
}

#[test]
fn a_length_of_0_is_not_believed() {
    let proc = File::open("/proc/version").unwrap();
    assert_eq!(proc.metadata().unwrap().len(), 0);
    let loaded = load(Source::File(&proc), &memory(16), Protocol::Auto, None);
    assert!(matches!(loaded, Err(KernelError::NotAKernel(_))), "{loaded:?}");
    let empty = tempfile::tempfile().unwrap();
    let loaded = load(Source::File(&empty), &memory(16), Protocol::Auto, None);
    assert!(matches!(loaded, Err(KernelError::Empty)), "{loaded:?}");
}

#[test]
fn the_pvh_note_is_found_wherever_it_is() {
    let entry = |elf: &Elf| try_load(&elf.build()).unwrap().entry;
    let base = Elf::new(MIB, &code(100));
    let want = EntryPoint::Pvh(MIB as u32 + 8);
    let build_id = || note(3, b"GNU\0", &[7; 20], 4);
    let pvh = || pvh_note(MIB as u32 + 8);
    // Not the last PT_NOTE; not the first note of one; 8-byte alignment; 8-byte address.
    let mut elf = base.clone();
    elf.notes = vec![(pvh(), 4), (build_id(), 4)];
    assert_eq!(entry(&elf), want);
    elf.notes = vec![(build_id(), 4), ([build_id(), pvh()].concat(), 4)];
    assert_eq!(entry(&elf), want);
    let wide = note(18, b"Xen\0", &(MIB + 8).to_le_bytes(), 8);
    elf.notes = vec![([note(5, b"GNU\0", &[1; 12], 8), wide.clone()].concat(), 8)];
    assert_eq!(entry(&elf), want);
    elf.notes = vec![([build_id(), pvh()].concat(), 8)];
    assert_eq!(entry(&elf), want);
    // Only in a section.
    elf.notes = vec![];
    elf.note_sections = vec![build_id(), pvh()];
    assert_eq!(entry(&elf), want);
    // Another owner's note 18, another Xen note, a cut-off one: none of them counts.
    let mut cut = pvh();
    cut.truncate(17);
    elf.note_sections = vec![];
    for other in [note(18, b"GNU\0", &[0; 4], 4), note(6, b"Xen\0", &[0; 4], 4), cut] {
        elf.notes = vec![(other, 4)];
        assert_eq!(entry(&elf), EntryPoint::Linux64(MIB));
    }
}

#[test]
fn a_virtual_entry_is_translated() {
    let mut elf = Elf::new(MIB, &code(100));
    elf.segments[0].vaddr = 0xFFFF_FFFF_8010_0000;
    elf.entry = 0xFFFF_FFFF_8010_0010;
    assert_eq!(try_load(&elf.build()).unwrap().entry, EntryPoint::Linux64(MIB + 0x10));
}

#[test]
fn entries_must_be_inside_the_kernel() {
    let mut elf = Elf::new(MIB, &code(100));
    elf.entry = 0x50_0000;
    assert!(message(&elf.build()).contains("ELF entry 0x500000 is outside its own code"));
    let elf = Elf::new(MIB, &code(100)).pvh(0x1234);
    assert!(message(&elf.build()).contains("PVH entry 0x1234 is outside its own code"));
}

#[test]
fn a_segment_of_zeros_has_no_place_in_the_file() {
    let mut elf = Elf::new(MIB, &code(100));
    elf.segments.push(ElfSegment::new(2 * MIB, &[], 0x1000));
    let mut image = elf.build();
    for offset in [image.len() as u64 + 1, 1 << 63, u64::MAX] {
        // p_offset of the second program header.
        image[64 + 56 + 8..][..8].copy_from_slice(&offset.to_le_bytes());
        assert_eq!(try_load(&image).unwrap().range, MIB..2 * MIB + 0x1000);
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&image).unwrap();
        load(Source::File(&file), &memory(16), Protocol::Auto, None).unwrap();
    }
}

#[test]
fn an_ordinary_program_is_no_kernel() {
    // PT_INTERP is 3, where PT_NOTE is 4: the first note becomes the name of a linker.
    let interp = |elf: &Elf| {
        let mut image = elf.build();
        image[64 + 56] = 3;
        image
    };
    let mut elf = Elf::new(MIB, &code(100));
    elf.notes = vec![(b"/lib64/ld-linux-x86-64.so.2\0".to_vec(), 1)];
    assert_eq!(message(&interp(&elf)), "not a kernel: an ordinary program");
    // As position-independent ones are: linked to run at 0.
    elf.segments[0].paddr = 0;
    assert_eq!(message(&interp(&elf)), "not a kernel: an ordinary program");
    // A static one has PT_TLS.
    let mut fixed = interp(&Elf { notes: vec![(vec![0; 8], 8)], ..Elf::new(MIB, &code(100)) });
    fixed[64 + 56] = 7;
    assert_eq!(message(&fixed), "not a kernel: an ordinary program");
    // FreeBSD's kernel.
    let mut elf = Elf::new(MIB, &code(100));
    elf.notes = vec![(b"/red/herring\0".to_vec(), 1), (pvh_note(MIB as u32), 4)];
    assert_eq!(try_load(&interp(&elf)).unwrap().entry, EntryPoint::Pvh(MIB as u32));
}

#[test]
fn segments_must_fit_memory() {
    let mut elf = Elf::new(MIB, &code(100));
    elf.segments[0].mem_len = 15 * MIB;
    assert!(try_load(&elf.build()).is_ok());
    elf.segments[0].mem_len += 1;
    assert_eq!(
        message(&elf.build()),
        "the kernel needs guest memory up to 0x1000001, RAM below the device hole ends at \
         0x1000000: give the guest at least 17 MiB"
    );
    elf.segments[0].mem_len = u64::MAX;
    assert!(message(&elf.build()).contains("linked too high"));
    elf.segments[0].mem_len = 99;
    assert!(message(&elf.build()).contains("larger in the file than in memory"));
    let low = Elf::new(0x8_0000, &code(100));
    assert!(message(&low.build()).contains("wants guest address 0x80000"));
    let mut two = Elf::new(MIB, &code(100));
    two.segments.push(ElfSegment::new(MIB + 0x1000, &[1], 0));
    assert!(message(&two.build()).contains("overlap"));
}

/// The number that a kernel takes is the same, whatever there was.
#[test]
fn the_memory_that_is_named_is_enough() {
    let mut elf = Elf::new(MIB, &vec![0x90; 20 << 20]);
    elf.segments.push(ElfSegment::new(40 * MIB, &[1; 100], MIB - 100));
    let vmlinux = elf.build();
    let mut files = vec![vmlinux.clone()];
    for compression in ALL {
        files.push(BzImage::new(&vmlinux, compression).unwrap().build());
    }
    for file in &files {
        for mib in [2, 16, 30, 40] {
            let loaded = load_with(file, &memory(mib), Protocol::Auto);
            let error = loaded.map(|_| ()).unwrap_err().to_string();
            assert!(error.ends_with("give the guest at least 41 MiB"), "{mib} MiB: {error}");
        }
        load_with(file, &memory(41), Protocol::Auto).unwrap();
    }
}

#[test]
fn nothing_is_written_for_a_refused_kernel() {
    let mut elf = Elf::new(MIB, &code(100));
    elf.segments.push(ElfSegment::new(64 * MIB, &[1], 0));
    let mem = memory(16);
    load_with(&elf.build(), &mem, Protocol::Auto).unwrap_err();
    assert_eq!(read(&mem, MIB, 100), [0; 100]);
}

#[test]
fn files_that_are_no_kernel() {
    assert_eq!(message(b""), "the kernel file is empty");
    assert!(message(b"hello").contains("too short"));
    assert!(message(&[b'x'; 4096]).contains("neither an ELF vmlinux nor a bzImage"));
    assert!(message(&[&b"\x1f\x8b\x08"[..], &[0; 100]].concat()).contains("compressed file"));
    assert!(message(&[&b"070701"[..], &[b'0'; 200]].concat()).contains("cpio"));
    assert!(message(&[&b"MZ"[..], &[0; 2000]].concat()).contains("unified kernel image"));
    for magic in [&b"BZh91AY"[..], b"\x28\xb5\x2f\xfd", b"\xfd7zXZ\0", b"\x02\x21\x4c\x18"] {
        assert!(message(&[magic, &[1; 100]].concat()).contains("compressed file"), "{magic:?}");
    }
    let disk = |parts: &[(usize, &[u8])]| {
        let mut image = vec![0; 0x9000];
        for (at, bytes) in parts {
            image[*at..at + bytes.len()].copy_from_slice(bytes);
        }
        message(&image)
    };
    let boot: (usize, &[u8]) = (510, b"\x55\xaa");
    for (parts, want) in [
        (&[(0, &b"QFI\xfb"[..])][..], "a disk image (qcow2)"),
        (&[boot, (0x8001, b"CD001")], "a disk image (ISO 9660)"),
        (&[boot, (450, &[0xee]), (512, b"EFI PART")], "a disk image (GPT)"),
        (&[boot, (446, &[0x80]), (450, &[0x83])], "a disk image (MBR)"),
        (&[(0x438, b"\x53\xef")], "a disk image (ext4)"),
        // A boot sector alone may be anything's.
        (&[boot], "neither an ELF vmlinux nor a bzImage"),
    ] {
        assert!(disk(parts).contains(want), "{want}: {}", disk(parts));
    }
    let mut arm64 = vec![0; 4096];
    arm64[0x38..0x3C].copy_from_slice(b"ARM\x64");
    assert_eq!(message(&arm64), "the kernel is for arm64, this machine runs x86_64 kernels");
    let mut elf = Elf::new(MIB, &code(100));
    elf.machine = 183;
    assert!(message(&elf.build()).contains("for arm64"));
    let mut i386 = Elf::new(MIB, &code(100)).build();
    (i386[4], i386[18]) = (1, 3);
    assert!(message(&i386).contains("32-bit x86"));
    let mut object = Elf::new(MIB, &code(100)).build();
    object[16] = 1;
    assert!(message(&object).contains("kernel module"));
}

#[test]
fn truncated_at_any_byte() {
    let elf = Elf::new(MIB, &code(300)).pvh(MIB as u32).build();
    // The note is last, and a kernel without it is complete.
    for len in 1..elf.len() - 20 {
        let err = try_load(&elf[..len]).unwrap_err();
        if len >= 64 {
            assert!(matches!(err, KernelError::Truncated { .. }), "{len}: {err}");
        }
    }
    let bz = BzImage::new(&elf, Compression::Gzip).unwrap().build();
    for len in (1..bz.len() - 16).step_by(7) {
        let err = try_load(&bz[..len]).unwrap_err();
        if len >= 0x270 {
            assert!(matches!(err, KernelError::Truncated { .. }), "{len}: {err}");
        }
    }
}

#[test]
fn bzimage_in_every_compression() {
    for compression in ALL {
        // More than one LZ4 block.
        let len = if compression == Compression::Lz4 { 9 << 20 } else { 300_000 };
        let code = code(len + 123);
        let elf = Elf::new(MIB, &code).pvh(0x10_0040).build();
        let file = BzImage::new(&elf, compression).unwrap().build();
        assert!(file.len() < elf.len(), "{compression}");
        let mem = memory(32);
        let loaded = load_with(&file, &mem, Protocol::Auto).unwrap();
        assert_eq!(loaded.format, Format::BzImage(compression));
        assert_eq!(loaded.entry, EntryPoint::Pvh(0x10_0040));
        assert_eq!((loaded.initrd_max, loaded.cmdline_max), (32 * MIB, 2047));
        assert!(read(&mem, MIB, code.len()) == code, "{compression}");
        let loaded = load_with(&file, &memory(32), Protocol::Linux64).unwrap();
        assert_eq!(loaded.entry, EntryPoint::Linux64(MIB));
        assert_eq!({ loaded.header.unwrap().version }, 0x20F);
    }
}

#[test]
fn relocations_after_the_elf_are_ignored() {
    let mut payload = Elf::new(MIB, &code(5000)).pvh(MIB as u32).build();
    payload.extend([0xAB; 4096]);
    let file = BzImage::new(&payload, Compression::Zstd).unwrap().build();
    assert_eq!(try_load(&file).unwrap().range.end, MIB + 5000 + 0x1000);
}

#[test]
fn damage_to_a_payload_is_noticed() {
    let elf = Elf::new(MIB, &code(50_000)).pvh(MIB as u32).build();
    for compression in ALL {
        let good = BzImage::new(&elf, compression).unwrap();
        // A wrong length.
        let mut bad = good.clone();
        let at = bad.payload.len() - 4;
        bad.payload[at] ^= 1;
        let err = try_load(&bad.build()).unwrap_err();
        assert!(matches!(err, KernelError::Unpack { .. }), "{compression}: {err}");
        // A length beyond what was granted.
        let mut bomb = good.clone();
        bomb.payload[at + 3] = 0x7F;
        let err = try_load(&bomb.build()).unwrap_err();
        assert!(matches!(err, KernelError::TooLarge { .. }), "{compression}: {err}");
        // Cut in the middle; the length stays.
        let mut cut = good.clone();
        cut.payload.drain(at / 2..at);
        assert!(try_load(&cut.build()).is_err(), "{compression}");
        let mut short = good.clone();
        short.payload.truncate(7);
        assert!(try_load(&short.build()).is_err(), "{compression}");
    }
}

#[test]
fn a_bomb_is_refused_before_it_unpacks() {
    // 64 MiB of zeros behind a few KiB, for a machine of 16 MiB.
    let zeros = vec![0; 64 << 20];
    let file = BzImage::new(&zeros, Compression::Gzip).unwrap();
    let err = try_load(&file.build()).unwrap_err();
    assert!(matches!(err, KernelError::DoesNotFit { ram_end: 0x100_0000, .. }), "{err}");
    // The header admits less than the payload holds.
    let mut lying = file.clone();
    lying.init_size = 0x10_0000;
    let err = try_load(&lying.build()).unwrap_err();
    assert!(matches!(err, KernelError::TooLarge { limit: 0x10_0000, .. }), "{err}");
    // The length admits less: as many bytes are unpacked as it says, then the rest is noticed.
    let at = lying.payload.len() - 4;
    lying.payload[at..].copy_from_slice(&4096u32.to_le_bytes());
    assert!(matches!(try_load(&lying.build()), Err(KernelError::Unpack { .. })));
}

#[test]
fn an_unknown_payload_unpacks_itself() {
    let mut bz = BzImage::with_payload(vec![b'B'; 10_000], 50_000);
    bz.pref_address = 2 * MIB;
    let mem = memory(16);
    let loaded = load_with(&bz.build(), &mem, Protocol::Auto).unwrap();
    assert_eq!(loaded.format, Format::BzImageSelfExtracting);
    assert_eq!(loaded.entry, EntryPoint::Linux64(2 * MIB + 0x200));
    assert_eq!(loaded.range, 2 * MIB..2 * MIB + u64::from(bz.init_size));
    assert_eq!(read(&mem, 2 * MIB, 0x400), bz.code);
    assert_eq!(read(&mem, 2 * MIB + 0x400, 10_000), bz.payload);
    // RAM ends before: it would unpack to there from anywhere else, too.
    bz.pref_address = 15 * MIB + 4096;
    assert!(message(&bz.build()).ends_with("give the guest at least 17 MiB"));
    bz.pref_address = u64::MAX;
    assert!(message(&bz.build()).contains("linked too high"));
    // No place that it prefers: the lowest aligned, if it may move.
    (bz.pref_address, bz.alignment) = (0, 4 * MIB as u32);
    assert_eq!(try_load(&bz.build()).unwrap().entry, EntryPoint::Linux64(4 * MIB + 0x200));
    bz.alignment = 0;
    assert!(matches!(try_load(&bz.build()), Err(KernelError::TooLow(0))));
    // No 64-bit entry, and no PVH without reading the payload.
    bz.xloadflags = 0;
    assert!(matches!(try_load(&bz.build()), Err(KernelError::No64BitEntry)));
    let err = load_with(&bz.build(), &memory(16), Protocol::Pvh).unwrap_err();
    assert!(matches!(err, KernelError::NoPvhInPayload));
}

#[test]
fn old_protocols_lack_fields() {
    let elf = Elf::new(MIB, &code(5000)).build();
    let mut bz = BzImage::new(&elf, Compression::Gzip).unwrap();
    bz.version = 0x208;
    // The payload is readable; init_size and xloadflags do not exist yet.
    assert!(try_load(&bz.build()).is_ok());
    bz.version = 0x207;
    assert!(matches!(try_load(&bz.build()), Err(KernelError::No64BitEntry)));
}

/// Everything below 1 MiB and above the kernel's claim stays zero.
fn check_untouched(mem: &GuestMemoryMmap, loaded: Option<&Loaded>) {
    assert!(read(mem, 0, MIB as usize).iter().all(|&b| b == 0));
    let end = loaded.map_or(MIB, |l| l.range.end);
    let rest = read(mem, end, (4 * MIB - end) as usize);
    assert!(loaded.is_none() || rest.iter().all(|&b| b == 0));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn arbitrary_bytes(mut bytes in proptest::collection::vec(any::<u8>(), 0..3000), magic in 0..3) {
        match magic {
            0 => bytes.splice(0..bytes.len().min(6), *b"\x7fELF\x02\x01").for_each(drop),
            1 if bytes.len() > 0x206 => {
                bytes[0x1FE..0x200].copy_from_slice(b"\x55\xaa");
                bytes[0x202..0x206].copy_from_slice(b"HdrS");
            }
            _ => {}
        }
        let mem = memory(4);
        let loaded = load_with(&bytes, &mem, Protocol::Auto).ok();
        check_untouched(&mem, loaded.as_ref());
    }

    #[test]
    fn mutated_elf(
        at in proptest::collection::vec((0usize..700, any::<u8>()), 1..6), protocol in 0usize..3,
    ) {
        let mut elf = Elf::new(MIB, &code(300)).pvh(MIB as u32);
        elf.note_sections.push(pvh_note(MIB as u32));
        let mut bytes = elf.build();
        for (at, value) in at {
            let at = at % bytes.len();
            bytes[at] = value;
        }
        let protocol = [Protocol::Auto, Protocol::Pvh, Protocol::Linux64][protocol];
        let mem = memory(4);
        let loaded = load_with(&bytes, &mem, protocol).ok();
        check_untouched(&mem, loaded.as_ref());
    }

    #[test]
    fn mutated_bzimage(
        at in proptest::collection::vec((0usize..0x2000, any::<u8>()), 1..6), which in 0usize..5,
    ) {
        let elf = Elf::new(MIB, &code(3000)).pvh(MIB as u32).build();
        let mut bytes = BzImage::new(&elf, ALL[which]).unwrap().build();
        for (at, value) in at {
            // Half of them into the header's fields, half into code and payload.
            let at = if at < 0x1000 { 0x1F1 + at % 0x80 } else { 0xA00 + at % (bytes.len() - 0xA00) };
            bytes[at] = value;
        }
        let mem = memory(4);
        let loaded = load_with(&bytes, &mem, Protocol::Auto).ok();
        check_untouched(&mem, loaded.as_ref());
    }
}

/// Keeps one kernel, as it was given or damaged.
#[derive(Debug, Default)]
struct OneKept {
    kept: RefCell<Option<([u8; 32], Vec<u8>)>>,
    /// Where it can no longer be read.
    bad: Cell<Option<u64>>,
    written: Cell<u32>,
}

#[derive(Debug)]
struct Kept(Vec<u8>, Option<u64>);

impl Unpacked for Kept {
    fn size(&self) -> u64 {
        self.0.len() as u64
    }

    fn pass(
        &self,
        offset: u64,
        len: usize,
        sink: &mut dyn FnMut(&[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        let end = offset as usize + len;
        for piece in self.0[offset as usize..end].chunks(4096) {
            if self.1.is_some_and(|bad| (offset..end as u64).contains(&bad)) {
                return Err(io::ErrorKind::InvalidData.into());
            }
            sink(piece)?;
        }
        Ok(())
    }
}

impl Store for OneKept {
    fn key(&self, payload: &mut dyn io::Read) -> io::Result<[u8; 32]> {
        let (mut key, mut bytes) = ([0u8; 32], Vec::new());
        payload.read_to_end(&mut bytes)?;
        for (i, byte) in bytes.iter().enumerate() {
            key[i % 32] = key[i % 32].wrapping_mul(31).wrapping_add(*byte);
        }
        Ok(key)
    }

    fn find(&self, key: &[u8; 32]) -> Option<Box<dyn Unpacked>> {
        let kept = self.kept.borrow();
        let (has, vmlinux) = kept.as_ref()?;
        (has == key).then(|| Box::new(Kept(vmlinux.clone(), self.bad.get())) as Box<dyn Unpacked>)
    }

    fn keep(&self, key: &[u8; 32], vmlinux: Vec<u8>) {
        self.bad.set(None);
        self.written.set(self.written.get() + 1);
        *self.kept.borrow_mut() = Some((*key, vmlinux));
    }
}

#[test]
fn an_unpacked_kernel_is_kept_and_loaded_again() {
    let code = code(300_000);
    let elf = Elf::new(MIB, &code).pvh(0x10_0040).build();
    let file = BzImage::new(&elf, Compression::Zstd).unwrap().build();
    let store = OneKept::default();
    let load = || {
        let mem = memory(16);
        let loaded = load(Source::Bytes(&file), &mem, Protocol::Auto, Some(&store)).unwrap();
        assert!(read(&mem, MIB, code.len()) == code);
        assert_eq!(read(&mem, MIB + code.len() as u64, 0x1000), [0; 0x1000]);
        assert_eq!(loaded.format, Format::BzImage(Compression::Zstd));
        (loaded.entry, loaded.range, store.written.get())
    };
    let (entry, range, _) = load();
    assert_eq!(store.kept.borrow().as_ref().unwrap().1, elf);
    assert_eq!(load(), (entry, range.clone(), 1));
    // Headers that can't be read, and code after some that could: unpacked anew, and kept again.
    for (bad, written) in [(0, 2), (200_000, 3)] {
        store.bad.set(Some(bad));
        assert_eq!(load(), (entry, range.clone(), written));
    }
    // One of another length, as a store that mixes kernels up gives, and one that is no kernel.
    for (wrong, written) in [(&elf[..elf.len() - 1], 4), (&vec![0; elf.len()][..], 5)] {
        store.kept.borrow_mut().as_mut().unwrap().1 = wrong.to_vec();
        assert_eq!(load(), (entry, range.clone(), written));
    }
}

#[test]
fn what_can_not_be_loaded_is_not_kept() {
    let mut elf = Elf::new(MIB, &code(100));
    elf.machine = 183;
    let file = BzImage::new(&elf.build(), Compression::Gzip).unwrap().build();
    let store = OneKept::default();
    load(Source::Bytes(&file), &memory(16), Protocol::Auto, Some(&store)).unwrap_err();
    // Nor what unpacks itself, or needs no unpacking.
    let own = BzImage::with_payload(vec![b'B'; 10_000], 50_000).build();
    load(Source::Bytes(&own), &memory(16), Protocol::Auto, Some(&store)).unwrap();
    let plain = Elf::new(MIB, &code(100)).build();
    load(Source::Bytes(&plain), &memory(16), Protocol::Auto, Some(&store)).unwrap();
    assert_eq!(store.written.get(), 0);
}
