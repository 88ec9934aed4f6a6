//! Where a destination of the guest's lies on the host's side, and whether the guest may go there.
//!
//! The guest reaches what the host can route to, the host's own addresses on its other networks
//! included: to the guest those are hosts like any other, and a service that should not be seen
//! from there must not listen there. Out of reach are, whatever the host's routes say:
//!
//! * the host's loopback, in every spelling of it; `host_access` opens it at the gateway's
//!   addresses,
//! * link-local addresses and the metadata services of clouds, which hand out the host's identity,
//! * groups and broadcast addresses,
//! * the rest of the guest's own networks,
//! * IPv6 addresses that carry an IPv4 address which is itself out of reach.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::config::{GatewayConfig, Transport};
use super::context::Core;
use crate::stats::DropReason;
use crate::wire::port;

/// Metadata services of clouds outside 169.254.0.0/16 and fe80::/10: Azure, Alibaba Cloud, Oracle
/// (its classic cloud), AWS, Google, Scaleway, Oracle.
const METADATA: [IpAddr; 7] = [
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V6(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0x42, 0, 0, 0, 0, 0, 0x42)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xc1, 0, 0, 0, 0, 0xa9fe, 0xa9fe)),
];

/// The host socket's peer for a flow of the guest's to `dst`.
///
/// Redirects come first, then DNS over TCP at the gateway, which goes to the host's resolver
/// that has answered last, wherever that is; then the gateway's own addresses, which stand for the host's
/// loopback where `host_access` allows it.
///
/// # Errors
/// [`DropReason::DestinationForbidden`]; [`DropReason::NoRoute`] where the host has no resolver, or
/// IPv6 is not offered now. Flows that exist are not asked again: they live on as long as the host's
/// kernel can keep them.
pub fn resolve(
    core: &Core,
    transport: Transport,
    dst: SocketAddr,
) -> Result<SocketAddr, DropReason> {
    let config = &core.config;
    if let Some(redirect) =
        config.redirects.iter().find(|r| r.transport == transport && r.from == dst)
    {
        return Ok(redirect.to);
    }
    if is_gateway(config, dst.ip()) {
        if transport == Transport::Tcp && dst.port() == port::DNS {
            return core.resolvers.first().ok_or(DropReason::NoRoute);
        }
        return match (config.host_access, dst) {
            (true, SocketAddr::V4(_)) => Ok((Ipv4Addr::LOCALHOST, dst.port()).into()),
            (true, SocketAddr::V6(_)) => Ok((Ipv6Addr::LOCALHOST, dst.port()).into()),
            (false, _) => Err(DropReason::DestinationForbidden),
        };
    }
    if is_forbidden(config, dst.ip()) {
        Err(DropReason::DestinationForbidden)
    } else if dst.is_ipv6() && !core.ipv6_offered() {
        Err(DropReason::NoRoute)
    } else {
        Ok(dst)
    }
}

/// True for the gateway's addresses on the guest's link.
pub fn is_gateway(config: &GatewayConfig, ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip == config.gateway4,
        IpAddr::V6(ip) => ip == config.gateway6 || ip == config.link_local6(),
    }
}

pub fn is_forbidden(config: &GatewayConfig, ip: IpAddr) -> bool {
    if METADATA.contains(&ip) {
        return true;
    }
    match ip {
        IpAddr::V4(ip) => {
            ip.is_loopback()
                || ip.is_link_local()
                // `connect` takes 0.0.0.0 for loopback; the rest of 0/8 is nowhere.
                || ip.octets()[0] == 0
                || ip.is_multicast()
                || ip.is_broadcast()
                // Others on the guest's own link: there are none behind the host.
                || config.subnet4.contains(&ip)
        }
        IpAddr::V6(ip) => {
            // ::, ::1 and the IPv4-compatible addresses, deprecated (RFC 4291 §2.5.5.1).
            ip.segments()[..6] == [0; 6]
                || ip.is_unicast_link_local()
                // Site-local, deprecated, but link-local in spirit (RFC 3879).
                || ip.segments()[0] & 0xffc0 == 0xfec0
                || ip.is_multicast()
                || config.prefix6.contains(&ip)
                // The kernel itself takes a mapped address for the IPv4 one: not in IPv6.
                || ip.to_ipv4_mapped().is_some()
                || embedded4(ip).is_some_and(|v4| is_forbidden(config, v4.into()))
        }
    }
}

/// The IPv4 address that a translator or tunnel would send a packet for `ip` to.
fn embedded4(ip: Ipv6Addr) -> Option<Ipv4Addr> {
    let s = ip.segments();
    let v4 = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        Some(Ipv4Addr::new(a, b, c, d))
    };
    match s {
        // NAT64: the well-known prefix (RFC 6052 §2.1) and the local one (RFC 8215), of which the
        // last 32 bits are the form of its /96s.
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x64, 0xff9b, 1, _, _, _, high, low] => {
            v4(high, low)
        }
        // IPv4-translated (RFC 2765 §2.1).
        [0, 0, 0, 0, 0xffff, 0, high, low] => v4(high, low),
        // 6to4 (RFC 3056 §2).
        [0x2002, high, low, ..] => v4(high, low),
        // Teredo (RFC 4380 §4): the client's address, each bit inverted.
        [0x2001, 0, _, _, _, _, high, low] => v4(!high, !low),
        // ISATAP (RFC 5214 §6.1), in any prefix.
        [_, _, _, _, 0 | 0x200, 0x5efe, high, low] => v4(high, low),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::gateway::config::{Ipv6Mode, Redirect};
    use crate::gateway::testing::config;

    const FORBIDDEN: Result<SocketAddr, DropReason> = Err(DropReason::DestinationForbidden);

    fn to(core: &Core, transport: Transport, dst: &str) -> Result<SocketAddr, DropReason> {
        resolve(core, transport, dst.parse().unwrap())
    }

    #[test]
    fn what_is_out_of_reach() {
        let core = Core::new(config());
        let table = [
            // Loopback and what connect takes for it.
            "127.0.0.1",
            "127.255.1.2",
            "0.0.0.0",
            "0.1.2.3",
            "[::1]",
            "[::]",
            "[::ffff:127.0.0.1]",
            "[::ffff:8.8.8.8]",
            "[::127.0.0.1]",
            "[::8.8.8.8]",
            "[::ffff:0:127.0.0.1]",
            // Link-local and metadata.
            "169.254.169.254",
            "169.254.1.1",
            "[fe80::1]",
            "[fe80::a9fe:a9fe]",
            "[febf::1]",
            "[fec0::1]",
            "168.63.129.16",
            "100.100.100.200",
            "192.0.0.192",
            "[fd00:ec2::254]",
            "[fd00:c1::a9fe:a9fe]",
            "[fd20:ce::254]",
            // Groups.
            "224.0.0.251",
            "239.1.1.1",
            "255.255.255.255",
            "[ff02::1]",
            "[ff0e::1]",
            // The guest's own link.
            "10.0.2.2",
            "10.0.2.255",
            "10.0.2.0",
            "[fd00:2::2]",
            // IPv4 in disguise.
            "[64:ff9b::127.0.0.1]",
            "[64:ff9b::169.254.169.254]",
            "[64:ff9b:1::7f00:1]",
            "[64:ff9b::10.0.2.1]",
            "[64:ff9b::224.0.0.1]",
            "[2002:7f00:1::1]",
            "[2002:a9fe:a9fe::1]",
            "[2001:0:102:304::80ff:fffe]",
            "[2001:db8::5efe:127.0.0.1]",
            "[2001:db8::200:5efe:169.254.169.254]",
            // The gateway, as long as the host is not to be reached.
            "10.0.2.1",
            "[fd00:2::1]",
            "[fe80::504d:ff:fe00:1]",
        ];
        for ip in table {
            for transport in [Transport::Tcp, Transport::Udp] {
                assert_eq!(to(&core, transport, &format!("{ip}:80")), FORBIDDEN, "{ip}");
            }
        }
    }

    #[test]
    fn what_is_within_reach() {
        let core = Core::new(config());
        let table = [
            "1.1.1.1",
            "10.0.3.1",
            "192.168.1.1",
            "172.16.0.1",
            "100.64.0.1",
            "240.0.0.1",
            "169.253.255.255",
            "126.255.255.255",
            "128.0.0.1",
            "1.0.0.0",
            "[2001:db8::1]",
            "[fd00:3::1]",
            "[fd00:2:0:1::1]",
            "[64:ff9b::8.8.8.8]",
            "[2002:808:808::1]",
            "[2001:0:102:304::f7f7:f7f7]",
            "[2001:1::80ff:fffe]",
            "[2001:db8::5efe:8.8.8.8]",
        ];
        for ip in table {
            let dst = format!("{ip}:443");
            assert_eq!(to(&core, Transport::Tcp, &dst), Ok(dst.parse().unwrap()), "{ip}");
        }
    }

    #[test]
    fn the_gateway_stands_for_the_hosts_loopback_where_allowed() {
        let core = Core::new(GatewayConfig { host_access: true, ..config() });
        let table = [
            ("10.0.2.1:80", "127.0.0.1:80"),
            ("[fd00:2::1]:81", "[::1]:81"),
            ("[fe80::504d:ff:fe00:1]:82", "[::1]:82"),
        ];
        for (dst, want) in table {
            assert_eq!(to(&core, Transport::Tcp, dst), Ok(want.parse().unwrap()));
        }
        assert_eq!(to(&core, Transport::Tcp, "127.0.0.1:80"), FORBIDDEN);
    }

    #[test]
    fn dns_over_tcp_goes_to_the_resolver_that_answers() {
        for host_access in [true, false] {
            let mut core = Core::new(GatewayConfig {
                host_access,
                resolv_conf: Path::new("/nonexistent").into(),
                ..config()
            });
            let none = Err(DropReason::NoRoute);
            assert_eq!(to(&core, Transport::Tcp, "10.0.2.1:53"), none);
            let servers = ["127.0.0.53:53".parse().unwrap(), "9.9.9.9:53".parse().unwrap()];
            core.resolvers.set(&servers);
            for dst in ["10.0.2.1:53", "[fd00:2::1]:53"] {
                assert_eq!(to(&core, Transport::Tcp, dst), Ok(servers[0]));
            }
            core.resolvers.answered(servers[1]);
            assert_eq!(to(&core, Transport::Tcp, "10.0.2.1:53"), Ok(servers[1]));
        }
    }

    #[test]
    fn ipv6_leads_nowhere_while_it_is_not_offered() {
        let mut core = Core::new(GatewayConfig { ipv6: Ipv6Mode::Auto, ..config() });
        let none = Err(DropReason::NoRoute);
        for transport in [Transport::Tcp, Transport::Udp] {
            assert_eq!(to(&core, transport, "[2001:db8::1]:80"), none);
            assert_eq!(to(&core, transport, "[::1]:80"), FORBIDDEN);
            assert!(to(&core, transport, "192.0.2.1:80").is_ok());
        }
        core.reach.ipv6 = true;
        assert!(to(&core, Transport::Tcp, "[2001:db8::1]:80").is_ok());
    }

    #[test]
    fn a_redirect_is_past_all_policy() {
        let from = "169.254.169.254:80".parse().unwrap();
        let target = "127.0.0.1:8080".parse().unwrap();
        let redirects = vec![Redirect { transport: Transport::Tcp, from, to: target }];
        let core = Core::new(GatewayConfig { redirects, ..config() });
        assert_eq!(resolve(&core, Transport::Tcp, from), Ok(target));
        assert_eq!(resolve(&core, Transport::Udp, from), FORBIDDEN);
        assert_eq!(to(&core, Transport::Tcp, "169.254.169.254:81"), FORBIDDEN);
    }
}
