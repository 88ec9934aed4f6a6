//! From what a user asks for, and what the host has, to a gateway's configuration.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::config::{FlowLimits, GatewayConfig, Ipv6Mode, MTU_MIN6};
use crate::addr::MacAddr;
use crate::host::network::HostNetwork;
use crate::host::subnet::{Overlap, check_subnet, choose_prefix6, choose_subnet};

/// The link's MTU where none is asked for. There is no wire behind it, and segments of 64 KiB
/// cross it whole at any MTU; but datagrams that a guest makes as large as its link would be
/// fragmented on the host's network, and 1,500 is what every guest is tested with.
pub const DEFAULT_MTU: u16 = 1500;
/// RFC 791 §3.2.
const MTU_MIN: u16 = 68;

/// What is asked for; the rest is chosen.
#[derive(Debug, Clone, Default)]
pub struct PlanRequest {
    /// The guest's IPv4 network, /8 to /30.
    pub subnet: Option<Ipv4Net>,
    /// The guest's IPv6 network, a /64.
    pub prefix6: Option<Ipv6Net>,
    /// When IPv6 is offered.
    pub ipv6: Ipv6Mode,
    /// The link's MTU in bytes.
    pub mtu: Option<u16>,
    /// The guest's link-layer address.
    pub guest_mac: Option<MacAddr>,
    /// The guest's host name.
    pub hostname: Option<String>,
}

/// Why there is no such gateway.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// Not a subnet's size.
    #[error("{0} cannot be a guest's network: its prefix must be /8 to /30, as in 10.77.0.0/24")]
    PrefixLength(Ipv4Net),
    /// Addresses with another meaning.
    #[error(
        "{0} cannot be a guest's network: it holds loopback, link-local, multicast or \
             reserved addresses (a private one is 10.77.0.0/24)"
    )]
    Reserved(IpNet),
    /// Not a network that addresses can be made in.
    #[error(
        "{0} cannot be a guest's IPv6 network: its prefix must be /64, as in fd12:3456:789a::/64"
    )]
    PrefixLength6(Ipv6Net),
    /// The host has it.
    #[error(transparent)]
    Overlap(#[from] Overlap),
    /// Out of range.
    #[error(
        "{0} cannot be the MTU: it must be from {MTU_MIN} to 65535 bytes, and at least \
             {MTU_MIN6} with IPv6"
    )]
    Mtu(u16),
    /// Not a name.
    #[error("{0:?} cannot be a guest's host name: it must be 1 to 63 letters, digits and hyphens")]
    Hostname(String),
    /// Not an address of one station.
    #[error(
        "{0} cannot be a guest's MAC address: it is a group's or nobody's (52:4d:00:00:00:02 is one)"
    )]
    Mac(MacAddr),
}

impl GatewayConfig {
    /// A configuration that answers `request` on a host with the network `host`: the gateway has
    /// the first address of the networks, the guest the second.
    ///
    /// # Errors
    /// [`PlanError`]
    pub fn plan(request: &PlanRequest, host: &HostNetwork) -> Result<Self, PlanError> {
        Self::plan_with(request, host, || {
            let mut id = [0; 5];
            // Fails only before the system has gathered entropy; the check for overlaps stands.
            let _ = rustix::rand::getrandom(&mut id, rustix::rand::GetRandomFlags::empty());
            id
        })
    }

    fn plan_with(
        request: &PlanRequest,
        host: &HostNetwork,
        random: impl FnMut() -> [u8; 5],
    ) -> Result<Self, PlanError> {
        let mtu = request.mtu.unwrap_or(DEFAULT_MTU);
        check_mtu(mtu)?;
        if request.ipv6 == Ipv6Mode::On && mtu < MTU_MIN6 {
            return Err(PlanError::Mtu(mtu));
        }
        if let Some(mac) = request.guest_mac {
            check_mac(mac)?;
        }
        let hostname = request.hostname.clone().unwrap_or_else(|| "minivmm".into());
        check_hostname(&hostname)?;
        let subnet4 = match request.subnet {
            Some(net) => checked4(net, host)?,
            None => chosen4(host),
        };
        let prefix6 = match request.prefix6 {
            Some(net) => checked6(net, host)?,
            None => choose_prefix6(host, random),
        };
        let first = u32::from(subnet4.network());
        Ok(Self {
            mac: gateway_mac(request.guest_mac),
            guest_mac: request.guest_mac,
            subnet4,
            gateway4: Ipv4Addr::from(first + 1),
            guest4: Ipv4Addr::from(first + 2),
            prefix6,
            gateway6: Ipv6Addr::from(u128::from(prefix6.network()) + 1),
            ipv6: request.ipv6,
            mtu,
            hostname,
            host_access: false,
            publish: Vec::new(),
            redirects: Vec::new(),
            resolv_conf: PathBuf::from("/etc/resolv.conf"),
            limits: FlowLimits::default(),
        })
    }
}

/// A network that overlaps nothing; where everything does, it is said what is hidden.
fn chosen4(host: &HostNetwork) -> Ipv4Net {
    let net = choose_subnet(host);
    if let Err(Overlap { net: hidden, interface, .. }) = check_subnet(net.into(), host) {
        tracing::warn!(
            "all private networks are the host's already: the guest's network {net} hides that \
             part of {hidden}, which the host reaches by {interface}, from the guest (subnet=CIDR \
             chooses another)"
        );
    }
    net
}

fn checked4(net: Ipv4Net, host: &HostNetwork) -> Result<Ipv4Net, PlanError> {
    let net = net.trunc();
    if !(8..=30).contains(&net.prefix_len()) {
        return Err(PlanError::PrefixLength(net));
    }
    // No shorter than /8, so that it holds one of these if it begins or ends in one, or around
    // link-local.
    let link_local = Ipv4Net::new_assert(Ipv4Addr::new(169, 254, 0, 0), 16);
    let octet = net.network().octets()[0];
    if octet == 0
        || octet == 127
        || octet >= 224
        || net.contains(&link_local.network())
        || link_local.contains(&net.network())
    {
        return Err(PlanError::Reserved(net.into()));
    }
    check_subnet(net.into(), host)?;
    Ok(net)
}

fn checked6(net: Ipv6Net, host: &HostNetwork) -> Result<Ipv6Net, PlanError> {
    let net = net.trunc();
    if net.prefix_len() != 64 {
        return Err(PlanError::PrefixLength6(net));
    }
    let ip = net.network();
    // Global unicast or unique local; all else has a meaning of its own.
    if !matches!(ip.segments()[0] & 0xfe00, 0xfc00) && ip.segments()[0] & 0xe000 != 0x2000 {
        return Err(PlanError::Reserved(net.into()));
    }
    check_subnet(net.into(), host)?;
    Ok(net)
}

/// The gateway's address on the guest's link: always the same, so that a guest which remembers
/// it from its last start is right, unless the guest has that very one.
fn gateway_mac(guest: Option<MacAddr>) -> MacAddr {
    let mac = MacAddr::local(0xffff_ff01);
    if guest == Some(mac) { MacAddr::local(0xffff_ff02) } else { mac }
}

/// Whether a link can have it.
///
/// # Errors
/// [`PlanError::Mtu`]
pub fn check_mtu(mtu: u16) -> Result<(), PlanError> {
    if mtu < MTU_MIN { Err(PlanError::Mtu(mtu)) } else { Ok(()) }
}

/// Whether a guest's interface can have it.
///
/// # Errors
/// [`PlanError::Mac`]
pub fn check_mac(mac: MacAddr) -> Result<(), PlanError> {
    let bad = mac.is_multicast() || mac == MacAddr::default();
    if bad { Err(PlanError::Mac(mac)) } else { Ok(()) }
}

/// Whether a guest can have it: one label (RFC 1123 §2.1).
///
/// # Errors
/// [`PlanError::Hostname`]
pub fn check_hostname(name: &str) -> Result<(), PlanError> {
    let good = (1..=63).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        && !name.starts_with('-')
        && !name.ends_with('-');
    if good { Ok(()) } else { Err(PlanError::Hostname(name.to_owned())) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::network::Known;

    fn plan(request: PlanRequest) -> Result<GatewayConfig, PlanError> {
        let known = Known { net: "192.168.1.0/24".parse().unwrap(), interface: 0 };
        let host = HostNetwork { known: vec![known] };
        GatewayConfig::plan_with(&request, &host, || [1, 2, 3, 4, 5])
    }

    fn subnet(net: &str) -> PlanRequest {
        PlanRequest { subnet: Some(net.parse().unwrap()), ..PlanRequest::default() }
    }

    #[test]
    fn nothing_needs_to_be_asked_for() {
        let config = plan(PlanRequest::default()).unwrap();
        assert_eq!(config.subnet4.to_string(), "10.77.0.0/24");
        assert_eq!(config.gateway4.to_string(), "10.77.0.1");
        assert_eq!(config.guest4.to_string(), "10.77.0.2");
        assert_eq!(config.prefix6.to_string(), "fd01:203:405::/64");
        assert_eq!(config.gateway6.to_string(), "fd01:203:405::1");
        assert_eq!((config.mtu, config.hostname.as_str()), (1500, "minivmm"));
        assert!(!config.mac.is_multicast());
    }

    #[test]
    fn subnets_are_checked() {
        for good in ["10.0.0.0/8", "172.16.5.77/24", "192.168.2.4/30", "203.0.113.0/24"] {
            let config = plan(subnet(good)).unwrap();
            assert!(config.is_guest4(config.guest4) && !config.is_guest4(config.gateway4));
        }
        for bad in ["10.0.0.0/31", "10.0.0.0/7", "0.0.0.0/0", "10.1.1.1/32"] {
            assert!(matches!(plan(subnet(bad)), Err(PlanError::PrefixLength(_))), "{bad}");
        }
        for bad in [
            "127.1.0.0/16",
            "0.0.0.0/8",
            "224.0.0.0/24",
            "240.0.0.0/24",
            "169.254.7.0/24",
            "169.0.0.0/8",
        ] {
            assert!(matches!(plan(subnet(bad)), Err(PlanError::Reserved(_))), "{bad}");
        }
        let e = plan(subnet("192.168.0.0/16")).unwrap_err().to_string();
        assert!(e.starts_with("192.168.0.0/16 overlaps 192.168.1.0/24"), "{e}");
    }

    #[test]
    fn ipv6_prefixes_are_checked() {
        let ask = |net: &str| {
            let prefix6 = Some(net.parse().unwrap());
            plan(PlanRequest { prefix6, ..PlanRequest::default() })
        };
        assert_eq!(ask("2001:db8:1:2::/64").unwrap().gateway6.to_string(), "2001:db8:1:2::1");
        assert!(matches!(ask("fd00::/48"), Err(PlanError::PrefixLength6(_))));
        for bad in ["fe80::/64", "ff02::/64", "::/64", "64:ff9b::/64"] {
            assert!(matches!(ask(bad), Err(PlanError::Reserved(_))), "{bad}");
        }
    }

    #[test]
    fn the_mtu_is_checked() {
        let ask = |mtu, ipv6| plan(PlanRequest { mtu: Some(mtu), ipv6, ..PlanRequest::default() });
        assert_eq!(ask(65535, Ipv6Mode::On).unwrap().mtu, 65535);
        assert_eq!(ask(68, Ipv6Mode::Auto).unwrap().mtu, 68);
        assert_eq!(ask(67, Ipv6Mode::Auto).unwrap_err(), PlanError::Mtu(67));
        assert_eq!(ask(1279, Ipv6Mode::On).unwrap_err(), PlanError::Mtu(1279));
    }

    #[test]
    fn names_and_macs_are_checked() {
        let long = "a".repeat(64);
        for bad in ["", "a.b", "-a", "a-", "a_b", "ü", &long] {
            let hostname = Some(bad.to_owned());
            let got = plan(PlanRequest { hostname, ..PlanRequest::default() });
            assert!(matches!(got, Err(PlanError::Hostname(_))), "{bad}");
        }
        for bad in [MacAddr::default(), MacAddr::BROADCAST] {
            let guest_mac = Some(bad);
            let got = plan(PlanRequest { guest_mac, ..PlanRequest::default() });
            assert_eq!(got.unwrap_err(), PlanError::Mac(bad));
        }
        let guest_mac = plan(PlanRequest::default()).map(|c| Some(c.mac)).unwrap();
        let config = plan(PlanRequest { guest_mac, ..PlanRequest::default() }).unwrap();
        assert_ne!(Some(config.mac), guest_mac);
    }
}
