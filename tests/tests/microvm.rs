//! The probe under another VMM on the same /dev/kvm: QEMU's microvm, with the probe as its kernel and
//! its virtio-mmio devices named on the command line.

use std::process::{Command, Stdio};

use minivmm::probe;
use minivmm_tests::natbed::tool;
use serde_json::Value;

#[test]
fn qemu_microvm() {
    let dir = tempfile::tempdir().unwrap();
    let kernel = dir.path().join("probe");
    std::fs::write(&kernel, probe::ELF).unwrap();
    // A software KVM does not know an MSR that the CPU model's arch-capabilities needs.
    // Its user networking is to reach nothing.
    let out = Command::new(tool("unshare").unwrap())
        .args(["--user", "--map-root-user", "--net", "timeout", "60"])
        .arg(tool("qemu-system-x86_64").unwrap())
        .args(["-M", "microvm,accel=kvm", "-cpu", "host,-arch-capabilities", "-m", "256"])
        .args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"])
        .args(["-serial", "stdio", "-netdev", "user,id=net,ipv6=off"])
        .args(["-device", "virtio-net-device,netdev=net"])
        .args(["-append", "probe=report probe.json probe.without=ipv6"])
        .arg("-kernel")
        .arg(&kernel)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&out.stdout);
    let lines: Vec<Value> = said.lines().filter_map(|l| serde_json::from_str(l).ok()).collect();
    let all = || format!("{said}\n{}", String::from_utf8_lossy(&out.stderr));
    for check in ["boot", "link", "lease", "gateway"] {
        let ok = lines.iter().any(|l| l["check"] == check && l["state"] == "ok");
        assert!(ok, "{check} is not ok: {}", all());
    }
    assert!(lines.iter().any(|l| l["check"] == "summary" && l["ok"] == true), "{}", all());
}
