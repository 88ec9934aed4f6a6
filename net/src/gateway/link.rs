//! The link to the guest: who is where.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};

use crate::addr::MacAddr;

/// Addresses remembered at once. A station may take many IPv6 addresses, but not our memory.
const NEIGHBORS_MAX: usize = 64;

/// The neighbours of the gateway: the guest under each of its addresses.
#[derive(Debug)]
pub struct Link {
    /// The gateway's own address.
    pub mac: MacAddr,
    neighbors: HashMap<IpAddr, MacAddr>,
    last: Option<(IpAddr, MacAddr)>,
    guest6: Option<Ipv6Addr>,
}

impl Link {
    /// A link on which nobody has spoken yet.
    pub fn new(mac: MacAddr) -> Self {
        Self { mac, neighbors: HashMap::with_capacity(NEIGHBORS_MAX), last: None, guest6: None }
    }

    /// Remembers that `ip` is at `mac`. Sources are checked by the caller.
    pub fn learn(&mut self, ip: IpAddr, mac: MacAddr) {
        if self.last == Some((ip, mac)) || mac.is_multicast() || ip.is_unspecified() {
            return;
        }
        if self.neighbors.len() >= NEIGHBORS_MAX && !self.neighbors.contains_key(&ip) {
            self.neighbors.clear();
        }
        self.neighbors.insert(ip, mac);
        self.last = Some((ip, mac));
        if let IpAddr::V6(v6) = ip
            && !v6.is_unicast_link_local()
        {
            self.guest6 = Some(v6);
        }
    }

    /// Where `ip` is.
    pub fn neighbor(&self, ip: IpAddr) -> Option<MacAddr> {
        match self.last {
            Some((last, mac)) if last == ip => Some(mac),
            _ => self.neighbors.get(&ip).copied(),
        }
    }

    /// The global or unique local IPv6 address that the guest was last seen with.
    pub fn guest6(&self) -> Option<Ipv6Addr> {
        self.guest6
    }

    /// The station is gone; another may come in its place.
    pub fn forget(&mut self) {
        self.neighbors.clear();
        self.last = None;
        self.guest6 = None;
    }
}
