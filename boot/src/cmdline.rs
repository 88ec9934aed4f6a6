//! The kernel command line: bounded, without characters the kernel would misread.

use std::fmt;

use crate::layout::MmioDevice;

/// Longest command line in bytes, without the NUL: x86 Linux has COMMAND_LINE_SIZE = 2048.
pub const MAX_LEN: usize = 2047;

/// What a parameter that names a virtio-mmio device begins with.
pub(crate) const VIRTIO_MMIO: &str = "virtio_mmio.device=";

/// Why a command line was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CmdlineError {
    /// Longer than the kernel reads.
    #[error("the kernel command line has {len} bytes, this kernel reads at most {max}: shorten it")]
    TooLong {
        /// Bytes it would have.
        len: usize,
        /// Bytes allowed.
        max: usize,
    },
    /// A NUL, a line break or another control character.
    #[error(
        "the kernel command line has a control character (0x{byte:02x}) at byte {at}: remove it"
    )]
    Control {
        /// The character.
        byte: u8,
        /// Its offset within the piece that was to be added.
        at: usize,
    },
}

/// A kernel command line, assembled from pieces with one blank between them.
///
/// ```
/// # use minivmm_boot::Cmdline;
/// let mut line = Cmdline::new("console=ttyS0")?;
/// line.push("quiet")?;
/// assert_eq!(line.as_str(), "console=ttyS0 quiet");
/// assert!(line.push("two\nlines").is_err());
/// # Ok::<(), minivmm_boot::CmdlineError>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cmdline(String);

impl Cmdline {
    /// A command line that starts with `text`.
    ///
    /// # Errors
    /// As [`Cmdline::push`].
    pub fn new(text: &str) -> Result<Self, CmdlineError> {
        let mut line = Self::default();
        line.push(text)?;
        Ok(line)
    }

    /// Appends `text`, trimmed, after a blank; nothing if it is empty.
    ///
    /// # Errors
    /// [`CmdlineError`] if the line would exceed [`MAX_LEN`] bytes or `text` has a control
    /// character other than the tab; the line is then unchanged.
    pub fn push(&mut self, text: &str) -> Result<(), CmdlineError> {
        if let Some(at) = text.bytes().position(|b| b.is_ascii_control() && b != b'\t') {
            return Err(CmdlineError::Control { byte: text.as_bytes()[at], at });
        }
        let text = text.trim_matches([' ', '\t']);
        if text.is_empty() {
            return Ok(());
        }
        let blank = usize::from(!self.0.is_empty());
        let len = self.0.len().saturating_add(blank).saturating_add(text.len());
        if len > MAX_LEN {
            return Err(CmdlineError::TooLong { len, max: MAX_LEN });
        }
        self.0.extend([" "].into_iter().take(blank));
        self.0.push_str(text);
        Ok(())
    }

    /// Appends a `virtio_mmio.device=` parameter for each device.
    ///
    /// # Errors
    /// As [`Cmdline::push`].
    pub fn push_virtio_mmio(&mut self, devices: &[MmioDevice]) -> Result<(), CmdlineError> {
        devices.iter().try_for_each(|device| self.push(&virtio_mmio_parameter(device)))
    }

    /// The line.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Cmdline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// `virtio_mmio.device=SIZE@BASE:IRQ`, as Linux's virtio_mmio driver reads it.
#[must_use]
pub fn virtio_mmio_parameter(device: &MmioDevice) -> String {
    let MmioDevice { base, size, gsi } = device;
    if size.is_multiple_of(1024) {
        format!("{VIRTIO_MMIO}{}K@{base:#x}:{gsi}", size / 1024)
    } else {
        format!("{VIRTIO_MMIO}{size}@{base:#x}:{gsi}")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::layout;

    #[test]
    fn pieces_are_joined_by_one_blank() {
        let mut line = Cmdline::new("  console=ttyS0 ").unwrap();
        line.push("").unwrap();
        line.push(" a b ").unwrap();
        assert_eq!(line.to_string(), "console=ttyS0 a b");
    }

    #[test]
    fn limits() {
        let mut line = Cmdline::new(&"x".repeat(MAX_LEN)).unwrap();
        assert_eq!(line.push("y"), Err(CmdlineError::TooLong { len: 2049, max: 2047 }));
        assert_eq!(line.as_str().len(), MAX_LEN);
        let at = |s: &str| Cmdline::new(s).unwrap_err();
        assert_eq!(at("a\0b"), CmdlineError::Control { byte: 0, at: 1 });
        assert_eq!(at("\ta\nb"), CmdlineError::Control { byte: b'\n', at: 2 });
        assert!(Cmdline::new("a\tb=\"c d\" ü").is_ok());
    }

    #[test]
    fn mmio_parameters() {
        let mut line = Cmdline::default();
        line.push_virtio_mmio(&[
            layout::virtio_mmio_slot(0).unwrap(),
            MmioDevice { base: 0xD000_1000, size: 512, gsi: 6 },
        ])
        .unwrap();
        assert_eq!(
            line.as_str(),
            "virtio_mmio.device=4K@0xd0000000:5 virtio_mmio.device=512@0xd0001000:6"
        );
        // As `--help` and README.md show it.
        let second = virtio_mmio_parameter(&layout::virtio_mmio_slot(1).unwrap());
        assert_eq!(second, "virtio_mmio.device=4K@0xd0001000:6");
    }

    proptest! {
        #[test]
        fn whatever_is_pushed_the_line_stays_one(
            pieces in proptest::collection::vec("[ -~\t]{0,700}|\\PC{0,40}|[\0-\x1f]{0,4}", 0..6),
        ) {
            let mut line = Cmdline::default();
            for piece in pieces {
                let before = line.as_str().to_owned();
                match line.push(&piece) {
                    Ok(()) => prop_assert!(line.as_str().ends_with(piece.trim_matches([' ', '\t']))),
                    Err(_) => prop_assert_eq!(line.as_str(), &before),
                }
                prop_assert!(line.as_str().len() <= MAX_LEN);
                prop_assert!(!line.as_str().bytes().any(|b| b.is_ascii_control() && b != b'\t'));
            }
        }
    }
}
