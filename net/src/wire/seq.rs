//! Sequence numbers.

use std::ops::{Add, AddAssign, Sub, SubAssign};

/// A sequence number (RFC 9293 §3.4). It wraps, so two of them are compared by which way round is
/// the shorter one, and there is no order of many.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Seq(u32);

impl Seq {
    /// The one with these bits.
    pub const fn new(bits: u32) -> Self {
        Self(bits)
    }

    /// As it stands in a header.
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// True if it comes before `other`.
    #[inline]
    pub const fn is_before(self, other: Self) -> bool {
        (self.0.wrapping_sub(other.0) as i32) < 0
    }

    /// The later one of the two.
    #[inline]
    pub const fn later(self, other: Self) -> Self {
        if self.is_before(other) { other } else { self }
    }
}

impl Add<u32> for Seq {
    type Output = Self;

    #[inline]
    fn add(self, bytes: u32) -> Self {
        Self(self.0.wrapping_add(bytes))
    }
}

impl AddAssign<u32> for Seq {
    #[inline]
    fn add_assign(&mut self, bytes: u32) {
        *self = *self + bytes;
    }
}

impl Sub<u32> for Seq {
    type Output = Self;

    #[inline]
    fn sub(self, bytes: u32) -> Self {
        Self(self.0.wrapping_sub(bytes))
    }
}

impl SubAssign<u32> for Seq {
    #[inline]
    fn sub_assign(&mut self, bytes: u32) {
        *self = *self - bytes;
    }
}

/// How many bytes it is past `earlier`.
impl Sub for Seq {
    type Output = u32;

    #[inline]
    fn sub(self, earlier: Self) -> u32 {
        self.0.wrapping_sub(earlier.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn they_wrap() {
        let [last, zero, one] = [u32::MAX, 0, 1].map(Seq::new);
        assert!(last.is_before(zero) && zero.is_before(one));
        assert!(!one.is_before(one) && !one.is_before(last));
        assert_eq!((last.later(one), one.later(last)), (one, one));
    }

    proptest! {
        #[test]
        fn what_is_added_is_the_distance(at: u32, bytes in 1u32..1 << 31) {
            let start = Seq::new(at);
            let end = start + bytes;
            prop_assert!(start.is_before(end) && !end.is_before(start));
            prop_assert_eq!(end - start, bytes);
            prop_assert_eq!(end - bytes, start);
            prop_assert_eq!((start.later(end), end.later(start)), (end, end));
        }
    }
}
