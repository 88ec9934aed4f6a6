//! Running programs as an ordinary user, whoever runs the tests.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Nobody in particular.
const USER: &str = "65534";

/// Opens what a user of minivmm may open, and the folders of the programs, which may be where only
/// root comes: in a mount namespace of the run's own.
const PREPARE: &str = "set -e
mount -t tmpfs tmp /mnt
mknod /mnt/kvm c 10 232
mknod /mnt/tun c 10 200
chmod 666 /mnt/kvm /mnt/tun
mount --bind /mnt/kvm /dev/kvm
mount --bind /mnt/tun /dev/net/tun
mkdir /mnt/program
mount --bind \"$1\" /mnt/program
shift
if [ -n \"${MINIVMM_BIN:-}\" ]; then
  mkdir /mnt/minivmm
  mount --bind \"$(dirname \"$MINIVMM_BIN\")\" /mnt/minivmm
  export MINIVMM_BIN=/mnt/minivmm/$(basename \"$MINIVMM_BIN\")
fi
exec setpriv \"$@\"";

/// The words that run others without any privilege, as another user where this one is root, and
/// where `program` is for that user: its own folder and the one above can be read there.
///
/// # Errors
/// Where `program` has no such folders.
pub fn ordinary(program: &Path) -> Result<(Vec<String>, PathBuf)> {
    let program = program.canonicalize().with_context(|| program.display().to_string())?;
    let drop = ["--no-new-privs", "--inh-caps=-all"];
    if !rustix::process::getuid().is_root() {
        let words = ["setpriv"].iter().chain(&drop).map(|&word| word.to_owned());
        return Ok((words.collect(), program));
    }
    let folder = program.ancestors().nth(2).context("a program in the root folder")?;
    let path = Path::new("/mnt/program").join(program.strip_prefix(folder)?);
    let folder = folder.to_string_lossy();
    let prepare = ["unshare", "--mount", "sh", "-c", PREPARE, "sh", &*folder];
    let become_user = ["--reuid", USER, "--regid", USER, "--clear-groups", "--bounding-set=-all"];
    let words = prepare.iter().chain(&drop).chain(&become_user).map(|&word| word.to_owned());
    Ok((words.collect(), path))
}
