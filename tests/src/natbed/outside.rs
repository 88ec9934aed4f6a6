//! Running the calling program again inside namespaces of its own.

use std::ffi::OsString;
use std::io::Read;
use std::process::{Command, Stdio};
use std::sync::Once;
use std::{env, process, thread};

use anyhow::{Context, Result};

use super::tool;

/// Set for the program that runs inside.
const INSIDE: &str = "MINIVMM_NATBED_INSIDE";

/// Where [`isolated`] returned.
#[derive(Debug)]
pub enum Run {
    /// In the namespaces: the caller goes on here.
    Inside,
    /// Outside, when the program inside has ended.
    Outside(process::ExitStatus),
}

/// Runs this program again with `args` as root of a new user, network, mount and PID namespace,
/// unless that has happened already.
///
/// # Errors
/// Where `unshare` is missing or can't be run.
pub fn isolated(args: &[OsString]) -> Result<Run> {
    if env::var_os(INSIDE).is_some() {
        return Ok(Run::Inside);
    }
    let mut command = Command::new(tool("unshare")?);
    command.args(["--user", "--map-root-user", "--net", "--mount", "--pid", "--fork"]);
    command.args(["--kill-child", "--mount-proc", "--"]);
    command.arg(env::current_exe()?).args(args).env(INSIDE, "1");
    // The child ends when this pipe does, however we end; waiting would close it.
    let mut child = command.stdin(Stdio::piped()).spawn().context("cannot run unshare")?;
    let pipe = child.stdin.take();
    let status = child.wait()?;
    drop(pipe);
    Ok(Run::Outside(status))
}

/// Ends this process, and with it all of its PID namespace, when the one outside has ended.
pub(super) fn end_with_parent() {
    static WATCH: Once = Once::new();
    WATCH.call_once(|| {
        thread::spawn(|| {
            let mut stdin = std::io::stdin();
            while matches!(stdin.read(&mut [0; 64]), Ok(n) if n > 0) {}
            process::exit(101);
        });
    });
}
