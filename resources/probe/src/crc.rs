//! CRC-32 as in Ethernet, gzip and zip (ISO 3309), half a byte at a time.

const TABLE: [u32; 16] = table();

const fn table() -> [u32; 16] {
    let mut table = [0; 16];
    let mut i = 0;
    while i < 16 {
        let mut value = i as u32;
        let mut bit = 0;
        while bit < 4 {
            value = (value >> 1) ^ if value & 1 == 1 { 0xedb8_8320 } else { 0 };
            bit += 1;
        }
        table[i] = value;
        i += 1;
    }
    table
}

/// A sum under way.
#[derive(Clone, Copy, Debug)]
pub struct Crc32(u32);

impl Crc32 {
    /// That of nothing.
    pub const fn new() -> Self {
        Self(!0)
    }

    /// Adds bytes.
    pub fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            let mut sum = self.0 ^ u32::from(*byte);
            sum = (sum >> 4) ^ TABLE[(sum & 15) as usize];
            self.0 = (sum >> 4) ^ TABLE[(sum & 15) as usize];
        }
    }

    /// The sum.
    pub fn value(self) -> u32 {
        !self.0
    }
}

impl Default for Crc32 {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_check_value() {
        let mut sum = Crc32::new();
        assert_eq!(sum.value(), 0);
        sum.add(b"1234");
        sum.add(b"56789");
        assert_eq!(sum.value(), 0xcbf4_3926);
    }
}
