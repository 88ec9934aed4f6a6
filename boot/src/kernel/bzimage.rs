//! bzImage (Linux `Documentation/arch/x86/boot.rst`): the payload is unpacked on the host.
//!
//! Its relocations, which follow the ELF image in the payload, are ignored: the kernel is put
//! where it was linked to run.

use std::borrow::Cow;
use std::io;
use std::ops::Range;

use linux_loader::loader::bootparam::setup_header;
use vm_memory::{ByteValued, GuestAddress, GuestMemoryMmap};

use super::decompress::{HEAD_LEN, TAIL_LEN};
use super::elf::LoadedElf;
use super::error::KernelError;
use super::format::{Compression, Format};
use super::loaded::{EntryPoint, Loaded, Protocol};
use super::{decompress, elf, field};
use crate::source::{Image, MAX_IMAGE, Store};
use crate::{cmdline, layout, memmap};

/// Bytes from the file's start that hold every header field we know (protocol 2.15).
pub(crate) const HEADER_END: u64 = 0x270;
const SETUP_SECTS: usize = 0x1F1;
const SECTOR: u64 = 512;
/// `xloadflags` XLF_KERNEL_64: a 64-bit entry at offset 0x200.
const XLF_KERNEL_64: u16 = 1;
const ENTRY_64: u64 = 0x200;
/// Protocol versions that brought fields: payload, init_size, xloadflags.
const V_PAYLOAD: u16 = 0x208;
const V_INIT_SIZE: u16 = 0x20A;
const V_XLOADFLAGS: u16 = 0x20C;

pub(super) fn is_bzimage(head: &[u8]) -> bool {
    head.len() as u64 == HEADER_END
        && field::u16(head, 0x1FE) == 0xAA55
        && &head[0x202..0x206] == b"HdrS"
}

pub(super) fn load(
    image: &Image<'_>,
    head: &[u8],
    mem: &GuestMemoryMmap,
    protocol: Protocol,
    store: Option<&dyn Store>,
) -> Result<Loaded, KernelError> {
    let hdr = parse(head);
    let sectors = if hdr.setup_sects == 0 { 4 } else { u64::from(hdr.setup_sects) };
    let code_at = (sectors + 1) * SECTOR;
    if code_at >= image.len() {
        return Err(KernelError::Truncated {
            what: "setup sectors",
            need: code_at + 1,
            have: image.len(),
        });
    }
    let loaded = |format, entry, range, constants| Loaded {
        format,
        entry,
        range,
        constants,
        initrd_max: initrd_max(&hdr, mem),
        cmdline_max: cmdline_max(&hdr),
        header: Some(hdr),
    };
    if let Some(payload) = payload(image, &hdr, code_at, mem)? {
        let elf = load_payload(image, &payload, mem, protocol, store)?;
        return Ok(loaded(
            Format::BzImage(payload.compression),
            elf.entry,
            elf.range,
            elf.constants,
        ));
    }
    if protocol == Protocol::Pvh {
        return Err(KernelError::NoPvhInPayload);
    }
    let (entry, range) = load_self_extracting(image, &hdr, code_at, mem)?;
    Ok(loaded(Format::BzImageSelfExtracting, entry, range, Vec::new()))
}

/// The setup header; fields that the file's protocol version does not have are 0.
fn parse(head: &[u8]) -> setup_header {
    // The jump at 0x200 says where the header ends; what follows is code.
    let end = (0x202 + usize::from(head[0x201])).clamp(0x206, HEADER_END as usize);
    let mut hdr = setup_header::default();
    let len = (end - SETUP_SECTS).min(size_of::<setup_header>());
    hdr.as_mut_slice()[..len].copy_from_slice(&head[SETUP_SECTS..SETUP_SECTS + len]);
    if hdr.version < V_PAYLOAD {
        (hdr.payload_offset, hdr.payload_length) = (0, 0);
    }
    if hdr.version < V_INIT_SIZE {
        (hdr.pref_address, hdr.init_size) = (0, 0);
    }
    if hdr.version < V_XLOADFLAGS {
        hdr.xloadflags = 0;
    }
    hdr
}

/// Bytes at a payload's beginning that have its ELF headers.
const ELF_HEAD_LEN: usize = 4096;

/// First address past the highest an initrd may use; the header field names the last byte.
fn initrd_max(hdr: &setup_header, mem: &GuestMemoryMmap) -> u64 {
    let max = if hdr.initrd_addr_max == 0 { 0x37FF_FFFF } else { hdr.initrd_addr_max };
    memmap::low_ram_end(mem).min(u64::from(max) + 1)
}

fn cmdline_max(hdr: &setup_header) -> usize {
    match hdr.cmdline_size as usize {
        0 => 255,
        max => max.min(cmdline::MAX_LEN),
    }
}

/// A compressed kernel in a format we know.
struct Payload {
    compression: Compression,
    /// Where it is in the image.
    range: Range<u64>,
    /// What it claims to unpack to; granted.
    size: u32,
}

/// The payload, or `None` where there is none in a format we know.
fn payload(
    image: &Image<'_>,
    hdr: &setup_header,
    code_at: u64,
    mem: &GuestMemoryMmap,
) -> Result<Option<Payload>, KernelError> {
    let len = u64::from(hdr.payload_length);
    if len == 0 {
        return Ok(None);
    }
    let start = code_at + u64::from(hdr.payload_offset);
    let range = start..start + len;
    if range.end > image.len() {
        return Err(KernelError::Truncated {
            what: "compressed kernel and headers",
            need: range.end,
            have: image.len(),
        });
    }
    let head = read(image, start..range.end.min(start + HEAD_LEN as u64))?;
    let Some(compression) = Compression::detect(&head) else { return Ok(None) };
    // init_size covers the unpacked image, which itself does not fit where RAM does not reach.
    let claimed = match hdr.init_size {
        0 => MAX_IMAGE,
        size => u64::from(size).min(MAX_IMAGE),
    };
    let ram_end = memmap::low_ram_end(mem);
    let tail = read(image, start.max(range.end - TAIL_LEN.min(len as usize) as u64)..range.end)?;
    match decompress::unpacked_size(compression, &tail, claimed.min(ram_end)) {
        Err(KernelError::TooLarge { .. }) if ram_end < claimed => {
            // As exact as where it is unpacked and then does not fit: its headers come first.
            let head = decompress::head(compression, &read(image, range)?, ELF_HEAD_LEN);
            let guess = || hdr.pref_address.max(layout::HIGH_MEMORY).saturating_add(claimed);
            let end = elf::end_of_head(&head).filter(|end| *end > ram_end).unwrap_or_else(guess);
            Err(KernelError::DoesNotFit { end, ram_end })
        }
        other => other.map(|size| Some(Payload { compression, range, size })),
    }
}

/// Bytes of the image that are known to be there.
fn read<'i>(image: &'i Image<'_>, range: Range<u64>) -> Result<Cow<'i, [u8]>, KernelError> {
    let len = (range.end - range.start) as usize;
    Ok(image.read(range.start, len)?.ok_or(io::Error::from(io::ErrorKind::UnexpectedEof))?)
}

/// Loads the ELF image in a payload: as the store has it, or unpacked now.
fn load_payload(
    image: &Image<'_>,
    payload: &Payload,
    mem: &GuestMemoryMmap,
    protocol: Protocol,
    store: Option<&dyn Store>,
) -> Result<LoadedElf, KernelError> {
    let Payload { compression, ref range, size } = *payload;
    if let Some(store) = store
        && let Some(kept) = store.find(&store.key(&mut image.part(range.clone()))?)
        && kept.size() == u64::from(size)
        // A damaged one may have been loaded in part: what was checked, which is now written again.
        && let Ok(elf) = elf::load(&Image::Kept(kept), mem, protocol)
    {
        return Ok(elf);
    }
    let data = read(image, range.clone())?;
    let vmlinux = decompress::unpack(compression, &data, size)?;
    let elf = elf::load(&Image::Bytes(Cow::Borrowed(&vmlinux)), mem, protocol)?;
    // What can't be started is not worth its room.
    if let Some(store) = store {
        // Of the bytes that were unpacked: a file may have changed since it was first looked at.
        store.keep(&store.key(&mut &data[..])?, vmlinux);
    }
    Ok(elf)
}

/// Puts the protected-mode code where it may run and unpack itself.
fn load_self_extracting(
    image: &Image<'_>,
    hdr: &setup_header,
    code_at: u64,
    mem: &GuestMemoryMmap,
) -> Result<(EntryPoint, Range<u64>), KernelError> {
    let init_size = u64::from(hdr.init_size);
    if hdr.xloadflags & XLF_KERNEL_64 == 0 || init_size == 0 {
        return Err(KernelError::No64BitEntry);
    }
    let code_len = (u64::from(hdr.syssize) * 16).min(image.len() - code_at);
    if code_len <= ENTRY_64 {
        return Err(KernelError::Malformed("its 64-bit entry is past its end"));
    }
    let size = init_size.max(code_len);
    // Wherever it is put, Linux unpacks itself to its preferred address or above (head_64.S): there
    // is no other place for a kernel that has one.
    let start = if hdr.pref_address >= layout::HIGH_MEMORY {
        hdr.pref_address
    } else if hdr.relocatable_kernel != 0 {
        layout::HIGH_MEMORY.next_multiple_of(u64::from(hdr.kernel_alignment).max(1))
    } else {
        return Err(KernelError::TooLow(hdr.pref_address));
    };
    let (end, ram_end) = (start.saturating_add(size), memmap::low_ram_end(mem));
    if end > ram_end {
        return Err(KernelError::DoesNotFit { end, ram_end });
    }
    image.copy(code_at, code_len as usize, mem, GuestAddress(start))?;
    Ok((EntryPoint::Linux64(start + ENTRY_64), start..end))
}
