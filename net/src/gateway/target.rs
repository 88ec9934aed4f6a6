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
use super::context::{Ctx, Shared};
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

/// Where a packet of the guest's goes, by its address alone: decided once, in the gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Destination {
    /// One of the gateway's addresses on the guest's link.
    Gateway,
    /// Nobody in particular: a group, or all on the link.
    Group,
    /// The guest's own networks, where there is nobody else.
    Guest,
    /// All else: it leaves the link, if it may.
    Beyond,
}

impl Destination {
    /// Where `ip` is.
    #[inline]
    pub fn of(config: &GatewayConfig, ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(ip) if ip == config.gateway4 => Self::Gateway,
            IpAddr::V4(ip)
                if ip.is_multicast() || ip.is_broadcast() || ip == config.subnet4.broadcast() =>
            {
                Self::Group
            }
            IpAddr::V4(ip) if config.subnet4.contains(&ip) => Self::Guest,
            IpAddr::V6(ip) if ip == config.gateway6 || ip == config.link_local6() => Self::Gateway,
            IpAddr::V6(ip) if ip.is_multicast() => Self::Group,
            IpAddr::V6(ip) if ip.is_unicast_link_local() || config.prefix6.contains(&ip) => {
                Self::Guest
            }
            _ => Self::Beyond,
        }
    }
}

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
    ctx: &mut Ctx<'_, '_>,
    transport: Transport,
    dst: SocketAddr,
    to: Destination,
) -> Result<SocketAddr, DropReason> {
    let config = &ctx.shared.config;
    let redirect = config.redirects.iter().find(|r| r.transport == transport && r.from == dst);
    if let Some(redirect) = redirect {
        return Ok(redirect.to);
    }
    match (to, transport, dst.port()) {
        (Destination::Gateway, Transport::Tcp, port::DNS) => {
            ctx.shared.resolvers.refresh(ctx.io.now);
            ctx.shared.resolvers.first().ok_or(DropReason::NoRoute)
        }
        (Destination::Gateway, ..) if config.host_access => Ok(match dst {
            SocketAddr::V4(_) => (Ipv4Addr::LOCALHOST, dst.port()).into(),
            SocketAddr::V6(_) => (Ipv6Addr::LOCALHOST, dst.port()).into(),
        }),
        _ => allow(ctx.shared, dst.ip(), to).map(|()| dst),
    }
}

/// Whether the guest may go to `ip` itself, as an echo request does: no redirect leads it elsewhere,
/// and the gateway does not stand for the host.
///
/// # Errors
/// [`DropReason::DestinationForbidden`]; [`DropReason::NoRoute`] where IPv6 is not offered now.
pub fn allow(shared: &Shared, ip: IpAddr, to: Destination) -> Result<(), DropReason> {
    if to != Destination::Beyond || is_out_of_reach(&shared.config, ip) {
        Err(DropReason::DestinationForbidden)
    } else if ip.is_ipv6() && !shared.ipv6_offered() {
        Err(DropReason::NoRoute)
    } else {
        Ok(())
    }
}

/// True for what the guest can't go to, or be answered by, at that address.
pub fn is_forbidden(config: &GatewayConfig, ip: IpAddr) -> bool {
    Destination::of(config, ip) != Destination::Beyond || is_out_of_reach(config, ip)
}

/// True for addresses beyond the guest's link that it may not reach.
fn is_out_of_reach(config: &GatewayConfig, ip: IpAddr) -> bool {
    if METADATA.contains(&ip) {
        return true;
    }
    match ip {
        IpAddr::V4(ip) => {
            ip.is_loopback()
                || ip.is_link_local()
                // `connect` takes 0.0.0.0 for loopback; the rest of 0/8 is nowhere.
                || ip.octets()[0] == 0
        }
        IpAddr::V6(ip) => {
            // ::, ::1 and the IPv4-compatible addresses, deprecated (RFC 4291 §2.5.5.1).
            ip.segments()[..6] == [0; 6]
                // Site-local, deprecated, but link-local in spirit (RFC 3879).
                || ip.segments()[0] & 0xffc0 == 0xfec0
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
mod tests;
