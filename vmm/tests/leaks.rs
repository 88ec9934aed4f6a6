//! A machine that has ended leaves nothing in its process. Alone in its program: it looks at all
//! of the process's descriptors, mappings and threads.
#![expect(clippy::unwrap_used, reason = "a test fails by it")]

mod common;

use std::fs;

use minivmm::config::{ConsoleKind, MachineConfig, Size, VirtioTransport};
use minivmm::{Backing, BuildOptions, Files, Opened, ProcessStart};

const MEMORY: Size = Size::mib(32);

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
    let guest = maps.lines().filter(|l| is_guest_memory(l) || l.contains("kvm")).count();
    (descriptors, guest, fs::read_dir("/proc/self/task").unwrap().count())
}

/// Whether a line of `/proc/PID/maps` is of guest memory: by its size, as only some kernels name
/// anonymous memory.
fn is_guest_memory(line: &str) -> bool {
    let range = line.split(' ').next().and_then(|range| range.split_once('-')).unwrap();
    let [from, to] = [range.0, range.1].map(|at| u64::from_str_radix(at, 16).unwrap());
    to - from == MEMORY.bytes()
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
    let run = |transport, nat: bool, backing| {
        let mut config = MachineConfig {
            cmdline: "probe=none probe.end=halt".into(),
            cpus: 2,
            memory: MEMORY,
            console: Some(ConsoleKind::None),
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
        let options = BuildOptions { backing, start, ..BuildOptions::default() };
        let machine = Opened::new(&config, &files, options).unwrap().spawn().unwrap();
        machine.resume();
        if nat {
            common::eventually("the probe speaks with its peer", || has_thread("peer-conn"));
        }
        let maps = fs::read_to_string("/proc/self/maps").unwrap();
        let memory = maps.lines().find(|l| is_guest_memory(l)).expect("guest memory is mapped");
        assert_eq!(memory.contains("memfd:minivmm-guest"), backing == Backing::Memfd, "{memory}");
        drop(machine);
    };
    // What is made once for the process.
    run(VirtioTransport::Pci, false, Backing::Anonymous);
    let before = held();
    for transport in [VirtioTransport::Pci, VirtioTransport::Mmio] {
        for nat in [false, true] {
            for backing in [Backing::Anonymous, Backing::Memfd] {
                run(transport, nat, backing);
                assert_eq!(held(), before, "after {transport:?}, {backing}, with NAT: {nat}");
            }
        }
    }
}
