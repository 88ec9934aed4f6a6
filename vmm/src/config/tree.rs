//! Where in a file's text each of its values is, in TOML and in JSON alike.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, IntoDeserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::place::Place;
use super::value::Word;

/// A value of a file, and the byte that it begins at.
#[derive(Debug)]
pub(super) struct Node {
    pub at: usize,
    pub content: Content,
}

#[derive(Debug)]
pub(super) enum Content {
    /// The text that it would be on the command line, if it is one value.
    Single(Option<String>),
    List(Vec<Node>),
    /// In the order of the text.
    Table(Vec<Entry>),
}

/// A key of a table, where that is, and its value.
#[derive(Debug)]
pub(super) struct Entry {
    pub key: String,
    pub at: usize,
    pub value: Node,
}

impl Node {
    /// The values of a TOML file; nothing where it is none.
    pub fn of_toml(text: &str) -> Option<Self> {
        let table = DeTable::parse(text).ok()?;
        Some(Self { at: 0, content: table_of_toml(table.get_ref()) })
    }

    /// The values of a JSON file; nothing where it is none.
    pub fn of_json(text: &str) -> Option<Self> {
        let raw: &RawValue = serde_json::from_str(text).ok()?;
        Some(node_of_json(raw, text, DEPTH))
    }

    /// The entries of a table.
    pub fn entries(&self) -> &[Entry] {
        match &self.content {
            Content::Table(entries) => entries,
            _ => &[],
        }
    }

    fn entry(&self, key: &str) -> Option<&Entry> {
        self.entries().iter().find(|entry| entry.key == key)
    }

    /// One of the list at a key.
    pub fn item(&self, key: &str, index: usize) -> Option<&Self> {
        match &self.entry(key)?.value.content {
            Content::List(list) => list.get(index),
            _ => None,
        }
    }

    /// Where a place is, or what it is in; nothing where its key was not given.
    pub fn find(&self, place: &Place) -> Option<usize> {
        let entry = self.entry(&place.key)?;
        let Some(item) = place.index.and_then(|index| self.item(&place.key, index)) else {
            return Some(entry.at);
        };
        let inner = place.inner.as_ref().and_then(|inner| item.entry(inner));
        Some(inner.map_or(item.at, |inner| inner.at))
    }
}

fn table_of_toml(table: &DeTable<'_>) -> Content {
    let entry = |(key, value): (&Spanned<_>, _)| Entry {
        key: AsRef::<str>::as_ref(key.get_ref()).to_owned(),
        at: key.span().start,
        value: node_of_toml(value),
    };
    let mut entries: Vec<Entry> = table.iter().map(entry).collect();
    entries.sort_by_key(|entry| entry.at);
    Content::Table(entries)
}

fn node_of_toml(value: &Spanned<DeValue<'_>>) -> Node {
    let content = match value.get_ref() {
        DeValue::Table(table) => table_of_toml(table),
        DeValue::Array(list) => Content::List(list.iter().map(node_of_toml).collect()),
        _ => {
            let word = Word::deserialize(value.clone().into_deserializer());
            Content::Single(word.ok().map(|Word(text)| text))
        }
    };
    Node { at: value.span().start, content }
}

/// How deep values are looked into; those of a configuration are an interface's, at most.
const DEPTH: u32 = 4;

fn node_of_json(raw: &RawValue, text: &str, depth: u32) -> Node {
    let source = raw.get();
    // It is borrowed from the text.
    let at = (source.as_ptr() as usize).saturating_sub(text.as_ptr() as usize);
    let content = match source.as_bytes().first() {
        Some(b'{' | b'[') if depth == 0 => Content::Single(None),
        Some(b'{') => {
            let Pairs(pairs) = serde_json::from_str(source).unwrap_or_default();
            let entry = |(key, raw): (String, _)| {
                let value = node_of_json(raw, text, depth - 1);
                Entry { key, at: value.at, value }
            };
            Content::Table(pairs.into_iter().map(entry).collect())
        }
        Some(b'[') => {
            let list: Vec<&RawValue> = serde_json::from_str(source).unwrap_or_default();
            Content::List(list.into_iter().map(|raw| node_of_json(raw, text, depth - 1)).collect())
        }
        _ => Content::Single(serde_json::from_str(source).ok().map(|Word(text)| text)),
    };
    Node { at, content }
}

/// An object's members in their order.
#[derive(Default)]
struct Pairs<'a>(Vec<(String, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Pairs<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct PairsVisitor;

        impl<'de> Visitor<'de> for PairsVisitor {
            type Value = Pairs<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }
        }

        deserializer.deserialize_map(PairsVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word_at(text: &str, node: Option<&Node>, place: &Place) -> Option<String> {
        let rest = &text[node?.find(place)?..];
        Some(rest.chars().take_while(|c| !c.is_whitespace() && *c != ',').collect())
    }

    #[test]
    fn no_depth_is_too_deep() {
        let deep = format!("{{\"colour\": {}{}}}", "[".repeat(200_000), "]".repeat(200_000));
        let tree = Node::of_json(&deep).unwrap();
        assert_eq!(tree.find(&Place::key("colour")), Some(11));
    }

    #[test]
    fn places_are_found_in_toml_and_in_json() {
        let toml = "cpus = 1\npublish = ['a',\n'b']\n[[net]]\nmode = 'nat'\nmtu = 5\n";
        let json = "{\"cpus\": 1, \"publish\": [\"a\",\n\"b\"],\n \"net\": [{\"mode\": \"nat\", \
                    \"mtu\": 5 } ] }";
        let (from_toml, from_json) = (Node::of_toml(toml), Node::of_json(json));
        for (place, in_toml, in_json) in [
            (Place::key("cpus"), Some("cpus"), Some("1")),
            (Place::item("publish", 1), Some("'b']"), Some("\"b\"]")),
            // What is not there is in what is.
            (Place::item("publish", 2), Some("publish"), Some("[\"a\"")),
            (Place::net(0, "mtu"), Some("mtu"), Some("5")),
            (Place::net(0, "mac"), Some("[[net]]"), Some("{\"mode\":")),
            (Place::key("memory"), None, None),
        ] {
            assert_eq!(word_at(toml, from_toml.as_ref(), &place).as_deref(), in_toml, "{place}");
            assert_eq!(word_at(json, from_json.as_ref(), &place).as_deref(), in_json, "{place}");
        }
    }
}
