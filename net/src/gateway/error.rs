//! Why there is no gateway.

use std::io;

use super::config::{Publish, Transport};

/// What keeps a gateway from being made.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    /// A published port can't be had.
    #[error(
        "cannot publish {} port {}: {source}{}",
        name(&.publish.transport),
        .publish.listen,
        cure(.source, .publish.listen.port())
    )]
    Publish {
        /// Which.
        publish: Publish,
        /// Why not.
        source: io::Error,
    },
}

fn name(transport: &Transport) -> &'static str {
    match transport {
        Transport::Tcp => "TCP",
        Transport::Udp => "UDP",
    }
}

fn cure(error: &io::Error, port: u16) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => " (another program has it: choose another port)".into(),
        io::ErrorKind::PermissionDenied => {
            format!(" (sudo sysctl net.ipv4.ip_unprivileged_port_start={port}, or a higher port)")
        }
        io::ErrorKind::AddrNotAvailable => " (no interface of the host has this address)".into(),
        _ => String::new(),
    }
}
