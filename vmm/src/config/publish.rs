//! Published ports in docker's words: `[ADDR:]HOST:GUEST[/udp]`.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use minivmm_net::Transport;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::number::decimal;
use super::value;

/// A port of the host that leads to the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PublishConfig {
    /// Where the host listens; every address of both families without one.
    pub address: Option<IpAddr>,
    /// The host's port, 1 to 65535.
    pub host: u16,
    /// The guest's port, 1 to 65535.
    pub guest: u16,
    /// The protocol.
    pub transport: Transport,
}

/// Text that is no published port.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a published port: [ADDRESS:]HOST:GUEST[/udp], ports 1 to 65535, as in 8080:80 \
     or [::1]:5353:53/udp"
)]
pub struct ParsePublishError(String);

impl FromStr for PublishConfig {
    type Err = ParsePublishError;

    fn from_str(s: &str) -> Result<Self, ParsePublishError> {
        Self::parse(s).ok_or_else(|| ParsePublishError(s.to_owned()))
    }
}

impl PublishConfig {
    /// A TCP port of every address of the host.
    pub fn tcp(host: u16, guest: u16) -> Self {
        Self { address: None, host, guest, transport: Transport::Tcp }
    }

    fn parse(s: &str) -> Option<Self> {
        let (ports, transport) = match s.rsplit_once('/') {
            None => (s, Transport::Tcp),
            Some((ports, "tcp")) => (ports, Transport::Tcp),
            Some((ports, "udp")) => (ports, Transport::Udp),
            Some(_) => return None,
        };
        let (rest, guest) = ports.rsplit_once(':')?;
        let (address, host) = match rest.rsplit_once(':') {
            None => (None, rest),
            Some((address, host)) => {
                let bare = address.strip_prefix('[').and_then(|a| a.strip_suffix(']'));
                let address: IpAddr = match bare {
                    Some(six) => IpAddr::V6(six.parse().ok()?),
                    None => IpAddr::V4(address.parse().ok()?),
                };
                (Some(address), host)
            }
        };
        let port = |p: &str| decimal(p).filter(|p| *p != 0);
        Some(Self { address, host: port(host)?, guest: port(guest)?, transport })
    }

    /// True where both would listen on one socket address.
    pub fn collides(&self, other: &Self) -> bool {
        let overlap = match (self.address, other.address) {
            (Some(a), Some(b)) => {
                a == b || a.is_ipv4() == b.is_ipv4() && (a.is_unspecified() || b.is_unspecified())
            }
            _ => true,
        };
        overlap && self.transport == other.transport && self.host == other.host
    }
}

impl Serialize for PublishConfig {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        value::displayed(self, serializer)
    }
}

impl<'de> Deserialize<'de> for PublishConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text: String = value::text(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl fmt::Display for PublishConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address {
            Some(IpAddr::V4(a)) => write!(f, "{a}:")?,
            Some(IpAddr::V6(a)) => write!(f, "[{a}]:")?,
            None => {}
        }
        write!(f, "{}:{}", self.host, self.guest)?;
        if self.transport == Transport::Udp { f.write_str("/udp") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_form_round_trips() {
        for text in ["8080:80", "5353:53/udp", "127.0.0.1:8080:80", "[::1]:5353:53/udp"] {
            assert_eq!(text.parse::<PublishConfig>().unwrap().to_string(), text);
        }
        assert_eq!("1:2/tcp".parse::<PublishConfig>().unwrap().to_string(), "1:2");
    }

    #[test]
    fn mistakes_are_refused() {
        for text in
            ["", "80", "0:80", "80:0", "65536:80", "a:80", "+8081:80", "::1:80:80", "80:80/icmp"]
        {
            assert!(text.parse::<PublishConfig>().is_err(), "{text}");
        }
    }

    #[test]
    fn wildcards_collide_with_every_address_of_their_family() {
        let collides =
            |a: &str, b: &str| a.parse::<PublishConfig>().unwrap().collides(&b.parse().unwrap());
        assert!(collides("80:1", "127.0.0.1:80:2"));
        assert!(collides("0.0.0.0:80:1", "127.0.0.1:80:2"));
        assert!(!collides("0.0.0.0:80:1", "[::1]:80:2"));
        assert!(!collides("80:1", "80:1/udp"));
        assert!(!collides("10.0.0.1:80:1", "127.0.0.1:80:2"));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            address in proptest::option::of(any::<IpAddr>()),
            host in 1u16..,
            guest in 1u16..,
            udp: bool,
        ) {
            let transport = if udp { Transport::Udp } else { Transport::Tcp };
            let at = match address {
                None => String::new(),
                Some(IpAddr::V4(ip)) => format!("{ip}:"),
                Some(IpAddr::V6(ip)) => format!("[{ip}]:"),
            };
            let text = format!("{at}{host}:{guest}{}", if udp { "/udp" } else { "" });
            prop_assert_eq!(text.parse(), Ok(PublishConfig { address, host, guest, transport }));
        }

        #[test]
        fn anything_is_taken_or_refused(text in "[0-9a-z:./\\[\\]]{0,24}|\\PC{0,24}") {
            if let Ok(port) = text.parse::<PublishConfig>() {
                prop_assert!(port.host != 0 && port.guest != 0);
            }
        }
    }
}
