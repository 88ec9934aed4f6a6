//! Where in a machine's description something is.

use std::borrow::Cow;
use std::fmt;

use serde_path_to_error::{Path, Segment};

/// A key, as in `memory`; one of a list, as in `publish[1]`; or an interface's key, as in
/// `net[1].mac`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The key at the top.
    pub key: Cow<'static, str>,
    /// Which of that key's list, from 0.
    pub index: Option<usize>,
    /// The key in that.
    pub inner: Option<Cow<'static, str>>,
}

impl Place {
    /// A key at the top.
    pub const fn key(key: &'static str) -> Self {
        Self { key: Cow::Borrowed(key), index: None, inner: None }
    }

    /// One of a list.
    pub const fn item(key: &'static str, index: usize) -> Self {
        Self { key: Cow::Borrowed(key), index: Some(index), inner: None }
    }

    /// A key of an interface.
    pub const fn net(index: usize, key: &'static str) -> Self {
        let inner = Some(Cow::Borrowed(key));
        Self { key: Cow::Borrowed("net"), index: Some(index), inner }
    }

    /// Where serde was; nowhere at the top.
    pub(super) fn of(path: &Path) -> Option<Self> {
        let mut segments = path.iter();
        let name = |segment: Option<&Segment>| match segment {
            Some(Segment::Map { key }) => Some(Cow::Owned(key.clone())),
            _ => None,
        };
        let key = name(segments.next())?;
        let index = match segments.next() {
            Some(Segment::Seq { index }) => Some(*index),
            _ => None,
        };
        Some(Self { key, index, inner: name(segments.next()) })
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.key)?;
        if let Some(index) = self.index {
            write!(f, "[{index}]")?;
        }
        match &self.inner {
            Some(inner) => write!(f, ".{inner}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_shown_as_programs_write_them() {
        assert_eq!(Place::key("memory").to_string(), "memory");
        assert_eq!(Place::item("publish", 1).to_string(), "publish[1]");
        assert_eq!(Place::net(0, "mac").to_string(), "net[0].mac");
    }
}
