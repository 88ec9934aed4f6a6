//! Who can have written what is found in the cache.

use std::io;

use rustix::fs::{FileType, Mode, Stat};

/// Refuses what `user` alone can't have written.
pub(super) fn private(stat: &Stat, kind: FileType, user: u32) -> io::Result<()> {
    let refuse = |what: &str| Err(io::Error::new(io::ErrorKind::PermissionDenied, what));
    if FileType::from_raw_mode(stat.st_mode) != kind {
        return refuse("it is of another kind");
    }
    if stat.st_uid != user {
        return refuse("it is another user's");
    }
    if Mode::from_raw_mode(stat.st_mode).intersects(Mode::WGRP | Mode::WOTH) {
        return refuse("others can write to it");
    }
    Ok(())
}
