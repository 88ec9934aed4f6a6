//! Builds the probe guest that is embedded in the monitor.
//!
//! The probe is freestanding: its panic strategy, linker script and lock file are its own, so it
//! is built by a cargo of its own, which must not see this build's flags.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    let probe = Path::new(env!("CARGO_MANIFEST_DIR")).join("../resources/probe");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let target = out.join("probe");
    for path in ["src", "build.rs", "linker.ld", "Cargo.toml", "Cargo.lock"] {
        println!("cargo:rerun-if-changed={}", probe.join(path).display());
    }

    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut build = Command::new(cargo);
    // Flags for the host (-C target-cpu, sanitizers) and cargo's own variables about this package
    // are not for a guest without an operating system.
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        let ours = text.starts_with("CARGO") || text.starts_with("RUST");
        let keep = ["CARGO_HOME", "CARGO_NET_OFFLINE", "RUSTUP_HOME", "RUSTUP_TOOLCHAIN"];
        if ours && !keep.contains(&&*text) {
            build.env_remove(&name);
        }
    }
    // The user's own configuration of cargo is read by it too. Flags in the environment take the
    // place of those in there, also where they are none; and a target that is named decides where
    // the result is.
    build.env("CARGO_ENCODED_RUSTFLAGS", "");
    let triple = env::var("HOST").expect("cargo sets HOST");
    let status = build
        .args(["build", "--release", "--locked", "--quiet", "--target", &triple, "--target-dir"])
        .arg(&target)
        .arg("--manifest-path")
        .arg(probe.join("Cargo.toml"))
        .status()
        .expect("cargo can be run");
    assert!(status.success(), "the probe guest does not build");
    let elf = target.join(triple).join("release/minivmm-probe");
    println!("cargo:rustc-env=MINIVMM_PROBE={}", elf.display());
}
