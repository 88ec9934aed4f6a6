//! The files that a guest is started from.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use minivmm_boot::Source;
use minivmm_boot::source::MAX_IMAGE;

use crate::config::Validated;
use crate::error::Error;

/// Kernel and initrd, opened. What has no length of its own, such as a pipe, has been read.
///
/// Opening and reading them may wait for another process, which no signal ends once the monitor
/// listens to signals: so this comes before.
#[derive(Debug, Default)]
pub struct Files {
    kernel: Option<Content>,
    initrd: Option<Content>,
}

#[derive(Debug)]
enum Content {
    File(File),
    Bytes(Vec<u8>),
}

impl Files {
    /// Opens those that `config` names.
    ///
    /// # Errors
    /// [`Error::Open`].
    pub fn open(config: &Validated) -> Result<Self, Error> {
        let open = |what, path: &Option<_>| path.as_deref().map(|p| open(what, p)).transpose();
        Ok(Self {
            kernel: open("kernel", &config.kernel)?,
            initrd: open("initrd", &config.initrd)?,
        })
    }

    /// The kernel; the probe without one.
    pub fn kernel(&self) -> Option<Source<'_>> {
        self.kernel.as_ref().map(Content::source)
    }

    /// The initrd.
    pub fn initrd(&self) -> Option<Source<'_>> {
        self.initrd.as_ref().map(Content::source)
    }
}

impl Content {
    fn source(&self) -> Source<'_> {
        match self {
            Self::File(file) => Source::File(file),
            Self::Bytes(bytes) => Source::Bytes(bytes),
        }
    }
}

fn open(what: &'static str, path: &Path) -> Result<Content, Error> {
    let refused = |source| Error::Open { what, path: path.to_owned(), source };
    let file = File::open(path).map_err(refused)?;
    let meta = file.metadata().map_err(refused)?;
    // Directories are refused by the loader. Files of /proc say that they are empty.
    if meta.is_file() && meta.len() > 0 || meta.is_dir() {
        return Ok(Content::File(file));
    }
    let mut bytes = Vec::new();
    file.take(MAX_IMAGE + 1).read_to_end(&mut bytes).map_err(refused)?;
    if bytes.len() as u64 > MAX_IMAGE {
        let what = "it has no length of its own, and is over 512 MiB long";
        return Err(refused(io::Error::new(io::ErrorKind::FileTooLarge, what)));
    }
    Ok(Content::Bytes(bytes))
}
