//! The link to the guest: who is where.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::addr::MacAddr;

/// Addresses remembered at once. A station may take many IPv6 addresses, but not our memory.
const NEIGHBORS_MAX: usize = 64;

#[derive(Debug, Clone, Copy)]
struct Neighbor {
    ip: IpAddr,
    mac: MacAddr,
    /// The tick of its last frame.
    seen: u64,
}

/// The neighbours of the gateway: the guest under each of its addresses.
///
/// A link has one station, so that what is not known by its own word is at that station, and
/// nobody needs to be asked. Behind it there may be others (a guest that bridges guests of its
/// own), which are learned from what they send.
#[derive(Debug)]
pub struct Link {
    /// The gateway's own address.
    pub mac: MacAddr,
    /// The station's, where it is known beforehand.
    guest_mac: Option<MacAddr>,
    neighbors: Vec<Neighbor>,
    /// Where in the list the last speaker is: a guest mostly speaks with one address at a time.
    last: usize,
    tick: u64,
    guest4: Option<Ipv4Addr>,
    guest6: Option<Ipv6Addr>,
}

impl Link {
    /// A link on which nobody has spoken yet.
    pub fn new(mac: MacAddr, guest_mac: Option<MacAddr>) -> Self {
        Self {
            mac,
            guest_mac,
            neighbors: Vec::with_capacity(NEIGHBORS_MAX),
            last: 0,
            tick: 0,
            guest4: None,
            guest6: None,
        }
    }

    /// Remembers that `ip` is at `mac`. The caller has checked that a station may have `ip`.
    pub fn learn(&mut self, ip: IpAddr, mac: MacAddr) {
        if self.neighbors.get(self.last).is_some_and(|n| n.ip == ip && n.mac == mac) {
            return;
        }
        // The gateway's own address as a source is a forgery, and would send answers to us.
        if mac.is_multicast() || mac == self.mac || ip.is_unspecified() {
            return;
        }
        self.tick += 1;
        let neighbor = Neighbor { ip, mac, seen: self.tick };
        self.last = if let Some(i) = self.neighbors.iter().position(|n| n.ip == ip) {
            self.neighbors[i] = neighbor;
            i
        } else if self.neighbors.len() < NEIGHBORS_MAX {
            self.neighbors.push(neighbor);
            self.neighbors.len() - 1
        } else {
            let oldest = (0..self.neighbors.len()).min_by_key(|&i| self.neighbors[i].seen);
            let oldest = oldest.unwrap_or(0);
            self.neighbors[oldest] = neighbor;
            oldest
        };
        match ip {
            IpAddr::V4(v4) => self.guest4 = Some(v4),
            IpAddr::V6(v6) if !v6.is_unicast_link_local() => self.guest6 = Some(v6),
            IpAddr::V6(_) => {}
        }
    }

    /// Where `ip` is: by its own word, else where the last speaker is, else where the guest is
    /// known to be. `None` only while nothing is known of the station.
    pub fn neighbor(&self, ip: IpAddr) -> Option<MacAddr> {
        let last = self.neighbors.get(self.last);
        if let Some(last) = last
            && last.ip == ip
        {
            return Some(last.mac);
        }
        let known = self.neighbors.iter().find(|n| n.ip == ip).map(|n| n.mac);
        known.or(self.guest_mac).or_else(|| last.map(|n| n.mac))
    }

    /// True if `ip` has spoken.
    pub fn has_seen(&self, ip: IpAddr) -> bool {
        self.neighbors.iter().any(|n| n.ip == ip)
    }

    /// The IPv4 address that the guest was last seen with.
    pub fn guest4(&self) -> Option<Ipv4Addr> {
        self.guest4
    }

    /// The global or unique local IPv6 address that the guest was last seen with.
    pub fn guest6(&self) -> Option<Ipv6Addr> {
        self.guest6
    }

    /// `ip` is nobody's any more, until it speaks again.
    pub fn forget_address(&mut self, ip: IpAddr) {
        self.neighbors.retain(|n| n.ip != ip);
        if self.guest4.is_some_and(|own| ip == own) {
            let others = self.neighbors.iter().filter(|n| n.ip.is_ipv4()).max_by_key(|n| n.seen);
            self.guest4 = others.and_then(|n| match n.ip {
                IpAddr::V4(ip) => Some(ip),
                IpAddr::V6(_) => None,
            });
        }
    }

    /// The station is gone; another may come in its place.
    pub fn forget(&mut self) {
        self.neighbors.clear();
        self.guest4 = None;
        self.guest6 = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
    const A: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xa]);
    const B: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xb]);

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn the_station_is_where_anything_unknown_is() {
        let mut link = Link::new(OURS, None);
        assert_eq!(link.neighbor(ip("10.0.2.2")), None);
        link.learn(ip("10.0.2.9"), B);
        assert_eq!(link.neighbor(ip("10.0.2.2")), Some(B));
        let mut link = Link::new(OURS, Some(A));
        assert_eq!(link.neighbor(ip("fd00::2")), Some(A));
        link.learn(ip("10.0.2.9"), B);
        assert_eq!(link.neighbor(ip("fd00::2")), Some(A));
        assert_eq!(link.neighbor(ip("10.0.2.9")), Some(B));
    }

    #[test]
    fn an_address_follows_its_last_word() {
        let mut link = Link::new(OURS, None);
        for mac in [A, B, A] {
            link.learn(ip("10.0.2.2"), mac);
            link.learn(ip("10.0.2.3"), B);
            assert_eq!(link.neighbor(ip("10.0.2.2")), Some(mac));
        }
    }

    #[test]
    fn an_address_that_was_given_back_is_not_the_guests() {
        let mut link = Link::new(OURS, None);
        for text in ["10.0.2.7", "fd00::5", "10.0.2.2"] {
            link.learn(ip(text), A);
        }
        for (gone, guest4) in [("10.0.2.2", Some(ip("10.0.2.7"))), ("10.0.2.7", None)] {
            link.forget_address(ip(gone));
            assert_eq!((link.has_seen(ip(gone)), link.guest4().map(IpAddr::from)), (false, guest4));
        }
        // It may speak again.
        link.learn(ip("10.0.2.2"), B);
        assert_eq!(
            (link.neighbor(ip("10.0.2.2")), link.guest4().map(IpAddr::from)),
            (Some(B), Some(ip("10.0.2.2")))
        );
    }

    #[test]
    fn forgeries_are_not_learned() {
        let mut link = Link::new(OURS, None);
        link.learn(ip("10.0.2.2"), MacAddr::BROADCAST);
        link.learn(ip("10.0.2.2"), OURS);
        link.learn(ip("0.0.0.0"), A);
        link.learn(ip("::"), A);
        assert_eq!(link.neighbor(ip("10.0.2.2")), None);
    }

    #[test]
    fn a_flood_of_addresses_drops_the_least_recent() {
        let mut link = Link::new(OURS, Some(OURS));
        link.learn(ip("10.0.2.2"), A);
        link.learn(ip("10.0.2.3"), A);
        for i in 0..1000u128 {
            link.learn(IpAddr::V6((0xfd << 120 | i).into()), B);
            link.learn(ip("10.0.2.2"), A);
        }
        assert_eq!(link.neighbors.len(), NEIGHBORS_MAX);
        assert!(link.has_seen(ip("10.0.2.2")) && !link.has_seen(ip("10.0.2.3")));
    }

    #[test]
    fn the_guests_addresses_are_those_it_was_last_seen_with() {
        let mut link = Link::new(OURS, None);
        for text in ["fd00::5", "10.0.2.7", "fe80::5"] {
            link.learn(ip(text), A);
        }
        assert_eq!(link.guest4().map(IpAddr::from), Some(ip("10.0.2.7")));
        assert_eq!(link.guest6().map(IpAddr::from), Some(ip("fd00::5")));
        link.forget();
        assert_eq!(
            (link.guest4(), link.guest6(), link.neighbor(ip("fd00::5"))),
            (None, None, None)
        );
    }
}
