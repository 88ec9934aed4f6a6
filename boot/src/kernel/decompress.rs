//! Unpacks a bzImage payload in one of the compressions that Linux is shipped with.
//!
//! Every payload ends with the unpacked length (32 bits, little-endian): gzip has it by itself,
//! Linux's build appends it to the others. It is the size of the one output buffer, so a damaged
//! or hostile payload can produce no more than was granted before unpacking began.

use std::io::{self, Read};

use super::error::KernelError;
use super::field;
use super::format::Compression;

const LZ4_LEGACY_MAGIC: [u8; 4] = 0x184C_2102u32.to_le_bytes();
/// Unpacked bytes of every block of a legacy LZ4 frame but the last.
const LZ4_LEGACY_BLOCK: usize = 8 << 20;
/// Bytes that a compressed LZ4 block of that size may have at most.
const LZ4_BLOCK_MAX: usize = LZ4_LEGACY_BLOCK + LZ4_LEGACY_BLOCK / 255 + 16;
/// Linux packs with `xz --lzma2=dict=128MiB` and `zstd --ultra -22`, which has a 128 MiB window.
const MAX_WINDOW: u64 = 128 << 20;
/// xz and lzma decoders' limit in KiB: the window, and room for tables.
const MEM_LIMIT_KIB: u32 = (MAX_WINDOW >> 10) as u32 + 1024;

impl Compression {
    /// Recognises a payload by its first bytes.
    pub(crate) fn detect(payload: &[u8]) -> Option<Self> {
        Some(match payload {
            [0x1F, 0x8B, 8, ..] => Self::Gzip,
            [0xFD, b'7', b'z', b'X', b'Z', 0, ..] => Self::Xz,
            [0x5D, 0, 0, ..] => Self::Lzma,
            [0x28, 0xB5, 0x2F, 0xFD, ..] => Self::Zstd,
            _ if payload.starts_with(&LZ4_LEGACY_MAGIC) => Self::Lz4,
            _ => return None,
        })
    }
}

/// Bytes at a payload's beginning that tell its compression, and at its end that tell what it
/// unpacks to.
pub(super) const HEAD_LEN: usize = 8;
pub(super) const TAIL_LEN: usize = 4;

/// The bytes that a payload with this end claims to unpack to, at most `limit`.
pub(super) fn unpacked_size(
    compression: Compression,
    tail: &[u8],
    limit: u64,
) -> Result<u32, KernelError> {
    if tail.len() < TAIL_LEN {
        let reason = "its data are too short".to_owned();
        return Err(KernelError::Unpack { compression, reason });
    }
    let size = field::u32(tail, 0);
    if u64::from(size) > limit {
        return Err(KernelError::TooLarge { compression, limit });
    }
    Ok(size)
}

/// Unpacks `payload` into exactly `size` bytes, its [`unpacked_size`].
pub(super) fn unpack(
    compression: Compression,
    payload: &[u8],
    size: u32,
) -> Result<Vec<u8>, KernelError> {
    let damaged = |reason: String| KernelError::Unpack { compression, reason };
    let data = &payload[..payload.len().saturating_sub(TAIL_LEN)];
    let mut out = vec![0; size as usize];
    let unpacked = match compression {
        Compression::Gzip => fill(flate2::bufread::GzDecoder::new(payload), &mut out),
        Compression::Xz => {
            fill(lzma_rust2::XzReader::new_mem_limit(data, false, MEM_LIMIT_KIB), &mut out)
        }
        Compression::Lzma => lzma_rust2::LzmaReader::new_mem_limit(data, MEM_LIMIT_KIB, None)
            .and_then(|reader| fill(reader, &mut out)),
        Compression::Lz4 => lz4_legacy(data, &mut out),
        Compression::Zstd => zstd(data, &mut out),
    };
    match unpacked {
        Ok(len) if len == out.len() => Ok(out),
        Ok(len) => Err(damaged(format!("it has {len} bytes instead of {size}"))),
        Err(e) => Err(damaged(e.to_string())),
    }
}

/// The first `len` bytes that `payload` unpacks to, or as many as can be unpacked.
pub(super) fn head(compression: Compression, payload: &[u8], len: usize) -> Vec<u8> {
    let data = &payload[..payload.len().saturating_sub(TAIL_LEN)];
    let mut out = Vec::new();
    let take = |reader: &mut dyn Read, out: &mut Vec<u8>| {
        // What comes before an error is good.
        let _ = reader.take(len as u64).read_to_end(out);
    };
    match compression {
        Compression::Gzip => take(&mut flate2::bufread::GzDecoder::new(payload), &mut out),
        Compression::Xz => {
            take(&mut lzma_rust2::XzReader::new_mem_limit(data, false, MEM_LIMIT_KIB), &mut out);
        }
        Compression::Lzma => {
            if let Ok(mut reader) = lzma_rust2::LzmaReader::new_mem_limit(data, MEM_LIMIT_KIB, None)
            {
                take(&mut reader, &mut out);
            }
        }
        Compression::Zstd => {
            let reader =
                ruzstd::decoding::StreamingDecoder::new_with_max_window_size(data, MAX_WINDOW);
            if let Ok(mut reader) = reader {
                take(&mut reader, &mut out);
            }
        }
        Compression::Lz4 => {
            // One block is unpacked as a whole.
            let size = data.get(4..8).map_or(0, |size| field::u32(size, 0) as usize);
            let block = data.get(8..).and_then(|rest| rest.get(..size)).unwrap_or_default();
            out.resize(LZ4_LEGACY_BLOCK, 0);
            let unpacked = lz4_flex::block::decompress_into(block, &mut out).unwrap_or_default();
            out.truncate(unpacked.min(len));
        }
    }
    out
}

/// Fills `out` from `reader` and checks that the stream ends there, which also verifies its
/// checksum. Returns the bytes got.
fn fill(mut reader: impl Read, out: &mut [u8]) -> io::Result<usize> {
    let mut len = 0;
    while len < out.len() {
        match reader.read(&mut out[len..]) {
            Ok(0) => return Ok(len),
            Ok(n) => len += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    if reader.read(&mut [0])? != 0 {
        return Err(io::Error::other("it has more bytes than its length says"));
    }
    Ok(len)
}

fn zstd(data: &[u8], out: &mut [u8]) -> io::Result<usize> {
    let mut decoder = ruzstd::decoding::FrameDecoder::new();
    decoder.set_max_window_size(MAX_WINDOW);
    let len = decoder.decode_all(data, out).map_err(io::Error::other)?;
    if decoder
        .get_checksum_from_data()
        .is_some_and(|c| decoder.get_calculated_checksum() != Some(c))
    {
        return Err(io::Error::other("its checksum is wrong"));
    }
    Ok(len)
}

/// Legacy LZ4 frame: magic, then blocks as length and data, up to the end.
fn lz4_legacy(data: &[u8], out: &mut [u8]) -> io::Result<usize> {
    let mut rest = data.get(4..).unwrap_or_default();
    let mut len = 0;
    while rest.len() >= 4 {
        let (size, blocks) = rest.split_at(4);
        // A frame may follow another.
        if size == LZ4_LEGACY_MAGIC {
            rest = blocks;
            continue;
        }
        let size = field::u32(size, 0) as usize;
        if size > LZ4_BLOCK_MAX {
            return Err(io::Error::other("an lz4 block is too long"));
        }
        let block = blocks.get(..size).ok_or(io::ErrorKind::UnexpectedEof)?;
        let end = out.len().min(len + LZ4_LEGACY_BLOCK);
        len += lz4_flex::block::decompress_into(block, &mut out[len..end])
            .map_err(io::Error::other)?;
        rest = &blocks[size..];
    }
    Ok(len)
}
