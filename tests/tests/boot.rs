//! Every way a guest is started, on /dev/kvm with the probe as the guest.
#![expect(clippy::unwrap_used, reason = "a test fails by it")]

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use minivmm::probe;
use minivmm_boot::Compression;
use minivmm_boot::testing::BzImage;
use minivmm_tests::cli::{Minivmm, Outcome};
use serde_json::Value;

/// What the probe is told: no bulk transfer, and what must be there.
const REPORT: &str =
    "probe=report probe.json probe.without=bulk probe.expect=boot,link,lease,gateway";

fn kernel(dir: &Path, name: &str, content: &[u8]) -> String {
    let path = dir.join(name);
    fs::write(&path, content).unwrap();
    path.to_string_lossy().into_owned()
}

/// The probe's line about `check`.
fn line(outcome: &Outcome, check: &str) -> Result<Value> {
    let mut lines = outcome.json().into_iter();
    lines.find(|l| l["check"] == check).with_context(|| format!("no {check} in {outcome}"))
}

fn boots(kernel: &str, protocol: &str, transport: &str) -> Result<()> {
    let outcome = Minivmm::run()
        .args(["--kernel", kernel, "--boot-protocol", protocol, "--transport", transport])
        .args(["--net", "nat", "--cmdline", REPORT])
        .finish()?
        .expect_status(0)?;
    let said = if protocol == "pvh" { "pvh" } else { "linux" };
    ensure!(line(&outcome, "boot")?["protocol"] == said, "not by {said}: {outcome}");
    let link = line(&outcome, "link")?;
    ensure!(link["transport"] == format!("virtio-{transport}"), "not by {transport}: {outcome}");
    ensure!(line(&outcome, "lease")?["state"] == "ok", "no lease: {outcome}");
    Ok(())
}

/// One kernel file by both boot protocols and both transports.
fn boots_all_ways(image: &[u8]) {
    let dir = tempfile::tempdir().unwrap();
    let path = kernel(dir.path(), "kernel", image);
    let mut failures = vec![];
    for protocol in ["pvh", "linux64"] {
        for transport in ["pci", "mmio"] {
            if let Err(error) = boots(&path, protocol, transport) {
                failures.push(format!("{protocol}, {transport}: {error:#}"));
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
}

fn bzimage(compression: Compression) -> Vec<u8> {
    BzImage::new(probe::ELF, compression).unwrap().build()
}

#[test]
fn vmlinux() {
    boots_all_ways(probe::ELF);
}

#[test]
fn bzimage_gzip() {
    boots_all_ways(&bzimage(Compression::Gzip));
}

#[test]
fn bzimage_zstd() {
    boots_all_ways(&bzimage(Compression::Zstd));
}

#[test]
fn bzimage_lz4() {
    boots_all_ways(&bzimage(Compression::Lz4));
}

#[test]
fn bzimage_xz() {
    boots_all_ways(&bzimage(Compression::Xz));
}

/// Memory on both sides of the hole below 4 GiB, populated lazily. All of it is told, by either
/// protocol.
#[test]
fn memory_above_four_gib() {
    for protocol in ["pvh", "linux64"] {
        for (size, mib) in [("256M", 256), ("3G", 3072), ("6G", 6144)] {
            let args = ["--memory", size, "--json", "--boot-protocol", protocol];
            let run = Minivmm::run().args(args).args(["--cmdline", "probe=none"]);
            let outcome = run.finish().unwrap().expect_status(0).unwrap();
            let told = &line(&outcome, "boot").unwrap()["memory_mib"];
            assert_eq!(told, mib, "{protocol}, {size}: {outcome}");
        }
    }
}

#[test]
fn as_many_cpus_as_there_may_be() {
    let run = Minivmm::run().args(["--cpus", "32", "--json"]);
    let outcome = run.finish().unwrap().expect_status(0).unwrap();
    assert_eq!(line(&outcome, "summary").unwrap()["ok"], true, "{outcome}");
}

/// CRC-32 as in gzip, a bit at a time.
fn crc32(bytes: &[u8]) -> u32 {
    let step = |sum: u32, _| (sum >> 1) ^ if sum & 1 == 1 { 0xedb8_8320 } else { 0 };
    !bytes.iter().fold(!0, |sum, byte| (0..8).fold(sum ^ u32::from(*byte), step))
}

/// An initial RAM disk that fills what the guest has left, almost: all of it is where the guest is
/// told, by both protocols. Its size is no whole number of pages.
#[test]
fn initrd() {
    let dir = tempfile::tempdir().unwrap();
    let kernel = kernel(dir.path(), "kernel", probe::ELF);
    let initrd = dir.path().join("initrd");
    let content: Vec<u8> =
        (0..(16u32 << 20) + 5).map(|i| (i ^ (i >> 8) ^ (i >> 16)) as u8).collect();
    fs::write(&initrd, &content).unwrap();
    let sum = crc32(&content);
    for protocol in ["pvh", "linux64"] {
        let outcome = Minivmm::run()
            .args(["--kernel", &kernel, "--initrd", &initrd.to_string_lossy(), "--memory", "64M"])
            .args(["--boot-protocol", protocol, "--cmdline", "probe=none probe.json"])
            .finish()
            .unwrap()
            .expect_status(0)
            .unwrap();
        let boot = line(&outcome, "boot").unwrap();
        assert_eq!(boot["initrd_bytes"], content.len(), "{outcome}");
        assert_eq!(boot["initrd_crc32"], sum, "{outcome}");
    }
}
