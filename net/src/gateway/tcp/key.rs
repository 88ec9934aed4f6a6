//! What tells one TCP flow from another.

use std::hash::{Hash, Hasher};
use std::net::{IpAddr, SocketAddr};

/// A flow's endpoints as the guest sees them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key {
    /// The guest's end.
    pub guest: Endpoint,
    /// The other end.
    pub peer: Endpoint,
}

/// An address and a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Endpoint {
    /// The address.
    pub ip: IpAddr,
    /// The port.
    pub port: u16,
}

impl From<SocketAddr> for Endpoint {
    fn from(addr: SocketAddr) -> Self {
        Self { ip: addr.ip(), port: addr.port() }
    }
}

impl From<Endpoint> for SocketAddr {
    fn from(end: Endpoint) -> Self {
        Self::new(end.ip, end.port)
    }
}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        // In one piece: the hasher's work is by the call.
        let mut bytes = [0; 36];
        for (at, end) in [(0, self.guest), (18, self.peer)] {
            match end.ip {
                IpAddr::V4(ip) => bytes[at..at + 4].copy_from_slice(&ip.octets()),
                IpAddr::V6(ip) => bytes[at..at + 16].copy_from_slice(&ip.octets()),
            }
            bytes[at + 16..at + 18].copy_from_slice(&end.port.to_be_bytes());
        }
        state.write(&bytes);
    }
}
