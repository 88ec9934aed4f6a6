//! Small-sample statistics and how numbers are shown.

use core::fmt;

/// Up to `N` samples in microseconds.
pub struct Samples<const N: usize> {
    values: [u32; N],
    count: usize,
}

impl<const N: usize> Samples<N> {
    /// No samples.
    pub const fn new() -> Self {
        Self { values: [0; N], count: 0 }
    }

    /// Adds one; a full collection stays as it is.
    pub fn push(&mut self, micros: u64) {
        if let Some(slot) = self.values.get_mut(self.count) {
            *slot = u32::try_from(micros).unwrap_or(u32::MAX);
            self.count += 1;
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    fn get(&self) -> &[u32] {
        self.values.get(..self.count).unwrap_or_default()
    }

    /// The smallest, 0 if there is none.
    pub fn min(&self) -> u32 {
        self.get().iter().copied().min().unwrap_or(0)
    }

    /// The mean, 0 if there is none.
    pub fn mean(&self) -> u32 {
        let sum: u64 = self.get().iter().copied().map(u64::from).sum();
        u32::try_from(sum / (self.count.max(1) as u64)).unwrap_or(u32::MAX)
    }

    /// The sample below which `percent` of all lie.
    pub fn percentile(&mut self, percent: usize) -> u32 {
        let used = self.values.get_mut(..self.count).unwrap_or_default();
        used.sort_unstable();
        used.get((used.len() * percent / 100).min(used.len().saturating_sub(1)))
            .copied()
            .unwrap_or(0)
    }
}

impl<const N: usize> Default for Samples<N> {
    fn default() -> Self {
        Self::new()
    }
}

/// Microseconds shown as milliseconds with two decimals.
pub struct Millis(pub u64);

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:02} ms", self.0 / 1000, self.0 % 1000 / 10)
    }
}

/// Mbit/s of a transfer, 0 for an immeasurably short one.
pub fn mbit_per_second(bytes: u64, micros: u64) -> u64 {
    bytes.saturating_mul(8).checked_div(micros).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_none_one_and_many() {
        let mut samples = Samples::<4>::new();
        assert_eq!((samples.min(), samples.mean(), samples.percentile(50)), (0, 0, 0));
        for value in [40, 10, 30, 20, 1] {
            samples.push(value);
        }
        assert_eq!(samples.len(), 4);
        assert_eq!((samples.min(), samples.mean()), (10, 25));
        assert_eq!((samples.percentile(50), samples.percentile(100)), (30, 40));
    }

    #[test]
    fn shown() {
        assert_eq!(Millis(12_345).to_string(), "12.34 ms");
        assert_eq!(mbit_per_second(125_000_000, 1_000_000), 1000);
        assert_eq!(mbit_per_second(1, 0), 0);
    }
}
