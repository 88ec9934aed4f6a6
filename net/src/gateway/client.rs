//! How the guest sees a client of a published port: the inverse of [`target`](super::target).
//!
//! It is shown as what it is, so that the guest can tell clients apart. Where the guest could not
//! answer it there by way of the gateway, or has somebody else at that endpoint already, it is a port
//! of the gateway's. It is never an endpoint that may be another's.

use std::net::{IpAddr, SocketAddr};

use super::context::Shared;
use super::target::is_forbidden;
use crate::addr::Family;

/// Ports that are tried. Those in use lie scattered, so where as many in a row are taken there are
/// hardly any left.
const TRIED: usize = 256;

/// Ports below belong to services, the gateway's own among them.
const SERVICES: u16 = 1024;

/// Where published ports of a family lead: a guest without IPv6 is reached over IPv4.
pub fn published_guest(shared: &Shared, family: Family) -> IpAddr {
    match shared.guest6() {
        Some(guest6) if family == Family::V6 => guest6.into(),
        _ => shared.guest4().into(),
    }
}

/// The endpoint at which `guest` sees `client`, which has come to a published port that leads there;
/// one that `is_free`. `None` where there is none.
pub fn seen_by_guest(
    shared: &mut Shared,
    guest: SocketAddr,
    client: SocketAddr,
    is_free: impl Fn(SocketAddr) -> bool,
) -> Option<SocketAddr> {
    let itself = SocketAddr::new(client.ip(), client.port());
    let reachable =
        client.is_ipv4() == guest.is_ipv4() && !is_forbidden(&shared.config, client.ip());
    if reachable && is_free(itself) {
        return Some(itself);
    }
    let gateway = shared.config.gateway(guest.into());
    let at = |port| SocketAddr::new(gateway, port);
    if client.port() >= SERVICES && is_free(at(client.port())) {
        return Some(at(client.port()));
    }
    shared.stand_ins.by_ref().take(TRIED).map(at).find(|client| is_free(*client))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::gateway::testing::{GUEST_MAC, config};

    fn addr(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn shared() -> Shared {
        let mut shared = Shared::new(config());
        shared.link.learn("fd00:2::2".parse().unwrap(), GUEST_MAC);
        shared
    }

    #[test]
    fn a_client_is_itself_where_the_guest_can_answer_it() {
        let mut shared = shared();
        for (guest, client, want) in [
            ("10.0.2.2:80", "192.0.2.7:53", "192.0.2.7:53"),
            ("[fd00:2::2]:80", "[2001:db8::7]:4000", "[2001:db8::7]:4000"),
            // Loopback, the guest's own link and its own addresses are elsewhere for the guest.
            ("10.0.2.2:80", "127.0.0.1:4000", "10.0.2.1:4000"),
            ("10.0.2.2:80", "10.0.2.9:4000", "10.0.2.1:4000"),
            ("10.0.2.2:80", "169.254.1.1:4000", "10.0.2.1:4000"),
            ("[fd00:2::2]:80", "[::1]:4000", "[fd00:2::1]:4000"),
            ("[fd00:2::2]:80", "[fe80::1]:4000", "[fd00:2::1]:4000"),
            // A guest that has no IPv6.
            ("10.0.2.2:80", "[2001:db8::7]:4000", "10.0.2.1:4000"),
            // The gateway has services of its own there.
            ("10.0.2.2:80", "127.0.0.1:53", "10.0.2.1:49152"),
        ] {
            let seen = seen_by_guest(&mut shared, addr(guest), addr(client), |_| true);
            assert_eq!(seen, Some(addr(want)), "{client}");
        }
    }

    #[test]
    fn one_whose_endpoint_is_taken_is_a_port_of_the_gateways() {
        let mut shared = shared();
        let (guest, client) = (addr("10.0.2.2:80"), addr("192.0.2.7:4000"));
        let mut taken = HashSet::new();
        for n in 0..1000 {
            let seen =
                seen_by_guest(&mut shared, guest, client, |at| !taken.contains(&at)).unwrap();
            match n {
                0 => assert_eq!(seen, client),
                1 => assert_eq!(seen, addr("10.0.2.1:4000")),
                _ => assert!(seen.ip() == addr("10.0.2.1:1").ip() && seen.port() >= 49152),
            }
            assert!(taken.insert(seen));
        }
    }

    #[test]
    fn the_search_ends_and_goes_on_where_it_was() {
        let mut shared = shared();
        let (guest, client) = (addr("10.0.2.2:80"), addr("127.0.0.1:80"));
        assert_eq!(seen_by_guest(&mut shared, guest, client, |_| false), None);
        let next = 49152 + TRIED as u16;
        let seen = seen_by_guest(&mut shared, guest, client, |_| true);
        assert_eq!(seen, Some(SocketAddr::new(addr("10.0.2.1:1").ip(), next)));
    }

    #[test]
    fn published_ports_lead_to_the_family_that_the_guest_has() {
        let shared = shared();
        assert_eq!(published_guest(&shared, Family::V4), addr("10.0.2.2:1").ip());
        assert_eq!(published_guest(&shared, Family::V6), addr("[fd00:2::2]:1").ip());
        assert_eq!(published_guest(&Shared::new(config()), Family::V6), addr("10.0.2.2:1").ip());
    }
}
