//! What a kernel file is.

use std::fmt;

/// What the kernel file was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// An ELF executable.
    Elf,
    /// A bzImage whose payload was unpacked by us and is an ELF executable.
    BzImage(Compression),
    /// A bzImage that unpacks itself in the guest.
    BzImageSelfExtracting,
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Elf => f.write_str("ELF"),
            Self::BzImage(compression) => write!(f, "bzImage ({compression})"),
            Self::BzImageSelfExtracting => f.write_str("bzImage (self-extracting)"),
        }
    }
}

/// How a kernel payload is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// gzip, RFC 1952.
    Gzip,
    /// xz with the x86 BCJ filter.
    Xz,
    /// LZMA alone.
    Lzma,
    /// LZ4, legacy frame.
    Lz4,
    /// Zstandard, RFC 8878.
    Zstd,
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gzip => "gzip",
            Self::Xz => "xz",
            Self::Lzma => "lzma",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        })
    }
}
