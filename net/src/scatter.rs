//! Bytes scattered over a guest's memory, in the order of its slices.
//!
//! The guest may write them at any time. They are copied, summed or handed to the kernel piece by
//! piece; nobody holds a reference into them. All who walk over slices do it with
//! [`Scatter::pieces`].

use vm_memory::VolatileSlice;

use crate::wire::checksum::Sum;

/// Bytes that are copied to the stack at a time, to be looked at.
const CHUNK: usize = 2048;

/// The bytes of some slices, as if they were in one.
#[derive(Debug, Clone, Copy)]
pub struct Scatter<'a> {
    slices: &'a [VolatileSlice<'a>],
}

impl<'a> Scatter<'a> {
    /// The bytes of `slices`, each of which may be empty.
    pub fn new(slices: &'a [VolatileSlice<'a>]) -> Self {
        Self { slices }
    }

    /// What of the slices holds the `len` bytes from `at` on, in order and none of it empty; fewer
    /// bytes where the slices end before.
    #[inline]
    pub fn pieces(self, at: usize, len: usize) -> Pieces<'a> {
        Pieces { slices: self.slices.iter(), skip: at, left: len }
    }

    /// Copies the bytes from `at` on to all of `to`, and returns how many there were.
    #[inline]
    pub fn copy_to(self, at: usize, to: &mut [u8]) -> usize {
        let mut done = 0;
        for piece in self.pieces(at, to.len()) {
            done += piece.copy_to(&mut to[done..]);
        }
        done
    }

    /// Copies all of `from` to the bytes from `at` on, and returns how many had room.
    #[inline]
    pub fn copy_from(self, at: usize, from: &[u8]) -> usize {
        let mut done = 0;
        for piece in self.pieces(at, from.len()) {
            piece.copy_from(&from[done..]);
            done += piece.len();
        }
        done
    }

    /// Adds the `len` bytes from `at` on to `sum`.
    pub fn sum(self, at: usize, len: usize, sum: &mut Sum) {
        self.try_chunks(at, len, |chunk| {
            sum.bytes(chunk);
            true
        });
    }

    /// True where `bytes` are those from `at` on.
    pub fn equals(self, at: usize, bytes: &[u8]) -> bool {
        let mut rest = bytes;
        let same = self.try_chunks(at, bytes.len(), |chunk| {
            let (these, later) = rest.split_at(chunk.len());
            rest = later;
            chunk == these
        });
        same && rest.is_empty()
    }

    /// Shows `f` a copy of the `len` bytes from `at` on, one part after the other, as long as that
    /// says true.
    fn try_chunks(self, at: usize, len: usize, mut f: impl FnMut(&[u8]) -> bool) -> bool {
        let mut copy = [0; CHUNK];
        self.pieces(at, len).all(|piece| {
            (0..piece.len()).step_by(CHUNK).all(|done| {
                let n = piece.offset(done).map_or(0, |rest| rest.copy_to(&mut copy));
                f(&copy[..n])
            })
        })
    }
}

/// See [`Scatter::pieces`].
#[derive(Debug, Clone)]
pub struct Pieces<'a> {
    slices: std::slice::Iter<'a, VolatileSlice<'a>>,
    /// Bytes to pass over.
    skip: usize,
    /// Bytes still wanted.
    left: usize,
}

impl<'a> Iterator for Pieces<'a> {
    type Item = VolatileSlice<'a>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        while self.left > 0 {
            let slice = self.slices.next()?;
            if self.skip >= slice.len() {
                self.skip -= slice.len();
                continue;
            }
            let at = std::mem::take(&mut self.skip);
            let len = self.left.min(slice.len() - at);
            self.left -= len;
            // The range lies in the slice.
            return slice.subslice(at, len).ok();
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Some memory in parts, the empty ones and those longer than a chunk included.
    fn memory() -> impl Strategy<Value = Vec<Vec<u8>>> {
        let part = prop_oneof![
            4 => prop::collection::vec(any::<u8>(), 0..40),
            1 => prop::collection::vec(any::<u8>(), CHUNK - 2..2 * CHUNK + 2),
        ];
        prop::collection::vec(part, 0..8)
    }

    fn slices(parts: &mut [Vec<u8>]) -> Vec<VolatileSlice<'_>> {
        parts.iter_mut().map(|part| VolatileSlice::from(&mut part[..])).collect()
    }

    /// What a range means where there may be less.
    fn range(all: &[u8], at: usize, len: usize) -> &[u8] {
        let rest = all.get(at..).unwrap_or_default();
        &rest[..len.min(rest.len())]
    }

    proptest! {
        #[test]
        fn pieces_are_the_range_and_none_is_empty(
            mut parts in memory(), at in 0usize..9000, len in prop_oneof![0usize..9000, Just(usize::MAX)],
        ) {
            let all = parts.concat();
            let slices = slices(&mut parts);
            let mut got = Vec::new();
            for piece in Scatter::new(&slices).pieces(at, len) {
                prop_assert!(!piece.is_empty());
                let mut bytes = vec![0; piece.len()];
                piece.copy_to(&mut bytes[..]);
                got.extend(bytes);
            }
            prop_assert_eq!(&got[..], range(&all, at, len));
        }

        #[test]
        fn copies_are_of_the_range(mut parts in memory(), at in 0usize..9000, len in 0usize..9000) {
            let all = parts.concat();
            let slices = slices(&mut parts);
            let mut to = vec![0; len];
            let n = Scatter::new(&slices).copy_to(at, &mut to);
            prop_assert_eq!(&to[..n], range(&all, at, len));
            prop_assert!(to[n..].iter().all(|b| *b == 0));
        }

        #[test]
        fn writes_stay_in_the_range(mut parts in memory(), at in 0usize..9000, bytes: Vec<u8>) {
            let mut want = parts.concat();
            let n = Scatter::new(&slices(&mut parts)).copy_from(at, &bytes);
            prop_assert_eq!(n, range(&want, at, bytes.len()).len());
            if n > 0 {
                want[at..at + n].copy_from_slice(&bytes[..n]);
            }
            prop_assert_eq!(parts.concat(), want);
        }

        #[test]
        fn a_sum_is_that_of_the_bytes_in_one_piece(
            mut parts in memory(), at in 0usize..9000, len in 0usize..9000, before: Vec<u8>,
        ) {
            let all = parts.concat();
            let (mut want, mut got) = (Sum::new(), Sum::new());
            want.bytes(&before);
            got.bytes(&before);
            want.bytes(range(&all, at, len));
            Scatter::new(&slices(&mut parts)).sum(at, len, &mut got);
            prop_assert_eq!(got.finish(), want.finish());
        }

        #[test]
        fn only_the_same_bytes_are_equal(
            mut parts in memory(), at in 0usize..9000, len in 0usize..9000, flip: prop::sample::Index,
        ) {
            let all = parts.concat();
            let slices = slices(&mut parts);
            let scatter = Scatter::new(&slices);
            let mut bytes = range(&all, at, len).to_vec();
            prop_assert!(scatter.equals(at, &bytes));
            if !bytes.is_empty() {
                let i = flip.index(bytes.len());
                bytes[i] ^= 1;
                prop_assert!(!scatter.equals(at, &bytes), "byte {} differs", i);
                bytes[i] ^= 1;
            }
            if at + bytes.len() >= all.len() {
                bytes.push(0);
                prop_assert!(!scatter.equals(at, &bytes), "longer than the memory");
            }
        }
    }
}
