//! A file of bounded length for what a guest writes.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::console::Destination;

/// A file that a guest's output is kept in. When it is full it becomes `NAME.1`, in place of the
/// one before, and a new one is begun: so between one and two lengths of it are there.
#[derive(Debug)]
pub struct LogFile {
    path: PathBuf,
    file: File,
    len: u64,
    most: u64,
}

impl LogFile {
    /// The length of each of the two files, in bytes.
    pub const MOST: u64 = 1 << 20;

    /// Begins one.
    ///
    /// # Errors
    /// Those of creating the file.
    pub fn create(path: impl Into<PathBuf>) -> io::Result<Self> {
        Self::with_most(path.into(), Self::MOST)
    }

    fn with_most(path: PathBuf, most: u64) -> io::Result<Self> {
        let file = create(&path)?;
        Ok(Self { path, file, len: 0, most })
    }

    /// Where what was written before is kept.
    pub fn before(path: &Path) -> PathBuf {
        let mut name = path.as_os_str().to_owned();
        name.push(".1");
        name.into()
    }
}

fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

impl Destination for LogFile {
    fn put(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            if self.len >= self.most {
                fs::rename(&self.path, Self::before(&self.path))?;
                self.file = create(&self.path)?;
                self.len = 0;
            }
            let room = usize::try_from(self.most - self.len).unwrap_or(usize::MAX);
            let (part, rest) = bytes.split_at(room.min(bytes.len()));
            self.file.write_all(part)?;
            self.len += part.len() as u64;
            bytes = rest;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_what_was_written_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("console.log");
        let mut log = LogFile::with_most(path.clone(), 100).unwrap();
        let text: String = (0..500).map(|i| char::from(b'a' + (i % 26) as u8)).collect();
        for part in text.as_bytes().chunks(33) {
            log.put(part).unwrap();
            assert!(fs::metadata(&path).unwrap().len() <= 100);
        }
        let kept = fs::read_to_string(LogFile::before(&path)).unwrap()
            + &fs::read_to_string(&path).unwrap();
        assert!(kept.len() > 100 && text.ends_with(&kept), "{kept}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    }
}
