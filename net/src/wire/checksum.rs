//! The Internet checksum (RFC 1071).

use std::net::IpAddr;

/// A one's complement sum in the making, of parts of any length.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sum {
    sum: u64,
    odd: bool,
}

impl Sum {
    /// The sum of nothing.
    pub const fn new() -> Self {
        Self { sum: 0, odd: false }
    }

    /// The pseudo-header of TCP, UDP and ICMPv6 (RFC 9293 §3.1, RFC 8200 §8.1). `len` is that of
    /// the transport header and payload. The two addresses are of one family.
    pub fn pseudo_header(src: IpAddr, dst: IpAddr, protocol: u8, len: usize) -> Self {
        let mut sum = Self::new();
        for addr in [src, dst] {
            match addr {
                IpAddr::V4(a) => sum.bytes(&a.octets()),
                IpAddr::V6(a) => sum.bytes(&a.octets()),
            }
        }
        sum.sum += u64::from(protocol) + len as u64;
        sum
    }

    /// Adds `bytes`.
    pub fn bytes(&mut self, bytes: &[u8]) {
        let mut bytes = bytes;
        if self.odd
            && let Some((first, rest)) = bytes.split_first()
        {
            self.sum += u64::from(*first);
            self.odd = false;
            bytes = rest;
        }
        // 32 bits at a time, byte-swapped at the end by folding: 2^32 ≡ 1 modulo 2^16 - 1.
        let mut words = bytes.chunks_exact(4);
        for w in &mut words {
            self.sum += u64::from(u32::from_be_bytes([w[0], w[1], w[2], w[3]]));
        }
        match *words.remainder() {
            [] => {}
            [a] => {
                self.sum += u64::from(a) << 8;
                self.odd = true;
            }
            [a, b] => self.sum += u64::from(u16::from_be_bytes([a, b])),
            [a, b, c, ..] => {
                self.sum += u64::from(u16::from_be_bytes([a, b])) + (u64::from(c) << 8);
                self.odd = true;
            }
        }
    }

    /// The checksum as UDP writes it: 0 would mean "none", and its complement is the same number
    /// (RFC 768).
    pub fn finish_udp(self) -> u16 {
        match self.finish() {
            0 => 0xffff,
            sum => sum,
        }
    }

    /// The sum in 16 bits, not complemented: what an open checksum's field holds.
    pub fn folded(self) -> u16 {
        let mut sum = self.sum;
        while sum >> 16 != 0 {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        sum as u16
    }

    /// The checksum field's value.
    pub fn finish(self) -> u16 {
        !self.folded()
    }
}

/// The checksum of `bytes`; 0 over bytes that hold a right checksum.
pub fn checksum(bytes: &[u8]) -> u16 {
    let mut sum = Sum::new();
    sum.bytes(bytes);
    sum.finish()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_example_of_rfc_1071() {
        assert_eq!(checksum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), !0xddf2);
    }

    fn reference(bytes: &[u8]) -> u16 {
        let mut sum = 0u32;
        for pair in bytes.chunks(2) {
            sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !(sum as u16)
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same(data: Vec<u8>, cut in 0usize..300, other in 0usize..300) {
            let (a, b) = data.split_at(cut.min(data.len()));
            let (b, c) = b.split_at(other.min(b.len()));
            let mut sum = Sum::new();
            for part in [a, b, c] {
                sum.bytes(part);
            }
            prop_assert_eq!(sum.finish(), reference(&data));
        }
    }
}
