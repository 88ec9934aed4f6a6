//! Neighbour discovery messages (RFC 4861 §4), behind the ICMPv6 type and code.

use std::net::Ipv6Addr;

use crate::addr::MacAddr;
use crate::stats::DropReason;

/// ICMPv6 types.
pub mod kind {
    pub const ROUTER_SOLICITATION: u8 = 133;
    pub const ROUTER_ADVERTISEMENT: u8 = 134;
    pub const NEIGHBOR_SOLICITATION: u8 = 135;
    pub const NEIGHBOR_ADVERTISEMENT: u8 = 136;
    pub const REDIRECT: u8 = 137;
}

/// Options.
pub mod option {
    pub const SOURCE_LINK_ADDRESS: u8 = 1;
    pub const TARGET_LINK_ADDRESS: u8 = 2;
    pub const PREFIX_INFORMATION: u8 = 3;
    pub const MTU: u8 = 5;
    pub const RDNSS: u8 = 25;
    pub const DNSSL: u8 = 31;
}

/// What a guest may say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Message {
    /// Who routes here?
    RouterSolicitation {
        /// The asker's link-layer address.
        source: Option<MacAddr>,
    },
    /// Who is this?
    NeighborSolicitation {
        /// The address in question.
        target: Ipv6Addr,
        /// The asker's link-layer address.
        source: Option<MacAddr>,
    },
    /// This is where I am.
    NeighborAdvertisement {
        /// The address.
        target: Ipv6Addr,
        /// Its link-layer address.
        link: Option<MacAddr>,
    },
}

impl Message {
    /// Reads an ICMPv6 message from type to end, whose checksum is right.
    ///
    /// # Errors
    /// The reason to drop it (RFC 4861 §6.1.1, §7.1). What only routers say is
    /// [`DropReason::BadSource`].
    pub fn parse(bytes: &[u8]) -> Result<Self, DropReason> {
        if bytes.len() < 8 {
            return Err(DropReason::Truncated);
        }
        if bytes[1] != 0 {
            return Err(DropReason::Malformed);
        }
        match bytes[0] {
            kind::ROUTER_SOLICITATION => {
                let source = link_address(&bytes[8..], option::SOURCE_LINK_ADDRESS)?;
                Ok(Self::RouterSolicitation { source })
            }
            kind::NEIGHBOR_SOLICITATION => {
                let target = target(bytes)?;
                let source = link_address(&bytes[24..], option::SOURCE_LINK_ADDRESS)?;
                Ok(Self::NeighborSolicitation { target, source })
            }
            kind::NEIGHBOR_ADVERTISEMENT => {
                let target = target(bytes)?;
                let link = link_address(&bytes[24..], option::TARGET_LINK_ADDRESS)?;
                Ok(Self::NeighborAdvertisement { target, link })
            }
            kind::ROUTER_ADVERTISEMENT | kind::REDIRECT => Err(DropReason::BadSource),
            _ => Err(DropReason::UnknownProtocol),
        }
    }
}

fn target(bytes: &[u8]) -> Result<Ipv6Addr, DropReason> {
    let octets: [u8; 16] =
        bytes.get(8..24).and_then(|b| b.try_into().ok()).ok_or(DropReason::Truncated)?;
    let target = Ipv6Addr::from(octets);
    if target.is_multicast() { Err(DropReason::Malformed) } else { Ok(target) }
}

/// The link-layer address in the option `code`, all options being well-formed.
fn link_address(mut options: &[u8], code: u8) -> Result<Option<MacAddr>, DropReason> {
    let mut found = None;
    while !options.is_empty() {
        let len = options.get(1).map_or(0, |len| usize::from(*len) * 8);
        if len == 0 || len > options.len() {
            return Err(DropReason::Malformed);
        }
        if options[0] == code && len == 8 {
            let mut mac = MacAddr::default();
            mac.0.copy_from_slice(&options[2..8]);
            if mac.is_multicast() {
                return Err(DropReason::Malformed);
            }
            found = Some(mac);
        }
        options = &options[len..];
    }
    Ok(found)
}

/// A neighbour advertisement of a router (RFC 4861 §4.4), its checksum field 0.
pub fn neighbor_advertisement(target: Ipv6Addr, mac: MacAddr, solicited: bool) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes[0] = kind::NEIGHBOR_ADVERTISEMENT;
    // Router, solicited, override.
    bytes[4] = 0x80 | if solicited { 0x40 } else { 0 } | 0x20;
    bytes[8..24].copy_from_slice(&target.octets());
    bytes[24..26].copy_from_slice(&[option::TARGET_LINK_ADDRESS, 1]);
    bytes[26..32].copy_from_slice(&mac.0);
    bytes
}

/// Bytes of search domains that an advertisement carries, so that it fits the least MTU.
pub const SEARCH_MAX: usize = 504;

/// What a router says of its network.
#[derive(Debug, Clone, Copy)]
pub struct Advertisement<'a> {
    /// The router's link-layer address.
    pub mac: MacAddr,
    /// The link's MTU.
    pub mtu: u16,
    /// The network's prefix, a /64.
    pub prefix: Ipv6Addr,
    /// The resolver.
    pub resolver: Ipv6Addr,
    /// Domains to search, in DNS labels.
    pub search: &'a [u8],
    /// Seconds that the router may be used as one.
    pub router_lifetime: u16,
    /// Seconds that addresses of the prefix are valid, and that they may be used for new flows.
    pub prefix_lifetimes: (u32, u32),
    /// Seconds that the resolver may be used.
    pub resolver_lifetime: u32,
}

impl Advertisement<'_> {
    /// The ICMPv6 message (RFC 4861 §4.2), its checksum field 0.
    pub fn write(&self) -> Vec<u8> {
        let mut b = Vec::with_capacity(256);
        b.extend([kind::ROUTER_ADVERTISEMENT, 0, 0, 0]);
        // Hop limit; no managed addresses, other configuration by DHCPv6; the guest's own timers.
        b.extend([64, 0x40]);
        b.extend(self.router_lifetime.to_be_bytes());
        b.extend([0; 8]);
        b.extend([option::SOURCE_LINK_ADDRESS, 1]);
        b.extend(self.mac.0);
        b.extend([option::MTU, 1, 0, 0]);
        b.extend(u32::from(self.mtu).to_be_bytes());
        // On-link, autonomous (§4.6.2).
        b.extend([option::PREFIX_INFORMATION, 4, 64, 0xc0]);
        b.extend(self.prefix_lifetimes.0.to_be_bytes());
        b.extend(self.prefix_lifetimes.1.to_be_bytes());
        b.extend([0; 4]);
        b.extend(self.prefix.octets());
        // RFC 8106 §5.1.
        b.extend([option::RDNSS, 3, 0, 0]);
        b.extend(self.resolver_lifetime.to_be_bytes());
        b.extend(self.resolver.octets());
        // RFC 8106 §5.2, padded to units of 8 bytes.
        let units = 1 + self.search.len().div_ceil(8);
        if !self.search.is_empty() && self.search.len() <= SEARCH_MAX {
            b.extend([option::DNSSL, units as u8, 0, 0]);
            b.extend(self.resolver_lifetime.to_be_bytes());
            let end = b.len() + (units - 1) * 8;
            b.extend(self.search);
            b.resize(end, 0);
        }
        b
    }
}
