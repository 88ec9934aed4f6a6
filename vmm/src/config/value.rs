//! Values of a configuration in files and in JSON: what the command line has as text may be a number
//! or `true` there, without quotes.

use std::fmt;
use std::str::FromStr;

use serde::de::{Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::ser::Serializer;
use serde::{Deserialize, Serialize};

use super::choice::Choice;

/// What a value is, where it may be of any type.
enum Any {
    Text(String),
    /// A number or a truth value, as the text that it would be on the command line.
    Bare(String),
    /// A list, a table, or nothing.
    NotSingle,
}

struct AnyVisitor;

impl<'de> Visitor<'de> for AnyVisitor {
    type Value = Any;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_str<E>(self, text: &str) -> Result<Any, E> {
        Ok(Any::Text(text.to_owned()))
    }

    fn visit_bool<E>(self, is: bool) -> Result<Any, E> {
        Ok(Any::Bare(is.to_string()))
    }

    fn visit_i64<E>(self, n: i64) -> Result<Any, E> {
        Ok(Any::Bare(n.to_string()))
    }

    fn visit_u64<E>(self, n: u64) -> Result<Any, E> {
        Ok(Any::Bare(n.to_string()))
    }

    fn visit_i128<E>(self, n: i128) -> Result<Any, E> {
        Ok(Any::Bare(n.to_string()))
    }

    fn visit_f64<E>(self, n: f64) -> Result<Any, E> {
        Ok(Any::Bare(n.to_string()))
    }

    fn visit_unit<E>(self) -> Result<Any, E> {
        Ok(Any::NotSingle)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Any, A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Any::NotSingle)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Any, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Any::NotSingle)
    }
}

/// A single value, as the text that it would be on the command line.
#[derive(Debug, Clone)]
pub(super) struct Word(pub String);

impl<'de> Deserialize<'de> for Word {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match deserializer.deserialize_any(AnyVisitor)? {
            Any::Text(text) | Any::Bare(text) => Ok(Self(text)),
            Any::NotSingle => Err(Error::custom("a single value is wanted")),
        }
    }
}

/// The same; nothing where it is a list or a table.
#[derive(Debug, Clone)]
pub(super) struct AnyWord(pub Option<String>);

impl<'de> Deserialize<'de> for AnyWord {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self(match deserializer.deserialize_any(AnyVisitor)? {
            Any::Text(text) | Any::Bare(text) => Some(text),
            Any::NotSingle => None,
        }))
    }
}

/// A value that is parsed from its text.
pub(super) fn parsed<'de, T, D>(deserializer: D) -> Result<T, D::Error>
where
    T: FromStr,
    T::Err: fmt::Display,
    D: Deserializer<'de>,
{
    parsed_by(deserializer, T::from_str)
}

/// The same by a function.
pub(super) fn parsed_by<'de, T, E, D>(
    deserializer: D,
    parse: impl FnOnce(&str) -> Result<T, E>,
) -> Result<T, D::Error>
where
    E: fmt::Display,
    D: Deserializer<'de>,
{
    parse(&Word::deserialize(deserializer)?.0).map_err(Error::custom)
}

/// Text, which a number is not.
pub(super) fn text<'de, T, D>(deserializer: D) -> Result<T, D::Error>
where
    T: From<String>,
    D: Deserializer<'de>,
{
    match deserializer.deserialize_any(AnyVisitor)? {
        Any::Text(text) => Ok(text.into()),
        _ => Err(Error::custom("text in quotes is wanted")),
    }
}

/// Text that may be absent.
pub(super) fn some_text<'de, T, D>(deserializer: D) -> Result<Option<T>, D::Error>
where
    T: From<String>,
    D: Deserializer<'de>,
{
    match deserializer.deserialize_any(Nullable)? {
        Some(Any::Text(text)) => Ok(Some(text.into())),
        Some(_) => Err(Error::custom("text in quotes is wanted")),
        None => Ok(None),
    }
}

/// JSON's null is an absent value.
struct Nullable;

impl<'de> Visitor<'de> for Nullable {
    type Value = Option<Any>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("text in quotes")
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Some(Any::Text(text.to_owned())))
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        Ok(Some(Any::NotSingle))
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
        Ok(Some(Any::NotSingle))
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
        Ok(Some(Any::NotSingle))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
        Ok(Some(Any::NotSingle))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Self::Value, A::Error> {
        AnyVisitor.visit_seq(list).map(Some)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        AnyVisitor.visit_map(map).map(Some)
    }
}

/// `true` or `false`.
pub(super) fn truth<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    match deserializer.deserialize_any(AnyVisitor)? {
        Any::Bare(text) if text == "true" => Ok(true),
        Any::Bare(text) if text == "false" => Ok(false),
        _ => Err(Error::custom("true or false is wanted")),
    }
}

/// One of `choices`, by its word.
pub(super) fn chosen<'de, T: Copy, D: Deserializer<'de>>(
    deserializer: D,
    choices: &[Choice<T>],
) -> Result<T, D::Error> {
    parsed_by(deserializer, |text| {
        Choice::find(choices, text).ok_or_else(|| {
            let words: Vec<_> = choices.iter().map(|choice| choice.word).collect();
            format!("{text:?} is none of {}", words.join(", "))
        })
    })
}

/// A list, which `wanted` describes.
pub(super) fn list<'de, T, D>(deserializer: D, wanted: &'static str) -> Result<Vec<T>, D::Error>
where
    T: Deserialize<'de>,
    D: Deserializer<'de>,
{
    struct List<T>(&'static str, std::marker::PhantomData<T>);

    impl<'de, T: Deserialize<'de>> Visitor<'de> for List<T> {
        type Value = Vec<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<T>, A::Error> {
            let mut all = Vec::new();
            while let Some(one) = list.next_element()? {
                all.push(one);
            }
            Ok(all)
        }

        fn visit_str<E: Error>(self, _: &str) -> Result<Vec<T>, E> {
            Err(E::custom(format_args!("{} is wanted", self.0)))
        }

        fn visit_bool<E: Error>(self, _: bool) -> Result<Vec<T>, E> {
            self.visit_str("")
        }

        fn visit_i64<E: Error>(self, _: i64) -> Result<Vec<T>, E> {
            self.visit_str("")
        }

        fn visit_u64<E: Error>(self, _: u64) -> Result<Vec<T>, E> {
            self.visit_str("")
        }

        fn visit_f64<E: Error>(self, _: f64) -> Result<Vec<T>, E> {
            self.visit_str("")
        }

        fn visit_unit<E: Error>(self) -> Result<Vec<T>, E> {
            self.visit_str("")
        }

        fn visit_map<A: MapAccess<'de>>(self, _: A) -> Result<Vec<T>, A::Error> {
            self.visit_str("")
        }
    }

    deserializer.deserialize_any(List(wanted, std::marker::PhantomData))
}

/// The text of a value.
pub(super) fn displayed<T: fmt::Display, S: Serializer>(
    value: &T,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

/// The word of a choice.
pub(super) fn word_of<T: Copy + PartialEq, S: Serializer>(
    value: T,
    choices: &[Choice<T>],
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let word = choices.iter().find(|choice| choice.value == value).map(|choice| choice.word);
    word.serialize(serializer)
}
