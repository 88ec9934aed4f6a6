//! The example configurations are valid, and say what their comments say; the example programs run.
#![expect(clippy::unwrap_used, reason = "a test fails by it")]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use minivmm::config::{MODES, MachineConfig, MaxFlows, NatConfig, NetConfig, VirtioTransport};

fn folder() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../resources/examples"))
}

fn example(name: &str) -> MachineConfig {
    let path = folder().join(name);
    MachineConfig::from_text(&path, &fs::read_to_string(&path).unwrap()).unwrap()
}

#[test]
fn every_example_is_valid() {
    let mut count = 0;
    for entry in fs::read_dir(folder()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(name.ends_with(".toml"), "{name}");
        if let Err(e) = example(&name).validate() {
            panic!("{name}: {e}");
        }
        count += 1;
    }
    assert!(count >= 3);
}

/// `nat.toml` shows every key, and the defaults that it names are the defaults.
#[test]
fn the_full_example_is_complete() {
    let text = fs::read_to_string(folder().join("nat.toml")).unwrap();
    let given: toml::Table = text.parse().unwrap();
    let keys = |keys: &[&str], beside: &[&str]| -> BTreeSet<String> {
        keys.iter().chain(beside).map(|key| (*key).to_owned()).collect()
    };
    let shown = |table: &toml::Table| table.keys().cloned().collect::<BTreeSet<_>>();
    assert_eq!(shown(&given), keys(MachineConfig::KEYS, &[]));
    let nat: Vec<&str> = MODES[0].keys().iter().map(|key| key.name).collect();
    assert_eq!(shown(given["net"][0].as_table().unwrap()), keys(&nat, &["mode"]));
    let defaults = MachineConfig::default();
    let shown = example("nat.toml");
    assert_eq!(
        (shown.transport, shown.boot_protocol, &shown.cpu_mask),
        (defaults.transport, defaults.boot_protocol, &defaults.cpu_mask)
    );
    let [NetConfig::Nat(nat)] = &shown.net[..] else { panic!("{:?}", shown.net) };
    // Its default gives way where there are fewer descriptors.
    assert_eq!(nat.max_flows, Some(MaxFlows { tcp: 4096, udp: 1024 }));
    let rest = NatConfig { subnet: None, mtu: None, mac: None, max_flows: None, ..nat.clone() };
    assert_eq!(rest, NatConfig::default());
}

#[test]
fn the_probe_example_asks_for_mmio() {
    let config = example("probe.toml");
    assert_eq!((config.transport, config.kernel), (VirtioTransport::Mmio, None));
}

/// What an example program prints, which cargo has built beside this test.
fn program(name: &str) -> String {
    let test = std::env::current_exe().unwrap();
    let program = test.ancestors().nth(2).unwrap().join("examples").join(name);
    let output = std::process::Command::new(&program).output();
    let output = output.unwrap_or_else(|e| panic!("{}: {e}", program.display()));
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_program_reads_a_console() {
    let text = program("console");
    assert!(text.starts_with("probe: up "), "{text}");
    assert!(text.ends_with("the guest powered off\n"), "{text}");
}

#[test]
fn a_program_checks_its_network() {
    let text = program("check");
    assert!(text.contains("\"lease\" is ok"), "{text}");
    assert!(text.ends_with("the network works\n"), "{text}");
}

#[test]
fn a_program_has_two_machines() {
    let text = program("pair");
    for line in ["two: killed by request", "one: killed by request", "one: Paused", "one: Resumed"]
    {
        assert!(text.lines().any(|other| other == line), "{line} is not in {text}");
    }
}
