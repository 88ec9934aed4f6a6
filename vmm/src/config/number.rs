//! Numbers as users write them.

use std::str::FromStr;

use minivmm_boot::layout;

/// A number in plain digits: no sign, no spaces.
pub(super) fn decimal<T: FromStr>(text: &str) -> Option<T> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

/// A number of CPUs as it is written; [`super::MachineConfig::validate`] checks its range.
///
/// # Errors
/// What is wrong with it, and what is allowed.
pub fn parse_cpus(text: &str) -> Result<u32, String> {
    decimal(text).ok_or_else(|| format!("{text:?} is no number of CPUs, 1 to {}", layout::MAX_CPUS))
}
