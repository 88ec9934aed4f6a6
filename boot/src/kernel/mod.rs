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
    Err(foreign(&head, image.len()))
}

/// Says what a file is that is no kernel for us.
fn foreign(head: &[u8], len: u64) -> KernelError {
    let at = |offset: usize, magic: &[u8]| head.get(offset..).is_some_and(|h| h.starts_with(magic));
    if at(0x38, b"ARM\x64") {
        return KernelError::ForeignArchitecture("arm64".to_owned());
    }
    if at(0x38, b"RSC\x05") || at(0x30, b"RISCV") {
        return KernelError::ForeignArchitecture("riscv64".to_owned());
    }
    if at(510, b"\x55\xaa") && (len < bzimage::HEADER_END) {
        return KernelError::Truncated { what: "headers", need: bzimage::HEADER_END, have: len };
    }
    KernelError::NotAKernel(if at(0, b"MZ") {
        "an EFI program without a Linux boot header (a unified kernel image? extract its .linux \
         section with objcopy)"
    } else if at(0, b"\x1f\x8b") || at(0, b"\x28\xb5\x2f\xfd") || at(0, b"\xfd7zXZ\0") {
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
