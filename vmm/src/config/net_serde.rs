//! An interface in files and in JSON: a table with a mode and that mode's keys, or the text that
//! `--net` takes.

use std::fmt;

use serde::de::{Error, MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::keys::{Key, NAT, TAP};
use super::net::NetConfig;
use super::net_words::{Pair, ParseNetError};
use super::value::AnyWord;

/// The mode and the keys that were given, none that were not.
impl Serialize for NetConfig {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("mode", self.mode())?;
        match self {
            Self::Nat(nat) => entries(NAT, nat, &mut map)?,
            Self::Tap(tap) => entries(TAP, tap, &mut map)?,
        }
        map.end()
    }
}

fn entries<T, M: SerializeMap>(keys: &[Key<T>], config: &T, map: &mut M) -> Result<(), M::Error> {
    keys.iter().try_for_each(|key| match (key.get)(config) {
        Some(given) => map.serialize_entry(key.about.name, &given),
        None => Ok(()),
    })
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
        let mut pairs: Vec<(String, Option<String>)> = Vec::new();
        while let Some(key) = map.next_key()? {
            let AnyWord(value) = map.next_value()?;
            pairs.push((key, value));
        }
        let pairs: Vec<_> = pairs.iter().map(|(key, value)| (&**key, value.as_deref())).collect();
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
    /// Its mode is a list or a table.
    #[error("mode: text in quotes is wanted")]
    ModeIsNoText,
    /// The mode, or one of its keys.
    #[error(transparent)]
    Net(#[from] ParseNetError),
}

impl TableError {
    /// Its key is one of the machine's.
    pub fn is_the_machines(&self) -> bool {
        matches!(self, Self::Net(ParseNetError::Machine(_)))
    }
}

impl NetConfig {
    /// The interface of a table's entries. An error comes with the index of the entry that it is
    /// about, if it is about one.
    pub(super) fn from_table(entries: &[Pair<'_>]) -> Result<Self, (Option<usize>, TableError)> {
        let at = entries.iter().position(|(key, _)| *key == "mode");
        let at = at.ok_or((None, TableError::NoMode))?;
        let mode = entries[at].1.ok_or((Some(at), TableError::ModeIsNoText))?;
        let mut pairs = entries.to_vec();
        pairs.remove(at);
        Self::from_pairs(mode, &pairs).map_err(|(index, e)| {
            // Among the entries the mode is one.
            let index = index.map_or(at, |index| if index < at { index } else { index + 1 });
            (Some(index), e.into())
        })
    }
}
