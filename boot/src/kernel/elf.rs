//! ELF executables: a `vmlinux`, the payload of a bzImage, or any PVH guest.

use std::borrow::Cow;
use std::ops::Range;

use vm_memory::{GuestAddress, GuestMemoryMmap};

use super::error::KernelError;
use super::field;
use super::loaded::{EntryPoint, Protocol};
use crate::source::Image;
use crate::{layout, memmap};

const EHDR_LEN: usize = 64;
const PHDR_LEN: usize = 56;
const SHDR_LEN: usize = 64;
const PT_LOAD: u32 = 1;
const PT_INTERP: u32 = 3;
const PT_NOTE: u32 = 4;
const PT_TLS: u32 = 7;
const SHT_PROGBITS: u32 = 1;
const SHT_NOTE: u32 = 7;
const SHF_ALLOC: u64 = 2;
const SHF_EXECINSTR: u64 = 4;
const PF_X: u32 = 1;
const PF_W: u32 = 2;
/// XEN_ELFNOTE_PHYS32_ENTRY (Xen `public/elfnote.h`).
const PHYS32_ENTRY: u32 = 18;
/// Linux has about 6, and 16 with every option; the rest is for other systems.
const MAX_SEGMENTS: usize = 256;
/// A vmlinux with one section per function has tens of thousands.
const MAX_SECTIONS: usize = 65_536;
/// Linux's notes have a few hundred bytes; longer areas are not searched.
const MAX_NOTES: u64 = 64 << 10;
/// Note sections that are searched; Linux has about five.
const MAX_NOTE_SECTIONS: usize = 64;

#[derive(Debug)]
pub(super) struct LoadedElf {
    pub entry: EntryPoint,
    pub range: Range<u64>,
    /// Where the constants lie, or what has them among it.
    pub constants: Vec<Range<u64>>,
}

/// A PT_LOAD that was checked: its file part, if any, is in the image, its memory in low RAM.
struct LoadSegment {
    offset: u64,
    file_len: u64,
    paddr: u64,
    end: u64,
    vaddr: u64,
    flags: u32,
}

impl LoadSegment {
    fn holds(&self, paddr: u64) -> bool {
        (self.paddr..self.end).contains(&paddr)
    }

    /// The physical address of a virtual one inside this segment.
    fn translate(&self, vaddr: u64) -> Option<u64> {
        let offset = vaddr.checked_sub(self.vaddr)?;
        (offset < self.end - self.paddr).then(|| self.paddr + offset)
    }
}

/// The 64-byte header, checked as far as it does not need the rest of the file.
struct Header {
    entry: u64,
    phoff: u64,
    phnum: usize,
    shoff: u64,
    shnum: usize,
}

pub(super) fn load(
    image: &Image<'_>,
    mem: &GuestMemoryMmap,
    protocol: Protocol,
) -> Result<LoadedElf, KernelError> {
    let header = header(image)?;
    let phdrs = part(image, "program headers", header.phoff, header.phnum * PHDR_LEN)?;
    // Programs name their dynamic linker, or are static and have variables for each thread. FreeBSD's
    // kernel does the first as well, and has the PVH note.
    let mut kinds = phdrs.chunks_exact(PHDR_LEN).map(|p| field::u32(p, 0));
    if kinds.any(|kind| matches!(kind, PT_INTERP | PT_TLS))
        && pvh_entry(image, &header, &phdrs)?.is_none()
    {
        return Err(KernelError::NotAKernel("an ordinary program"));
    }
    let ram_end = memmap::low_ram_end(mem);
    let mut segments = Vec::new();
    for phdr in phdrs.chunks_exact(PHDR_LEN).filter(|p| field::u32(p, 0) == PT_LOAD) {
        let checked = segment(phdr, image.len(), ram_end).map_err(|e| match e {
            // What the whole kernel needs, not this one segment.
            KernelError::DoesNotFit { .. } => KernelError::DoesNotFit { end: end(&phdrs), ram_end },
            e => e,
        });
        segments.extend(checked?);
    }
    segments.sort_unstable_by_key(|s| s.paddr);
    if segments.windows(2).any(|pair| pair[0].end > pair[1].paddr) {
        return Err(KernelError::Malformed("two of its segments overlap in memory"));
    }
    let (Some(first), Some(last)) = (segments.first(), segments.last()) else {
        return Err(KernelError::Malformed("it has nothing to load"));
    };
    let range = first.paddr..last.end;
    let entry = entry(image, &header, &phdrs, &segments, protocol)?;
    // A segment of zeros alone has nothing in the file, and its offset means nothing (sstrip).
    for s in segments.iter().filter(|s| s.file_len > 0) {
        image.copy(s.offset, s.file_len as usize, mem, GuestAddress(s.paddr))?;
    }
    let constants = constants(image, &header, &segments)?;
    Ok(LoadedElf { entry, range, constants })
}

/// First address past all that is loaded.
fn end(phdrs: &[u8]) -> u64 {
    let loads = phdrs.chunks_exact(PHDR_LEN).filter(|p| field::u32(p, 0) == PT_LOAD);
    let ends = loads.map(|p| match field::u64(p, 40) {
        0 => 0,
        len => field::u64(p, 24).saturating_add(len),
    });
    ends.max().unwrap_or_default()
}

/// The same of an ELF image of which only the beginning is there; nothing where that is too short,
/// or is no such image.
pub(super) fn end_of_head(head: &[u8]) -> Option<u64> {
    let image = Image::Bytes(Cow::Borrowed(head));
    let header = header(&image).ok().filter(|_| head.starts_with(b"\x7fELF"))?;
    let phdrs = image.read(header.phoff, header.phnum * PHDR_LEN).ok()??;
    Some(end(&phdrs)).filter(|end| *end > 0)
}

/// Where in memory the constants are: the sections in `segments` that are neither code nor data, or
/// all that these segments hold where nothing tells them apart. Linux calls its `.rodata` writable,
/// but keeps it in the segment of its code.
fn constants(
    image: &Image<'_>,
    header: &Header,
    segments: &[LoadSegment],
) -> Result<Vec<Range<u64>>, KernelError> {
    let fixed = |s: &&LoadSegment| s.file_len > 0 && s.flags & (PF_X | PF_W) != PF_W;
    let shdrs = image.read(header.shoff, header.shnum * SHDR_LEN)?.unwrap_or_default();
    let sections = shdrs.chunks_exact(SHDR_LEN).filter(|s| {
        field::u32(s, 4) == SHT_PROGBITS
            && field::u64(s, 8) & (SHF_ALLOC | SHF_EXECINSTR) == SHF_ALLOC
    });
    let placed = sections.filter_map(|section| {
        let (offset, len) = (field::u64(section, 24), field::u64(section, 32));
        let holds = |s: &&LoadSegment| {
            let end = offset.checked_sub(s.offset).and_then(|skip| skip.checked_add(len));
            end.is_some_and(|end| end <= s.file_len)
        };
        let s = segments.iter().filter(fixed).find(holds)?;
        let start = s.paddr + (offset - s.offset);
        Some(start..start + len)
    });
    let placed: Vec<_> = placed.filter(|range| !range.is_empty()).collect();
    if !placed.is_empty() {
        return Ok(placed);
    }
    Ok(segments.iter().filter(fixed).map(|s| s.paddr..s.paddr + s.file_len).collect())
}

fn header(image: &Image<'_>) -> Result<Header, KernelError> {
    let e = part(image, "ELF headers", 0, EHDR_LEN)?;
    match (e[4], e[5]) {
        (2, 1) => {}
        (1, _) if field::u16(&e, 18) == 3 => {
            return Err(KernelError::ForeignArchitecture("32-bit x86".to_owned()));
        }
        (1 | 2, 1 | 2) => {
            let machine = u16::from_be_bytes([e[18], e[19]]);
            let machine = if e[5] == 1 { machine.swap_bytes() } else { machine };
            return Err(KernelError::ForeignArchitecture(machine_name(machine)));
        }
        _ => return Err(KernelError::Malformed("its ELF class or byte order is unknown")),
    }
    match field::u16(&e, 18) {
        62 => {}
        other => return Err(KernelError::ForeignArchitecture(machine_name(other))),
    }
    match field::u16(&e, 16) {
        2 | 3 => {}
        1 => return Err(KernelError::NotAKernel("an ELF object file (a kernel module?)")),
        4 => return Err(KernelError::NotAKernel("an ELF core dump")),
        _ => return Err(KernelError::Malformed("its ELF type is unknown")),
    }
    let phnum = usize::from(field::u16(&e, 56));
    if phnum > 0 && usize::from(field::u16(&e, 54)) != PHDR_LEN {
        return Err(KernelError::Malformed("its ELF program headers have an odd size"));
    }
    if phnum > MAX_SEGMENTS {
        return Err(KernelError::Malformed("it has too many ELF segments"));
    }
    let shnum = usize::from(field::u16(&e, 60));
    let usable = usize::from(field::u16(&e, 58)) == SHDR_LEN && shnum <= MAX_SECTIONS;
    Ok(Header {
        entry: field::u64(&e, 24),
        phoff: field::u64(&e, 32),
        phnum,
        shoff: field::u64(&e, 40),
        // Nothing needs them that is not found without them: unusable ones are no error.
        shnum: if usable { shnum } else { 0 },
    })
}

/// The name that users know an ELF machine number by.
fn machine_name(machine: u16) -> String {
    match machine {
        2 | 18 | 43 => "SPARC".to_owned(),
        3 => "32-bit x86".to_owned(),
        8 => "MIPS".to_owned(),
        20 | 21 => "PowerPC".to_owned(),
        22 => "s390x".to_owned(),
        40 => "32-bit ARM".to_owned(),
        62 => "x32 (32-bit x86_64)".to_owned(),
        183 => "arm64".to_owned(),
        243 => "RISC-V".to_owned(),
        258 => "LoongArch".to_owned(),
        other => format!("another architecture (ELF machine {other})"),
    }
}

/// Checks one PT_LOAD; `None` where it occupies no memory.
fn segment(phdr: &[u8], image_len: u64, ram_end: u64) -> Result<Option<LoadSegment>, KernelError> {
    let (offset, vaddr) = (field::u64(phdr, 8), field::u64(phdr, 16));
    let (paddr, file_len, mem_len) =
        (field::u64(phdr, 24), field::u64(phdr, 32), field::u64(phdr, 40));
    if file_len > mem_len {
        return Err(KernelError::Malformed("a segment is larger in the file than in memory"));
    }
    if mem_len == 0 {
        return Ok(None);
    }
    let need = offset
        .checked_add(file_len)
        .ok_or(KernelError::Malformed("a segment's place in the file is beyond any file"))?;
    if need > image_len && file_len > 0 {
        return Err(KernelError::Truncated { what: "segments", need, have: image_len });
    }
    if paddr < layout::HIGH_MEMORY {
        return Err(KernelError::TooLow(paddr));
    }
    let end = paddr.saturating_add(mem_len);
    if end > ram_end {
        return Err(KernelError::DoesNotFit { end, ram_end });
    }
    Ok(Some(LoadSegment { offset, file_len, paddr, end, vaddr, flags: field::u32(phdr, 4) }))
}

fn entry(
    image: &Image<'_>,
    header: &Header,
    phdrs: &[u8],
    segments: &[LoadSegment],
    protocol: Protocol,
) -> Result<EntryPoint, KernelError> {
    if protocol != Protocol::Linux64 {
        if let Some(entry) = pvh_entry(image, header, phdrs)? {
            let outside = KernelError::EntryOutside { protocol: "PVH", entry };
            let held = segments.iter().any(|s| s.holds(entry));
            return match u32::try_from(entry) {
                Ok(entry) if held => Ok(EntryPoint::Pvh(entry)),
                _ => Err(outside),
            };
        }
        if protocol == Protocol::Pvh {
            return Err(KernelError::NoPvhEntry);
        }
    }
    // Linux gives a physical e_entry; other systems may give the virtual one.
    let e = header.entry;
    let physical = segments.iter().find(|s| s.holds(e)).map(|_| e);
    physical
        .or_else(|| segments.iter().find_map(|s| s.translate(e)))
        .map(EntryPoint::Linux64)
        .ok_or(KernelError::EntryOutside { protocol: "ELF", entry: e })
}

/// Looks for the PVH note in every PT_NOTE, then, as stripped or odd images have it only there,
/// in every note section.
fn pvh_entry(image: &Image<'_>, header: &Header, phdrs: &[u8]) -> Result<Option<u64>, KernelError> {
    for p in phdrs.chunks_exact(PHDR_LEN).filter(|p| field::u32(p, 0) == PT_NOTE) {
        let found = notes(image, field::u64(p, 8), field::u64(p, 32), field::u64(p, 48))?;
        if found.is_some() {
            return Ok(found);
        }
    }
    let Some(shdrs) = image.read(header.shoff, header.shnum * SHDR_LEN)? else { return Ok(None) };
    let sections = shdrs.chunks_exact(SHDR_LEN).filter(|s| field::u32(s, 4) == SHT_NOTE);
    for s in sections.take(MAX_NOTE_SECTIONS) {
        let found = notes(image, field::u64(s, 24), field::u64(s, 32), field::u64(s, 48))?;
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

fn notes(image: &Image<'_>, offset: u64, len: u64, align: u64) -> Result<Option<u64>, KernelError> {
    if len > MAX_NOTES {
        return Ok(None);
    }
    let Some(data) = image.read(offset, len as usize)? else { return Ok(None) };
    // Notes of 8-byte alignment exist (gABI), but many linkers say 8 and mean 4.
    let wide = if align == 8 { find_phys32(&data, 8) } else { None };
    Ok(wide.or_else(|| find_phys32(&data, 4)))
}

/// The descriptor of the Xen PHYS32_ENTRY note in a note area.
fn find_phys32(mut data: &[u8], align: usize) -> Option<u64> {
    while data.len() >= 12 {
        let name_len = field::u32(data, 0) as usize;
        let desc_len = field::u32(data, 4) as usize;
        let kind = field::u32(data, 8);
        let name = data.get(12..12usize.checked_add(name_len)?)?;
        let desc_at = (12 + name_len).checked_next_multiple_of(align)?;
        let desc_end = desc_at.checked_add(desc_len)?;
        let desc = data.get(desc_at..desc_end)?;
        if kind == PHYS32_ENTRY && name == b"Xen\0" {
            return match desc.len() {
                4 => Some(u64::from(field::u32(desc, 0))),
                8 => Some(field::u64(desc, 0)),
                _ => None,
            };
        }
        data = data.get(desc_end.checked_next_multiple_of(align)?..)?;
    }
    None
}

/// `len` bytes at `offset` of the image, or the error that names what is missing.
fn part<'i>(
    image: &'i Image<'_>,
    what: &'static str,
    offset: u64,
    len: usize,
) -> Result<Cow<'i, [u8]>, KernelError> {
    image.read(offset, len)?.ok_or_else(|| KernelError::Truncated {
        what,
        need: offset.saturating_add(len as u64),
        have: image.len(),
    })
}
