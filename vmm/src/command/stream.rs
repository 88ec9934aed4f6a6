//! Standard streams that can be used without blocking.
//!
//! Whether a descriptor blocks is a matter of its open file description, which the shell and other
//! processes share: it is not ours to change. So pipes and terminals are opened once more.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::fs::{FileType, Mode, OFlags, fstat};
use rustix::termios::isatty;

/// `stream` with a description of its own that does not block, where it is a pipe or a terminal and
/// may be opened. `access` is `RDONLY` or `WRONLY`.
pub fn reopen(stream: impl AsFd, access: OFlags) -> Option<OwnedFd> {
    let stream = stream.as_fd();
    let kind = FileType::from_raw_mode(fstat(stream).ok()?.st_mode);
    if kind != FileType::Fifo && !isatty(stream) {
        return None;
    }
    let path = format!("/proc/self/fd/{}", stream.as_raw_fd());
    let flags = access | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    // Another user's terminal, no /proc: what was inherited serves, with more care.
    rustix::fs::open(path, flags, Mode::empty()).ok()
}
