//! Kernel formats: ELF `vmlinux` and bzImage, recognised, checked and put into guest memory.
//!
//! * Nothing is written before the whole image was checked, and nothing outside
//!   `1 MiB .. end of low RAM` ever is.
//! * Lengths and addresses in the image are claims: each is checked against the image and against
//!   guest memory before it is used, and no allocation is larger than the image or
//!   [`crate::source::MAX_IMAGE`].
//! * Memory that a segment wants zeroed is not written: guest memory is to be freshly mapped.

pub(crate) mod bzimage;
mod decompress;
mod elf;
mod error;
pub(crate) mod field;
mod format;
mod loaded;
#[cfg(test)]
mod tests;

use vm_memory::GuestMemoryMmap;

pub use error::KernelError;
pub use format::{Compression, Format};
pub use loaded::{EntryPoint, Loaded, Protocol};

use crate::memmap;
use crate::source::{Image, Source, Store};

/// Loads a kernel into `mem`, which must be freshly mapped (all zero). The unpacked payload of a
/// bzImage is taken from `store`, or kept there.
///
/// # Errors
/// [`KernelError`]; guest memory may then have been written in part.
pub fn load(
    source: Source<'_>,
    mem: &GuestMemoryMmap,
    protocol: Protocol,
    store: Option<&dyn Store>,
) -> Result<Loaded, KernelError> {
    let image = Image::open(source)?;
    if image.len() == 0 {
        return Err(KernelError::Empty);
    }
    let head_len = image.len().min(bzimage::HEADER_END) as usize;
    let head = image.read(0, head_len)?.unwrap_or_default();
    if head.starts_with(b"\x7fELF") {
        let elf = elf::load(&image, mem, protocol)?;
        return Ok(Loaded {
            format: Format::Elf,
            entry: elf.entry,
            range: elf.range,
            constants: elf.constants,
            initrd_max: memmap::low_ram_end(mem),
            cmdline_max: crate::cmdline::MAX_LEN,
            header: None,
        });
    }
    if bzimage::is_bzimage(&head) {
        return bzimage::load(&image, &head, mem, protocol, store);
    }
    Err(foreign(&head, &image))
}

/// Says what a file is that is no kernel for us.
fn foreign(head: &[u8], image: &Image<'_>) -> KernelError {
    let len = image.len();
    let at = |offset: usize, magic: &[u8]| head.get(offset..).is_some_and(|h| h.starts_with(magic));
    if at(0x38, b"ARM\x64") {
        return KernelError::ForeignArchitecture("arm64".to_owned());
    }
    if at(0x38, b"RSC\x05") || at(0x30, b"RISCV") {
        return KernelError::ForeignArchitecture("riscv64".to_owned());
    }
    if let Some(disk) = disk(head, image) {
        return KernelError::Disk(disk);
    }
    if at(510, b"\x55\xaa") && (len < bzimage::HEADER_END) {
        return KernelError::Truncated { what: "headers", need: bzimage::HEADER_END, have: len };
    }
    let packed: [&[u8]; 6] = [
        b"\x1f\x8b",
        b"\x28\xb5\x2f\xfd",
        b"\xfd7zXZ\0",
        b"BZh",
        b"\x04\x22\x4d\x18",
        b"\x02\x21\x4c\x18",
    ];
    KernelError::NotAKernel(if at(0, b"MZ") {
        "an EFI program without a Linux boot header (a unified kernel image? extract its .linux \
         section with objcopy)"
    } else if packed.iter().any(|magic| at(0, magic)) {
        "a compressed file (unpack it first, or use the bzImage, usually named vmlinuz)"
    } else if at(0, b"070701") || at(0, b"070702") {
        "a cpio archive (is it the initrd?)"
    } else if at(0, b"#!") {
        "a script"
    } else if len < 64 {
        "it is too short to be an ELF vmlinux or a bzImage"
    } else {
        "neither an ELF vmlinux nor a bzImage"
    })
}

/// The kind of disk image that a file is, if it is one.
fn disk(head: &[u8], image: &Image<'_>) -> Option<&'static str> {
    let at = |offset: u64, magic: &[u8]| {
        let bytes = image.read(offset, magic.len());
        bytes.is_ok_and(|bytes| bytes.is_some_and(|bytes| *bytes == *magic))
    };
    // A partition's first byte says whether it is the active one; its kind is not 0.
    let partition = |entry: &[u8]| entry[0] & 0x7f == 0 && entry[4] != 0;
    let table = head.get(446..510).unwrap_or_default();
    Some(if head.starts_with(b"QFI\xfb") {
        "qcow2"
    } else if head.starts_with(b"KDMV") {
        "VMDK"
    } else if head.starts_with(b"vhdxfile") {
        "VHDX"
    } else if at(0x8001, b"CD001") {
        "ISO 9660"
    } else if at(512, b"EFI PART") {
        "GPT"
    } else if at(0x438, b"\x53\xef") {
        "ext4"
    } else if head.starts_with(b"hsqs") {
        "squashfs"
    } else if at(510, b"\x55\xaa") && table.chunks_exact(16).any(partition) {
        "MBR"
    } else {
        return None;
    })
}
