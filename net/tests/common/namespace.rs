//! A network namespace for a test program.

use std::process::{Command, ExitCode};

const INSIDE: &str = "MINIVMM_TEST_NETNS";

/// Runs the program again in a network namespace of its own, and says how that ended; `None` there.
pub fn outside_namespace() -> Option<ExitCode> {
    if std::env::var_os(INSIDE).is_some() {
        return None;
    }
    let program = std::env::current_exe().expect("the path of this program");
    let status = Command::new("unshare")
        .args(["--user", "--map-root-user", "--net"])
        .arg(program)
        .args(std::env::args_os().skip(1))
        .env(INSIDE, "1")
        .status();
    Some(match status {
        Ok(status) if status.success() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("cannot run unshare: {e}");
            ExitCode::FAILURE
        }
    })
}
