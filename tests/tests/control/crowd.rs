//! Many machines at once.

use std::time::{Duration, Instant};

use crate::host::Host;

const MACHINES: usize = 200;
/// Of which a median is taken at each end.
const LOOK: usize = 15;

fn median(times: &[Duration]) -> Duration {
    let mut times = times.to_vec();
    times.sort_unstable();
    times[times.len() / 2]
}

/// Memory of a process that is no other's, guest memory that was touched included, in KiB.
fn own_memory(pid: i32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap()
    };
    field("Private_Clean:") + field("Private_Dirty:")
}

/// Two hundred are started, listed and stopped; the last starts as fast as the first.
#[test]
fn two_hundred_machines() {
    let host = Host::new();
    let names: Vec<_> = (0..MACHINES).map(|i| format!("vm{i}")).collect();
    let times: Vec<_> = names
        .iter()
        .map(|name| {
            let start = Instant::now();
            host.start(name);
            start.elapsed()
        })
        .collect();
    let (first, last) = (median(&times[..LOOK]), median(&times[MACHINES - LOOK..]));
    let ratio = last.as_secs_f64() / first.as_secs_f64();
    println!("start of the first {first:.1?}, of the last {last:.1?}, {ratio:.2} times as long");
    assert_eq!(host.names().len(), MACHINES);
    let memory: u64 = names.iter().map(|name| own_memory(host.pid(name))).sum();
    println!("resident, of its own, guest memory included: {} KiB each", memory / MACHINES as u64);
    let mut words = vec!["stop".to_owned()];
    words.extend(names);
    assert_eq!(host.text(words).lines().count(), MACHINES);
    host.is_empty();
    // A generous bound; the aim, 1.3, is looked at where the machine is quiet.
    assert!(ratio < 3.0, "{ratio}");
}
