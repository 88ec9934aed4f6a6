//! The content of bulk transfers, the same for the probe and for the peer in minivmm, which includes this file: a byte for
//! each place in the stream, so that what was lost, doubled, moved or changed on the way shows.
//!
//! The stream begins behind the request line, with place 0. It repeats after a prime number of bytes, which no segment
//! and no buffer is a multiple of.

/// After so many bytes the content repeats.
pub const PERIOD: usize = 4093;

/// The content, written out.
pub struct Pattern<'a> {
    table: &'a [u8],
}

impl<'a> Pattern<'a> {
    /// Writes it to `table`, at least a period. The larger the table, the longer its pieces.
    pub fn new(table: &'a mut [u8]) -> Self {
        assert!(table.len() > PERIOD, "the table has room for a period and more");
        // Xorshift, 32 bits: Marsaglia, 2003.
        let mut state = 0x6d69_6e69u32;
        for byte in table.iter_mut().take(PERIOD) {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            *byte = (state >> 24) as u8;
        }
        for i in PERIOD..table.len() {
            table[i] = table[i - PERIOD];
        }
        Self { table }
    }

    /// A piece of the stream from place `at`: at most `most` bytes, at least one if `most` is not 0.
    pub fn piece(&self, at: u64, most: usize) -> &[u8] {
        let rest = &self.table[(at % PERIOD as u64) as usize..];
        &rest[..rest.len().min(most)]
    }

    /// The first place at which `data`, which came at place `at`, is not what it should be.
    pub fn differs(&self, at: u64, data: &[u8]) -> Option<u64> {
        let mut done = 0;
        while done < data.len() {
            let rest = &data[done..];
            let piece = self.piece(at + done as u64, rest.len());
            let part = &rest[..piece.len()];
            if part != piece {
                let same = part.iter().zip(piece).take_while(|(is, should)| is == should).count();
                return Some(at + (done + same) as u64);
            }
            done += piece.len();
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_place_has_its_byte() {
        let mut table = vec![0; 2 * PERIOD];
        let pattern = Pattern::new(&mut table);
        let mut stream = Vec::new();
        while stream.len() < 5 * PERIOD {
            stream.extend_from_slice(pattern.piece(stream.len() as u64, 1000));
        }
        assert_eq!(pattern.differs(0, &stream), None);
        assert_eq!(pattern.differs(7, &stream[7..]), None);
        assert_eq!(pattern.differs(1 << 40, &[]), None);
        stream[3 * PERIOD + 5] ^= 1;
        assert_eq!(pattern.differs(0, &stream), Some(3 * PERIOD as u64 + 5));
        assert_eq!(pattern.differs(9, &stream[9..]), Some(3 * PERIOD as u64 + 5));
    }

    /// Sixteen bytes that are out of place, by whatever but whole periods, show.
    #[test]
    fn no_shift_looks_the_same() {
        let mut table = vec![0; 2 * PERIOD];
        let pattern = Pattern::new(&mut table);
        for at in [0, 1, 1000, PERIOD as u64 - 1] {
            for shift in 1..PERIOD as u64 {
                assert!(
                    pattern.differs(at, pattern.piece(at + shift, 16)).is_some(),
                    "{at} {shift}"
                );
            }
        }
    }
}
