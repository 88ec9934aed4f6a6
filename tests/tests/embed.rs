//! The library in a program of its own, outside of the workspace and without the command.
#![expect(clippy::unwrap_used, reason = "a test fails by it")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const MAIN: &str = r#"
use std::collections::BTreeSet;
use std::fs;

use minivmm::{Machine, Nic};

/// Threads, descriptors and mappings of this process.
fn owned() -> [usize; 3] {
    let count = |folder: &str| fs::read_dir(folder).unwrap().count();
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    // What the allocator keeps for the next time is one mapping, however large.
    let maps: BTreeSet<_> = maps.lines().filter(|line| !line.ends_with(' ')).collect();
    let named = maps.iter().filter(|line| line.split_whitespace().nth(5).is_some()).count();
    [count("/proc/self/task"), count("/proc/self/fd"), named]
}

fn run() {
    let start = || {
        let builder = Machine::builder().nic(Nic::nat()).cmdline("probe.without=bulk");
        builder.start().unwrap()
    };
    let (one, two) = (start(), start());
    assert_eq!((one.wait().status(), two.wait().status()), (0, 0));
}

fn main() {
    // What is made once for the process: the signal's handler, the allocator's arenas.
    run();
    let before = owned();
    for _ in 0..3 {
        run();
    }
    // The console's and the workers' threads have been waited for.
    assert_eq!(owned(), before);
    println!("{before:?}");
}
"#;

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// A package that uses the library. It has the workspace's versions of all crates.
fn package(folder: &Path) {
    fs::create_dir(folder.join("src")).unwrap();
    fs::write(folder.join("src/main.rs"), MAIN).unwrap();
    let library = root().join("vmm").canonicalize().unwrap();
    let manifest = format!(
        "[package]\nname = 'embedder'\nversion = '0.1.0'\nedition = '2024'\n\n[dependencies]\n\
         minivmm = {{ path = '{}', default-features = false }}\n\n[workspace]\n",
        library.display()
    );
    fs::write(folder.join("Cargo.toml"), manifest).unwrap();
    fs::copy(root().join("Cargo.lock"), folder.join("Cargo.lock")).unwrap();
}

fn cargo(folder: &Path, args: &[&str]) -> String {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let target = target().join("embed");
    let output = Command::new(cargo)
        .args(args)
        .current_dir(folder)
        .env("CARGO_TARGET_DIR", target)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "cargo {args:?}: {said}");
    String::from_utf8(output.stdout).unwrap()
}

/// Where cargo has put this test.
fn target() -> PathBuf {
    std::env::current_exe().unwrap().ancestors().nth(3).unwrap().to_owned()
}

#[test]
fn a_program_of_its_own_has_two_machines_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    package(dir.path());
    let tree = cargo(dir.path(), &["tree", "--prefix", "none", "--edges", "normal"]);
    for name in ["clap", "hyper", "tokio", "event-manager", "tracing-subscriber"] {
        let there = tree.lines().any(|line| line.split(' ').next() == Some(name));
        assert!(!there, "{name} is in\n{tree}");
    }
    assert!(tree.contains("kvm-ioctls"), "{tree}");
    let printed = cargo(dir.path(), &["run", "--quiet"]);
    assert!(printed.starts_with('['), "{printed}");
}
