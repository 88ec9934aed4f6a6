//! A network interface: its mode, and what that mode's keys say.

use std::str::FromStr;

use ipnet::Ipv4Net;
use minivmm_net::{Ipv6Mode, MacAddr};

use super::number::decimal;

/// One network interface of the guest.
#[derive(Debug, Clone, PartialEq)]
pub enum NetConfig {
    /// Behind a NAT gateway of its own.
    Nat(NatConfig),
    /// Joined to a TAP device of the host.
    Tap(TapConfig),
}

/// Whether the guest may reach services on the host's loopback, at the gateway's address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum HostAccess {
    /// It may not.
    #[default]
    Deny,
    /// It may; the host is `host.minivmm.internal`.
    Allow,
}

/// `mode = "nat"`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct NatConfig {
    /// The guest's IPv4 network; by default one that overlaps no route of the host.
    pub subnet: Option<Ipv4Net>,
    /// The largest IP packet on the link in bytes, 68 to 65535; IPv6 needs 1280. 1500 by default.
    pub mtu: Option<u16>,
    /// The interface's address; by default one at random.
    pub mac: Option<MacAddr>,
    /// Whether the host's loopback can be reached.
    pub host: HostAccess,
    /// When IPv6 is offered.
    pub ipv6: Ipv6Mode,
    /// The most flows at once; 4096 of TCP and 1024 of UDP by default, or as many as there are
    /// descriptors for.
    pub max_flows: Option<MaxFlows>,
}

/// How many flows a NAT may have at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MaxFlows {
    /// TCP connections, 1 to [`MaxFlows::MOST`].
    pub tcp: u32,
    /// UDP flows, 1 to [`MaxFlows::MOST`].
    pub udp: u32,
}

impl MaxFlows {
    /// The most of either: as many open files as Linux lets a process have (`fs.nr_open`).
    pub const MOST: u32 = 1 << 20;
}

/// `TCP[/UDP]`; without the second, a quarter of the first, as by default.
impl FromStr for MaxFlows {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let number = |text| decimal(text).filter(|n| (1..=Self::MOST).contains(n));
        let flows = match s.split_once('/') {
            None => number(s).map(|tcp| Self { tcp, udp: (tcp / 4).max(1) }),
            Some((tcp, udp)) => number(tcp).zip(number(udp)).map(|(tcp, udp)| Self { tcp, udp }),
        };
        flows.ok_or_else(|| {
            format!(
                "{s:?} is no number of flows, TCP or TCP/UDP, as in 10000/2500: each 1 to {}",
                Self::MOST
            )
        })
    }
}

/// `mode = "tap"`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct TapConfig {
    /// The device's name.
    pub name: Option<String>,
    /// Make it where it doesn't exist, which needs CAP_NET_ADMIN; it goes with the machine.
    pub create: bool,
    /// An open TAP device that minivmm inherits, by its descriptor number, instead of a name.
    pub fd: Option<i32>,
    /// The largest IP packet that the guest is told to send, in bytes; by default the device's.
    pub mtu: Option<u16>,
    /// The interface's address; by default one at random.
    pub mac: Option<MacAddr>,
}

impl NetConfig {
    /// The mode's word.
    pub fn mode(&self) -> &'static str {
        match self {
            Self::Nat(_) => "nat",
            Self::Tap(_) => "tap",
        }
    }

    /// The interface's address, where one was given.
    pub fn mac(&self) -> Option<MacAddr> {
        match self {
            Self::Nat(nat) => nat.mac,
            Self::Tap(tap) => tap.mac,
        }
    }

    /// The IPv4 network, where one was given.
    pub fn subnet(&self) -> Option<Ipv4Net> {
        match self {
            Self::Nat(nat) => nat.subnet,
            Self::Tap(_) => None,
        }
    }

    /// The MTU, where one was given.
    pub fn mtu(&self) -> Option<u16> {
        match self {
            Self::Nat(nat) => nat.mtu,
            Self::Tap(tap) => tap.mtu,
        }
    }
}
