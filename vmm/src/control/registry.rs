//! The machines of a user by their names: a folder each, with the lock of who runs it.
//!
//! A name is taken by who holds the lock of its folder. The kernel lets go of that lock when its
//! holder ends, however it ends: so what a killed machine left is told from one that runs, and is
//! removed by whoever comes across it.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use minivmm_net::check_hostname;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

const LOCK: &str = "lock";
const SOCKET: &str = "api.sock";
const CONSOLE: &str = "console.log";
const MESSAGES: &str = "messages.log";
/// All that a machine may have in its folder beside the lock.
const FILES: [&str; 5] = [SOCKET, CONSOLE, "console.log.1", MESSAGES, "messages.log.1"];

/// For so long a lock may be held by who has not said who it is.
const BRIEFLY: Duration = Duration::from_secs(1);

/// The folder of a user's machines.
#[derive(Debug, Clone)]
pub struct Registry(PathBuf);

/// Why a name can't be had.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    /// Another machine has it.
    #[error("the name {name} is taken by a machine that runs, process {pid}")]
    Taken {
        /// The name.
        name: String,
        /// The process that runs that machine.
        pid: u32,
    },
    /// It can't be a name.
    #[error("{name:?} is no name of a machine: {source}")]
    Name {
        /// What was given.
        name: String,
        /// What is wrong with it.
        source: minivmm_net::PlanError,
    },
    /// The folder can't be used.
    #[error("cannot use {}: {source}", path.display())]
    Folder {
        /// Which.
        path: PathBuf,
        /// The refusal.
        source: io::Error,
    },
}

/// There is no machine of a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no machine is named {0}")]
pub struct NoMachine(pub String);

/// A machine that runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// The process that runs it.
    pub pid: u32,
    folder: PathBuf,
}

impl Entry {
    /// Where its API is served.
    pub fn socket(&self) -> PathBuf {
        self.folder.join(SOCKET)
    }

    /// What a detached machine's guest wrote to its console: see [`LogFile`](super::LogFile).
    pub fn console(&self) -> PathBuf {
        self.folder.join(CONSOLE)
    }

    /// What a detached machine's monitor has to say.
    pub fn messages(&self) -> PathBuf {
        self.folder.join(MESSAGES)
    }
}

impl Registry {
    /// The machines in `path`, which is made where it does not exist.
    ///
    /// # Errors
    /// [`ClaimError::Folder`], also where the folder is another user's or open to others.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, ClaimError> {
        let registry = Self(path.into());
        match registry.make() {
            Ok(()) => Ok(registry),
            Err(source) => Err(ClaimError::Folder { path: registry.0, source }),
        }
    }

    fn make(&self) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.0)?;
        private(&self.0)
    }

    /// Takes a name for a machine of this process, or makes one.
    ///
    /// # Errors
    /// [`ClaimError`].
    pub fn claim(&self, name: Option<&str>) -> Result<Claim, ClaimError> {
        let Some(name) = name else {
            loop {
                match self.claim_name(&made_name()) {
                    Err(ClaimError::Taken { .. }) => {}
                    other => return other,
                }
            }
        };
        check_hostname(name)
            .map_err(|source| ClaimError::Name { name: name.to_owned(), source })?;
        self.claim_name(name)
    }

    fn claim_name(&self, name: &str) -> Result<Claim, ClaimError> {
        let folder = self.0.join(name);
        let refused = |source| ClaimError::Folder { path: folder.clone(), source };
        let until = Instant::now() + BRIEFLY;
        loop {
            let lock = match lock(&folder, true) {
                // Who was last here has removed the folder of all.
                Err(e) if e.kind() == io::ErrorKind::NotFound && Instant::now() < until => {
                    self.make().map_err(refused)?;
                    continue;
                }
                lock => lock.map_err(refused)?,
            };
            match lock {
                // It is being taken, or removed by who found it left behind.
                Lock::Taken(0) if Instant::now() < until => thread::sleep(Duration::from_millis(1)),
                Lock::Taken(pid) => {
                    return Err(ClaimError::Taken { name: name.to_owned(), pid });
                }
                // Its last holder removed it meanwhile.
                Lock::Gone => {}
                Lock::Ours(mut file) => {
                    remove_files(&folder).map_err(refused)?;
                    file.set_len(0).map_err(refused)?;
                    write!(file, "{}", std::process::id()).map_err(refused)?;
                    return Ok(Claim { name: name.to_owned(), folder, _lock: file });
                }
            }
        }
    }

    /// The machines that run, by their names. What killed ones left is removed.
    ///
    /// # Errors
    /// Those of reading the folder.
    pub fn machines(&self) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        let folder = match fs::read_dir(&self.0) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(entries),
            folder => folder?,
        };
        for found in folder {
            let Ok(name) = found?.file_name().into_string() else { continue };
            entries.extend(self.look(&name)?);
        }
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    /// The machine of a name.
    ///
    /// # Errors
    /// [`NoMachine`].
    pub fn machine(&self, name: &str) -> Result<Entry, NoMachine> {
        let none = || NoMachine(name.to_owned());
        // Else it could lead out of the folder.
        check_hostname(name).map_err(|_| none())?;
        self.look(name).ok().flatten().ok_or_else(none)
    }

    fn look(&self, name: &str) -> io::Result<Option<Entry>> {
        let folder = self.0.join(name);
        match lock(&folder, false) {
            Ok(Lock::Taken(pid)) => Ok(Some(Entry { name: name.to_owned(), pid, folder })),
            Ok(Lock::Gone) => Ok(None),
            Ok(Lock::Ours(file)) => {
                // Nobody is to take us for the process that was killed.
                file.set_len(0)?;
                remove(&folder, &file);
                Ok(None)
            }
            // Nothing of ours.
            Err(e) if e.kind() == io::ErrorKind::NotADirectory => Ok(None),
            Err(e) => Err(e),
        }
    }
}

/// A name, and its folder, for as long as this is held. Dropping it removes the folder.
#[derive(Debug)]
pub struct Claim {
    name: String,
    folder: PathBuf,
    _lock: File,
}

impl Claim {
    /// The name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where the API is to be served.
    pub fn socket(&self) -> PathBuf {
        self.folder.join(SOCKET)
    }

    /// Where the console of a detached machine is to be kept.
    pub fn console(&self) -> PathBuf {
        self.folder.join(CONSOLE)
    }

    /// Where the messages of a detached machine's monitor are to be kept.
    pub fn messages(&self) -> PathBuf {
        self.folder.join(MESSAGES)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        remove(&self.folder, &self._lock);
    }
}

enum Lock {
    Ours(File),
    /// Another process has it.
    Taken(u32),
    /// There is none, or there is another of that name now.
    Gone,
}

/// Tries to take the lock of `folder`, which is made, with it, where `make` says so.
fn lock(folder: &Path, make: bool) -> io::Result<Lock> {
    if make {
        match DirBuilder::new().mode(0o700).create(folder) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
            _ => {}
        }
    }
    let path = folder.join(LOCK);
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(make).truncate(false).mode(0o600);
    let mut file = match options.open(&path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Lock::Gone),
        Err(e) => return Err(e),
    };
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => {
            let mut pid = String::new();
            file.read_to_string(&mut pid)?;
            // It is empty for a moment, before its holder has written.
            return Ok(Lock::Taken(pid.trim().parse().unwrap_or(0)));
        }
        Err(e) => return Err(e.into()),
    }
    let (ours, there) = (file.metadata()?, fs::metadata(&path));
    let same = |other: fs::Metadata| (ours.dev(), ours.ino()) == (other.dev(), other.ino());
    Ok(if there.is_ok_and(same) { Lock::Ours(file) } else { Lock::Gone })
}

/// Removes a folder whose lock is held.
fn remove(folder: &Path, _lock: &File) {
    let removed = remove_files(folder)
        .and_then(|()| fs::remove_file(folder.join(LOCK)))
        .and_then(|()| fs::remove_dir(folder));
    if let Err(e) = removed {
        tracing::debug!("cannot remove {}: {e}", folder.display());
    }
}

fn remove_files(folder: &Path) -> io::Result<()> {
    for file in FILES {
        match fs::remove_file(folder.join(file)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
    }
    Ok(())
}

/// Fails unless `path` is a folder of this user's that is closed to all others.
fn private(path: &Path) -> io::Result<()> {
    let meta = fs::symlink_metadata(path)?;
    if !meta.is_dir() {
        return Err(io::ErrorKind::NotADirectory.into());
    }
    if meta.uid() != rustix::process::geteuid().as_raw() {
        return Err(io::Error::other("it is another user's"));
    }
    if meta.permissions().mode() & 0o077 != 0 {
        return Err(io::Error::other("it is open to other users (chmod 700)"));
    }
    Ok(())
}

fn made_name() -> String {
    let mut seed = [0; 4];
    // A name that is not random is found taken, where it is.
    let _ = rustix::rand::getrandom(&mut seed, rustix::rand::GetRandomFlags::empty());
    format!("vm-{:08x}", u32::from_ne_bytes(seed))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registry() -> (tempfile::TempDir, Registry) {
        let dir = tempfile::tempdir().unwrap();
        let registry = Registry::open(dir.path().join("a/machines")).unwrap();
        (dir, registry)
    }

    fn names(registry: &Registry) -> Vec<String> {
        registry.machines().unwrap().into_iter().map(|entry| entry.name).collect()
    }

    #[test]
    fn a_name_is_one_machines() {
        let (_dir, registry) = registry();
        let one = registry.claim(Some("one")).unwrap();
        let refused = registry.claim(Some("one")).unwrap_err().to_string();
        let pid = std::process::id();
        assert_eq!(refused, format!("the name one is taken by a machine that runs, process {pid}"));
        let made = registry.claim(None).unwrap();
        assert_eq!(names(&registry), ["one", made.name()]);
        assert_eq!(registry.machine("one").unwrap().socket(), one.socket());
        drop(one);
        assert_eq!(registry.machine("one"), Err(NoMachine("one".into())));
        drop(registry.claim(Some("one")).unwrap());
        drop(made);
        assert_eq!(fs::read_dir(&registry.0).unwrap().count(), 0);
    }

    #[test]
    fn what_a_killed_machine_left_is_removed() {
        let (_dir, registry) = registry();
        let leave = |name: &str| {
            let folder = registry.0.join(name);
            fs::create_dir(&folder).unwrap();
            for file in FILES.iter().chain(&[LOCK]) {
                fs::write(folder.join(file), "1").unwrap();
            }
        };
        leave("dead");
        leave("killed");
        let again = registry.claim(Some("killed")).unwrap();
        assert!(!again.socket().exists() && !again.console().exists());
        assert_eq!(names(&registry), ["killed"]);
        assert_eq!(fs::read_dir(&registry.0).unwrap().count(), 1);
    }

    #[test]
    fn no_name_leads_out_of_the_folder() {
        let (_dir, registry) = registry();
        for name in ["", "..", "../machines", "a/b", "/", "a b", "-"] {
            assert!(matches!(registry.claim(Some(name)), Err(ClaimError::Name { .. })), "{name}");
            assert_eq!(registry.machine(name), Err(NoMachine(name.into())));
        }
    }

    #[test]
    fn a_folder_that_others_can_enter_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let refused = Registry::open(dir.path()).unwrap_err().to_string();
        assert!(refused.contains("open to other users"), "{refused}");
    }

    /// Many take and leave one name; each time one has it.
    #[test]
    fn the_lock_survives_the_removal_of_its_file() {
        let (_dir, registry) = registry();
        let holders = std::sync::atomic::AtomicU32::new(0);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..500 {
                        if let Ok(claim) = registry.claim(Some("one")) {
                            let order = std::sync::atomic::Ordering::SeqCst;
                            assert_eq!(holders.fetch_add(1, order), 0);
                            holders.fetch_sub(1, order);
                            drop(claim);
                        }
                    }
                });
            }
        });
        assert_eq!(fs::read_dir(&registry.0).unwrap().count(), 0);
    }
}
