//! Where a destination of the guest's lies on the host's side, and whether the guest may go there.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::config::Transport;
use super::{Core, GatewayConfig};
use crate::stats::DropReason;

/// The host socket's peer for a flow of the guest's to `dst`.
///
/// Redirects come first. The gateway's own addresses stand for the host's loopback where
/// `host_access` allows it. Loopback, link-local (the metadata service of clouds lives there),
/// unspecified (which `connect` takes for loopback) and group addresses are never reached.
///
/// # Errors
/// [`DropReason::DestinationForbidden`].
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
        return match (config.host_access, dst) {
            (true, SocketAddr::V4(_)) => Ok((Ipv4Addr::LOCALHOST, dst.port()).into()),
            (true, SocketAddr::V6(_)) => Ok((Ipv6Addr::LOCALHOST, dst.port()).into()),
            (false, _) => Err(DropReason::DestinationForbidden),
        };
    }
    if is_forbidden(config, dst.ip()) { Err(DropReason::DestinationForbidden) } else { Ok(dst) }
}

/// True for the gateway's addresses on the guest's link.
pub fn is_gateway(config: &GatewayConfig, ip: IpAddr) -> bool {
    ip == IpAddr::V4(config.gateway4) || ip == IpAddr::V6(config.gateway6)
}

fn is_forbidden(config: &GatewayConfig, ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => {
            ip.is_loopback()
                || ip.is_link_local()
                || ip.octets()[0] == 0
                || ip.is_multicast()
                || ip.is_broadcast()
                // Others on the guest's own link: there are none behind the host.
                || config.subnet4.contains(&ip)
        }
        IpAddr::V6(ip) => {
            ip.is_loopback()
                || ip.is_unspecified()
                || ip.is_unicast_link_local()
                || ip.is_multicast()
                || config.prefix6.contains(&ip)
                // IPv4 in disguise would get past the rules for IPv4.
                || ip.to_ipv4_mapped().is_some()
        }
    }
}
