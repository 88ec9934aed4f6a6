//! Machines that are killed, at any moment.

use std::process::Child;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::host::{Host, SERVE};

const MOMENTS: u32 = 50;
/// The longest time after which one is killed: a start, and some of the run.
const LONGEST: Duration = Duration::from_millis(100);

fn kill(child: &mut Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

/// After a kill, the next `ps` and `run` of the name work, and nothing is left.
#[test]
fn at_a_moment_of_the_start_or_the_run() {
    let host = Host::new();
    for moment in 0..MOMENTS {
        let words = ["run", "--name", "one"];
        let mut child = host.command(words.iter().chain(&SERVE)).spawn().unwrap();
        // Evenly spread, so that all parts of a start are met.
        std::thread::sleep(LONGEST * moment / MOMENTS);
        kill(&mut child);
        if moment % 2 == 0 {
            host.is_empty();
        }
        if moment % 5 == 0 {
            host.start("one");
            host.text(["kill", "one"]);
            host.is_empty();
        }
    }
    host.start("one");
    host.text(["kill", "one"]);
    host.is_empty();
}

#[test]
fn at_a_moment_of_the_stop() {
    let host = Host::new();
    for moment in 0..MOMENTS {
        host.start("one");
        let pid = Pid::from_raw(host.pid("one")).unwrap();
        let mut stop = host.command(["stop", "one"]).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(20) * moment / MOMENTS);
        // It may have ended by itself.
        let _ = kill_process(pid, Signal::KILL);
        stop.wait().unwrap();
        host.is_empty();
    }
}
