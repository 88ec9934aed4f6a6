//! What carries bytes from a client to the server, each with the client's network namespace.

use std::fs;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use minivmm_net::Stats;
use minivmm_tests::natbed::{Bed, Netns, Place, SERVER4, tool};

use crate::relay;

/// The name that the bed gives the gateway's worker.
const WORKER: &str = "natbed";

/// The relay's address towards its client.
const RELAY4: &str = "10.0.3.1";

/// What carries the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The gateway, behind a TAP.
    Minivmm,
    /// Two sockets and a buffer, behind a veth.
    Relay,
    /// The peer from passt, behind its own TAP.
    Pasta,
    /// The server's own loopback: nothing carries.
    Loopback,
}

impl Kind {
    /// In the order of the table.
    pub const ALL: [Self; 4] = [Self::Minivmm, Self::Relay, Self::Pasta, Self::Loopback];

    /// What the table calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Minivmm => "minivmm",
            Self::Relay => "relay",
            Self::Pasta => "pasta",
            Self::Loopback => "loopback",
        }
    }
}

/// All that carries, and the servers behind it.
#[derive(Debug)]
pub struct Carriers {
    guest: Netns,
    relay: Netns,
    pasta: Netns,
    host: Netns,
    internet: Netns,
    stats: Arc<Stats>,
}

impl Carriers {
    /// Starts them on `bed`, and the server for streams.
    pub fn start(bed: &mut Bed, mtu: u16) -> Result<Self> {
        bed.serve_iperf3()?;
        let pasta = start_pasta(bed, mtu)?;
        let relay = connect_relay(bed, mtu)?;
        Ok(Self {
            guest: bed.guest.try_clone()?,
            relay,
            pasta,
            host: bed.host.try_clone()?,
            internet: bed.internet.try_clone()?,
            stats: bed.stats(),
        })
    }

    /// Has all connections from now on use that congestion control.
    pub fn set_congestion_control(&self, name: &str) -> Result<()> {
        for ns in [&self.guest, &self.relay, &self.pasta, &self.host, &self.internet] {
            ns.sysctl("net/ipv4/tcp_congestion_control", name)?;
        }
        Ok(())
    }

    /// Where the client of `kind` runs.
    pub fn client(&self, kind: Kind) -> &Netns {
        match kind {
            Kind::Minivmm => &self.guest,
            Kind::Relay => &self.relay,
            Kind::Pasta => &self.pasta,
            Kind::Loopback => &self.internet,
        }
    }

    /// Where the servers run.
    pub fn server(&self) -> &Netns {
        &self.internet
    }

    /// The server's address as the client of `kind` has it.
    pub fn address(&self, kind: Kind) -> &'static str {
        match kind {
            Kind::Minivmm | Kind::Pasta => SERVER4,
            Kind::Relay => RELAY4,
            Kind::Loopback => "127.0.0.1",
        }
    }

    /// The thread of the gateway's worker.
    pub fn worker(&self) -> Result<String> {
        for entry in fs::read_dir("/proc/self/task")? {
            let task = entry?.path();
            if fs::read_to_string(task.join("comm"))?.trim_end() == WORKER {
                let id = task.file_name().context("a path without an end")?;
                return Ok(id.to_string_lossy().into_owned());
            }
        }
        bail!("no thread is named {WORKER}")
    }

    /// Bytes of frames that the gateway's worker has moved so far, both ways.
    pub fn frame_bytes(&self) -> u64 {
        self.stats.tx_bytes.get() + self.stats.rx_bytes.get()
    }

    /// Processor time that the carrier has used so far; none for what has no thread of its own.
    pub fn processor_time(&self, kind: Kind) -> Result<Duration> {
        match kind {
            Kind::Minivmm => threads_time("self", WORKER),
            Kind::Relay => Ok(threads_time("self", relay::THREAD)? + relay::ended_threads_time()),
            Kind::Pasta => {
                let mut sum = Duration::ZERO;
                for pid in processes("pas")? {
                    sum += threads_time(&pid, "pas")?;
                }
                Ok(sum)
            }
            Kind::Loopback => Ok(Duration::ZERO),
        }
    }
}

/// Which pasta this is: what it says itself, and where that is nothing, as with Debian's of 2023,
/// the package's version.
pub fn pasta_version() -> Result<String> {
    let pasta = tool("pasta")?;
    let first = |command: &mut Command| {
        let output = command.output().ok().filter(|o| o.status.success())?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.lines().next().map(|line| line.trim().to_owned()).filter(|line| !line.is_empty())
    };
    let own = first(Command::new(&pasta).arg("--version")).filter(|v| !v.contains("unknown"));
    let package = || first(Command::new("dpkg-query").args(["-W", "passt"]));
    let version = own.or_else(package).unwrap_or_else(|| "of unknown version".to_owned());
    Ok(format!("{} ({version})", pasta.display()))
}

/// The processes whose names begin with `name`.
fn processes(name: &str) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let pid = entry?.file_name().to_string_lossy().into_owned();
        let comm = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        if pid.bytes().all(|b| b.is_ascii_digit()) && comm.starts_with(name) {
            found.push(pid);
        }
    }
    Ok(found)
}

/// Processor time of the threads of `pid` whose names begin with `name` (proc(5), `schedstat`).
fn threads_time(pid: &str, name: &str) -> Result<Duration> {
    let mut sum = 0;
    for entry in fs::read_dir(format!("/proc/{pid}/task"))? {
        let task = entry?.path();
        // Threads may end between the two.
        let Ok(comm) = fs::read_to_string(task.join("comm")) else { continue };
        if comm.starts_with(name) {
            let times = fs::read_to_string(task.join("schedstat")).unwrap_or_default();
            sum += times.split(' ').next().and_then(|t| t.parse::<u64>().ok()).unwrap_or(0);
        }
    }
    Ok(Duration::from_nanos(sum))
}

/// A namespace that pasta connects, configured like the guest's.
fn start_pasta(bed: &mut Bed, mtu: u16) -> Result<Netns> {
    let ns = Netns::new()?;
    ns.sh("ip link set lo up")?;
    // Pasta may not follow /proc/PID/ns; a mount of it is open to all.
    let path = bed.dir().join("pasta-ns");
    fs::write(&path, "")?;
    let (holder, at) = (ns.holder(), path.display());
    bed.host.sh(&format!("mount --bind /proc/{holder}/ns/net {at}"))?;
    let mut command = Command::new(tool("pasta")?);
    command.args(["--foreground", "--quiet", "--config-net", "--netns-only", "--runas", "0"]);
    command.args(["--mtu", &mtu.to_string(), "--netns"]).arg(&path);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    bed.keep(Place::Host, &mut command)?;
    for _ in 0..100 {
        if ns.sh("ip route show default")?.contains("default") {
            break;
        }
        thread::sleep(Duration::from_millis(50));
    }
    Ok(ns)
}

/// A namespace with a veth to the host, where the relay listens.
fn connect_relay(bed: &Bed, mtu: u16) -> Result<Netns> {
    let ns = Netns::new()?;
    ns.sh("ip link set lo up")?;
    let holder = ns.holder();
    // One of an earlier bed may still be there.
    bed.host.sh(&format!(
        "ip link del relay0 2>/dev/null; ip link add relay0 mtu {mtu} type veth peer name relay1 mtu {mtu} &&
         ip link set relay1 netns {holder} && ip addr add {RELAY4}/24 dev relay0 &&
         ip link set relay0 up"
    ))?;
    ns.sh("ip addr add 10.0.3.2/24 dev relay1 && ip link set relay1 up")?;
    Ok(ns)
}
