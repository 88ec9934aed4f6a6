//! Unpacked kernels, kept in the user's cache folder from one start to the next.
//!
//! An entry is named by a keyed sum of the compressed payload ([`secret`]). It is used only where nobody
//! but its user can have written it: folder and file are that user's and closed to other writers, and
//! the file is no link. What it holds is checked as it is read, so a crash or a full disk in the
//! middle of a write does no harm, and no write waits for the disk. Nothing here is an error of the
//! machine's: what can't be kept or used is unpacked again, and `-v` says why.

mod entry;
mod owner;
mod secret;
#[cfg(test)]
mod tests;

use std::env;
use std::ffi::OsString;
use std::fs::{DirBuilder, File};
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime};

use minivmm_boot::{Store, Unpacked};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Timespec, Timestamps, UTIME_NOW};
use rustix::io::Errno;
use rustix::process::{Resource, geteuid, getrlimit};

use self::entry::Key;
use self::owner::private;
use self::secret::Secret;

/// Bytes of all entries together; a kernel of a distribution has 40 to 80 MiB.
const ROOM: u64 = 512 << 20;
/// An unfinished file of this age was left by a machine that was killed.
const ABANDONED: Duration = Duration::from_secs(600);
/// What unfinished files begin with.
const UNFINISHED: &str = ".new-";

/// The cache of a user, and the thread that writes to it. A kernel is written beside the start of
/// its guest, as that can take longer than to unpack it.
#[derive(Debug)]
pub(crate) struct KernelCache {
    folder: Arc<Folder>,
    /// What is to be kept, until the thread is started.
    unpacked: Mutex<Option<(Key, Vec<u8>)>>,
    thread: Option<JoinHandle<()>>,
}

/// The cache folder of a user.
#[derive(Debug)]
struct Folder {
    folder: OwnedFd,
    path: PathBuf,
    secret: Secret,
    /// Whose entries are trusted.
    user: u32,
    /// Bytes of all entries together.
    room: u64,
}

impl KernelCache {
    /// Opens this user's, which is made where it does not exist: `minivmm/kernels` in
    /// `$XDG_CACHE_HOME`, or in `.cache` of `$HOME`. `None` where it can't be used.
    pub(crate) fn open() -> Option<Self> {
        let path = folder(env::var_os("XDG_CACHE_HOME"), env::var_os("HOME"));
        let opened = path.and_then(|path| {
            // Where it can't be made, opening it says why.
            let _ = DirBuilder::new().recursive(true).mode(0o700).create(&path);
            let opened = Folder::at(&path, geteuid().as_raw(), ROOM);
            opened.map_err(|e| format!("{}: {e}", path.display()))
        });
        let opened = opened.inspect_err(|why| tracing::info!("kernel cache: not used, {why}"));
        let folder = Arc::new(opened.ok()?);
        Some(Self { folder, unpacked: Mutex::default(), thread: None })
    }

    /// Starts to write a kernel that is to be kept, if there is one.
    pub(crate) fn start(&mut self) {
        let unpacked = self.unpacked.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        let Some((key, vmlinux)) = unpacked else { return };
        let folder = Arc::clone(&self.folder);
        let thread = thread::Builder::new().name("kernel-cache".into());
        match thread.spawn(move || folder.keep(&key, &vmlinux)) {
            Ok(thread) => self.thread = Some(thread),
            Err(e) => tracing::info!("kernel cache: not kept, no thread can be started: {e}"),
        }
    }

    /// Waits until a kernel that is to be kept has been written. Without this, a machine that ends
    /// sooner leaves the next one to unpack it.
    pub(crate) fn finish(self) {
        // It does not panic; the process would have ended by that.
        self.thread.map(JoinHandle::join);
    }
}

impl Folder {
    fn at(path: &Path, user: u32, room: u64) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let folder = rustix::fs::open(path, flags, Mode::empty())?;
        private(&rustix::fs::fstat(&folder)?, FileType::Directory, user)?;
        let secret = Secret::open(&folder, user)?;
        Ok(Self { folder, path: path.to_owned(), secret, user, room })
    }

    fn read(&self, key: &Key) -> io::Result<entry::CachedKernel> {
        // Not to wait where a FIFO has that name.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&self.folder, name(key), flags, Mode::empty())?;
        private(&rustix::fs::fstat(&fd)?, FileType::RegularFile, self.user)?;
        let file = File::from(fd);
        let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
        // The oldest is dropped first; on a read-only file system nothing is.
        let used = Timestamps { last_access: now, last_modification: now };
        let _ = rustix::fs::futimens(&file, &used);
        entry::open(file, key)
    }

    /// Keeps a kernel, where no file may be longer than `limit`.
    fn store(&self, key: &Key, vmlinux: &[u8], limit: Option<u64>) -> io::Result<()> {
        let len = entry::file_len(vmlinux.len() as u64);
        if len > self.room {
            return Err(io::Error::other("it is larger than the cache"));
        }
        // Beyond this limit the kernel sends a signal that ends the process.
        if limit.is_some_and(|limit| limit < len) {
            return Err(io::Error::other("the limit of a file's size is lower (ulimit -f)"));
        }
        // Without a name until it is complete: a process that ends before leaves nothing.
        let flags = OFlags::WRONLY | OFlags::TMPFILE | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&self.folder, ".", flags, Mode::RUSR | Mode::WUSR)?;
        let mut file = File::from(fd);
        entry::write(&mut file, key, vmlinux)?;
        let own = format!("/proc/self/fd/{}", file.as_raw_fd());
        let (from, flags) = (rustix::fs::CWD, AtFlags::SYMLINK_FOLLOW);
        // A link replaces nothing, a rename does.
        let new = format!("{UNFINISHED}{}-{}", std::process::id(), name(key));
        let link = || rustix::fs::linkat(from, &own, &self.folder, &new, flags);
        match link() {
            // Of a process that had our number, killed between the two.
            Err(Errno::EXIST) => {
                rustix::fs::unlinkat(&self.folder, &new, AtFlags::empty())?;
                link()?;
            }
            other => other?,
        }
        let renamed = rustix::fs::renameat(&self.folder, &new, &self.folder, name(key));
        if renamed.is_err() {
            let _ = rustix::fs::unlinkat(&self.folder, &new, AtFlags::empty());
        }
        Ok(renamed?)
    }

    /// Removes what was not used for longest, until the rest has room, and what is unfinished.
    fn make_room(&self) -> io::Result<()> {
        let mut entries = Vec::new();
        for found in Dir::read_from(&self.folder)? {
            let found = found?;
            let name = found.file_name().to_owned();
            let Ok(stat) = rustix::fs::statat(&self.folder, &name, AtFlags::SYMLINK_NOFOLLOW)
            else {
                continue;
            };
            if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
                continue;
            }
            if name.to_bytes() == secret::NAME.as_bytes() {
                continue;
            }
            let modified = (stat.st_mtime, stat.st_mtime_nsec);
            if name.to_bytes().starts_with(UNFINISHED.as_bytes()) {
                if is_older(modified.0, ABANDONED) {
                    let _ = rustix::fs::unlinkat(&self.folder, &name, AtFlags::empty());
                }
                continue;
            }
            entries.push((modified, name, u64::try_from(stat.st_size).unwrap_or(0)));
        }
        entries.sort_unstable_by(|a, b| b.cmp(a));
        let mut used = 0;
        for (_, name, len) in entries {
            used += len;
            if used > self.room {
                rustix::fs::unlinkat(&self.folder, &name, AtFlags::empty())?;
            }
        }
        Ok(())
    }

    fn find(&self, key: &Key) -> Option<entry::CachedKernel> {
        let path = self.path.join(name(key));
        match self.read(key) {
            Ok(entry) => {
                tracing::info!("kernel cache: found {}", path.display());
                Some(entry)
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(e) => {
                tracing::info!("kernel cache: not used, {}: {e}", path.display());
                None
            }
        }
    }

    fn keep(&self, key: &Key, vmlinux: &[u8]) {
        let path = self.path.join(name(key));
        let limit = getrlimit(Resource::Fsize).current;
        match self.store(key, vmlinux, limit).and_then(|()| self.make_room()) {
            Ok(()) => tracing::info!("kernel cache: kept {}", path.display()),
            Err(e) => tracing::info!("kernel cache: not kept, {}: {e}", path.display()),
        }
    }
}

impl Store for KernelCache {
    fn key(&self, payload: &mut dyn Read) -> io::Result<Key> {
        self.folder.secret.key_of(payload)
    }

    fn find(&self, key: &Key) -> Option<Box<dyn Unpacked>> {
        self.folder.find(key).map(|entry| Box::new(entry) as Box<dyn Unpacked>)
    }

    fn keep(&self, key: &Key, vmlinux: Vec<u8>) {
        *self.unpacked.lock().unwrap_or_else(PoisonError::into_inner) = Some((*key, vmlinux));
    }
}

/// Where the cache of a user with these variables is; a path that depends on the working folder is
/// none (XDG Base Directory Specification).
fn folder(cache: Option<OsString>, home: Option<OsString>) -> Result<PathBuf, String> {
    let absolute = |path: OsString| Some(PathBuf::from(path)).filter(|path| path.is_absolute());
    let cache = cache.and_then(absolute);
    let cache = cache.or_else(|| home.and_then(absolute).map(|home| home.join(".cache")));
    cache
        .map(|cache| cache.join("minivmm/kernels"))
        .ok_or_else(|| "neither XDG_CACHE_HOME nor HOME names a folder".to_owned())
}

fn name(key: &Key) -> String {
    blake3::Hash::from_bytes(*key).to_hex().to_string()
}

/// Whether a time of `seconds` is past by more than `age`.
fn is_older(seconds: i64, age: Duration) -> bool {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    now.saturating_sub(age).as_secs() > u64::try_from(seconds).unwrap_or(0)
}
