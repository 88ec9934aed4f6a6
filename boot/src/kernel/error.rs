//! Why a kernel is refused.

use std::io;

use super::format::Compression;

/// Why a kernel was refused. The caller names the file.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// Reading failed.
    #[error("cannot read the kernel: {0}")]
    Read(#[from] io::Error),
    /// No bytes at all.
    #[error("the kernel file is empty")]
    Empty,
    /// Neither ELF nor bzImage.
    #[error("not a kernel: {0}")]
    NotAKernel(&'static str),
    /// A disk of this kind.
    #[error(
        "not a kernel: a disk image ({0}); the kernel is a file in it, usually /boot/vmlinuz: \
         copy that out"
    )]
    Disk(&'static str),
    /// The file ends early.
    #[error("the kernel file is truncated: its {what} need {need} bytes, it has {have}")]
    Truncated {
        /// The part that is missing.
        what: &'static str,
        /// Bytes the file would need.
        need: u64,
        /// Bytes it has.
        have: u64,
    },
    /// For another CPU.
    #[error("the kernel is for {0}, this machine runs x86_64 kernels")]
    ForeignArchitecture(String),
    /// An ELF header field makes no sense.
    #[error("damaged kernel: {0}")]
    Malformed(&'static str),
    /// Protocol was forced to PVH.
    #[error("the kernel has no PVH entry (built without CONFIG_PVH)")]
    NoPvhEntry,
    /// Protocol was forced to PVH, and the note is in a payload of another format.
    #[error(
        "the kernel's PVH entry can't be found, as its payload is not gzip, xz, lzma, lz4 or zstd: \
         use its vmlinux, or another boot protocol"
    )]
    NoPvhInPayload,
    /// No way in that we know.
    #[error("the kernel cannot be entered in 64-bit mode (32-bit or older than Linux 3.8)")]
    No64BitEntry,
    /// An entry point outside what is loaded.
    #[error("damaged kernel: its {protocol} entry 0x{entry:x} is outside its own code")]
    EntryOutside {
        /// "PVH" or "ELF".
        protocol: &'static str,
        /// The address.
        entry: u64,
    },
    /// A part of the kernel below 1 MiB.
    #[error(
        "the kernel wants guest address 0x{0:x}; below 1 MiB is kept for boot data, link it higher"
    )]
    TooLow(u64),
    /// Guest memory ends before the kernel.
    #[error(
        "the kernel needs guest memory up to 0x{end:x}, RAM below the device hole ends at \
         0x{ram_end:x}: {}", advice(*.end)
    )]
    DoesNotFit {
        /// First address past the kernel.
        end: u64,
        /// First address past RAM.
        ram_end: u64,
    },
    /// The payload is damaged.
    #[error("cannot unpack the kernel ({compression}): {reason}")]
    Unpack {
        /// Its compression.
        compression: Compression,
        /// What the decoder said.
        reason: String,
    },
    /// The payload is larger than it may be.
    #[error("cannot unpack the kernel ({compression}): it exceeds {} MiB", limit.div_ceil(1 << 20))]
    TooLarge {
        /// Its compression.
        compression: Compression,
        /// Bytes allowed.
        limit: u64,
    },
}

/// What to do about a kernel that ends at `end`.
fn advice(end: u64) -> String {
    if end > crate::layout::RAM_LOW_MAX {
        "it is linked too high for this machine".to_owned()
    } else {
        format!("give the guest at least {} MiB", end.div_ceil(1 << 20))
    }
}
