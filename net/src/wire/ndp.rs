//! Neighbour discovery messages (RFC 4861 §4): ICMPv6 messages of their own kind.

use std::net::Ipv6Addr;

use super::bytes::{ipv6_at, mac_at, put};
use super::icmp::ICMP_LEN;
use crate::addr::MacAddr;
use crate::stats::DropReason;

/// ICMPv6 types.
pub mod kind {
    /// RFC 4861 §4.1.
    pub const ROUTER_SOLICITATION: u8 = 133;
    /// RFC 4861 §4.2.
    pub const ROUTER_ADVERTISEMENT: u8 = 134;
    /// RFC 4861 §4.3.
    pub const NEIGHBOR_SOLICITATION: u8 = 135;
    /// RFC 4861 §4.4.
    pub const NEIGHBOR_ADVERTISEMENT: u8 = 136;
    /// RFC 4861 §4.5.
    pub const REDIRECT: u8 = 137;
}

/// Options.
pub mod option {
    /// RFC 4861 §4.6.1.
    pub const SOURCE_LINK_ADDRESS: u8 = 1;
    /// RFC 4861 §4.6.1.
    pub const TARGET_LINK_ADDRESS: u8 = 2;
    /// RFC 4861 §4.6.2.
    pub const PREFIX_INFORMATION: u8 = 3;
    /// RFC 4861 §4.6.4.
    pub const MTU: u8 = 5;
    /// RFC 8106 §5.1.
    pub const RDNSS: u8 = 25;
    /// RFC 8106 §5.2.
    pub const DNSSL: u8 = 31;
}

mod field {
    pub const KIND: usize = 0;
    pub const CODE: usize = 1;
    /// Of an advertisement's: router, solicited, override.
    pub const FLAGS: usize = 4;
    pub const TARGET: usize = 8;
    /// Behind a target.
    pub const TARGET_END: usize = 24;

    pub const ROUTER: u8 = 0x80;
    pub const SOLICITED: u8 = 0x40;
    pub const OVERRIDE: u8 = 0x20;
}

/// Of an option: its code, its length in units of 8 bytes, and a link-layer address.
mod option_field {
    pub const CODE: usize = 0;
    pub const LEN: usize = 1;
    pub const MAC: usize = 2;
}

/// What a guest may say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NdpMessage {
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

impl NdpMessage {
    /// Reads an ICMPv6 message from type to end, whose checksum is right.
    ///
    /// # Errors
    /// The reason to drop it (RFC 4861 §6.1.1, §7.1). What only routers say is
    /// [`DropReason::BadSource`].
    pub fn parse(bytes: &[u8]) -> Result<Self, DropReason> {
        if bytes.len() < ICMP_LEN {
            return Err(DropReason::Truncated);
        }
        if bytes[field::CODE] != 0 {
            return Err(DropReason::Malformed);
        }
        match bytes[field::KIND] {
            kind::ROUTER_SOLICITATION => {
                let source = link_address(&bytes[ICMP_LEN..], option::SOURCE_LINK_ADDRESS)?;
                Ok(Self::RouterSolicitation { source })
            }
            kind::NEIGHBOR_SOLICITATION => {
                let target = target(bytes)?;
                let source =
                    link_address(&bytes[field::TARGET_END..], option::SOURCE_LINK_ADDRESS)?;
                Ok(Self::NeighborSolicitation { target, source })
            }
            kind::NEIGHBOR_ADVERTISEMENT => {
                let target = target(bytes)?;
                let link = link_address(&bytes[field::TARGET_END..], option::TARGET_LINK_ADDRESS)?;
                Ok(Self::NeighborAdvertisement { target, link })
            }
            kind::ROUTER_ADVERTISEMENT | kind::REDIRECT => Err(DropReason::BadSource),
            _ => Err(DropReason::UnknownProtocol),
        }
    }
}

fn target(bytes: &[u8]) -> Result<Ipv6Addr, DropReason> {
    if bytes.len() < field::TARGET_END {
        return Err(DropReason::Truncated);
    }
    let target = ipv6_at(bytes, field::TARGET);
    if target.is_multicast() { Err(DropReason::Malformed) } else { Ok(target) }
}

/// The link-layer address in the option `code`, all options being well-formed.
fn link_address(mut options: &[u8], code: u8) -> Result<Option<MacAddr>, DropReason> {
    let mut found = None;
    while !options.is_empty() {
        let len = options.get(option_field::LEN).map_or(0, |len| usize::from(*len) * 8);
        if len == 0 || len > options.len() {
            return Err(DropReason::Malformed);
        }
        if options[option_field::CODE] == code && len == 8 {
            let mac = mac_at(options, option_field::MAC);
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
    bytes[field::KIND] = kind::NEIGHBOR_ADVERTISEMENT;
    bytes[field::FLAGS] = field::ROUTER | field::OVERRIDE;
    if solicited {
        bytes[field::FLAGS] |= field::SOLICITED;
    }
    put(&mut bytes, field::TARGET, target.octets());
    put(&mut bytes, field::TARGET_END, [option::TARGET_LINK_ADDRESS, 1]);
    put(&mut bytes, field::TARGET_END + option_field::MAC, mac.0);
    bytes
}

/// Bytes of search domains that an advertisement carries, so that it fits the least MTU.
pub const SEARCH_MAX: usize = 504;

/// What a router says of its network.
#[derive(Debug, Clone, Copy)]
pub struct RouterAdvertisement<'a> {
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

impl RouterAdvertisement<'_> {
    /// The ICMPv6 message (RFC 4861 §4.2), its checksum field 0.
    pub fn emit(&self) -> Vec<u8> {
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TARGET: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 7);

    proptest! {
        #[test]
        fn an_advertisement_of_ours_is_one_of_a_neighbor(mac: [u8; 6], solicited: bool) {
            let mac = MacAddr([mac[0] & 0xfe, mac[1], mac[2], mac[3], mac[4], mac[5]]);
            let bytes = neighbor_advertisement(TARGET, mac, solicited);
            let want = NdpMessage::NeighborAdvertisement { target: TARGET, link: Some(mac) };
            prop_assert_eq!(NdpMessage::parse(&bytes), Ok(want));
        }

        #[test]
        fn an_advertisement_of_ours_has_well_formed_options(
            search in prop::collection::vec(any::<u8>(), 0..600), mtu: u16, lifetime: u32,
        ) {
            let message = RouterAdvertisement {
                mac: MacAddr([2, 0, 0, 0, 0, 1]),
                mtu,
                prefix: TARGET,
                resolver: TARGET,
                search: &search,
                router_lifetime: 1800,
                prefix_lifetimes: (lifetime, lifetime / 2),
                resolver_lifetime: lifetime,
            };
            let bytes = message.emit();
            prop_assert!(bytes.len() <= 1280 - 40);
            let options = &bytes[ICMP_LEN + 8..];
            let mac = link_address(options, option::SOURCE_LINK_ADDRESS);
            prop_assert_eq!(mac, Ok(Some(message.mac)));
            // A router's word is not for a router.
            prop_assert_eq!(NdpMessage::parse(&bytes), Err(DropReason::BadSource));
        }

        #[test]
        fn no_bytes_make_it_panic(mut bytes: Vec<u8>, kind in 132u8..139) {
            if let Some(first) = bytes.first_mut() {
                *first = kind;
            }
            if let Ok(message) = NdpMessage::parse(&bytes) {
                let mac = match message {
                    NdpMessage::RouterSolicitation { source } => source,
                    NdpMessage::NeighborSolicitation { target, source: link }
                    | NdpMessage::NeighborAdvertisement { target, link } => {
                        prop_assert!(!target.is_multicast());
                        link
                    }
                };
                prop_assert!(mac.is_none_or(|mac| !mac.is_multicast()));
            }
        }
    }
}
