//! What a gateway is told when it is made. Checked values only; the words of users are turned
//! into these by the machine's configuration.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use ipnet::{Ipv4Net, Ipv6Net};

use crate::addr::{Family, MacAddr};

/// The least MTU of a link with IPv6 (RFC 8200 §5).
pub const MTU_MIN6: u16 = 1280;

/// A transport protocol that can be published or redirected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Transport {
    /// RFC 9293.
    Tcp,
    /// RFC 768.
    Udp,
}

/// A port of the host that leads to the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Publish {
    /// The protocol.
    pub transport: Transport,
    /// Where the host listens.
    pub listen: SocketAddr,
    /// The guest's port.
    pub guest_port: u16,
}

/// An address as the guest sees it that leads to another one of the host's, past all policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Redirect {
    /// The protocol.
    pub transport: Transport,
    /// Where the guest connects to.
    pub from: SocketAddr,
    /// Where that leads.
    pub to: SocketAddr,
}

/// When IPv6 is offered to the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Ipv6Mode {
    /// While the host has a default route for it.
    #[default]
    Auto,
    /// Always (there may be something on the host to reach).
    On,
    /// Never.
    Off,
}

/// The most flows that exist at once, by kind; past that the oldest idle one goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlowLimits {
    /// TCP connections.
    pub tcp: usize,
    /// UDP flows.
    pub udp: usize,
    /// ICMP echo identifiers.
    pub ping: usize,
}

impl Default for FlowLimits {
    fn default() -> Self {
        Self { tcp: 4096, udp: 1024, ping: 64 }
    }
}

/// The gateway of one NAT segment.
#[derive(Debug, Clone)]
pub struct GatewayConfig {
    /// The gateway's own link-layer address.
    pub mac: MacAddr,
    /// The guest's, where it is known before the guest speaks.
    pub guest_mac: Option<MacAddr>,
    /// The guest's IPv4 network.
    pub subnet4: Ipv4Net,
    /// The gateway's address in it: router, DHCP server and resolver.
    pub gateway4: Ipv4Addr,
    /// The address that DHCP gives the guest.
    pub guest4: Ipv4Addr,
    /// The guest's IPv6 prefix, a /64 (RFC 4862 §5.5.3 wants 64-bit interface identifiers).
    pub prefix6: Ipv6Net,
    /// The gateway's address in it.
    pub gateway6: Ipv6Addr,
    /// When IPv6 is offered.
    pub ipv6: Ipv6Mode,
    /// The largest IP packet on the link, in bytes: 1280 to 65535 with IPv6, else from 68.
    pub mtu: u16,
    /// The host name that DHCP gives the guest.
    pub hostname: String,
    /// The guest may reach the host's loopback at the gateway's addresses.
    pub host_access: bool,
    /// Ports of the host that lead to the guest.
    pub publish: Vec<Publish>,
    /// Addresses that lead elsewhere.
    pub redirects: Vec<Redirect>,
    /// The host's resolver configuration, `/etc/resolv.conf`.
    pub resolv_conf: PathBuf,
    /// How many flows there may be.
    pub limits: FlowLimits,
}

impl GatewayConfig {
    /// True for the addresses that a station may have, all of them on its own link.
    pub fn is_guest(&self, ip: IpAddr) -> bool {
        match ip {
            IpAddr::V4(ip) => self.is_guest4(ip),
            IpAddr::V6(ip) => self.is_guest6(ip),
        }
    }

    /// True for the addresses of the guest's IPv4 network that a station of its own may have.
    pub fn is_guest4(&self, ip: Ipv4Addr) -> bool {
        self.subnet4.contains(&ip)
            && ip != self.gateway4
            && ip != self.subnet4.network()
            && ip != self.subnet4.broadcast()
    }

    /// True for the IPv6 addresses that a station may have.
    pub fn is_guest6(&self, ip: Ipv6Addr) -> bool {
        (ip.is_unicast_link_local() || self.prefix6.contains(&ip))
            && ip != self.gateway6
            && ip != self.link_local6()
            // The subnet-router anycast address (RFC 4291 §2.6.1) is the gateway's.
            && ip != self.prefix6.network()
    }

    /// The gateway's address of a family.
    pub fn gateway(&self, family: Family) -> IpAddr {
        match family {
            Family::V4 => self.gateway4.into(),
            Family::V6 => self.gateway6.into(),
        }
    }

    /// The gateway's link-local address (RFC 4862 §5.3).
    pub fn link_local6(&self) -> Ipv6Addr {
        let mut octets = [0; 16];
        octets[..2].copy_from_slice(&[0xfe, 0x80]);
        octets[8..].copy_from_slice(&self.mac.eui64());
        octets.into()
    }
}
