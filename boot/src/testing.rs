//! Kernels made to order, for tests: ELF images, and bzImages around them.
//!
//! What is built here panics on inputs that no test has reason to give.

use std::io::{self, Write};

use lzma_rust2::{CheckType, FilterType, LzmaOptions, LzmaWriter, XzOptions, XzWriter};

use crate::kernel::Compression;

/// An ELF executable under construction.
#[derive(Clone, Debug)]
pub struct Elf {
    /// `e_machine`; 62 is x86_64.
    pub machine: u16,
    /// `e_entry`.
    pub entry: u64,
    /// PT_LOAD segments.
    pub segments: Vec<ElfSegment>,
    /// PT_NOTE segments, in order, each with its alignment.
    pub notes: Vec<(Vec<u8>, u64)>,
    /// SHT_NOTE sections.
    pub note_sections: Vec<Vec<u8>>,
    /// SHT_PROGBITS sections: `sh_flags`, and what they have of the first segment's contents.
    pub sections: Vec<(u64, std::ops::Range<u64>)>,
}

/// One PT_LOAD.
#[derive(Clone, Debug)]
pub struct ElfSegment {
    /// `p_paddr`.
    pub paddr: u64,
    /// `p_vaddr`.
    pub vaddr: u64,
    /// File contents.
    pub data: Vec<u8>,
    /// `p_memsz`.
    pub mem_len: u64,
}

impl ElfSegment {
    /// `data` at `paddr`, followed by `bss` zero bytes, mapped one to one.
    #[must_use]
    pub fn new(paddr: u64, data: &[u8], bss: u64) -> Self {
        let mem_len = data.len() as u64 + bss;
        Self { paddr, vaddr: paddr, data: data.to_vec(), mem_len }
    }
}

/// An ELF note: `kind`, owner `name` with its NUL, `desc`, padded to `align`.
#[must_use]
pub fn note(kind: u32, name: &[u8], desc: &[u8], align: usize) -> Vec<u8> {
    let mut note = Vec::new();
    for word in [name.len() as u32, desc.len() as u32, kind] {
        note.extend(word.to_le_bytes());
    }
    note.extend(name);
    note.resize(note.len().next_multiple_of(align), 0);
    note.extend(desc);
    note.resize(note.len().next_multiple_of(align), 0);
    note
}

/// The note that names a PVH entry, with a 4-byte address as most linker scripts write it.
#[must_use]
pub fn pvh_note(entry: u32) -> Vec<u8> {
    note(18, b"Xen\0", &entry.to_le_bytes(), 4)
}

impl Elf {
    /// An x86_64 ELF with `code` at `paddr`, entered at its first byte; no PVH note.
    #[must_use]
    pub fn new(paddr: u64, code: &[u8]) -> Self {
        Self {
            machine: 62,
            entry: paddr,
            segments: vec![ElfSegment::new(paddr, code, 0x1000)],
            notes: Vec::new(),
            note_sections: Vec::new(),
            sections: Vec::new(),
        }
    }

    /// The same with a PVH entry.
    #[must_use]
    pub fn pvh(mut self, entry: u32) -> Self {
        self.notes.push((pvh_note(entry), 4));
        self
    }

    /// The file.
    #[must_use]
    pub fn build(&self) -> Vec<u8> {
        let phnum = self.segments.len() + self.notes.len();
        let shnum = self.note_sections.len() + self.sections.len();
        let phoff = 64;
        let shoff = phoff + 56 * phnum;
        let mut body: Vec<u8> = Vec::new();
        let mut heads = Vec::new();
        let body_at = (shoff + 64 * shnum) as u64;
        let words = |heads: &mut Vec<u8>, words: &[u64]| {
            words.iter().for_each(|w| heads.extend(w.to_le_bytes()));
        };
        for s in &self.segments {
            let offset = body_at + body.len() as u64;
            words(&mut heads, &[7 << 32 | 1, offset, s.vaddr, s.paddr]);
            words(&mut heads, &[s.data.len() as u64, s.mem_len, 0x1000]);
            body.extend(&s.data);
        }
        for (note, align) in &self.notes {
            let (offset, len) = (body_at + body.len() as u64, note.len() as u64);
            words(&mut heads, &[4 << 32 | 4, offset, 0, 0, len, len, *align]);
            body.extend(note);
        }
        for note in &self.note_sections {
            let (offset, len) = (body_at + body.len() as u64, note.len() as u64);
            words(&mut heads, &[7 << 32, 0, 0, offset, len, 0, 4, 0]);
            body.extend(note);
        }
        for (flags, part) in &self.sections {
            let (offset, len) = (body_at + part.start, part.end - part.start);
            words(&mut heads, &[1 << 32, *flags, 0, offset, len, 0, 1, 0]);
        }
        let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
        file.extend([2u16, self.machine].map(u16::to_le_bytes).concat());
        file.extend(1u32.to_le_bytes());
        let shoff = if shnum == 0 { 0 } else { shoff as u64 };
        words(&mut file, &[self.entry, phoff as u64, shoff]);
        file.extend(0u32.to_le_bytes());
        let sizes = [64, 56, phnum as u16, 64, shnum as u16, 0];
        file.extend(sizes.map(u16::to_le_bytes).concat());
        file.extend(heads);
        file.extend(body);
        file
    }
}

/// A bzImage under construction: boot sector and setup header, code, payload.
#[derive(Clone, Debug)]
pub struct BzImage {
    /// Boot protocol version.
    pub version: u16,
    /// Protected-mode code before the payload; its 64-bit entry is at 0x200.
    pub code: Vec<u8>,
    /// The payload, with the unpacked length in its last four bytes.
    pub payload: Vec<u8>,
    /// `init_size`.
    pub init_size: u32,
    /// `pref_address`.
    pub pref_address: u64,
    /// `kernel_alignment`; 0 makes the kernel not relocatable.
    pub alignment: u32,
    /// `xloadflags`.
    pub xloadflags: u16,
    /// `cmdline_size`.
    pub cmdline_size: u32,
}

impl BzImage {
    /// A bzImage as Linux's build makes it, around `vmlinux`.
    ///
    /// # Errors
    /// What the encoder says.
    pub fn new(vmlinux: &[u8], compression: Compression) -> io::Result<Self> {
        let mut payload = compress(vmlinux, compression)?;
        if compression != Compression::Gzip {
            payload.extend((vmlinux.len() as u32).to_le_bytes());
        }
        Ok(Self::with_payload(payload, vmlinux.len() as u32))
    }

    /// The same around a payload as it is, whose unpacked length is `unpacked`.
    #[must_use]
    pub fn with_payload(payload: Vec<u8>, unpacked: u32) -> Self {
        Self {
            version: 0x20F,
            code: vec![0xF4; 0x400],
            payload,
            init_size: unpacked.next_multiple_of(4096) + 0x10_0000,
            pref_address: 0x10_0000,
            alignment: 0x10_0000,
            xloadflags: 1,
            cmdline_size: 2047,
        }
    }

    /// The file.
    #[must_use]
    pub fn build(&self) -> Vec<u8> {
        const SETUP_SECTS: usize = 3;
        let mut file = vec![0; (SETUP_SECTS + 1) * 512];
        let body = (self.code.len() + self.payload.len()).next_multiple_of(16);
        let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
        put(0x1F1, &[SETUP_SECTS as u8]);
        put(0x1F4, &((body / 16) as u32).to_le_bytes());
        put(0x1FE, b"\x55\xaa\xeb\x6aHdrS");
        put(0x206, &self.version.to_le_bytes());
        put(0x211, &[1]);
        put(0x214, &0x10_0000u32.to_le_bytes());
        put(0x22C, &0x7FFF_FFFFu32.to_le_bytes());
        put(0x230, &self.alignment.to_le_bytes());
        put(0x234, &[u8::from(self.alignment != 0)]);
        put(0x236, &self.xloadflags.to_le_bytes());
        put(0x238, &self.cmdline_size.to_le_bytes());
        put(0x248, &(self.code.len() as u32).to_le_bytes());
        put(0x24C, &(self.payload.len() as u32).to_le_bytes());
        put(0x258, &self.pref_address.to_le_bytes());
        put(0x260, &self.init_size.to_le_bytes());
        file.extend(&self.code);
        file.extend(&self.payload);
        file.resize((SETUP_SECTS + 1) * 512 + body, 0);
        file
    }
}

/// Compresses as Linux's build does, without the length that it appends.
///
/// # Errors
/// What the encoder says.
pub fn compress(data: &[u8], compression: Compression) -> io::Result<Vec<u8>> {
    let mut out = Vec::new();
    match compression {
        Compression::Gzip => {
            let mut gzip = flate2::write::GzEncoder::new(out, flate2::Compression::best());
            gzip.write_all(data)?;
            out = gzip.finish()?;
        }
        Compression::Xz => {
            let mut options = XzOptions::with_preset(6);
            options.set_check_sum_type(CheckType::Crc32);
            options.prepend_pre_filter(FilterType::BcjX86, 0);
            let mut xz = XzWriter::new(out, options)?;
            xz.write_all(data)?;
            out = xz.finish()?;
        }
        Compression::Lzma => {
            let mut lzma = LzmaWriter::new_use_header(out, &LzmaOptions::with_preset(6), None)?;
            lzma.write_all(data)?;
            out = lzma.finish()?;
        }
        Compression::Lz4 => {
            out.extend(0x184C_2102u32.to_le_bytes());
            for block in data.chunks(8 << 20) {
                let block = lz4_flex::block::compress(block);
                out.extend((block.len() as u32).to_le_bytes());
                out.extend(block);
            }
        }
        Compression::Zstd => {
            let level = ruzstd::encoding::CompressionLevel::Fastest;
            out = ruzstd::encoding::compress_to_vec(data, level);
        }
    }
    Ok(out)
}
