//! DHCP options (RFC 2132) beyond those that the IP stack interprets.

/// What a lease carried, as far as it is reported.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LeaseOptions {
    /// Option 26, bytes.
    pub mtu: Option<u16>,
    /// Option 51, seconds.
    pub lease: Option<u32>,
    /// Option 12.
    pub hostname: Text,
    /// Option 15.
    pub domain: Text,
}

/// A short text that owns its bytes; what does not fit or is not printable ASCII is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Text {
    bytes: [u8; 64],
    used: usize,
}

impl Default for Text {
    fn default() -> Self {
        Self { bytes: [0; 64], used: 0 }
    }
}

impl Text {
    fn new(source: &[u8]) -> Self {
        let mut text = Self::default();
        for (slot, byte) in
            text.bytes.iter_mut().zip(source.iter().filter(|b| b.is_ascii_graphic()))
        {
            *slot = *byte;
            text.used += 1;
        }
        text
    }

    /// The text, perhaps empty.
    pub fn as_str(&self) -> &str {
        self.bytes.get(..self.used).and_then(|b| core::str::from_utf8(b).ok()).unwrap_or_default()
    }
}

impl LeaseOptions {
    /// Takes one option.
    pub fn add(&mut self, kind: u8, data: &[u8]) {
        match kind {
            12 => self.hostname = Text::new(data),
            15 => self.domain = Text::new(data),
            26 => self.mtu = data.try_into().ok().map(u16::from_be_bytes),
            51 => self.lease = data.try_into().ok().map(u32::from_be_bytes),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn taken() {
        let mut options = LeaseOptions::default();
        options.add(26, &[0xff, 0xff]);
        options.add(51, &[0, 0, 14, 16]);
        options.add(12, b"vm\x1b1");
        options.add(15, &[b'x'; 300]);
        options.add(6, b"?");
        assert_eq!((options.mtu, options.lease), (Some(65_535), Some(3600)));
        assert_eq!(options.hostname.as_str(), "vm1");
        assert_eq!(options.domain.as_str().len(), 64);
        options.add(26, &[1]);
        assert_eq!(options.mtu, None);
    }
}
