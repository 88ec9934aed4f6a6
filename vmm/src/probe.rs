//! The built-in guest, and what it is told.

use std::net::SocketAddr;

/// A static ELF with a PVH note: `resources/probe`.
pub const ELF: &[u8] = include_bytes!(env!("MINIVMM_PROBE"));

/// The part of the probe's command line that the monitor writes: where its peer is, and how to
/// report.
pub fn cmdline(peer: Option<SocketAddr>, json: bool) -> String {
    let mut line = String::from("probe=report");
    if let Some(peer) = peer {
        line.push_str(&format!(" probe.peer={peer}"));
    }
    if json {
        line.push_str(" probe.json");
    }
    line
}
