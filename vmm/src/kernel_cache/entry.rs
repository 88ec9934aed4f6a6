//! The file that holds one unpacked kernel.
//!
//! | bytes | what |
//! |---|---|
//! | 8 | [`MAGIC`], which has the version of this format |
//! | 32 | the key |
//! | 8 | bytes of the kernel, little-endian |
//! | 8 for each piece | XXH3 of that piece |
//! | 8 | XXH3 of all of the above |
//! | the rest | the kernel |
//!
//! XXH3 finds damage, not malice: who can write here is this user, and the pieces that are checked
//! are small enough to be in the processor's cache when they are copied from there.

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;

use minivmm_boot::Unpacked;
use minivmm_boot::source::MAX_IMAGE;
use twox_hash::XxHash3_64;

pub(super) type Key = [u8; 32];

const MAGIC: [u8; 8] = *b"mvmm-k01";
/// Bytes of the kernel that have a sum of their own.
const PIECE: usize = 32 << 10;
/// Where the sums are, behind magic, key and length.
const SUMS: usize = 8 + 32 + 8;

/// An entry whose header was checked.
#[derive(Debug)]
pub(super) struct CachedKernel {
    file: File,
    size: u64,
    /// Where the kernel begins.
    data: u64,
    sums: Vec<u64>,
    /// The piece that was read last, after its number.
    piece: RefCell<(Option<usize>, Vec<u8>)>,
}

fn pieces(size: u64) -> usize {
    size.div_ceil(PIECE as u64) as usize
}

fn header_len(size: u64) -> usize {
    SUMS + (pieces(size) + 1) * 8
}

fn damaged(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

fn number(bytes: &[u8]) -> u64 {
    bytes.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

/// The bytes of a file that a kernel of `size` bytes is kept in.
pub(super) fn file_len(size: u64) -> u64 {
    header_len(size) as u64 + size
}

/// Writes an entry.
pub(super) fn write(file: &mut File, key: &Key, vmlinux: &[u8]) -> io::Result<()> {
    let size = vmlinux.len() as u64;
    let mut header = Vec::with_capacity(header_len(size));
    header.extend(MAGIC);
    header.extend(key);
    header.extend(size.to_le_bytes());
    for piece in vmlinux.chunks(PIECE) {
        header.extend(XxHash3_64::oneshot(piece).to_le_bytes());
    }
    header.extend(XxHash3_64::oneshot(&header).to_le_bytes());
    file.write_all(&header)?;
    file.write_all(vmlinux)
}

/// Opens an entry: checks its header, and its length.
pub(super) fn open(file: File, key: &Key) -> io::Result<CachedKernel> {
    let mut start = [0; SUMS];
    file.read_exact_at(&mut start, 0).map_err(|_| damaged("it is cut short"))?;
    let size = number(&start[40..]);
    if start[..8] != MAGIC {
        return Err(damaged("it is of another version"));
    }
    if start[8..40] != key[..] || size == 0 || size > MAX_IMAGE {
        return Err(damaged("its header is damaged"));
    }
    if file.metadata()?.len() != file_len(size) {
        return Err(damaged("its length is wrong"));
    }
    let mut header = vec![0; header_len(size)];
    file.read_exact_at(&mut header, 0)?;
    let (summed, sum) = header.split_at(header.len() - 8);
    if XxHash3_64::oneshot(summed) != number(sum) || summed[..SUMS] != start {
        return Err(damaged("its header is damaged"));
    }
    let sums = summed[SUMS..].chunks(8).map(number).collect();
    Ok(CachedKernel { file, size, data: header.len() as u64, sums, piece: RefCell::default() })
}

impl CachedKernel {
    /// Reads a piece and checks what was read.
    fn read(&self, index: usize, buf: &mut Vec<u8>) -> io::Result<()> {
        let start = index as u64 * PIECE as u64;
        let sum = self.sums.get(index).ok_or(io::ErrorKind::UnexpectedEof)?;
        buf.resize((self.size - start).min(PIECE as u64) as usize, 0);
        self.file.read_exact_at(buf, self.data + start)?;
        if XxHash3_64::oneshot(buf) != *sum {
            tracing::info!("kernel cache: not used, what was kept is damaged");
            return Err(damaged("it is damaged"));
        }
        Ok(())
    }
}

impl Unpacked for CachedKernel {
    fn size(&self) -> u64 {
        self.size
    }

    fn pass(
        &self,
        offset: u64,
        len: usize,
        sink: &mut dyn FnMut(&[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        let end = offset.checked_add(len as u64).filter(|&end| end <= self.size);
        let end = end.ok_or(io::ErrorKind::UnexpectedEof)?;
        let mut at = offset;
        let (last, buf) = &mut *self.piece.borrow_mut();
        while at < end {
            let index = (at / PIECE as u64) as usize;
            if *last != Some(index) {
                *last = None;
                self.read(index, buf)?;
                *last = Some(index);
            }
            let from = (at % PIECE as u64) as usize;
            let part = &buf[from..buf.len().min(from + (end - at) as usize)];
            sink(part)?;
            at += part.len() as u64;
        }
        Ok(())
    }
}
