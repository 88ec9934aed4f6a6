//! Published ports in docker's words: `[ADDRESS:]HOST[-HOST]:GUEST[-GUEST][/udp]`.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use minivmm_net::Transport;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::number::decimal;
use super::value;

/// Ports of the host that lead to the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PublishConfig {
    /// Where the host listens.
    pub address: PublishAddress,
    /// The host's port, or the first of several; 0 for one that the host chooses.
    pub host: u16,
    /// The guest's port, or the first of as many, 1 to 65535.
    pub guest: u16,
    /// How many there are, one after the other: from 1 on.
    pub count: u16,
    /// The protocol.
    pub transport: Transport,
}

/// Where the host listens for clients of the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PublishAddress {
    /// At every address of both families.
    #[default]
    Any,
    /// At the loopback's address of both families.
    Localhost,
    /// At this one.
    Ip(IpAddr),
}

impl PublishAddress {
    /// The addresses to listen at.
    pub fn addresses(self) -> Vec<IpAddr> {
        match self {
            Self::Any => vec![Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()],
            Self::Localhost => vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()],
            Self::Ip(ip) => vec![ip],
        }
    }
}

/// Text that is no published port.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is not a published port: {why} ([ADDRESS:]HOST[-HOST]:GUEST[-GUEST][/udp], as in \
     8080:80 or [::1]:5353:53/udp)"
)]
pub struct ParsePublishError {
    text: String,
    why: String,
}

impl FromStr for PublishConfig {
    type Err = ParsePublishError;

    fn from_str(s: &str) -> Result<Self, ParsePublishError> {
        Self::parse(s).map_err(|why| ParsePublishError { text: s.to_owned(), why })
    }
}

impl PublishConfig {
    /// A TCP port of all of the host's addresses.
    pub const fn tcp(host: u16, guest: u16) -> Self {
        let address = PublishAddress::Any;
        Self { address, host, guest, count: 1, transport: Transport::Tcp }
    }

    fn parse(s: &str) -> Result<Self, String> {
        let (ports, transport) = match s.rsplit_once('/') {
            None => (s, Transport::Tcp),
            Some((ports, word)) if word.eq_ignore_ascii_case("tcp") => (ports, Transport::Tcp),
            Some((ports, word)) if word.eq_ignore_ascii_case("udp") => (ports, Transport::Udp),
            Some((_, word)) => return Err(format!("{word:?} is neither tcp nor udp")),
        };
        let (rest, guest) =
            ports.rsplit_once(':').ok_or("the host's port and the guest's are wanted")?;
        let (address, host) = match rest.rsplit_once(':') {
            None => (PublishAddress::Any, rest),
            Some((address, host)) => (parse_address(address)?, host),
        };
        let (host, hosts) = parse_ports(host, 0)?;
        let (guest, count) = parse_ports(guest, 1)?;
        if host == 0 && hosts > 1 || hosts != count {
            return Err("both ranges are to be of the same length, and neither from 0 on".into());
        }
        Ok(Self { address, host, guest, count, transport })
    }

    /// True where both would listen on one socket address.
    pub fn collides(&self, other: &Self) -> bool {
        let same = |a: &IpAddr, b: &IpAddr| {
            a == b || a.is_ipv4() == b.is_ipv4() && (a.is_unspecified() || b.is_unspecified())
        };
        let theirs = other.address.addresses();
        let overlap = self.address.addresses().iter().any(|a| theirs.iter().any(|b| same(a, b)));
        // What the host chooses is free.
        let chosen = self.host == 0 || other.host == 0;
        let apart = self.host.abs_diff(other.host);
        let first = if self.host <= other.host { self } else { other };
        overlap && !chosen && self.transport == other.transport && apart < first.count
    }
}

fn parse_address(text: &str) -> Result<PublishAddress, String> {
    if text.eq_ignore_ascii_case("localhost") {
        return Ok(PublishAddress::Localhost);
    }
    if text.is_empty() {
        return Err("there is no address in front of the first colon (without that colon, it is \
                    every address)"
            .into());
    }
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
    match bare {
        Some(six) => six.parse().map(IpAddr::V6).ok(),
        None => text.parse().map(IpAddr::V4).ok(),
    }
    .map(PublishAddress::Ip)
    .ok_or_else(|| {
        let brackets = if text.contains(':') && bare.is_none() { " in brackets" } else { "" };
        format!("{text:?} is no IPv4 address, no IPv6 address{brackets}, nor localhost")
    })
}

/// A port or a range of them: the first, and how many.
fn parse_ports(text: &str, least: u16) -> Result<(u16, u16), String> {
    let problem = || {
        let whose =
            if least == 0 { "of the host's, 0 (the host chooses)" } else { "of the guest's, 1" };
        format!("{text:?} is no port {whose} to 65535")
    };
    let port = |text| decimal(text).filter(|port: &u16| *port >= least).ok_or_else(problem);
    match text.split_once('-') {
        None => Ok((port(text)?, 1)),
        Some((first, last)) => {
            let (first, last) = (port(first)?, port(last)?);
            let count = last.checked_sub(first).and_then(|more| more.checked_add(1));
            Ok((first, count.ok_or_else(problem)?))
        }
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
            PublishAddress::Any => {}
            PublishAddress::Localhost => f.write_str("localhost:")?,
            PublishAddress::Ip(IpAddr::V4(a)) => write!(f, "{a}:")?,
            PublishAddress::Ip(IpAddr::V6(a)) => write!(f, "[{a}]:")?,
        }
        for (first, end) in [(self.host, ":"), (self.guest, "")] {
            write!(f, "{first}")?;
            if self.count > 1 {
                write!(f, "-{}", first.saturating_add(self.count - 1))?;
            }
            f.write_str(end)?;
        }
        if self.transport == Transport::Udp { f.write_str("/udp") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_form_round_trips() {
        for text in [
            "8080:80",
            "5353:53/udp",
            "127.0.0.1:8080:80",
            "[::1]:5353:53/udp",
            "localhost:8080:80",
            "0:80",
            "8000-8010:9000-9010",
            "[::1]:1-65535:1-65535/udp",
        ] {
            assert_eq!(text.parse::<PublishConfig>().unwrap().to_string(), text);
        }
        for (text, want) in
            [("1:2/tcp", "1:2"), ("1:2/TCP", "1:2"), ("1:2/UDP", "1:2/udp"), ("7-7:8", "7:8")]
        {
            assert_eq!(text.parse::<PublishConfig>().unwrap().to_string(), want);
        }
    }

    #[test]
    fn mistakes_say_what_is_wrong() {
        for (text, want) in [
            ("", "the host's port and the guest's are wanted"),
            ("80", "the host's port and the guest's are wanted"),
            ("80:0", "\"0\" is no port of the guest's, 1 to 65535"),
            ("65536:80", "\"65536\" is no port of the host's, 0 (the host chooses) to 65535"),
            ("a:80", "\"a\" is no port of the host's"),
            ("+8081:80", "\"+8081\" is no port of the host's"),
            (":8080:80", "no address in front of the first colon"),
            ("::1:80:80", "\"::1\" is no IPv4 address, no IPv6 address in brackets, nor localhost"),
            ("[::x]:80:80", "\"[::x]\" is no IPv4 address, no IPv6 address, nor localhost"),
            ("here:80:80", "\"here\" is no IPv4 address"),
            ("80:80/icmp", "\"icmp\" is neither tcp nor udp"),
            ("80-81:80", "of the same length"),
            ("80:80-81", "of the same length"),
            ("0-1:80-81", "neither from 0 on"),
            ("81-80:81-80", "\"81-80\" is no port"),
            ("80-:80-", "\"80-\" is no port"),
        ] {
            let error = text.parse::<PublishConfig>().unwrap_err().to_string();
            assert!(error.contains(want), "{text}: {error}");
            assert!(error.starts_with(&format!("{text:?} is not a published port: ")), "{error}");
            assert!(error.ends_with("or [::1]:5353:53/udp)"), "{error}");
        }
    }

    #[test]
    fn wildcards_collide_with_every_address_of_their_family() {
        let collides =
            |a: &str, b: &str| a.parse::<PublishConfig>().unwrap().collides(&b.parse().unwrap());
        for (a, b, want) in [
            ("80:1", "127.0.0.1:80:2", true),
            ("0.0.0.0:80:1", "127.0.0.1:80:2", true),
            ("0.0.0.0:80:1", "[::1]:80:2", false),
            ("80:1", "80:1/udp", false),
            ("10.0.0.1:80:1", "127.0.0.1:80:2", false),
            ("localhost:80:1", "[::1]:80:1", true),
            ("localhost:80:1", "10.0.0.1:80:1", false),
            ("80-90:1-11", "90:1", true),
            ("80-90:1-11", "91:1", false),
            ("80-90:1-11", "79:1", false),
            ("79-80:1-2", "80-90:1-11", true),
            ("0:1", "0:1", false),
        ] {
            assert_eq!((collides(a, b), collides(b, a)), (want, want), "{a} {b}");
        }
    }

    proptest! {
        #[test]
        fn anything_is_taken_or_refused(text in "[0-9a-z:./\\[\\]-]{0,24}|\\PC{0,24}") {
            if let Ok(port) = text.parse::<PublishConfig>() {
                prop_assert!(port.guest != 0 && port.count != 0);
                prop_assert!(port.guest.checked_add(port.count - 1).is_some());
                prop_assert!(port.host.checked_add(port.count - 1).is_some());
                prop_assert_eq!(port.to_string().parse(), Ok(port));
            }
        }
    }
}
