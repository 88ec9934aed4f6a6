//! What can be done about a refusal of the host.

use std::io;

/// What can be done where this process, or the host, has no more of what is counted: descriptors,
/// threads. Nothing for other errors.
pub(crate) fn limit_cure(source: &io::Error) -> &'static str {
    match source.raw_os_error() {
        Some(libc::EMFILE) => " (allow more open files: ulimit -n)",
        Some(libc::ENFILE) => " (the host has too many files open: sysctl fs.file-max)",
        // Of all that is called here, only the creation of a thread fails so: clone(2), and KVM's own.
        Some(libc::EAGAIN) => THREAD_CURE,
        _ => "",
    }
}

/// The same for an error that an [`io::Error`] lies behind.
pub(crate) fn limit_cure_of(error: &(dyn std::error::Error + 'static)) -> &'static str {
    let chain = std::iter::successors(Some(error), |error| error.source());
    chain.filter_map(|error| error.downcast_ref()).map(limit_cure).next().unwrap_or_default()
}

/// What can be done where no thread can be made.
pub(crate) const THREAD_CURE: &str =
    " (allow this user more processes: ulimit -u; or its control group: pids.max)";
