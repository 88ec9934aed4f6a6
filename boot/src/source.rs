//! Where a kernel or initrd comes from: an open file or bytes in memory.

use std::borrow::Cow;
use std::fmt;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;
use std::os::unix::fs::FileExt;

use vm_memory::{Address, Bytes, GuestAddress, GuestMemoryError, GuestMemoryMmap};

/// Most bytes that are taken from something that has no length of its own, and that a compressed
/// kernel may unpack to.
pub const MAX_IMAGE: u64 = 512 << 20;

/// A kernel or initrd as the caller holds it.
///
/// A file's read position is moved. Pipes work: they are read to their end first, as is what says
/// that it is empty (files of /proc do).
#[derive(Clone, Copy, Debug)]
pub enum Source<'a> {
    /// An open file.
    File(&'a File),
    /// Bytes in host memory.
    Bytes(&'a [u8]),
}

/// An unpacked kernel that a [`Store`] has kept.
pub trait Unpacked: fmt::Debug {
    /// Its bytes.
    fn size(&self) -> u64;

    /// Passes `len` bytes from `offset` on to `sink`, in order and in pieces. Each byte was checked
    /// for damage as it is passed.
    ///
    /// # Errors
    /// What reading, the check or `sink` says.
    fn pass(
        &self,
        offset: u64,
        len: usize,
        sink: &mut dyn FnMut(&[u8]) -> io::Result<()>,
    ) -> io::Result<()>;
}

/// Keeps unpacked kernels from one start to the next. What it can't do costs time and nothing else.
pub trait Store: fmt::Debug {
    /// What a payload is kept by: different for each content.
    ///
    /// # Errors
    /// Those of reading it.
    fn key(&self, payload: &mut dyn Read) -> io::Result<[u8; 32]>;

    /// The kernel that was kept by `key`, if it is there and can be trusted.
    fn find(&self, key: &[u8; 32]) -> Option<Box<dyn Unpacked>>;

    /// Keeps `vmlinux`, now or later, in place of what is kept by that key.
    fn keep(&self, key: &[u8; 32], vmlinux: Vec<u8>);
}

/// A [`Source`] opened for random access.
pub(crate) enum Image<'a> {
    Kept(Box<dyn Unpacked>),
    File { file: &'a File, len: u64 },
    Bytes(Cow<'a, [u8]>),
}

impl<'a> Image<'a> {
    pub(crate) fn open(source: Source<'a>) -> io::Result<Self> {
        let file = match source {
            Source::Bytes(bytes) => return Ok(Self::Bytes(Cow::Borrowed(bytes))),
            Source::File(file) => file,
        };
        let meta = file.metadata()?;
        if meta.is_file() && meta.len() > 0 {
            return Ok(Self::File { file, len: meta.len() });
        }
        if meta.is_dir() {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        let mut bytes = Vec::new();
        let mut file = file;
        (&mut file).take(MAX_IMAGE + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > MAX_IMAGE {
            return Err(io::Error::new(
                io::ErrorKind::FileTooLarge,
                "it has no length of its own, and is over 512 MiB",
            ));
        }
        Ok(Self::Bytes(Cow::Owned(bytes)))
    }

    pub(crate) fn len(&self) -> u64 {
        match self {
            Self::File { len, .. } => *len,
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Kept(kept) => kept.size(),
        }
    }

    /// `len` bytes at `offset`, or `None` where the image ends before.
    pub(crate) fn read(&self, offset: u64, len: usize) -> io::Result<Option<Cow<'_, [u8]>>> {
        // Against the length first: `len` comes from the image, the buffer must not outgrow it.
        if offset.checked_add(len as u64).is_none_or(|end| end > self.len()) {
            return Ok(None);
        }
        match self {
            Self::File { file, .. } => {
                let mut buf = vec![0; len];
                file.read_exact_at(&mut buf, offset)?;
                Ok(Some(Cow::Owned(buf)))
            }
            Self::Kept(kept) => {
                let mut buf = Vec::with_capacity(len);
                kept.pass(offset, len, &mut |piece| {
                    buf.extend_from_slice(piece);
                    Ok(())
                })?;
                Ok(Some(Cow::Owned(buf)))
            }
            Self::Bytes(bytes) => {
                let start = offset as usize;
                Ok(Some(Cow::Borrowed(&bytes[start..start + len])))
            }
        }
    }

    /// The bytes of `range`, in order. The range must be inside the image.
    pub(crate) fn part(&self, range: Range<u64>) -> Part<'_, 'a> {
        Part { image: self, range }
    }

    /// Copies `len` bytes at `offset` to guest address `to`. The range must be inside the image
    /// and inside guest memory.
    pub(crate) fn copy(
        &self,
        offset: u64,
        len: usize,
        mem: &GuestMemoryMmap,
        to: GuestAddress,
    ) -> io::Result<()> {
        let failed = |e: GuestMemoryError| match e {
            GuestMemoryError::IOError(e) => e,
            other => io::Error::other(other),
        };
        match self {
            Self::File { file, .. } => {
                let mut file = *file;
                file.seek(SeekFrom::Start(offset))?;
                mem.read_exact_volatile_from(to, &mut file, len).map_err(failed)
            }
            Self::Kept(kept) => {
                let mut to = to;
                kept.pass(offset, len, &mut |piece| {
                    mem.write_slice(piece, to).map_err(failed)?;
                    to = to.unchecked_add(piece.len() as u64);
                    Ok(())
                })
            }
            Self::Bytes(bytes) => {
                let part = (offset as usize)
                    .checked_add(len)
                    .and_then(|end| bytes.get(offset as usize..end))
                    .ok_or(io::ErrorKind::UnexpectedEof)?;
                mem.write_slice(part, to).map_err(failed)
            }
        }
    }
}

/// Some of an image's bytes, read in order.
pub(crate) struct Part<'i, 'a> {
    image: &'i Image<'a>,
    range: Range<u64>,
}

impl Read for Part<'_, '_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let Range { start, end } = self.range;
        let len = (buf.len() as u64).min(end.saturating_sub(start)) as usize;
        let n = match self.image {
            Image::File { file, .. } => file.read_at(&mut buf[..len], start)?,
            image => {
                let bytes = image.read(start, len)?.ok_or(io::ErrorKind::UnexpectedEof)?;
                buf[..len].copy_from_slice(&bytes);
                len
            }
        };
        self.range.start += n as u64;
        Ok(n)
    }
}
