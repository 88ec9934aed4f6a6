//! The stream both sides can make: 8-byte words of a counter put through splitmix64, so a byte that
//! is lost, doubled or moved changes the checksum, and any offset can be computed by itself.

use std::io::{self, Read};

use crate::digest::Digest;

/// `length` bytes of the pattern.
pub struct Pattern {
    offset: u64,
    length: u64,
}

impl Pattern {
    pub fn new(length: u64) -> Self {
        Self { offset: 0, length }
    }

    /// Sum of the first `length` bytes.
    pub fn sum(length: u64) -> String {
        let mut hash = Digest::new();
        io::copy(&mut Self::new(length), &mut hash).expect("neither side does I/O");
        hash.finish()
    }
}

fn word(index: u64) -> [u8; 8] {
    let mut z = index.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (z ^ (z >> 31)).to_le_bytes()
}

impl Read for Pattern {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.length - self.offset).unwrap_or(usize::MAX);
        let take = buffer.len().min(left);
        let mut done = 0;
        while done < take {
            let within = (self.offset % 8) as usize;
            let bytes = &word(self.offset / 8)[within..];
            let some = bytes.len().min(take - done);
            buffer[done..done + some].copy_from_slice(&bytes[..some]);
            done += some;
            self.offset += some as u64;
        }
        Ok(take)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::Pattern;

    #[test]
    fn any_read_size_gives_the_same_bytes() {
        let mut whole = Vec::new();
        Pattern::new(1000).read_to_end(&mut whole).unwrap();
        assert_eq!(whole.len(), 1000);
        for size in [1, 3, 8, 13, 64] {
            let (mut pattern, mut pieces, mut buffer) = (Pattern::new(1000), Vec::new(), [0; 64]);
            loop {
                let n = pattern.read(&mut buffer[..size]).unwrap();
                if n == 0 {
                    break;
                }
                pieces.extend_from_slice(&buffer[..n]);
            }
            assert_eq!(pieces, whole, "reads of {size}");
        }
    }
}
