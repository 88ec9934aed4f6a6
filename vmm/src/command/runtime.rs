//! Where a user's machines are found.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;

use minivmm::control::{ClaimError, Registry};
use rustix::process::geteuid;

/// This user's machines.
///
/// # Errors
/// [`ClaimError::Folder`].
pub fn registry() -> Result<Registry, ClaimError> {
    let folder = own_folder();
    loop {
        // One that is made in a folder for all must be looked at itself.
        Registry::open(&folder)?;
        match Registry::open(folder.join("machines")) {
            // Another command has removed the first in between.
            Err(ClaimError::Folder { source, .. })
                if source.kind() == ErrorKind::NotFound && !folder.exists() => {}
            other => return other,
        }
    }
}

/// Removes the folders of no machines.
pub fn tidy() {
    let folder = own_folder();
    // It fails where there is a machine.
    let _ = fs::remove_dir(folder.join("machines")).and_then(|()| fs::remove_dir(&folder));
}

fn own_folder() -> PathBuf {
    let (own, temporary) = (env::var_os("XDG_RUNTIME_DIR"), env::var_os("TMPDIR"));
    folder(own, temporary, geteuid().as_raw())
}

/// `minivmm` in the user's runtime folder (XDG Base Directory Specification), root's in `/run`;
/// where there is none, one of the user's own among the temporary files.
fn folder(own: Option<OsString>, temporary: Option<OsString>, user: u32) -> PathBuf {
    let absolute = |path: OsString| Some(PathBuf::from(path)).filter(|path| path.is_absolute());
    match own.and_then(absolute) {
        Some(own) => own.join("minivmm"),
        None if user == 0 => "/run/minivmm".into(),
        None => {
            let temporary = temporary.and_then(absolute).unwrap_or_else(|| "/tmp".into());
            temporary.join(format!("minivmm-{user}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_user_has_a_folder() {
        let at = |own: Option<&str>, temporary: Option<&str>, user| {
            folder(own.map(OsString::from), temporary.map(OsString::from), user)
        };
        assert_eq!(at(Some("/run/user/7"), None, 7), PathBuf::from("/run/user/7/minivmm"));
        assert_eq!(at(Some("/r"), Some("/t"), 0), PathBuf::from("/r/minivmm"));
        assert_eq!(at(None, Some("/t"), 0), PathBuf::from("/run/minivmm"));
        assert_eq!(at(None, Some("/t"), 7), PathBuf::from("/t/minivmm-7"));
        assert_eq!(at(Some("r"), Some(""), 7), PathBuf::from("/tmp/minivmm-7"));
    }
}
