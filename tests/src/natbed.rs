//! The namespace bed: the gateway under test with the machine's own Linux stack as its guest, as
//! an ordinary user, without root and without `/dev/kvm`.
//!
//! ```text
//!  guest (G)            host (H)                          internet (I)
//!  tap0 ── TapPort ── Gateway ── sockets ── veth 192.0.2.2 ── 192.0.2.1, 198.51.100.1,
//!                                                             2001:db8::1 …
//! ```
//!
//! Each is a network namespace within a user, mount and PID namespace that [`isolated`] makes by
//! running the calling program again under `unshare`. This process lives in H and runs the gateway
//! on a thread of its own; what runs in G and I are threads and child processes. It is PID 1 of
//! its PID namespace, so when it ends, or is killed, everything ends with it.

mod netns;
mod outside;

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use minivmm_net::testing::TapPort;
use minivmm_net::{
    Backend, DropReason, FlowLimits, Gateway, GatewayConfig, Ipv6Mode, MacAddr, Segment, Stats, Tap,
};

pub use self::netns::Netns;
pub use self::outside::{Run, isolated, test, test_for};

/// The gateway's link-layer address.
pub const GATEWAY_MAC: MacAddr = MacAddr::local(1);
/// The guest's, which its TAP is given.
pub const GUEST_MAC: &str = "52:4d:00:00:00:02";
/// The gateway's IPv4 address.
pub const GATEWAY4: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
/// The guest's.
pub const GUEST4: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 15);
/// The gateway's IPv6 address.
pub const GATEWAY6: &str = "fd00:6d76:6d00::1";
/// The host's own address on its uplink.
pub const HOST4: &str = "192.0.2.2";
/// A server in the internet.
pub const SERVER4: &str = "198.51.100.1";
/// A second address of it.
pub const SERVER4_B: &str = "198.51.100.2";
/// A server in the internet.
pub const SERVER6: &str = "2001:db8::1";

/// What a bed is to be like.
#[derive(Debug, Clone)]
pub struct Options {
    /// The link's MTU in bytes, on both sides.
    pub mtu: u16,
    /// The host has no IPv6 at all otherwise.
    pub host_ipv6: bool,
    /// The guest is configured by hand: addresses, routes and the gateway as a static neighbour.
    pub static_guest: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { mtu: 1500, host_ipv6: true, static_guest: true }
    }
}

/// A running bed.
#[derive(Debug)]
pub struct Bed {
    /// Where the TAP is.
    pub guest: Netns,
    /// Where the servers are.
    pub internet: Netns,
    /// Where the gateway's sockets are, and this process.
    pub host: Netns,
    /// What the gateway was told.
    pub config: GatewayConfig,
    segment: Option<Segment>,
    dir: tempfile::TempDir,
    children: Vec<Child>,
}

impl Bed {
    /// Lays the cables and starts the gateway with a configuration that `change` may alter.
    ///
    /// # Errors
    /// What went wrong, with the command it went wrong in.
    pub fn start(options: &Options, change: impl FnOnce(&mut GatewayConfig)) -> Result<Self> {
        outside::end_with_parent();
        let dir = tempfile::tempdir()?;
        let resolv_conf = dir.path().join("resolv.conf");
        fs::write(&resolv_conf, format!("nameserver {SERVER4}\n"))?;
        let mut config = GatewayConfig {
            mac: GATEWAY_MAC,
            guest_mac: Some(GUEST_MAC.parse()?),
            subnet4: "10.0.2.0/24".parse()?,
            gateway4: GATEWAY4,
            guest4: GUEST4,
            prefix6: "fd00:6d76:6d00::/64".parse()?,
            gateway6: GATEWAY6.parse()?,
            ipv6: Ipv6Mode::Auto,
            mtu: options.mtu,
            hostname: "guest".into(),
            host_access: false,
            publish: Vec::new(),
            redirects: Vec::new(),
            resolv_conf,
            limits: FlowLimits::default(),
        };
        change(&mut config);

        let host = Netns::current()?;
        let (guest, internet) = (Netns::new()?, Netns::new()?);
        let mut bed = Self { guest, internet, host, config, segment: None, dir, children: vec![] };
        bed.lay_uplink(options)?;
        bed.start_gateway(options)?;
        Ok(bed)
    }

    fn lay_uplink(&self, options: &Options) -> Result<()> {
        for ns in [&self.host, &self.internet, &self.guest] {
            // Addresses are unique here; waiting a second for each to prove it is a waste.
            ns.sysctl("net/ipv6/conf/all/accept_dad", "0")?;
            ns.sysctl("net/ipv6/conf/default/accept_dad", "0")?;
            ns.sh("ip link set lo up")?;
        }
        self.host.sh("ip link add veth0 type veth peer name veth1")?;
        let pid = self.internet.holder();
        self.host.sh(&format!("ip link set veth1 netns {pid}"))?;
        self.host.sh("ip link set veth0 up && ip addr add 192.0.2.2/24 dev veth0")?;
        self.host.sh("ip route add default via 192.0.2.1")?;
        self.internet.sh(&format!(
            "ip link set veth1 up && ip addr add 192.0.2.1/24 dev veth1 &&
             ip addr add {SERVER4}/32 dev lo && ip addr add {SERVER4_B}/32 dev lo"
        ))?;
        if options.host_ipv6 {
            self.internet.sh(&format!(
                "ip addr add 2001:db8:1::1/64 dev veth1 && ip addr add {SERVER6}/128 dev lo"
            ))?;
            self.host.sh(
                "ip addr add 2001:db8:1::2/64 dev veth0 && ip route add default via 2001:db8:1::1",
            )?;
        } else {
            self.host.sysctl("net/ipv6/conf/veth0/disable_ipv6", "1")?;
        }
        Ok(())
    }

    fn start_gateway(&mut self, options: &Options) -> Result<()> {
        let tap = self.guest.run(|| Tap::open("tap0"))??;
        let mtu = options.mtu;
        self.guest.sh(&format!(
            "ip link set tap0 address {GUEST_MAC} mtu {mtu} txqueuelen 2000 && ip link set tap0 up"
        ))?;
        if options.static_guest {
            self.configure_guest()?;
        }
        let gateway = Gateway::new(self.config.clone())?;
        let port = TapPort::new(tap, gateway.tx_offloads())?;
        let segment = Segment::spawn("natbed", Box::new(gateway), Instant::now)?;
        segment.handle().attach(Box::new(port), TapPort::rx_offloads())?;
        self.segment = Some(segment);
        Ok(())
    }

    fn configure_guest(&self) -> Result<()> {
        let c = &self.config;
        let (mac, len4) = (c.mac, c.subnet4.prefix_len());
        let guest6 = self.guest6();
        self.guest.sysctl("net/ipv6/conf/tap0/accept_ra", "0")?;
        self.guest.sh(&format!(
            "ip addr add {guest4}/{len4} dev tap0 &&
             ip neigh replace {gateway4} lladdr {mac} dev tap0 nud permanent &&
             ip route add default via {gateway4} &&
             ip -6 addr add {guest6}/64 dev tap0 &&
             ip -6 neigh replace {gateway6} lladdr {mac} dev tap0 nud permanent &&
             ip -6 route replace default via {gateway6}",
            guest4 = c.guest4,
            gateway4 = c.gateway4,
            gateway6 = c.gateway6,
        ))?;
        Ok(())
    }

    /// The address that a statically configured guest has.
    pub fn guest6(&self) -> IpAddr {
        let prefix = u128::from(self.config.prefix6.network());
        std::net::Ipv6Addr::from(prefix | 0x15).into()
    }

    /// The gateway's counters.
    pub fn stats(&self) -> Arc<Stats> {
        self.segment.as_ref().map_or_else(Arc::default, Segment::stats)
    }

    /// Drops by reason, for messages.
    pub fn drops(&self) -> Vec<(&'static str, u64)> {
        let stats = self.stats();
        DropReason::ALL
            .iter()
            .map(|r| (r.name(), stats.drops(*r)))
            .filter(|(_, n)| *n > 0)
            .collect()
    }

    /// A folder that goes with the bed.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Replaces the resolver configuration that the gateway reads, as a network manager would.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn set_resolvers(&self, text: &str) -> Result<()> {
        let new = self.dir.path().join("resolv.conf.new");
        fs::write(&new, text)?;
        fs::rename(new, &self.config.resolv_conf)?;
        Ok(())
    }

    /// Starts a program that runs until the bed ends, and waits until it has printed `ready`.
    ///
    /// # Errors
    /// Where it does not start, or ends without having said so.
    pub fn serve(&mut self, ns: Place, command: &mut Command, ready: &str) -> Result<()> {
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = self.place(ns).spawn(command)?;
        let mut out = BufReader::new(child.stdout.take().context("stdout was piped")?);
        self.children.push(child);
        loop {
            let mut line = String::new();
            ensure!(out.read_line(&mut line)? > 0, "{command:?} ended before it was ready");
            if line.contains(ready) {
                break;
            }
        }
        // Whatever else it says must not block it.
        thread::spawn(move || std::io::copy(&mut out, &mut std::io::sink()));
        Ok(())
    }

    /// Starts a program that runs until the bed ends.
    ///
    /// # Errors
    /// Where it does not start.
    pub fn keep(&mut self, place: Place, command: &mut Command) -> Result<()> {
        let child = self.place(place).spawn(command)?;
        self.children.push(child);
        Ok(())
    }

    /// Starts the peer's services in the internet (see `minivmm-peer`).
    ///
    /// # Errors
    /// Where it does not start.
    pub fn serve_peer(&mut self, services: &[&str]) -> Result<()> {
        let mut command = Command::new(peer()?);
        command.arg("serve").args(services);
        self.serve(Place::Internet, &mut command, "ready")
    }

    /// Starts an iperf3 server in the internet, on every address, port 5201.
    ///
    /// # Errors
    /// Where it does not start.
    pub fn serve_iperf3(&mut self) -> Result<()> {
        let mut command = Command::new(tool("iperf3")?);
        command.args(["-s", "--forceflush"]);
        self.serve(Place::Internet, &mut command, "listening")
    }

    /// The namespace of that name.
    pub fn place(&self, place: Place) -> &Netns {
        match place {
            Place::Guest => &self.guest,
            Place::Host => &self.host,
            Place::Internet => &self.internet,
        }
    }

    /// Runs a command of the shell in the guest, which must succeed within a minute, and returns what
    /// it printed.
    ///
    /// # Errors
    /// What it printed otherwise, and the gateway's drops.
    pub fn guest_sh(&self, script: &str) -> Result<String> {
        self.guest.sh(script).with_context(|| format!("drops: {:?}", self.drops()))
    }

    /// Runs the peer's client half in the guest.
    ///
    /// # Errors
    /// As [`guest_sh`](Self::guest_sh).
    pub fn guest_peer(&self, args: &str) -> Result<String> {
        self.guest_sh(&format!("{} {args}", peer()?.display()))
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
        // The namespaces stay until the process ends; another bed wants the name.
        self.segment = None;
        let _ = self.host.sh("ip link del veth0");
    }
}

/// Where something runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Behind the gateway.
    Guest,
    /// Where the gateway runs.
    Host,
    /// Beyond the host.
    Internet,
}

/// The peer program, which cargo builds beside this one.
///
/// # Errors
/// Where it was not built.
pub fn peer() -> Result<PathBuf> {
    let me = std::env::current_exe()?;
    for dir in me.ancestors().skip(1).take(2) {
        let path = dir.join("minivmm-peer");
        if path.exists() {
            return Ok(path);
        }
    }
    bail!("minivmm-peer is not built (cargo build -p minivmm-tests --bins)")
}

/// The Debian package that a tool is in.
const PACKAGES: &[(&str, &str)] = &[
    ("busybox", "busybox"),
    ("curl", "curl"),
    ("dig", "bind9-dnsutils"),
    ("ip", "iproute2"),
    ("iperf3", "iperf3"),
    ("pasta", "passt"),
    ("ping", "iputils-ping"),
    ("setpriv", "util-linux"),
    ("strace", "strace"),
    ("unshare", "util-linux"),
];

/// Where a tool is.
///
/// # Errors
/// The package to install.
pub fn tool(name: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .chain([PathBuf::from("/usr/sbin"), PathBuf::from("/sbin")])
        .map(|dir| dir.join(name))
        .find(|file| file.is_file());
    found.with_context(|| {
        let package = PACKAGES.iter().find(|(tool, _)| *tool == name).map_or(name, |p| p.1);
        format!("{name} is not installed (sudo apt-get install {package})")
    })
}

/// Waits for a child, at most `patience`; then kills it.
fn finish(mut child: Child, what: &str, patience: Duration) -> Result<Output> {
    // The pipes are read beside the waiting, or a full one would hold the child up.
    let drain = |pipe: Option<Box<dyn Read + Send>>| {
        thread::spawn(move || {
            let mut text = Vec::new();
            if let Some(mut pipe) = pipe {
                let _ = pipe.read_to_end(&mut text);
            }
            text
        })
    };
    let stdout = drain(child.stdout.take().map(|p| Box::new(p) as _));
    let stderr = drain(child.stderr.take().map(|p| Box::new(p) as _));
    let end = Instant::now() + patience;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if Instant::now() > end {
            let _ = child.kill();
            let _ = child.wait();
            bail!("{what}: not finished after {patience:?}");
        }
        thread::sleep(Duration::from_millis(2));
    };
    let text = |t: thread::JoinHandle<Vec<u8>>| t.join().unwrap_or_default();
    Ok(Output { status, stdout: text(stdout), stderr: text(stderr) })
}
