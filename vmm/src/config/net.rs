//! A network interface: its mode and that mode's keys, the same on the command line
//! (`--net nat,mtu=1400`) and in files (`[[net]]`).

use std::str::FromStr;

use ipnet::Ipv4Net;
use minivmm_net::addr::MacAddr;
use serde::de::value::{Error as ValueError, MapDeserializer};
use serde::{Deserialize, Serialize};

use super::text;

/// One network interface of the guest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "mode", rename_all = "kebab-case")]
pub enum NetConfig {
    /// Behind a NAT gateway of its own.
    Nat(NatConfig),
    /// Joined to a TAP device of the host.
    Tap(TapConfig),
}

/// Who does the translation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Engine {
    /// The gateway in user space: no privilege.
    #[default]
    User,
}

/// Whether the guest may reach services on the host's loopback, at the gateway's address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HostAccess {
    /// It may not.
    #[default]
    Deny,
    /// It may; the host is `host.minivmm.internal`.
    Allow,
}

/// When IPv6 is offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ipv6 {
    /// While the host can route it.
    #[default]
    Auto,
    /// Always.
    On,
    /// Never.
    Off,
}

/// `mode = "nat"`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct NatConfig {
    /// The guest's IPv4 network; by default one that overlaps no route of the host.
    #[serde(deserialize_with = "text::option", skip_serializing_if = "Option::is_none")]
    pub subnet: Option<Ipv4Net>,
    /// The largest IP packet on the link in bytes, 68 to 65535; IPv6 needs 1280. 1500 by default.
    #[serde(deserialize_with = "text::option", skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// The interface's address; by default one at random.
    #[serde(deserialize_with = "text::option", skip_serializing_if = "Option::is_none")]
    pub mac: Option<MacAddr>,
    /// Who does the translation.
    pub engine: Engine,
    /// Whether the host's loopback can be reached.
    pub host: HostAccess,
    /// When IPv6 is offered.
    pub ipv6: Ipv6,
}

/// `mode = "tap"`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct TapConfig {
    /// The device's name; it is made where it doesn't exist.
    #[serde(deserialize_with = "text::option", skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// An open TAP device that minivmm inherits, by its descriptor number, instead of a name.
    #[serde(deserialize_with = "text::option", skip_serializing_if = "Option::is_none")]
    pub fd: Option<i32>,
    /// The largest IP packet that the guest is told to send, in bytes; by default the device's.
    #[serde(deserialize_with = "text::option", skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// The interface's address; by default one at random.
    #[serde(deserialize_with = "text::option", skip_serializing_if = "Option::is_none")]
    pub mac: Option<MacAddr>,
}

impl NetConfig {
    /// The interface's address, where one was given.
    pub fn mac(&self) -> Option<MacAddr> {
        match self {
            Self::Nat(nat) => nat.mac,
            Self::Tap(tap) => tap.mac,
        }
    }

    /// The MTU, where one was given.
    pub fn mtu(&self) -> Option<u32> {
        match self {
            Self::Nat(nat) => nat.mtu,
            Self::Tap(tap) => tap.mtu,
        }
    }
}

/// The modes, as an error lists them.
const MODES: &str = "nat, tap=NAME";

/// A `--net` that says nothing we know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseNetError {
    /// No such mode.
    #[error("unknown network mode {0:?} (modes: {MODES})")]
    Mode(String),
    /// A mode of a later version.
    #[error("network mode {0:?} is not in this version (modes: {MODES})")]
    NotYet(String),
    /// Not `key=value`.
    #[error("{0:?} is not key=value, as in mtu=1400")]
    Pair(String),
    /// A key twice.
    #[error("the key {0:?} is given twice")]
    Twice(String),
    /// What the model says of a key or value.
    #[error("{0}")]
    Key(String),
}

impl FromStr for NetConfig {
    type Err = ParseNetError;

    fn from_str(s: &str) -> Result<Self, ParseNetError> {
        let mut parts = s.split(',');
        let first = parts.next().unwrap_or_default();
        let (mode, value) = match first.split_once('=') {
            Some((mode, value)) => (mode, Some(value)),
            None => (first, None),
        };
        let mut pairs: Vec<(&str, &str)> = Vec::new();
        match (mode, value) {
            ("nat", None) | ("tap", None) => {}
            ("tap", Some(name)) => pairs.push(("name", name)),
            ("bridge" | "host-only" | "private", _) => {
                return Err(ParseNetError::NotYet(mode.to_owned()));
            }
            _ => return Err(ParseNetError::Mode(first.to_owned())),
        }
        for part in parts {
            let pair = part.split_once('=').ok_or_else(|| ParseNetError::Pair(part.to_owned()))?;
            if pairs.iter().any(|(key, _)| *key == pair.0) {
                return Err(ParseNetError::Twice(pair.0.to_owned()));
            }
            pairs.push(pair);
        }
        let map = MapDeserializer::<_, ValueError>::new(pairs.into_iter());
        match mode {
            "nat" => NatConfig::deserialize(map).map(Self::Nat),
            _ => TapConfig::deserialize(map).map(Self::Tap),
        }
        .map_err(|e| ParseNetError::Key(e.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(s: &str) -> Result<NetConfig, String> {
        s.parse().map_err(|e: ParseNetError| e.to_string())
    }

    #[test]
    fn the_command_line_and_toml_say_the_same() {
        let cli =
            parse("nat,subnet=10.9.0.0/24,mtu=1400,mac=52:4d:00:00:00:01,host=allow").unwrap();
        let toml: NetConfig = toml::from_str(
            "mode = 'nat'\nsubnet = '10.9.0.0/24'\nmtu = 1400\nmac = '52:4d:00:00:00:01'\nhost = 'allow'",
        )
        .unwrap();
        assert_eq!(cli, toml);
        assert_eq!(cli.mtu(), Some(1400));
    }

    #[test]
    fn a_tap_has_a_name_or_a_descriptor() {
        let tap = |name: Option<&str>, fd| TapConfig {
            name: name.map(Into::into),
            fd,
            ..TapConfig::default()
        };
        assert_eq!(parse("tap=vm 0").unwrap(), NetConfig::Tap(tap(Some("vm 0"), None)));
        assert_eq!(parse("tap,fd=5").unwrap(), NetConfig::Tap(tap(None, Some(5))));
    }

    #[test]
    fn mistakes_are_named() {
        for (text, want) in [
            ("nta", "unknown network mode \"nta\""),
            ("nat=x", "unknown network mode"),
            ("bridge=br0", "not in this version"),
            ("nat,mtx=1", "unknown field `mtx`"),
            ("nat,mtu", "not key=value"),
            ("nat,mtu=1,mtu=2", "given twice"),
            ("nat,mtu=big", "\"big\": invalid digit"),
            ("nat,mac=52:4d", "not a MAC address"),
            ("nat,engine=kernel", "unknown variant `kernel`"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(want), "{text}: {error}");
            assert!(!error.contains('\n'), "{error}");
        }
    }
}
