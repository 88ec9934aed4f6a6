use std::fs::{self, Permissions};
use std::io::Write;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::thread;

use super::*;

fn hashed(payload: &[u8]) -> Key {
    *blake3::hash(payload).as_bytes()
}

fn cache(room: u64) -> (tempfile::TempDir, Folder) {
    let dir = tempfile::tempdir().unwrap();
    let cache = Folder::at(dir.path(), geteuid().as_raw(), room).unwrap();
    (dir, cache)
}

/// A kernel of more than one piece, with bytes that differ.
fn vmlinux(seed: u8, len: usize) -> Vec<u8> {
    (0..len).map(|i| (i / 7) as u8 ^ seed).collect()
}

fn all(kept: &dyn Unpacked) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    kept.pass(0, kept.size() as usize, &mut |piece| {
        bytes.extend_from_slice(piece);
        Ok(())
    })?;
    Ok(bytes)
}

/// What the cache gives for `key`; `None` too where it is damaged.
fn found(cache: &Folder, key: &Key) -> Option<Vec<u8>> {
    all(&cache.find(key)?).ok()
}

/// The entries in a folder.
fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name != secret::NAME)
        .collect();
    names.sort();
    names
}

#[test]
fn what_was_kept_is_found_by_its_content() {
    let (dir, cache) = cache(ROOM);
    let key = hashed(b"payload");
    assert_ne!(key, hashed(b"payloae"));
    assert!(cache.find(&key).is_none());
    let kernel = vmlinux(1, 300_001);
    cache.keep(&key, &kernel);
    assert_eq!(found(&cache, &key), Some(kernel.clone()));
    assert!(cache.find(&hashed(b"other")).is_none());
    let mode = fs::metadata(dir.path().join(name(&key))).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    // Parts, across pieces and at the end; none beyond it.
    let kept = cache.find(&key).unwrap();
    for (offset, len) in [(0, 64), (131_000, 500), (131_072, 131_072), (300_000, 1), (300_001, 0)] {
        let mut part = Vec::new();
        let mut sink = |piece: &[u8]| {
            part.extend_from_slice(piece);
            Ok(())
        };
        kept.pass(offset as u64, len, &mut sink).unwrap();
        assert!(part == kernel[offset..offset + len], "{offset} {len}");
    }
    assert!(kept.pass(300_000, 2, &mut |_| Ok(())).is_err());
    assert!(kept.pass(u64::MAX, 2, &mut |_| Ok(())).is_err());
}

#[test]
fn damage_anywhere_is_noticed_and_replaced() {
    let (dir, cache) = cache(ROOM);
    let (key, kernel) = (hashed(b"payload"), vmlinux(2, 300_001));
    cache.keep(&key, &kernel);
    let path = dir.path().join(name(&key));
    let len = fs::metadata(&path).unwrap().len();
    let header = len - 300_001;
    for at in (0..header).chain([header, header + 131_072, len / 2, len - 1]) {
        let file = File::options().read(true).write(true).open(&path).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
        assert_eq!(found(&cache, &key), None, "byte {at}");
        file.write_all_at(&byte, at).unwrap();
    }
    assert!(found(&cache, &key).is_some());
    for cut in [0, 7, 47, header - 1, header, len - 1] {
        File::options().write(true).open(&path).unwrap().set_len(cut).unwrap();
        assert_eq!(found(&cache, &key), None, "{cut} bytes");
        cache.keep(&key, &kernel);
        assert!(found(&cache, &key).is_some());
    }
    File::options().append(true).open(&path).unwrap().write_all(b"x").unwrap();
    assert_eq!(found(&cache, &key), None);
}

/// The entry of one kernel under the name of another.
#[test]
fn an_entry_has_its_own_key_in_it() {
    let (dir, cache) = cache(ROOM);
    let [key, other] = [hashed(b"a"), hashed(b"b")];
    cache.keep(&key, &vmlinux(3, 1000));
    fs::rename(dir.path().join(name(&key)), dir.path().join(name(&other))).unwrap();
    assert!(cache.find(&other).is_none());
}

#[test]
fn what_others_can_write_is_not_used() {
    let (dir, mut cache) = cache(ROOM);
    let (key, kernel) = (hashed(b"payload"), vmlinux(4, 1000));
    cache.keep(&key, &kernel);
    let path = dir.path().join(name(&key));
    for (mode, used) in [(0o602, false), (0o620, false), (0o666, false), (0o644, true)] {
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        assert_eq!(cache.find(&key).is_some(), used, "{mode:o}");
        let folder = |mode| fs::set_permissions(dir.path(), Permissions::from_mode(mode)).unwrap();
        folder(mode | 0o100);
        let opened = Folder::at(dir.path(), cache.user, ROOM);
        assert_eq!(opened.is_ok(), used, "{mode:o}");
        folder(0o700);
    }
    // It is replaced by one that is private again.
    fs::set_permissions(&path, Permissions::from_mode(0o666)).unwrap();
    cache.keep(&key, &kernel);
    assert_eq!(found(&cache, &key), Some(kernel));
    // Another user's.
    cache.user += 1;
    assert!(cache.find(&key).is_none());
    assert!(Folder::at(dir.path(), cache.user, ROOM).is_err());
}

#[test]
fn what_is_no_file_is_neither_followed_nor_waited_for() {
    let (dir, cache) = cache(ROOM);
    let (key, kernel) = (hashed(b"payload"), vmlinux(5, 1000));
    cache.keep(&key, &kernel);
    let path = dir.path().join(name(&key));
    let elsewhere = dir.path().join("elsewhere");
    fs::rename(&path, &elsewhere).unwrap();
    symlink(&elsewhere, &path).unwrap();
    assert!(cache.find(&key).is_none());
    // The link is replaced, not what it leads to.
    cache.keep(&key, &vmlinux(6, 1000));
    assert!(path.symlink_metadata().unwrap().is_file());
    assert!(found(&cache, &key) == Some(vmlinux(6, 1000)));
    fs::remove_file(&path).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)
        .unwrap();
    assert!(cache.find(&key).is_none());
    cache.keep(&key, &kernel);
    assert_eq!(found(&cache, &key).as_ref(), Some(&kernel));
    fs::remove_file(&path).unwrap();
    let socket = UnixListener::bind(&path).unwrap();
    assert!(cache.find(&key).is_none());
    drop(socket);
    fs::remove_file(&path).unwrap();
    // A directory stays, and the kernel is not kept; nothing unfinished is left.
    fs::create_dir(&path).unwrap();
    assert!(cache.find(&key).is_none());
    cache.keep(&key, &kernel);
    assert!(path.is_dir());
    assert_eq!(names(dir.path()), [name(&key), "elsewhere".to_owned()]);
    // The folder itself.
    let link = dir.path().join("link");
    symlink(dir.path(), &link).unwrap();
    assert!(Folder::at(&link, cache.user, ROOM).is_err());
    assert!(Folder::at(&elsewhere, cache.user, ROOM).is_err());
}

#[test]
fn the_oldest_goes_first() {
    let (dir, cache) = cache(3 * entry::file_len(1000));
    let keys: Vec<_> = (0u8..4).map(|n| hashed(&[n])).collect();
    let age = |key: &Key, seconds: u64| {
        let file = File::options().write(true).open(dir.path().join(name(key))).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(seconds)).unwrap();
    };
    for (n, key) in keys[..3].iter().enumerate() {
        cache.keep(key, &vmlinux(n as u8, 1000));
        age(key, 100 - n as u64);
    }
    // Used: no longer the oldest.
    assert!(cache.find(&keys[0]).is_some());
    cache.keep(&keys[3], &vmlinux(3, 1000));
    let kept: Vec<_> = keys.iter().map(|key| cache.find(key).is_some()).collect();
    assert_eq!(kept, [true, false, true, true]);
    // One that is larger than all room drops none.
    cache.keep(&keys[1], &vmlinux(1, 4000));
    assert_eq!(names(dir.path()).len(), 3);
}

#[test]
fn unfinished_files_go_when_they_are_abandoned() {
    let (dir, cache) = cache(ROOM);
    for (file, age) in [(".new-1-x", 601), (".new-2-x", 5)] {
        let file = File::create(dir.path().join(file)).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(age)).unwrap();
    }
    let key = hashed(b"payload");
    cache.keep(&key, &vmlinux(7, 1000));
    assert_eq!(names(dir.path()), [".new-2-x".to_owned(), name(&key)]);
    // One of a process that had our number.
    fs::write(dir.path().join(format!(".new-{}-{}", std::process::id(), name(&key))), "x").unwrap();
    cache.keep(&key, &vmlinux(8, 1000));
    assert!(found(&cache, &key) == Some(vmlinux(8, 1000)));
}

/// Several machines at once, each with a view of its own.
#[test]
fn writers_and_readers_at_once() {
    let (dir, cache) = cache(ROOM);
    let (key, kernel) = (hashed(b"payload"), vmlinux(9, 500_000));
    cache.keep(&key, &kernel);
    let path = dir.path().join(name(&key));
    thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for n in 0..200 {
                // As another process does, under a name of its own.
                let new = dir.path().join(format!(".new-0-{n}"));
                let mut file = File::create_new(&new).unwrap();
                file.set_permissions(Permissions::from_mode(0o600)).unwrap();
                entry::write(&mut file, &key, &kernel).unwrap();
                fs::rename(new, &path).unwrap();
            }
        });
        while !writer.is_finished() {
            assert!(found(&cache, &key).is_some_and(|kept| kept == kernel));
            cache.keep(&key, &kernel);
        }
    });
}

/// A limit that would end the process by SIGXFSZ, and a full disk, which `/dev/full` is.
#[test]
fn what_can_not_be_written_leaves_nothing() {
    let (dir, cache) = cache(ROOM);
    let key = hashed(b"payload");
    let full = File::options().write(true).open("/dev/full");
    let error = entry::write(&mut full.unwrap(), &key, &vmlinux(1, 1000)).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    assert!(cache.store(&key, &vmlinux(1, 5000), Some(4096)).is_err());
    assert!(cache.store(&key, &vmlinux(1, 1000), Some(4096)).is_ok());
    // Gone meanwhile.
    fs::remove_dir_all(dir.path()).unwrap();
    assert!(cache.store(&key, &vmlinux(1, 1000), None).is_err());
    assert!(cache.find(&key).is_none());
}

#[test]
fn the_folder_is_where_the_user_keeps_caches() {
    let at = |cache: Option<&str>, home: Option<&str>| {
        folder(cache.map(Into::into), home.map(Into::into)).ok()
    };
    assert_eq!(at(Some("/c"), Some("/h")), Some("/c/minivmm/kernels".into()));
    assert_eq!(at(None, Some("/h")), Some("/h/.cache/minivmm/kernels".into()));
    assert_eq!(at(Some(""), Some("/h")), Some("/h/.cache/minivmm/kernels".into()));
    assert_eq!(at(Some("c"), Some("h")), None);
    assert_eq!(at(None, None), None);
}

#[test]
fn it_is_written_by_a_thread_that_can_be_waited_for() {
    let (dir, folder) = cache(ROOM);
    let mut cache =
        KernelCache { folder: Arc::new(folder), unpacked: Mutex::default(), thread: None };
    let key = hashed(b"payload");
    cache.keep(&key, vmlinux(1, 300_000));
    assert!(names(dir.path()).is_empty());
    cache.start();
    cache.finish();
    assert_eq!(names(dir.path()), [name(&key)]);
}
