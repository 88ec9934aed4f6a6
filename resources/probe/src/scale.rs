//! TSC ticks to nanoseconds.

/// A fixed-point factor: `ns = (ticks << shift) * mul >> 32`, the form in which KVM publishes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scale {
    mul: u32,
    shift: i8,
}

impl Scale {
    /// From `tsc_to_system_mul` and `tsc_shift` of a pvclock page. `None` if the page was never filled.
    pub fn from_pvclock(mul: u32, shift: i8) -> Option<Self> {
        (mul != 0 && shift.unsigned_abs() < 32).then_some(Self { mul, shift })
    }

    /// From a frequency in kHz. `None` for 0.
    pub fn from_khz(khz: u32) -> Option<Self> {
        // Shift left until the factor (below 1 above 1 GHz) uses the upper half of its 32 bits.
        let mut shift = 0i8;
        let mut factor = (1_000_000u64 << 32).checked_div(khz.into())?;
        while factor > u64::from(u32::MAX) {
            factor >>= 1;
            shift += 1;
        }
        Some(Self { mul: factor as u32, shift })
    }

    /// Nanoseconds for `ticks`.
    pub fn nanos(self, ticks: u64) -> u64 {
        let ticks = u128::from(ticks);
        let shifted = if self.shift < 0 {
            ticks >> self.shift.unsigned_abs()
        } else {
            ticks << self.shift.unsigned_abs()
        };
        u64::try_from((shifted * u128::from(self.mul)) >> 32).unwrap_or(u64::MAX)
    }

    /// The frequency it stands for, in kHz.
    pub fn khz(self) -> u64 {
        let nanos = self.nanos(1 << 40).max(1);
        u64::try_from((1u128 << 40) * 1_000_000 / u128::from(nanos)).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn khz_round_trips() {
        for khz in [500_000, 1_000_000, 2_450_000, 5_000_001] {
            let scale = Scale::from_khz(khz).expect("non-zero");
            assert!(scale.khz().abs_diff(khz.into()) <= 2, "{khz} -> {}", scale.khz());
            assert!(scale.nanos(u64::from(khz) * 1000).abs_diff(1_000_000_000) < 10);
        }
        assert_eq!(Scale::from_khz(0), None);
    }

    #[test]
    fn pvclock_as_published_by_kvm() {
        // 2.449974 GHz: KVM halves the ticks and multiplies by 0.816…
        let scale = Scale::from_pvclock(3_506_129_160, -1).expect("filled");
        assert!(scale.khz().abs_diff(2_449_974) < 200, "{}", scale.khz());
        assert_eq!(Scale::from_pvclock(0, 0), None);
    }
}
