//! Places the initrd at the top of low RAM.

use std::io;
use std::ops::Range;

use vm_memory::{GuestAddress, GuestMemoryMmap};

use crate::layout::{MIB, PAGE_SIZE};
use crate::source::{Image, Source};

/// Why an initrd was refused. The caller names the file.
#[derive(Debug, thiserror::Error)]
pub enum InitrdError {
    /// Reading failed.
    #[error("cannot read the initrd: {0}")]
    Read(#[from] io::Error),
    /// A piece without bytes.
    #[error("the initrd is empty")]
    Empty,
    /// No room between the kernel and the end of RAM.
    #[error(
        "the initrd has {} MiB, guest memory has room for {} MiB beside the kernel: \
         give the guest more memory or use a smaller initrd", size.div_ceil(MIB), room / MIB
    )]
    DoesNotFit {
        /// Bytes of all pieces.
        size: u64,
        /// Bytes free for it.
        room: u64,
    },
}

/// Copies `pieces`, one after the other, as high as possible below `max` and above `kernel`.
///
/// Linux unpacks concatenated archives; each piece starts at a multiple of four bytes as the
/// newc format wants. Returns the bytes used, page-aligned at the start, or `None` if there are
/// no pieces.
///
/// # Errors
/// [`InitrdError`].
pub fn load(
    pieces: &[Source<'_>],
    mem: &GuestMemoryMmap,
    kernel: &Range<u64>,
    max: u64,
) -> Result<Option<Range<u64>>, InitrdError> {
    if pieces.is_empty() {
        return Ok(None);
    }
    let images = pieces.iter().map(|&p| Image::open(p)).collect::<Result<Vec<_>, _>>()?;
    let mut size = 0u64;
    for image in &images {
        if image.len() == 0 {
            return Err(InitrdError::Empty);
        }
        size = size.next_multiple_of(4).saturating_add(image.len());
    }
    // The kernel is in one piece and above 1 MiB; the larger part of RAM is above it.
    let max = max.min(crate::memmap::low_ram_end(mem));
    let floor = kernel.end.next_multiple_of(PAGE_SIZE);
    let room = max.saturating_sub(floor);
    let start = max
        .checked_sub(size)
        .map(|start| start - start % PAGE_SIZE)
        .filter(|&start| start >= floor)
        .ok_or(InitrdError::DoesNotFit { size, room })?;
    let mut at = start;
    for image in &images {
        at = at.next_multiple_of(4);
        image.copy(0, image.len() as usize, mem, GuestAddress(at))?;
        at += image.len();
    }
    Ok(Some(start..at))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use vm_memory::Bytes;

    fn memory() -> GuestMemoryMmap {
        GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 16 << 20)]).unwrap()
    }

    #[test]
    fn pieces_are_joined_at_the_top() {
        let mem = memory();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[7; 5000]).unwrap();
        let got = load(
            &[Source::File(&file), Source::Bytes(b"abc")],
            &mem,
            &(0x10_0000..0x20_0001),
            u64::MAX,
        )
        .unwrap()
        .unwrap();
        assert_eq!(got, 0xFF_E000..0xFF_E000 + 5003);
        let mut tail = [0; 4];
        mem.read_slice(&mut tail, GuestAddress(got.start + 4999)).unwrap();
        assert_eq!(&tail, b"\x07abc");
    }

    #[test]
    fn exact_fit_and_one_byte_more() {
        let mem = memory();
        let kernel = 0x10_0000..0xFF_0001;
        // 0xFF1000..0x1000000 is free.
        let fits = vec![1; 0xF000];
        assert_eq!(
            load(&[Source::Bytes(&fits)], &mem, &kernel, u64::MAX).unwrap(),
            Some(0xFF_1000..0x100_0000)
        );
        let over = vec![1; 0xF001];
        let err = load(&[Source::Bytes(&over)], &mem, &kernel, u64::MAX).unwrap_err();
        assert!(matches!(err, InitrdError::DoesNotFit { size: 0xF001, room: 0xF000 }), "{err}");
        // Larger than all memory.
        let huge = vec![1; 17 << 20];
        assert!(load(&[Source::Bytes(&huge)], &mem, &kernel, u64::MAX).is_err());
    }

    #[test]
    fn header_limit_is_kept() {
        let got = load(&[Source::Bytes(b"x")], &memory(), &(0x10_0000..0x11_0000), 0x80_0000);
        assert_eq!(got.unwrap(), Some(0x7F_F000..0x7F_F001));
    }

    #[test]
    fn empty() {
        let mem = memory();
        assert!(load(&[], &mem, &(0..0), u64::MAX).unwrap().is_none());
        let err = load(&[Source::Bytes(b"")], &mem, &(0..0), u64::MAX).unwrap_err();
        assert_eq!(err.to_string(), "the initrd is empty");
    }
}
