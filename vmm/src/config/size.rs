//! Sizes of memory in the words of users: `256M`, `1G`, `512` (MiB).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::value;

/// A number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(u64);

impl Size {
    /// `n` mebibytes.
    pub const fn mib(n: u64) -> Self {
        Self(n << 20)
    }

    /// The number of bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }
}

/// The largest unit first; a suffix may be followed by `B` or `iB`.
const UNITS: [(char, u32); 4] = [('T', 40), ('G', 30), ('M', 20), ('K', 10)];

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (letter, shift) in UNITS {
            if self.0 != 0 && self.0.trailing_zeros() >= shift {
                return write!(f, "{} {letter}iB", self.0 >> shift);
            }
        }
        write!(f, "{} bytes", self.0)
    }
}

/// Text that is no size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a size (a whole number of MiB, or with K, M, G or T behind it, as in 512M)")]
pub struct ParseSizeError(String);

impl FromStr for Size {
    type Err = ParseSizeError;

    fn from_str(s: &str) -> Result<Self, ParseSizeError> {
        let error = || ParseSizeError(s.to_owned());
        let text = s.trim();
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let number: u64 = number.parse().map_err(|_| error())?;
        let unit = unit.trim_start().to_ascii_uppercase();
        let shift = match unit.strip_suffix("IB").or(unit.strip_suffix('B')).unwrap_or(&unit) {
            "" if unit.is_empty() => 20,
            letter => {
                let mut letters = letter.chars();
                let (Some(letter), None) = (letters.next(), letters.next()) else {
                    return Err(error());
                };
                UNITS.iter().find(|(l, _)| *l == letter).ok_or_else(error)?.1
            }
        };
        number.checked_mul(1 << shift).map(Self).ok_or_else(error)
    }
}

/// In MiB where it is a whole number of them, as in `256M`.
impl Serialize for Size {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let unit =
            UNITS.iter().find(|(_, shift)| *shift <= 20 && self.0.trailing_zeros() >= *shift);
        match unit {
            Some((letter, shift)) => {
                serializer.collect_str(&format_args!("{}{letter}", self.0 >> shift))
            }
            // Text has no unit below.
            None => Err(serde::ser::Error::custom("a size is a whole number of KiB")),
        }
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        value::parsed(deserializer)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes_are_read_in_all_their_forms() {
        for (text, want) in [
            ("512", 512 << 20),
            ("64m", 64 << 20),
            ("1G", 1 << 30),
            ("2GiB", 2 << 30),
            ("1 GB", 1 << 30),
            ("4096K", 4 << 20),
            ("10T", 10 << 40),
            ("0", 0),
        ] {
            assert_eq!(text.parse::<Size>().unwrap().bytes(), want, "{text}");
        }
    }

    #[test]
    fn what_is_no_size_is_refused() {
        for text in ["", "G", "-1", "1.5G", "12Q", "1GG", "99999999999999999999", "99999999T", "5B"]
        {
            assert!(text.parse::<Size>().is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_are_shown_in_their_largest_whole_unit() {
        assert_eq!(Size::mib(256).to_string(), "256 MiB");
        assert_eq!(Size::mib(10 << 20).to_string(), "10 TiB");
        assert_eq!(Size::mib(0).to_string(), "0 bytes");
    }

    proptest! {
        #[test]
        fn what_is_said_is_read(n in 0u64..1 << 40, unit in 0usize..4) {
            let (letter, shift) = UNITS[unit];
            let want = u64::checked_mul(n, 1 << shift).map(Size);
            prop_assert_eq!(format!("{n}{letter}").parse::<Size>().ok(), want);
        }

        #[test]
        fn anything_is_taken_or_refused(text in "[0-9]{0,24}[KMGTiB]{0,3}|\\PC{0,24}") {
            let digits = text.bytes().next().is_some_and(|b| b.is_ascii_digit());
            prop_assert!(digits || text.parse::<Size>().is_err());
        }
    }
}
