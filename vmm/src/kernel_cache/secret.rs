//! What a payload is kept by: a keyed sum of its content, with a key that only this user has.
//!
//! Whoever makes a kernel must not be able to make it pass for another one. A hash that is safe
//! without a key takes longer than reading the kernel does; with a key, Poly1305 finds two different
//! payloads equal once in 2^80 (RFC 8439 §2.5, Bernstein 2005), as long as its sums stay secret.
//! They do: what is seen of them, the entry's name, is their keyed BLAKE3 hash.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd};

use poly1305::universal_hash::{KeyInit, UniversalHash};
use poly1305::{Block, Poly1305};
use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::rand::GetRandomFlags;

use super::entry::Key;
use super::owner::private;

/// The file in the cache folder.
pub(super) const NAME: &str = "secret";
const LEN: usize = 32;
/// Bytes of a payload that are read at a time.
const WINDOW: usize = 128 << 10;

/// The key of this user's cache.
pub(super) struct Secret([u8; LEN]);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

impl Secret {
    /// The one in `folder`, which is made where there is none that `user` alone can have read.
    pub(super) fn open(folder: impl AsFd, user: u32) -> io::Result<Self> {
        let folder = folder.as_fd();
        // Another process may make or remove it between two of our steps, but not each time.
        for _ in 0..4 {
            match read(folder, user) {
                Ok(secret) => return Ok(secret),
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => {
                    tracing::info!("kernel cache: {NAME} is replaced: {e}");
                    rustix::fs::unlinkat(folder, NAME, AtFlags::empty())?;
                }
            }
            match make(folder) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Err(io::Error::other(format!("{NAME} can't be made")))
    }

    /// What a payload is kept by.
    pub(super) fn key_of(&self, payload: &mut dyn Read) -> io::Result<Key> {
        let own = blake3::derive_key("minivmm kernel cache, Poly1305 of a payload", &self.0);
        let mut sum = Poly1305::new(&own.into());
        let mut window = vec![0; WINDOW];
        let mut total = 0;
        loop {
            let len = fill(payload, &mut window)?;
            total += len as u64;
            if len < WINDOW {
                sum.update_padded(&window[..len]);
                break;
            }
            sum.update(Block::slice_as_chunks(&window).0);
        }
        let mut name = blake3::Hasher::new_keyed(&self.0);
        name.update(&sum.finalize()).update(&total.to_le_bytes());
        Ok(*name.finalize().as_bytes())
    }
}

/// Reads until `window` is full or nothing is left.
fn fill(from: &mut dyn Read, window: &mut [u8]) -> io::Result<usize> {
    let mut len = 0;
    while len < window.len() {
        match from.read(&mut window[len..]) {
            Ok(0) => break,
            Ok(n) => len += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(len)
}

fn read(folder: impl AsFd, user: u32) -> io::Result<Secret> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(folder, NAME, flags, Mode::empty())?;
    let stat = rustix::fs::fstat(&fd)?;
    private(&stat, FileType::RegularFile, user)?;
    if Mode::from_raw_mode(stat.st_mode).intersects(Mode::RGRP | Mode::ROTH) {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "others can read it"));
    }
    let mut secret = [0; LEN];
    if stat.st_size != LEN as i64 {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "its length is wrong"));
    }
    File::from(fd).read_exact(&mut secret)?;
    Ok(Secret(secret))
}

/// Makes a new one, unless another process does at the same time.
fn make(folder: impl AsFd) -> Result<(), Errno> {
    let mut secret = [0; LEN];
    if rustix::rand::getrandom(&mut secret, GetRandomFlags::empty())? != LEN {
        return Err(Errno::AGAIN);
    }
    let flags = OFlags::WRONLY | OFlags::TMPFILE | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(&folder, ".", flags, Mode::RUSR | Mode::WUSR)?;
    let mut file = File::from(fd);
    // After a crash it would otherwise be zeros, which everybody knows.
    let written = file.write_all(&secret).and_then(|()| file.sync_all());
    written.map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))?;
    let own = format!("/proc/self/fd/{}", file.as_raw_fd());
    rustix::fs::linkat(rustix::fs::CWD, &own, &folder, NAME, AtFlags::SYMLINK_FOLLOW)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    use rustix::process::geteuid;

    use super::*;

    fn open(dir: &tempfile::TempDir) -> io::Result<Secret> {
        Secret::open(File::open(dir.path()).unwrap(), geteuid().as_raw())
    }

    fn key(secret: &Secret, mut payload: &[u8]) -> Key {
        secret.key_of(&mut payload).unwrap()
    }

    #[test]
    fn each_content_has_its_own_key() {
        let secret = Secret([1; LEN]);
        let mut payloads: Vec<Vec<u8>> =
            [0, 1, 15, 16, 17, WINDOW - 1, WINDOW, WINDOW + 1, 3 * WINDOW]
                .iter()
                .map(|&len| vec![0; len])
                .collect();
        for at in [0, WINDOW - 1, WINDOW, 3 * WINDOW - 1] {
            let mut payload = vec![0; 3 * WINDOW];
            payload[at] = 1;
            payloads.push(payload);
        }
        let mut keys: Vec<_> = payloads.iter().map(|payload| key(&secret, payload)).collect();
        keys.push(key(&Secret([2; LEN]), b""));
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), payloads.len() + 1);
    }

    #[test]
    fn a_payload_in_small_pieces_is_the_same() {
        struct Slow<'a>(&'a [u8]);
        impl Read for Slow<'_> {
            fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
                let len = buf.len().min(1000);
                self.0.read(&mut buf[..len])
            }
        }
        let payload: Vec<u8> = (0..2 * WINDOW + 77).map(|i| ((i * i) >> 5) as u8).collect();
        let secret = Secret([3; LEN]);
        assert_eq!(secret.key_of(&mut Slow(&payload)).unwrap(), key(&secret, &payload));
    }

    #[test]
    fn it_stays_the_same_and_is_nobody_elses() {
        let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let first = open(&dir).unwrap();
        assert_eq!(open(&dir).unwrap().0, first.0);
        assert_ne!(open(&other).unwrap().0, first.0);
        let mode = fs::metadata(dir.path().join(NAME)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn one_that_others_may_know_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(NAME);
        let mut last = open(&dir).unwrap().0;
        for mode in [0o640, 0o604, 0o620, 0o602] {
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            let new = open(&dir).unwrap().0;
            assert_ne!(new, last, "{mode:o}");
            last = new;
        }
        for content in [&b""[..], &[0; LEN - 1], &[0; LEN + 1]] {
            fs::write(&path, content).unwrap();
            assert_ne!(open(&dir).unwrap().0, [0; LEN]);
        }
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/etc/hostname", &path).unwrap();
        open(&dir).unwrap();
        assert!(fs::symlink_metadata(&path).unwrap().is_file());
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(open(&dir).is_err());
    }

    #[test]
    fn starts_at_once_agree() {
        let dir = tempfile::tempdir().unwrap();
        let all: Vec<_> = std::thread::scope(|scope| {
            let starts: Vec<_> = (0..8).map(|_| scope.spawn(|| open(&dir).unwrap().0)).collect();
            starts.into_iter().map(|start| start.join().unwrap()).collect()
        });
        assert!(all.iter().all(|secret| *secret == all[0]));
    }
}
