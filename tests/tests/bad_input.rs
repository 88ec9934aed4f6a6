//! Bad input: every mistake is one line on standard error that says what is wrong, or one object with
//! `--json`, a documented exit status, and nothing left behind (which the harness checks after each
//! run).

use std::fs;
use std::net::{TcpListener, UdpSocket};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use minivmm_boot::Compression;
use minivmm_boot::testing::BzImage;
use minivmm_tests::cli::{Minivmm, Outcome};
use serde_json::Value;

const CONFIG: i32 = 2;
const NO_VIRTUALIZATION: i32 = 69;
const HOST: i32 = 71;
const NO_PERMISSION: i32 = 77;

/// Runs it and checks the three things; `word` must be in the message.
fn refused(run: Minivmm, status: i32, word: &str) -> Result<Outcome> {
    let outcome = run.finish()?.expect_status(status)?;
    let lines: Vec<&str> = outcome.stderr.lines().collect();
    ensure!(lines.len() == 1, "{} lines on stderr: {outcome}", lines.len());
    ensure!(lines[0].starts_with("minivmm: "), "the line does not name the program: {outcome}");
    ensure!(lines[0].contains(word), "the line does not say {word:?}: {outcome}");
    ensure!(outcome.stdout.is_empty(), "something on stdout: {outcome}");
    Ok(outcome)
}

/// The same as one object.
fn refused_in_json(run: Minivmm, status: i32, word: &str) -> Result<()> {
    let outcome = run.args(["--json"]).finish()?.expect_status(status)?;
    let objects: Vec<Value> =
        outcome.stderr.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let [object] = &objects[..] else { bail!("not one object: {outcome}") };
    let reason = object["reason"].as_str().unwrap_or_default();
    ensure!(object["event"] == "exit" && object["status"] == status, "no exit: {outcome}");
    ensure!(reason.contains(word), "the reason does not say {word:?}: {outcome}");
    ensure!(outcome.stdout.is_empty(), "something on stdout: {outcome}");
    Ok(())
}

/// All that fail, so that one run shows every wrong message.
fn table<'a>(rows: impl IntoIterator<Item = (&'a [&'a str], i32, &'a str)>) {
    let failures: Vec<String> = rows
        .into_iter()
        .filter_map(|(args, status, word)| {
            refused(Minivmm::run().args(args), status, word)
                .and_then(|_| refused_in_json(Minivmm::run().args(args), status, word))
                .err()
                .map(|e| format!("{e:#}"))
        })
        .collect();
    assert!(failures.is_empty(), "{} rows:\n{}", failures.len(), failures.join("\n\n"));
}

fn write(dir: &Path, name: &str, content: &[u8]) -> String {
    let path = dir.join(name);
    fs::write(&path, content).expect("a temporary directory takes a file");
    path.to_string_lossy().into_owned()
}

#[test]
fn kernels() {
    let dir = tempfile::tempdir().unwrap();
    let probe = minivmm::probe::ELF;
    let missing = dir.path().join("missing").to_string_lossy().into_owned();
    let empty = write(dir.path(), "empty", b"");
    let text = write(dir.path(), "text", b"#!/bin/sh\necho this is no kernel\n");
    let header = write(dir.path(), "header", &probe[..40]);
    let half = write(dir.path(), "half", &probe[..probe.len() / 2]);
    // ELF: e_machine is the half-word at 18; 183 is AArch64.
    let mut foreign = probe.to_vec();
    foreign[18..20].copy_from_slice(&183u16.to_le_bytes());
    let bzimage = |elf: &[u8]| BzImage::new(elf, Compression::Gzip).unwrap().build();
    let whole = bzimage(probe);
    let bz_half = write(dir.path(), "bz-half", &whole[..whole.len() / 2]);
    let bz_foreign = write(dir.path(), "bz-foreign", &bzimage(&foreign));
    let foreign = write(dir.path(), "foreign", &foreign);
    let folder = dir.path().to_string_lossy().into_owned();
    table([
        (&["--kernel", &missing][..], CONFIG, "No such file"),
        (&["--kernel", &empty], CONFIG, "file is empty"),
        (&["--kernel", &text], CONFIG, "not a kernel: a script"),
        (&["--kernel", &header], CONFIG, "truncated: its ELF headers"),
        (&["--kernel", &half], CONFIG, "truncated: its segments"),
        (&["--kernel", &foreign], CONFIG, "for arm64"),
        (&["--kernel", &bz_half], CONFIG, "truncated: its"),
        (&["--kernel", &bz_foreign], CONFIG, "for arm64"),
        (&["--kernel", &folder], CONFIG, "is a directory"),
    ]);
}

#[test]
fn initrds() {
    let dir = tempfile::tempdir().unwrap();
    let kernel = write(dir.path(), "kernel", minivmm::probe::ELF);
    let large = dir.path().join("large");
    // Sparse: it takes no room.
    fs::File::create(&large).unwrap().set_len(65 << 20).unwrap();
    let large = large.to_string_lossy().into_owned();
    let missing = dir.path().join("missing").to_string_lossy().into_owned();
    let empty = write(dir.path(), "nothing", b"");
    let folder = dir.path().to_string_lossy().into_owned();
    table([
        (
            &["--kernel", &kernel, "--memory", "64M", "--initrd", &large][..],
            CONFIG,
            "the initrd has 65 MiB",
        ),
        (&["--kernel", &kernel, "--initrd", &missing], CONFIG, "No such file"),
        (&["--kernel", &kernel, "--initrd", &empty], CONFIG, "initrd is empty"),
        (&["--kernel", &kernel, "--initrd", &folder], CONFIG, "is a directory"),
        (&["--initrd", &large], CONFIG, "--kernel"),
    ]);
}

#[test]
fn sizes_and_counts() {
    table([
        (&["--memory", "0"][..], CONFIG, "memory"),
        (&["--memory", "1M"], CONFIG, "1 MiB"),
        (&["--memory", "10T"], CONFIG, "10 TiB"),
        (&["--memory", "-1"], CONFIG, "\"-1\" is not a size"),
        (&["--memory", "lots"], CONFIG, "lots"),
        (&["--memory", "99999999999999999999G"], CONFIG, "99999999999999999999G"),
        (&["--cpus", "0"], CONFIG, "0 CPUs"),
        (&["--cpus", "1000"], CONFIG, "1000 CPUs"),
        (&["--cpus", "two"], CONFIG, "two"),
        (&["--cpus", "-1"], CONFIG, "\"-1\" is no number of CPUs"),
    ]);
}

#[test]
fn words() {
    let long = "x".repeat(1 << 16);
    table([
        (&["--nonsense"][..], CONFIG, "--nonsense"),
        (&["--console", "screen"], CONFIG, "screen"),
        (&["--transport", "isa"], CONFIG, "isa"),
        (&["--cpu-mask", "nonsense"], CONFIG, "nonsense"),
        (&["--cpu-mask", "avx2,lm"], CONFIG, "'lm' can't be taken away"),
        (&["--boot-protocol", "bios"], CONFIG, "bios"),
        (&["--name", "not a name"], CONFIG, "not a name"),
        (&["--cmdline", &long], CONFIG, "command line"),
        (&["--cmdline", "a\nb"], CONFIG, "--cmdline"),
        (&["--config", "/nonexistent/vm.toml"], CONFIG, "/nonexistent/vm.toml"),
    ]);
}

#[test]
fn config_files() {
    let dir = tempfile::tempdir().unwrap();
    let key = write(dir.path(), "key.toml", b"cpus = 1\ncolour = 'blue'\n");
    let syntax = write(dir.path(), "syntax.toml", b"cpus = = 1\n");
    let binary = write(dir.path(), "binary.toml", &[0xff, 0xfe, 0]);
    let mode = write(dir.path(), "mode.toml", b"[[net]]\nmode = 'private'\n");
    let value = write(dir.path(), "value.toml", b"[[net]]\nmode = 'nat'\nmtu = 'big'\n");
    let beside = write(dir.path(), "beside.toml", b"kernel = 'no-such-kernel'\n");
    let mask = write(dir.path(), "mask.toml", b"cpus = 1\ncpu-mask = 'nosuch'\n");
    let absent = write(dir.path(), "absent.json", b"{\n\"kernel\": \"no-such-kernel\"}");
    let second = b"[[net]]\nmode = 'nat'\nsubnet = '10.9.0.0/24'\n[[net]]\nmode = 'nat'\n\
                   subnet = '10.9.0.0/16'\n";
    let second = write(dir.path(), "second.toml", second);
    let reserved = b"net = [\n'nat',\n'nat,subnet=127.0.0.0/8']\n";
    let reserved = write(dir.path(), "reserved.toml", reserved);
    let below = write(dir.path(), "below.toml", b"[[net]]\nmode = 'nat'\npublish = ['80:80']\n");
    let fc = br#"{"boot-source": {"kernel_image_path": "k"}, "drives": []}"#;
    let fc = write(dir.path(), "fc.json", fc);
    let missing = dir.path().join("no-such-kernel").to_string_lossy().into_owned();
    table([
        (&["--config", &mask][..], CONFIG, "mask.toml:2: cpu-mask: unknown CPU feature"),
        (&["--config", &mask, "--cpu-mask", "nosuch"], CONFIG, "--cpu-mask: unknown CPU feature"),
        (&["--config", &absent], CONFIG, "absent.json:2: kernel: cannot open "),
        (&["--config", &second], CONFIG, "second.toml:6: subnet: 10.9.0.0/16 overlaps"),
        (&["--config", &reserved], CONFIG, "reserved.toml:3: net: 127.0.0.0/8 cannot be"),
        (&["--config", &below], CONFIG, "below.toml:3: \"publish\" is a key of the machine"),
        (&["--config", &fc], CONFIG, "fc.json:1: this is a configuration of Firecracker's"),
        (&["--config", &key], CONFIG, "colour"),
        (&["--config", &syntax], CONFIG, "syntax.toml:1"),
        (&["--config", &binary], CONFIG, "binary.toml"),
        (&["--config", &mode], CONFIG, "mode.toml:2: network mode \"private\" is not in"),
        (&["--config", &value], CONFIG, "value.toml:3: mtu: \"big\""),
        (&["--config", &beside], CONFIG, &missing),
        (&["--config", "/dev/zero"], CONFIG, "/dev/zero"),
    ]);
}

#[test]
fn networks() {
    let twice = "nat,mac=52:54:00:00:00:01";
    table([
        (&["--net", "wifi"][..], CONFIG, "wifi"),
        (&["--net", ""], CONFIG, "--net"),
        (&["--net", "nat,speed=1"], CONFIG, "speed"),
        (&["--net", "nat,mtu"], CONFIG, "mtu"),
        (&["--net", "nat,mtu="], CONFIG, "mtu: \"\""),
        (&["--net", "nat,engine=kernel"], CONFIG, "not in this version"),
        (&["--net", "bridge=br0"], CONFIG, "not in this version"),
        (&["--net", "nat,mtu=67"], CONFIG, "67"),
        (&["--net", "nat,mtu=70000"], CONFIG, "70000"),
        (&["--net", "nat,mac=52:54:00:00:00"], CONFIG, "52:54:00:00:00"),
        (&["--net", "nat,mac=zz:54:00:00:00:01"], CONFIG, "zz:54:00:00:00:01"),
        (&["--net", "nat,mac=01:00:5e:00:00:01"], CONFIG, "group"),
        (&["--net", "nat,mac=00:00:00:00:00:00"], CONFIG, "nobody"),
        (&["--net", twice, "--net", twice], CONFIG, "two interfaces"),
        (
            &["--net", "nat,subnet=10.9.0.0/24", "--net", "nat,subnet=10.9.0.0/16"],
            CONFIG,
            "--net nat,subnet=10.9.0.0/16: subnet: 10.9.0.0/16 overlaps 10.9.0.0/24, which is",
        ),
        (&["--net", "nat,subnet=10.0.0.0"], CONFIG, "10.0.0.0"),
        (&["--net", "nat,subnet=10.0.0.0/33"], CONFIG, "10.0.0.0/33"),
        (&["--net", "nat,subnet=10.0.0.0/31"], CONFIG, "10.0.0.0/31"),
        // The loopback's own network is always taken.
        (&["--net", "nat,subnet=127.0.0.0/8"], CONFIG, "127.0.0.0/8"),
    ]);
}

/// A subnet that a route of the host has already is refused, with that route named.
#[test]
fn overlapping_subnet() {
    let lay = "ip link set lo up && ip link add dummy0 type veth peer name dummy1 && \
               ip addr add 10.77.1.1/24 dev dummy0 && ip link set dummy0 up && exec \"$@\"";
    let bed = ["unshare", "--user", "--map-root-user", "--net", "sh", "-c", lay, "sh"];
    for subnet in ["10.77.1.0/24", "10.77.0.0/16", "10.77.1.128/25"] {
        let net = format!("nat,subnet={subnet}");
        let run = Minivmm::run().args(["--net", &net]).under(&bed);
        refused(run, CONFIG, "10.77.1.0/24").unwrap();
    }
}

#[test]
fn published_ports() {
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let tcp_port = tcp.local_addr().unwrap().port().to_string();
    let udp_port = udp.local_addr().unwrap().port().to_string();
    let tcp_taken = format!("127.0.0.1:{tcp_port}:80");
    let udp_taken = format!("127.0.0.1:{udp_port}:53/udp");
    let nat = ["--net", "nat"];
    let rows: Vec<(Vec<&str>, &str)> = vec![
        (vec!["-p", "80"], "80"),
        (vec!["-p", "70000:80"], "70000"),
        (vec!["-p", "8080:0"], "8080:0"),
        (vec!["-p", "8080:80/sctp"], "sctp"),
        (vec!["-p", "host:8080:80"], "\"host\" is no IPv4 address"),
        (vec!["-p", ":8080:80"], "no address in front of the first colon"),
        (vec!["-p", "8000-8010:9000-9001"], "of the same length"),
        (vec!["-p", "8000-8010:9000-9010", "-p", "8005:80"], "listen on the same port"),
        (vec!["-p", "8080:80", "-p", "8080:81"], "8080"),
    ];
    table([
        (&["--net", "nat", "-p", &tcp_taken][..], HOST, &*tcp_port),
        (&["--net", "nat", "-p", &udp_taken], HOST, &udp_port),
    ]);
    let rows: Vec<(Vec<&str>, &str)> =
        rows.into_iter().map(|(args, word)| ([&nat[..], &args].concat(), word)).collect();
    table(rows.iter().map(|(args, word)| (&args[..], CONFIG, *word)));
    table([(&["-p", "8080:80"][..], CONFIG, "--net nat")]);
    // An address that is not the host's.
    table([(&["--net", "nat", "-p", "192.0.2.77:8080:80"][..], CONFIG, "192.0.2.77")]);
}

#[test]
fn taps() {
    table([
        (&["--net", "tap"][..], CONFIG, "tap"),
        (&["--net", "tap=a-name-that-is-too-long"], CONFIG, "a-name-that-is-too-long"),
        (&["--net", "tap=t0,fd=3"], CONFIG, "not both"),
        (&["--net", "tap,fd=999"], CONFIG, "no such descriptor"),
        (&["--net", "tap,fd=0"], CONFIG, "--net tap,fd=0: fd: \"0\""),
        (&["--net", "tap="], CONFIG, "--net tap=: "),
    ]);
}

/// A port that only root may bind: the limit is the network namespace's.
#[test]
fn port_without_privilege() {
    let run = || {
        let args = ["--net", "nat", "-p", "80:80"];
        Minivmm::run().args(args).under(&without_capabilities("ip link set lo up"))
    };
    refused(run(), NO_PERMISSION, "ip_unprivileged_port_start=80").unwrap();
    refused_in_json(run(), NO_PERMISSION, "TCP port 0.0.0.0:80").unwrap();
}

/// Making a TAP without the privilege to.
#[test]
fn tap_without_privilege() {
    let args = ["--net", "tap=minivmmtest0,create"];
    let run = Minivmm::run().args(args).under(&without_capabilities(""));
    refused(run, NO_PERMISSION, "cannot make TAP minivmmtest0").unwrap();
}

/// A slip in a TAP's name makes no TAP, also where it could.
#[test]
fn tap_that_does_not_exist() {
    let lay = "ip tuntap add dev tap0 mode tap && exec \"$@\"";
    let bed = ["unshare", "--user", "--map-root-user", "--net", "sh", "-c", lay, "sh"];
    let run = Minivmm::run().args(["--net", "tap=tpa0"]).under(&bed);
    let said = "--net tap=tpa0: there is no interface tpa0; did you mean tap0? (make it: sudo ip";
    refused(run, CONFIG, said).unwrap();
}

/// The words that run a command in user, mount and network namespaces where `prepare` was done as
/// root, and without any capability.
fn without_capabilities(prepare: &'static str) -> [&'static str; 9] {
    let script: &'static str = Box::leak(
        format!(
            "set -e; {prepare}\n\
             exec setpriv --no-new-privs --bounding-set=-all --inh-caps=-all \"$@\""
        )
        .into_boxed_str(),
    );
    ["unshare", "--user", "--map-root-user", "--mount", "--net", "sh", "-c", script, "sh"]
}

#[test]
fn no_kvm_device() {
    // A /dev that has the usual devices, but not this one.
    let hide = "new=$(mktemp -d) && mount -t tmpfs dev \"$new\" && \
                for f in null zero random urandom tty; do touch \"$new/$f\"; \
                mount --bind /dev/$f \"$new/$f\"; done && mount --rbind \"$new\" /dev && \
                umount -l \"$new\" && rmdir \"$new\"";
    let run = Minivmm::run().under(&without_capabilities(hide));
    refused(run, NO_VIRTUALIZATION, "/dev/kvm").unwrap();
}

#[test]
fn a_device_that_is_not_kvm() {
    let replace = "mount --bind /dev/null /dev/kvm";
    let run = Minivmm::run().under(&without_capabilities(replace));
    refused(run, NO_VIRTUALIZATION, "/dev/kvm").unwrap();
}

#[test]
fn no_permission_for_kvm() {
    let close = "f=$(mktemp) && chmod 000 $f && mount --bind $f /dev/kvm && rm $f";
    let run = Minivmm::run().under(&without_capabilities(close));
    let outcome = refused(run, NO_PERMISSION, "cannot open /dev/kvm: permission denied").unwrap();
    assert!(outcome.stderr.contains("usermod -aG kvm"), "no cure in {outcome}");
}

/// The commands themselves: one line too.
#[test]
fn commands() -> Result<()> {
    let run = Minivmm::run().args(["surplus"]);
    refused(run, CONFIG, "surplus").context("an argument too many")?;
    let run = Minivmm::run().args(["--", "ls"]);
    refused(run, CONFIG, "not in this version").context("a command of a later version")?;
    Ok(())
}
