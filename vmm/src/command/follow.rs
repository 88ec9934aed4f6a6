//! Reading a log that is written and changed for a new one meanwhile.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use minivmm::control::LogFile;

/// Bytes that are read at once.
const PART: usize = 16 << 10;

/// A log from its beginning on: see [`LogFile`].
#[derive(Debug)]
pub struct Reader {
    path: PathBuf,
    /// Files that were there before the one that is written to.
    file: File,
    /// The one that follows it, if `file` is the older of two.
    newer: Option<File>,
    part: Vec<u8>,
}

impl Reader {
    /// Opens a log.
    ///
    /// # Errors
    /// Where there is none.
    pub fn open(path: &Path) -> io::Result<Self> {
        // The newer first: where they change in between, one is read twice and none is left out.
        let newer = File::open(path)?;
        let (file, newer) = match File::open(LogFile::before(path)) {
            Ok(older) if inode(&older)? != inode(&newer)? => (older, Some(newer)),
            _ => (newer, None),
        };
        Ok(Self { path: path.to_owned(), file, newer, part: vec![0; PART] })
    }

    /// What comes next; `None` where there is no more for now.
    ///
    /// # Errors
    /// Those of reading.
    pub fn next(&mut self) -> io::Result<Option<&[u8]>> {
        loop {
            let n = self.file.read(&mut self.part)?;
            if n > 0 {
                return Ok(Some(&self.part[..n]));
            }
            if let Some(newer) = self.newer.take() {
                self.file = newer;
                continue;
            }
            // What is no longer written to has been read to its end.
            match File::open(&self.path) {
                Ok(now) if inode(&now)? != inode(&self.file)? => self.file = now,
                _ => return Ok(None),
            }
        }
    }
}

fn inode(file: &File) -> io::Result<(u64, u64)> {
    let meta = file.metadata()?;
    Ok((meta.dev(), meta.ino()))
}

#[cfg(test)]
mod tests {
    use minivmm::console::Destination;

    use super::*;

    #[test]
    fn a_log_is_followed_through_its_changes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut log = LogFile::create(&path).unwrap();
        let mut reader = Reader::open(&path).unwrap();
        let mut read = Vec::new();
        let mut text = Vec::new();
        for i in 0..40_u32 {
            let part = vec![b'a' + (i % 26) as u8; 100_000];
            log.put(&part).unwrap();
            text.extend(part);
            while let Some(part) = reader.next().unwrap() {
                read.extend_from_slice(part);
            }
        }
        assert!(read == text, "{} of {}", read.len(), text.len());
        let mut again = Reader::open(&path).unwrap();
        let mut end = Vec::new();
        while let Some(part) = again.next().unwrap() {
            end.extend_from_slice(part);
        }
        assert!(end.len() as u64 > LogFile::MOST && text.ends_with(&end));
    }
}
