//! The options of `minivmm run` by what the guest finds of them: each test is in network namespaces
//! of its own, of an ordinary user.

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use minivmm::probe::{self, Peer};
use minivmm_net::Tap;
use minivmm_tests::cli::{Minivmm, Outcome};
use minivmm_tests::natbed::{Netns, test};
use rustix::process::Signal;
use serde_json::{Value, json};

/// Longer than anything takes here.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a line of the report must say: check, member, value.
type Expected<'a> = (&'a str, &'a str, Value);

/// The namespace of the host, its loopback up.
fn host() -> Result<Netns> {
    let host = Netns::current()?;
    host.sh("ip link set lo up")?;
    Ok(host)
}

/// The probe's report, which is to take no time for bulk transfers.
fn report(args: &[&str], cmdline: &str) -> Minivmm {
    let cmdline = format!("probe=report probe.json probe.without=bulk {cmdline}");
    Minivmm::run().args(args).args(["--json", "--cmdline", &cmdline])
}

/// Checks what the report says.
fn says(outcome: &Outcome, expected: &[Expected<'_>]) -> Result<()> {
    let lines = outcome.json();
    for (check, member, value) in expected {
        let line = lines.iter().find(|line| line["check"] == *check);
        let found = line.map_or(&Value::Null, |line| &line[member]);
        ensure!(found == value, "{check}: {member} is {found}, not {value}: {outcome}");
    }
    Ok(())
}

fn write(dir: &Path, name: &str, content: &[u8]) -> Result<String> {
    let path = dir.join(name);
    fs::write(&path, content)?;
    Ok(path.to_string_lossy().into_owned())
}

#[test]
fn what_a_nat_is_told() {
    test("what_a_nat_is_told", || {
        host()?;
        let rows: [(&[&str], &[Expected<'_>]); 7] = [
            (
                &["--net", "nat,subnet=10.9.8.0/28"],
                &[
                    ("lease", "address", json!("10.9.8.2/28")),
                    ("lease", "router", json!("10.9.8.1")),
                    ("gateway", "state", json!("ok")),
                ],
            ),
            (
                &["--net", "nat,mtu=9000"],
                &[
                    ("link", "mtu", json!(9000)),
                    ("lease", "mtu", json!(9000)),
                    ("mtu", "mtu", json!(9000)),
                    ("mtu", "state", json!("ok")),
                ],
            ),
            (
                &["--net", "nat,mtu=600"],
                &[("lease", "mtu", json!(600)), ("mtu", "state", json!("ok"))],
            ),
            (
                &["--net", "nat,mac=52:4d:00:00:00:07"],
                &[("link", "mac", json!("52:4d:00:00:00:07")), ("lease", "state", json!("ok"))],
            ),
            (&["--net", "nat,ipv6=on"], &[("ipv6", "state", json!("ok"))]),
            (&["--net", "nat,ipv6=off"], &[("ipv6", "state", json!("absent"))]),
            (&["--net", "nat", "--name", "web-1"], &[("lease", "hostname", json!("web-1"))]),
        ];
        for (args, expected) in rows {
            says(&report(args, "").finish()?.expect_status(0)?, expected)?;
        }
        Ok(())
    });
}

/// Each NAT leads to the probe's peer.
#[test]
fn two_nats() {
    test("two_nats", || {
        host()?;
        let args = [
            "--net",
            "nat,subnet=10.9.1.0/24",
            "--net",
            "nat,subnet=10.9.2.0/24,mac=52:4d:00:00:00:07,mtu=1400",
        ];
        let ok = || json!("ok");
        let outcome = report(&args, "").finish()?.expect_status(0)?;
        says(&outcome, &[("lease", "address", json!("10.9.1.2/24"))])?;
        says(&outcome, &[("udp", "state", ok()), ("tcp", "state", ok())])?;
        let outcome = report(&args, "probe.nic=1").finish()?.expect_status(0)?;
        says(
            &outcome,
            &[
                ("link", "mac", json!("52:4d:00:00:00:07")),
                ("link", "mtu", json!(1400)),
                ("lease", "address", json!("10.9.2.2/24")),
            ],
        )?;
        says(&outcome, &[("udp", "state", ok()), ("tcp", "state", ok())])
    });
}

/// A network that is chosen is none that another interface of the machine was told to have.
#[test]
fn a_chosen_network_beside_a_given_one() {
    test("a_chosen_network_beside_a_given_one", || {
        host()?;
        let outcome = report(&["--net", "nat", "--net", "nat,subnet=10.77.0.0/24"], "").finish()?;
        says(&outcome.expect_status(0)?, &[("lease", "address", json!("10.77.1.2/24"))])
    });
}

#[test]
fn where_every_private_network_is_the_hosts() {
    test("where_every_private_network_is_the_hosts", || {
        host()?.sh("for net in 10.0.0.0/8 172.16.0.0/12 192.168.0.0/16 198.18.0.0/15; do
                    ip route add blackhole $net; done")?;
        let outcome = report(&["--net", "nat"], "").finish()?.expect_status(0)?;
        says(&outcome, &[("lease", "address", json!("10.77.0.2/24"))])?;
        let warned = outcome.stderr.matches("hides that part of 10.0.0.0/8").count();
        ensure!(warned == 1, "{warned} warnings: {outcome}");
        Ok(())
    });
}

#[test]
fn without_a_loopback_there_is_no_peer() {
    test("without_a_loopback_there_is_no_peer", || {
        let run = report(&["--net", "nat"], "");
        let outcome = run.finish()?.expect_status(0)?;
        let absent = || json!("absent");
        says(&outcome, &[("udp", "state", absent()), ("tcp", "state", absent())])?;
        says(&outcome, &[("gateway", "state", json!("ok"))])?;
        ensure!(outcome.stderr.contains("ip link set lo up"), "no cause: {outcome}");
        Ok(())
    });
}

#[test]
fn the_hosts_loopback() {
    test("the_hosts_loopback", || {
        host()?;
        // Not the one of the run, which is reached always.
        let mut peer = Peer::open()?.context("the loopback is up")?;
        peer.start()?;
        let cmdline =
            format!("probe.peer=10.9.0.1:{} probe.name=host.minivmm.internal", peer.address.port());
        let run = |access: &str| {
            let net = format!("nat,subnet=10.9.0.0/24,host={access}");
            report(&["--net", &net], &cmdline).finish()
        };
        says(
            &run("allow")?.expect_status(0)?,
            &[
                ("dns", "address", json!("10.9.0.1")),
                ("udp", "state", json!("ok")),
                ("tcp", "state", json!("ok")),
            ],
        )?;
        let failed = || json!("failed");
        says(
            &run("deny")?.expect_status(1)?,
            &[("dns", "state", failed()), ("udp", "state", failed()), ("tcp", "state", failed())],
        )
    });
}

/// The host's end of a TAP, for a guest that has 10.9.0.2.
const ADDRESS: &str = "probe.ip=10.9.0.2/24,10.9.0.1 probe.without=dhcp probe.expect=gateway";

#[test]
fn a_tap_by_its_name() {
    test("a_tap_by_its_name", || {
        host()?.sh("ip tuntap add t0 mode tap vnet_hdr && ip link set t0 mtu 1400 up &&
                    ip addr add 10.9.0.1/24 dev t0")?;
        let run = report(&["--net", "tap=t0,mac=52:4d:00:00:00:07"], ADDRESS);
        says(
            &run.finish()?.expect_status(0)?,
            &[
                ("link", "mac", json!("52:4d:00:00:00:07")),
                ("link", "mtu", json!(1400)),
                ("gateway", "address", json!("10.9.0.1")),
                ("gateway", "state", json!("ok")),
                ("mtu", "state", json!("ok")),
                ("udp", "state", json!("absent")),
            ],
        )?;
        // It is the administrator's, and stays.
        host()?.sh("ip link show t0").map(|_| ())
    });
}

#[test]
fn a_tap_that_is_made() {
    test("a_tap_that_is_made", || {
        let host = host()?;
        // The device can be configured once it is there: the probe is to ask for a lease meanwhile.
        let cmdline = ADDRESS.replace("probe.without=dhcp", "probe.wait=5");
        let run = report(&["--net", "tap=t0,create,mtu=1300", "--net", "nat"], &cmdline).start()?;
        let end = Instant::now() + PATIENCE;
        while !host.try_sh("ip addr add 10.9.0.1/24 dev t0 && ip link set t0 up")?.0 {
            ensure!(Instant::now() < end, "there is no TAP");
            thread::sleep(Duration::from_millis(5));
        }
        says(
            &run.finish()?.expect_status(0)?,
            &[
                ("link", "mtu", json!(1300)),
                ("lease", "static", json!(true)),
                ("gateway", "state", json!("ok")),
                // The peer is behind the other interface.
                ("udp", "state", json!("absent")),
            ],
        )?;
        ensure!(!host.try_sh("ip link show t0")?.0, "the TAP is still there");
        Ok(())
    });
}

#[test]
fn a_tap_that_is_inherited() {
    test("a_tap_that_is_inherited", || {
        let tap = Tap::open("t0")?;
        host()?.sh("ip link set t0 up && ip addr add 10.9.0.1/24 dev t0")?;
        // Not closed on exec, unlike the first.
        let inherited = rustix::io::dup(&tap)?;
        let run = report(&["--net", &format!("tap,fd={}", inherited.as_raw_fd())], ADDRESS);
        let outcome = run.finish()?.expect_status(0)?;
        says(&outcome, &[("link", "mtu", json!(1500)), ("gateway", "state", json!("ok"))])
    });
}

/// What `ask` gives, tried again until it is `want`: a datagram may be lost.
fn until(what: &str, want: &str, ask: impl Fn() -> Result<String>) -> Result<()> {
    let end = Instant::now() + PATIENCE;
    loop {
        let got = ask();
        if got.as_ref().is_ok_and(|got| got == want) {
            return Ok(());
        }
        if Instant::now() > end {
            bail!("{what}: {got:?}, not {want:?}");
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// Sends a word by TCP, and returns all that comes.
fn tcp(from: &Netns, to: SocketAddr, word: &str) -> Result<String> {
    let mut stream = from.run(|| TcpStream::connect_timeout(&to, PATIENCE))??;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(word.as_bytes())?;
    stream.shutdown(Shutdown::Write)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// Sends a word by UDP, and returns the answer.
fn udp(from: &Netns, to: SocketAddr, word: &str) -> Result<String> {
    let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = from.run(|| UdpSocket::bind(any))??;
    socket.connect(to)?;
    socket.set_read_timeout(Some(Duration::from_secs(1)))?;
    socket.send(word.as_bytes())?;
    let mut buffer = [0; 64];
    let n = socket.recv(&mut buffer)?;
    Ok(String::from_utf8_lossy(&buffer[..n]).into_owned())
}

/// From the host itself and from elsewhere: echo by TCP and UDP, and who the guest sees.
#[test]
fn published_ports() {
    test("published_ports", || {
        let (host, client) = (host()?, Netns::new()?);
        for ns in [&host, &client] {
            ns.sysctl("net/ipv6/conf/default/accept_dad", "0")?;
        }
        host.sh(&format!(
            "ip link add veth0 type veth peer name veth1 && ip link set veth1 netns {} &&
             ip addr add 192.0.2.2/24 dev veth0 && ip addr add 2001:db8::2/64 dev veth0 &&
             ip link set veth0 up",
            client.holder()
        ))?;
        client
            .sh("ip addr add 192.0.2.1/24 dev veth1 && ip addr add 2001:db8::1/64 dev veth1 &&
                   ip link set veth1 up")?;
        let mut run = Minivmm::run()
            .args(["--json", "--net", "nat,subnet=10.9.0.0/24,ipv6=on", "--cmdline", "probe=serve"])
            .args(["-p", "8007:7", "-p", "8007:7/udp", "-p", "8003:5003"])
            .args(["-p", "127.0.0.1:8107:7", "-p", "[::1]:8107:7/udp"])
            .args(["-p", "localhost:8207-8208:6-7"])
            .start()?;
        run.wait_for("\"ready\"")?;
        for (from, to, seen) in [
            (&host, "127.0.0.1", "10.9.0.1:"),
            (&client, "192.0.2.2", "192.0.2.1:"),
            // A guest that has not yet spoken by IPv6 sees the gateway by IPv4.
            (&client, "[2001:db8::2]", "10.9.0.1:"),
        ] {
            let at = |port: u16| format!("{to}:{port}").parse::<SocketAddr>();
            let (identify, echo) = (at(8003)?, at(8007)?);
            let who = || {
                let answer = tcp(from, identify, "")?;
                // Without the client's port.
                Ok(answer.trim_end().trim_end_matches(|c: char| c.is_ascii_digit()).to_owned())
            };
            until(&format!("who is seen from {to}"), seen, who)?;
            let word = format!("to {to}");
            until(&format!("TCP {echo}"), &word, || tcp(from, echo, &word))?;
            until(&format!("UDP {echo}"), &word, || udp(from, echo, &word))?;
        }
        // Ports of one address.
        until("::1", "x", || udp(&host, "[::1]:8107".parse()?, "x"))?;
        until("127.0.0.1", "x", || tcp(&host, "127.0.0.1:8107".parse()?, "x"))?;
        for localhost in ["127.0.0.1:8208", "[::1]:8208"] {
            until(localhost, "x", || tcp(&host, localhost.parse()?, "x"))?;
        }
        for elsewhere in ["192.0.2.2:8208", "192.0.2.2:8107", "[2001:db8::2]:8107"] {
            let refused = tcp(&client, elsewhere.parse()?, "x").is_err();
            ensure!(refused, "{elsewhere} is published, which was not asked for");
        }
        run.signal(Signal::TERM)?;
        run.finish()?.expect_status(143)?;
        Ok(())
    });
}

#[test]
fn a_console_that_leads_nowhere() {
    let run = |expect: &str, status| {
        let run = Minivmm::run().args(["--console", "none", "--cmdline", expect]);
        let outcome = run.finish().unwrap().expect_status(status).unwrap();
        assert_eq!((&*outcome.stdout, &*outcome.stderr), ("", ""), "{outcome}");
    };
    run("", 0);
    // It did run.
    run("probe.expect=link", 1);
}

/// The examples as they are, with the probe for the kernel that they name.
#[test]
fn files_of_options() {
    test("files_of_options", || {
        host()?.sh("ip tuntap add tap0 mode tap vnet_hdr && ip link set tap0 up &&
                    ip addr add 10.9.0.1/24 dev tap0")?;
        let dir = tempfile::tempdir()?;
        let kernel = write(dir.path(), "kernel", probe::ELF)?;
        let initrd = write(dir.path(), "initrd", b"unused")?;
        let nat = include_bytes!("../../resources/examples/nat.toml");
        let nat = write(dir.path(), "nat.toml", nat)?;
        let tap = include_bytes!("../../resources/examples/tap.toml");
        let tap = write(dir.path(), "tap.toml", tap)?;
        let mmio = include_bytes!("../../resources/examples/probe.toml");
        let mmio = write(dir.path(), "probe.toml", mmio)?;
        let ok = || json!("ok");
        let rows: [(&[&str], &str, &[Expected<'_>]); 5] = [
            (
                &["--config", &nat, "--kernel", &kernel, "--initrd", &initrd],
                "",
                &[
                    ("boot", "memory_mib", json!(512)),
                    ("link", "mac", json!("52:4d:00:00:00:01")),
                    ("lease", "address", json!("10.88.0.2/24")),
                    ("lease", "hostname", json!("web")),
                ],
            ),
            // Options beside a file win.
            (
                &["--config", &nat, "--kernel", &kernel, "--initrd", &initrd, "--name", "db"],
                "",
                &[("lease", "hostname", json!("db")), ("lease", "address", json!("10.88.0.2/24"))],
            ),
            (
                &["--config", &tap, "--kernel", &kernel],
                ADDRESS,
                &[("link", "mac", json!("52:4d:00:00:00:02")), ("gateway", "state", ok())],
            ),
            (
                &["--config", &tap, "--kernel", &kernel],
                "probe.nic=1",
                &[("lease", "hostname", json!("router")), ("gateway", "state", ok())],
            ),
            (
                &["--config", &mmio],
                "",
                &[
                    ("link", "transport", json!("virtio-mmio")),
                    ("mtu", "mtu", json!(9000)),
                    ("mtu", "state", ok()),
                    ("tcp", "state", ok()),
                ],
            ),
        ];
        for (args, cmdline, expected) in rows {
            says(&report(args, cmdline).finish()?.expect_status(0)?, expected)?;
        }
        Ok(())
    });
}
