//! The built-in guest, and what it is told.

mod peer;

use std::net::SocketAddr;

#[cfg(feature = "test-utils")]
pub use self::peer::Peer;
#[cfg(not(feature = "test-utils"))]
pub(crate) use self::peer::Peer;

/// A static ELF with a PVH note: `resources/probe`.
pub const ELF: &[u8] = include_bytes!(env!("MINIVMM_PROBE"));

/// What is absent only where our own gateway, or the peer, does not do its work.
const WANT: &str = "link,lease,gateway,mtu,dns,udp,tcp";

/// Stand for the internet: addresses of a root server. The probe's datagram to one ends at the host's
/// first router.
const OUTSIDE: &str = "198.41.0.4,2001:503:ba3e::2:30";

/// What the probe finds beyond its interface, as far as the monitor knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Beyond {
    /// A network that is not ours, or none.
    #[default]
    Unknown,
    /// A NAT of ours, and the peer as it is seen through that. None where the host's loopback is
    /// down.
    Nat(Option<SocketAddr>),
}

/// The part of the probe's command line that the monitor writes: where its peer is, what
/// must be there then, and how to report.
pub(crate) fn cmdline(beyond: Beyond, json: bool, raw_terminal: bool) -> String {
    let mut line = String::from("probe=report");
    match beyond {
        Beyond::Unknown => {}
        Beyond::Nat(peer) => {
            line.push_str(&format!(" probe.outside={OUTSIDE}"));
            match peer {
                Some(peer) => line.push_str(&format!(" probe.peer={peer} probe.want={WANT}")),
                None => line.push_str(" probe.peer=loopback-down"),
            }
        }
    }
    if json {
        line.push_str(" probe.json");
    }
    if raw_terminal {
        line.push_str(" probe.crlf");
    }
    line
}

/// The NIC that a user's addition to the command line has the probe use, from 0.
pub(crate) fn nic(cmdline: &str) -> usize {
    let mut words = cmdline.split_ascii_whitespace().rev();
    let last = words.find_map(|word| word.strip_prefix("probe.nic="));
    last.and_then(|n| n.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_nic_counts() {
        for (cmdline, index) in [
            ("", 0),
            ("probe.nic=1", 1),
            ("probe.nic=1 quiet probe.nic=12", 12),
            ("xprobe.nic=1", 0),
            ("probe.nic=", 0),
        ] {
            assert_eq!(nic(cmdline), index, "{cmdline}");
        }
    }
}
