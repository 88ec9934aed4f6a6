//! Networks for guests that the host does not know otherwise.
//!
//! A guest can't reach what its own network covers: its router is asked for nothing there. So the
//! network must not be one that the host has a way to.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::network::{HostNetwork, Known, interface_name};

/// The networks that are tried, in this order: corners of the private ranges (RFC 1918) that
/// routers, container engines and VPNs do not choose for themselves, one range after the other,
/// then the range for benchmarks (RFC 2544), which is nobody's.
const CANDIDATES: [(Ipv4Addr, u32); 4] = [
    // 10.77.0.0/24, 10.77.1.0/24 …
    (Ipv4Addr::new(10, 77, 0, 0), 64),
    (Ipv4Addr::new(172, 27, 64, 0), 64),
    (Ipv4Addr::new(192, 168, 192, 0), 32),
    (Ipv4Addr::new(198, 18, 77, 0), 16),
];

/// The network overlaps one that the host has a way to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{subnet} overlaps {net}, which the host reaches by {interface} (choose another network, \
         or none to have one chosen)"
)]
pub struct Overlap {
    /// What was asked for.
    pub subnet: IpNet,
    /// What the host has.
    pub net: IpNet,
    /// Where it has it.
    pub interface: String,
}

/// Checks a network that somebody chose.
///
/// # Errors
/// [`Overlap`], which names the most specific of the networks in the way.
pub fn check_subnet(subnet: IpNet, host: &HostNetwork) -> Result<(), Overlap> {
    match overlap(subnet, host) {
        None => Ok(()),
        Some(known) => Err(Overlap {
            subnet,
            net: known.net,
            interface: match known.interface {
                0 => "no interface".into(),
                index => interface_name(index),
            },
        }),
    }
}

/// Chooses a /24 that overlaps nothing of the host's. Where everything does, because a VPN takes
/// all private networks, the one that is covered by the least specific route.
pub fn choose_subnet(host: &HostNetwork) -> Ipv4Net {
    let candidates = CANDIDATES.iter().flat_map(|&(first, count)| {
        (0..count)
            .map(move |i| Ipv4Net::new_assert(Ipv4Addr::from(u32::from(first) + (i << 8)), 24))
    });
    let cost =
        |net: &Ipv4Net| overlap(IpNet::V4(*net), host).map_or(0, |known| known.net.prefix_len());
    let mut best: Option<(u8, Ipv4Net)> = None;
    for net in candidates {
        let cost = cost(&net);
        if best.is_none_or(|(least, _)| cost < least) {
            best = Some((cost, net));
        }
        if cost == 0 {
            break;
        }
    }
    best.map_or_else(|| Ipv4Net::new_assert(CANDIDATES[0].0, 24), |(_, net)| net)
}

/// Chooses a unique local /64 (RFC 4193 §3.2) with the global id that `random` gives, another one
/// while the host knows that network.
pub fn choose_prefix6(host: &HostNetwork, mut random: impl FnMut() -> [u8; 5]) -> Ipv6Net {
    let mut prefix = || {
        let mut octets = [0; 16];
        octets[0] = 0xfd;
        octets[1..6].copy_from_slice(&random());
        Ipv6Net::new_assert(Ipv6Addr::from(octets), 64)
    };
    for _ in 0..16 {
        let net = prefix();
        // A route for all of fd00::/8 or more is a policy, not a network.
        if overlap(IpNet::V6(net), host).is_none_or(|known| known.net.prefix_len() <= 8) {
            return net;
        }
    }
    prefix()
}

/// The most specific of the host's networks that share an address with `subnet`.
fn overlap(subnet: IpNet, host: &HostNetwork) -> Option<&Known> {
    let first: IpAddr = subnet.network();
    host.known
        .iter()
        .filter(|known| known.net.contains(&first) || subnet.contains(&known.net.network()))
        .max_by_key(|known| known.net.prefix_len())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn host(nets: &[&str]) -> HostNetwork {
        let known = |net: &&str| Known { net: net.parse().unwrap(), interface: 0 };
        HostNetwork { known: nets.iter().map(known).collect() }
    }

    #[test]
    fn the_first_free_candidate_is_chosen() {
        for (nets, want) in [
            (&[][..], "10.77.0.0/24"),
            (&["192.168.1.0/24", "10.0.0.0/24", "fd00::/8"], "10.77.0.0/24"),
            (&["10.77.0.128/25"], "10.77.1.0/24"),
            (&["10.77.0.0/23", "10.77.2.77/32"], "10.77.3.0/24"),
            (&["10.0.0.0/8"], "172.27.64.0/24"),
            (&["10.0.0.0/8", "172.16.0.0/12"], "192.168.192.0/24"),
            (&["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"], "198.18.77.0/24"),
        ] {
            assert_eq!(choose_subnet(&host(nets)).to_string(), want, "{nets:?}");
        }
    }

    #[test]
    fn where_all_is_taken_the_least_specific_route_gives_way() {
        let all = ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "198.18.0.0/15"];
        assert_eq!(choose_subnet(&host(&all)).to_string(), "10.77.0.0/24");
        let mut more = all.to_vec();
        more.extend(["10.77.0.0/16", "10.0.0.0/9"]);
        assert_eq!(choose_subnet(&host(&more)).to_string(), "172.27.64.0/24");
    }

    #[test]
    fn an_overlap_names_the_most_specific_network() {
        let host = host(&["10.0.0.0/8", "10.5.0.0/16", "192.168.1.7/32"]);
        let check = |net: &str| check_subnet(net.parse().unwrap(), &host);
        let e = check("10.5.6.0/24").unwrap_err();
        assert_eq!(e.net.to_string(), "10.5.0.0/16");
        assert!(e.to_string().starts_with("10.5.6.0/24 overlaps 10.5.0.0/16, which the host"));
        assert_eq!(check("192.168.0.0/16").unwrap_err().net.to_string(), "192.168.1.7/32");
        assert_eq!(check("192.168.2.0/24"), Ok(()));
        assert_eq!(check("fd00::/64"), Ok(()));
    }

    #[test]
    fn prefixes_are_unique_local_and_not_the_hosts() {
        let mut ids = [[1; 5], [2; 5]].into_iter();
        let net = choose_prefix6(&host(&["fd01:101:101::/48", "fc00::/7"]), || ids.next().unwrap());
        assert_eq!(net.to_string(), "fd02:202:202::/64");
    }

    proptest! {
        #[test]
        fn what_is_chosen_passes_the_check(nets in prop::collection::vec((any::<u32>(), 9u8..=32), 0..40)) {
            let known = |(ip, len): (u32, u8)| {
                let near = if ip & 1 == 0 { ip } else { 0x0a4d_0000 | ip >> 16 };
                let net = IpNet::new(Ipv4Addr::from(near).into(), len).unwrap().trunc();
                Known { net, interface: 1 }
            };
            let host = HostNetwork { known: nets.into_iter().map(known).collect() };
            let net = choose_subnet(&host);
            prop_assert!(check_subnet(net.into(), &host).is_ok() || overlap_everywhere(&host));
        }
    }

    /// 40 networks can take all candidates only where some are large.
    fn overlap_everywhere(host: &HostNetwork) -> bool {
        CANDIDATES.iter().all(|&(first, count)| {
            (0..count).all(|i| {
                let ip = Ipv4Addr::from(u32::from(first) + (i << 8));
                check_subnet(IpNet::new(ip.into(), 24).unwrap(), host).is_err()
            })
        })
    }
}
