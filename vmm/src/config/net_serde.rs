//! An interface in files and in JSON: a table with a mode and that mode's keys, or the text that
//! `--net` takes.

use std::fmt;

use minivmm_net::Ipv6Mode;
use serde::de::{Error, MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::net::{HostAccess, MaxFlows, NatConfig, NetConfig, ParseNetError, TapConfig};
use super::value::Word;

/// The mode and the keys that were given, none that were not.
impl Serialize for NetConfig {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("mode", self.mode())?;
        match self {
            Self::Nat(nat) => nat.entries(&mut map)?,
            Self::Tap(tap) => tap.entries(&mut map)?,
        }
        map.end()
    }
}

fn text<M: SerializeMap>(
    map: &mut M,
    key: &str,
    value: Option<&impl fmt::Display>,
) -> Result<(), M::Error> {
    value.map_or(Ok(()), |value| map.serialize_entry(key, &value.to_string()))
}

impl NatConfig {
    fn entries<M: SerializeMap>(&self, map: &mut M) -> Result<(), M::Error> {
        text(map, "subnet", self.subnet.as_ref())?;
        if let Some(mtu) = self.mtu {
            map.serialize_entry("mtu", &mtu)?;
        }
        text(map, "mac", self.mac.as_ref())?;
        if self.host == HostAccess::Allow {
            map.serialize_entry("host", "allow")?;
        }
        match self.ipv6 {
            Ipv6Mode::Auto => {}
            Ipv6Mode::On => map.serialize_entry("ipv6", "on")?,
            Ipv6Mode::Off => map.serialize_entry("ipv6", "off")?,
        }
        let flows = self.max_flows.map(|MaxFlows { tcp, udp }| format!("{tcp}/{udp}"));
        text(map, "max-flows", flows.as_ref())
    }
}

impl TapConfig {
    fn entries<M: SerializeMap>(&self, map: &mut M) -> Result<(), M::Error> {
        text(map, "name", self.name.as_ref())?;
        if let Some(fd) = self.fd {
            map.serialize_entry("fd", &fd)?;
        }
        if let Some(mtu) = self.mtu {
            map.serialize_entry("mtu", &mtu)?;
        }
        text(map, "mac", self.mac.as_ref())
    }
}

impl<'de> Deserialize<'de> for NetConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NetVisitor)
    }
}

struct NetVisitor;

/// What an interface is, in errors.
const WANTED: &str = "a table is wanted, or text, as in \"nat\"";

impl<'de> Visitor<'de> for NetVisitor {
    type Value = NetConfig;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a table, or text, as in \"nat\"")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<NetConfig, E> {
        text.parse().map_err(E::custom)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<NetConfig, A::Error> {
        let mut pairs: Vec<(String, String)> = Vec::new();
        while let Some(key) = map.next_key()? {
            let Word(value) = map.next_value()?;
            pairs.push((key, value));
        }
        NetConfig::from_table(&pairs).map_err(|(_, e)| A::Error::custom(e))
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<NetConfig, E> {
        Err(E::custom(WANTED))
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<NetConfig, E> {
        Err(E::custom(WANTED))
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<NetConfig, E> {
        Err(E::custom(WANTED))
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<NetConfig, E> {
        Err(E::custom(WANTED))
    }
}

/// What is wrong with an interface's table.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum TableError {
    /// It has no mode.
    #[error("the key mode is missing (nat, tap)")]
    NoMode,
    /// The mode, or one of its keys.
    #[error(transparent)]
    Net(#[from] ParseNetError),
}

impl NetConfig {
    /// The interface of a table's entries. An error comes with the index of the entry that it is
    /// about, if it is about one.
    pub(super) fn from_table(
        entries: &[(String, String)],
    ) -> Result<Self, (Option<usize>, TableError)> {
        let at = entries.iter().position(|(key, _)| key == "mode");
        let at = at.ok_or((None, TableError::NoMode))?;
        let pairs: Vec<(&str, &str)> = entries
            .iter()
            .filter(|(key, _)| key != "mode")
            .map(|(key, value)| (&**key, &**value))
            .collect();
        Self::from_pairs(&entries[at].1, &pairs).map_err(|(index, e)| {
            // Among the entries the mode is one.
            let index = index.map_or(at, |index| if index < at { index } else { index + 1 });
            (Some(index), e.into())
        })
    }
}
