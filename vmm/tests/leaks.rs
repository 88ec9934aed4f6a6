//! A machine that has ended leaves nothing in its process. Alone in its program: it looks at all
//! of the process's descriptors, mappings and threads.
#![expect(clippy::unwrap_used, reason = "a test fails by it")]

mod common;

use std::fs;

use minivmm::config::{Console, MachineConfig, Size, Transport};
use minivmm::machine::{BuildOptions, Files, Machine};
use minivmm::timings::ProcessStart;

/// Descriptors by what they lead to, guest memory that is mapped, and threads.
fn held() -> (Vec<String>, usize, usize) {
    let mut descriptors: Vec<String> = fs::read_dir("/proc/self/fd")
        .unwrap()
        .filter_map(|entry| fs::read_link(entry.unwrap().path()).ok())
        .map(|path| path.to_string_lossy().into_owned())
        // The directory that is being read.
        .filter(|path| !path.starts_with("/proc/"))
        .collect();
    descriptors.sort();
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let guest = maps.lines().filter(|l| l.contains("minivmm-guest") || l.contains("kvm")).count();
    (descriptors, guest, fs::read_dir("/proc/self/task").unwrap().count())
}

/// Whether a thread of this name runs.
fn has_thread(name: &str) -> bool {
    let mut tasks = fs::read_dir("/proc/self/task").unwrap();
    tasks.any(|task| {
        let name_of = fs::read_to_string(task.unwrap().path().join("comm"));
        name_of.is_ok_and(|comm| comm.trim_end() == name)
    })
}

#[test]
fn nothing_is_left_of_a_machine() {
    let run = |transport, nat: bool| {
        let mut config = MachineConfig {
            cmdline: "probe=none probe.end=halt".into(),
            cpus: 2,
            memory: Size::mib(32),
            console: Some(Console::None),
            transport,
            ..MachineConfig::default()
        };
        if nat {
            // A port of ours, given back.
            let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            let port = free.local_addr().unwrap().port();
            config.net = vec!["nat".parse().unwrap()];
            config.publish = vec![format!("127.0.0.1:{port}:7").parse().unwrap()];
            // Transfers that are under way when it ends.
            config.cmdline = "probe.seconds=20".into();
        }
        let config = config.validate().unwrap();
        let files = Files::open(&config).unwrap();
        let start = ProcessStart::now();
        let options = BuildOptions { console: Console::None, json: false, start };
        let machine = Machine::build(&config, &files, options).unwrap();
        machine.resume();
        if nat {
            common::eventually("the probe speaks with its peer", || has_thread("peer-conn"));
        }
        assert!(held().1 > 0);
        drop(machine);
    };
    // What is made once for the process.
    run(Transport::Pci, false);
    let before = held();
    for transport in [Transport::Pci, Transport::Mmio] {
        for nat in [false, true] {
            run(transport, nat);
            assert_eq!(held(), before, "after {transport:?}, with NAT: {nat}");
        }
    }
}
