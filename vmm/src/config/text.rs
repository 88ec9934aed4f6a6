//! Values that files may write as numbers and the command line has as text.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, de};

/// A number, or text that may hold one.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged, expecting = "expected text or a whole number")]
pub enum TextOrNumber {
    /// As in TOML.
    Number(u64),
    /// As on the command line.
    Text(String),
}

impl TextOrNumber {
    /// The text, or the number's.
    pub fn into_text(self) -> String {
        match self {
            Self::Number(n) => n.to_string(),
            Self::Text(s) => s,
        }
    }
}

/// Deserializes an optional value from its text or from a number.
///
/// # Errors
/// What the value's `FromStr` says.
pub fn option<'de, T, D>(deserializer: D) -> Result<Option<T>, D::Error>
where
    T: FromStr<Err: fmt::Display>,
    D: Deserializer<'de>,
{
    let text = TextOrNumber::deserialize(deserializer)?.into_text();
    text.parse().map(Some).map_err(|e| de::Error::custom(format_args!("{text:?}: {e}")))
}
