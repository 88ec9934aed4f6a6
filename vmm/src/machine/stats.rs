//! What a machine counts, as values: for programs, as JSON, and as Prometheus text.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use minivmm_net::{DropReason, Stats};
use serde::{Deserialize, Serialize};

use crate::config::PublishConfig;
use crate::vcpu::{ExitKind, Exits};

/// A port of a segment, which a network interface of the guest is on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortInfo {
    /// `net` and the interface's number, from 0.
    pub name: String,
    /// The network's mode: `nat` or `tap`.
    pub mode: String,
    /// The interface's address.
    pub mac: String,
    /// The largest IP packet on the link, in bytes.
    pub mtu: u16,
    /// Ports of the host that lead to it, with those that the host chose.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub published: Vec<PublishConfig>,
}

/// The counters of a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineStats {
    /// Since the machine was started, in milliseconds.
    pub uptime_ms: u64,
    /// Guest memory in bytes; the host gives a page of it when it is first touched.
    pub memory_bytes: u64,
    /// Virtual CPUs.
    pub cpus: u32,
    /// How often these left guest code, by the reason.
    pub exits: BTreeMap<String, u64>,
    /// By port, in the order of the interfaces.
    pub ports: Vec<PortStats>,
}

/// The counters of a port. `tx` is what the guest sent, `rx` what was delivered to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortStats {
    /// Which port.
    pub name: String,
    /// Frames taken from the guest.
    pub tx_frames: u64,
    /// Bytes of these, Ethernet header on.
    pub tx_bytes: u64,
    /// Frames delivered to the guest.
    pub rx_frames: u64,
    /// Bytes of these, Ethernet header on.
    pub rx_bytes: u64,
    /// Wake-ups of the segment's worker.
    pub wakeups: u64,
    /// TCP connections now.
    pub tcp_flows: u64,
    /// UDP flows now.
    pub udp_flows: u64,
    /// ICMP echo identifiers in use now.
    pub ping_flows: u64,
    /// Frames dropped, by the reason; reasons that there were none for are left out.
    pub drops: BTreeMap<String, u64>,
}

impl PortStats {
    pub(super) fn new(name: &str, stats: &Stats) -> Self {
        let drops = DropReason::ALL.iter().map(|reason| (*reason, stats.drops(*reason)));
        Self {
            name: name.to_owned(),
            tx_frames: stats.tx_frames.get(),
            tx_bytes: stats.tx_bytes.get(),
            rx_frames: stats.rx_frames.get(),
            rx_bytes: stats.rx_bytes.get(),
            wakeups: stats.wakeups.get(),
            tcp_flows: stats.tcp_flows.get(),
            udp_flows: stats.udp_flows.get(),
            ping_flows: stats.ping_flows.get(),
            drops: drops.filter(|(_, n)| *n > 0).map(|(r, n)| (r.name().to_owned(), n)).collect(),
        }
    }
}

pub(super) fn exits(exits: &Exits) -> BTreeMap<String, u64> {
    ExitKind::ALL.iter().map(|kind| (kind.name().to_owned(), exits.get(*kind))).collect()
}

/// A metric of a port: name, whether it only grows, what it is, and its value.
type PortMetric = (&'static str, bool, &'static str, fn(&PortStats) -> u64);

const PORT_METRICS: [PortMetric; 8] = [
    ("transmit_frames_total", true, "Frames taken from the guest.", |p| p.tx_frames),
    ("transmit_bytes_total", true, "Bytes taken from the guest.", |p| p.tx_bytes),
    ("receive_frames_total", true, "Frames delivered to the guest.", |p| p.rx_frames),
    ("receive_bytes_total", true, "Bytes delivered to the guest.", |p| p.rx_bytes),
    ("wakeups_total", true, "Wake-ups of the segment's worker.", |p| p.wakeups),
    ("tcp_flows", false, "TCP connections.", |p| p.tcp_flows),
    ("udp_flows", false, "UDP flows.", |p| p.udp_flows),
    ("ping_flows", false, "ICMP echo identifiers in use.", |p| p.ping_flows),
];

/// The counters of `machines`, each with its name, in Prometheus' text format 0.0.4.
pub fn prometheus<'a>(
    machines: impl IntoIterator<Item = (&'a str, &'a MachineStats)> + Clone,
) -> String {
    let mut text = Text::default();
    let mut gauge = |name, help, value: fn(&MachineStats) -> String| {
        text.head(name, false, help);
        for (machine, stats) in machines.clone() {
            text.line(name, &[("machine", machine)], &value(stats));
        }
    };
    gauge("minivmm_uptime_seconds", "Time since the machine was started.", |s| {
        format!("{}.{:03}", s.uptime_ms / 1000, s.uptime_ms % 1000)
    });
    gauge("minivmm_memory_bytes", "Guest memory.", |s| s.memory_bytes.to_string());
    gauge("minivmm_cpus", "Virtual CPUs.", |s| s.cpus.to_string());
    let name = "minivmm_vcpu_exits_total";
    text.head(name, true, "How often virtual CPUs left guest code.");
    for (machine, stats) in machines.clone() {
        for (kind, n) in &stats.exits {
            text.line(name, &[("machine", machine), ("kind", kind)], &n.to_string());
        }
    }
    for (name, counts, help, value) in PORT_METRICS {
        let name = format!("minivmm_port_{name}");
        text.head(&name, counts, help);
        for (machine, stats) in machines.clone() {
            for port in &stats.ports {
                let labels = [("machine", machine), ("port", &*port.name)];
                text.line(&name, &labels, &value(port).to_string());
            }
        }
    }
    let name = "minivmm_port_dropped_frames_total";
    text.head(name, true, "Frames dropped, by the reason.");
    for (machine, stats) in machines {
        for port in &stats.ports {
            for (reason, n) in &port.drops {
                let labels = [("machine", machine), ("port", &*port.name), ("reason", reason)];
                text.line(name, &labels, &n.to_string());
            }
        }
    }
    text.0
}

/// Prometheus' text format.
#[derive(Default)]
struct Text(String);

impl Text {
    fn head(&mut self, name: &str, counts: bool, help: &str) {
        let kind = if counts { "counter" } else { "gauge" };
        // Writing to a string can't fail.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn line(&mut self, name: &str, labels: &[(&str, &str)], value: &str) {
        let quote =
            |text: &str| text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        let labels: Vec<_> =
            labels.iter().map(|(name, text)| format!("{name}=\"{}\"", quote(text))).collect();
        let _ = writeln!(self.0, "{name}{{{}}} {value}", labels.join(","));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine() -> MachineStats {
        let stats = Stats::default();
        stats.tx_frames.add(7);
        stats.dropped(DropReason::NoRoute);
        MachineStats {
            uptime_ms: 1042,
            memory_bytes: 1 << 20,
            cpus: 2,
            exits: exits(&Exits::default()),
            ports: vec![PortStats::new("net0", &stats)],
        }
    }

    #[test]
    fn metrics_are_headed_once_and_labelled() {
        let stats = machine();
        let text = prometheus([("a", &stats), ("b", &stats)]);
        for line in [
            "minivmm_uptime_seconds{machine=\"a\"} 1.042",
            "minivmm_memory_bytes{machine=\"b\"} 1048576",
            "minivmm_vcpu_exits_total{machine=\"a\",kind=\"pio\"} 0",
            "minivmm_port_transmit_frames_total{machine=\"b\",port=\"net0\"} 7",
            "minivmm_port_dropped_frames_total{machine=\"a\",port=\"net0\",reason=\"no_route\"} 1",
        ] {
            assert!(text.lines().any(|other| other == line), "{line} is not in\n{text}");
        }
        let mut heads: Vec<_> = text.lines().filter(|line| line.starts_with("# TYPE")).collect();
        let all = heads.len();
        heads.dedup();
        assert_eq!(heads.len(), all);
    }

    #[test]
    fn labels_are_escaped() {
        let mut text = Text::default();
        text.line("m", &[("l", "a\"b\\c\nd")], "1");
        assert_eq!(text.0, "m{l=\"a\\\"b\\\\c\\nd\"} 1\n");
    }

    #[test]
    fn counters_are_read_back_as_they_were() {
        let text = serde_json::to_string(&machine()).unwrap();
        assert_eq!(serde_json::from_str::<MachineStats>(&text).unwrap(), machine());
    }
}
