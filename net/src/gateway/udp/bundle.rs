//! Datagrams of one flow, put together for one system call.
//!
//! Those that follow each other with the same header and the same size are copied here and leave
//! as one buffer that the host's kernel cuts again (`UDP_SEGMENT` of `udp(7)`).

use crate::gateway::packet::Payload;
use crate::sys::dgram::IpFields;

/// Payload that is worth copying; larger ones go to the socket from where they are.
const SIZE_MAX: usize = 16 * 1024;
/// What one call takes: a datagram's payload over IPv4 (the kernel counts the whole as one).
const ROOM: usize = 65507 - 40;
/// `UDP_MAX_SEGMENTS` of kernels before 6.10.
const COUNT_MAX: usize = 64;

/// What datagrams that go together share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BundleKey {
    /// The flow's index.
    pub flow: u32,
    /// What the IP headers say.
    pub header: IpFields,
}

/// Datagrams that go together.
#[derive(Debug)]
pub struct Bundled {
    /// Whose they are.
    pub key: BundleKey,
    /// Bytes of each but the last, which may have fewer.
    pub size: usize,
    bytes: Box<[u8]>,
    len: usize,
}

impl Bundled {
    /// Their payloads, one behind the other.
    pub fn payloads(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// Memory for datagrams of one flow that follow each other.
#[derive(Debug)]
pub struct Bundle {
    bytes: Box<[u8]>,
    len: usize,
    /// Bytes of each datagram but the last, which may have fewer.
    size: usize,
    key: Option<BundleKey>,
}

impl Bundle {
    /// Nothing gathered.
    pub fn new() -> Self {
        Self { bytes: vec![0; ROOM].into(), len: 0, size: 0, key: None }
    }

    /// Adds a datagram of `flow`. False if it does not go with those that are there.
    pub fn push(&mut self, flow: u32, header: IpFields, payload: &Payload<'_>) -> bool {
        let (key, len) = (BundleKey { flow, header }, payload.len);
        if len == 0 || len > SIZE_MAX {
            return false;
        }
        if let Some(have) = self.key {
            let whole = self.len.is_multiple_of(self.size);
            let room = len <= ROOM - self.len && self.len / self.size < COUNT_MAX;
            if have != key || !whole || len > self.size || !room {
                return false;
            }
        } else {
            (self.key, self.size) = (Some(key), len);
        }
        payload.copy_to(&mut self.bytes[self.len..self.len + len]);
        self.len += len;
        true
    }

    /// Takes what was gathered, and the memory with it until it is [put back](Self::put_back).
    pub fn take(&mut self) -> Option<Bundled> {
        let key = self.key.take()?;
        let (len, size) = (std::mem::take(&mut self.len), self.size);
        Some(Bundled { key, size, bytes: std::mem::take(&mut self.bytes), len })
    }

    /// Takes the memory back.
    pub fn put_back(&mut self, bundled: Bundled) {
        self.bytes = bundled.bytes;
    }

    /// Forgets what was gathered.
    pub fn clear(&mut self) {
        (self.key, self.len) = (None, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIELDS: IpFields = IpFields { hop_limit: 64, traffic_class: 0, dont_fragment: false };

    fn push(bundle: &mut Bundle, flow: u32, header: IpFields, head: &[u8]) -> bool {
        bundle.push(flow, header, &Payload { head, tail: &[], len: head.len() })
    }

    #[test]
    fn what_differs_does_not_go_together() {
        let mut bundle = Bundle::new();
        assert!(!push(&mut bundle, 1, FIELDS, b"") && bundle.take().is_none());
        assert!(push(&mut bundle, 1, FIELDS, b"abc") && push(&mut bundle, 1, FIELDS, b"def"));
        assert!(!push(&mut bundle, 2, FIELDS, b"ghi"));
        assert!(!push(&mut bundle, 1, IpFields { hop_limit: 63, ..FIELDS }, b"ghi"));
        assert!(!push(&mut bundle, 1, FIELDS, b"long"));
        // A shorter one is the last.
        assert!(push(&mut bundle, 1, FIELDS, b"g") && !push(&mut bundle, 1, FIELDS, b"hij"));
        let bundled = bundle.take().unwrap();
        assert_eq!((bundled.payloads(), bundled.size, bundled.key.flow), (&b"abcdefg"[..], 3, 1));
        assert!(bundle.take().is_none());
        bundle.put_back(bundled);
        assert!(push(&mut bundle, 2, FIELDS, b"long"));
        assert_eq!(bundle.take().unwrap().payloads(), b"long");
    }

    #[test]
    fn one_call_takes_so_much() {
        let mut bundle = Bundle::new();
        let pushed = (0..100).take_while(|_| push(&mut bundle, 1, FIELDS, b"x")).count();
        assert_eq!(pushed, COUNT_MAX);
        bundle.clear();
        let large = vec![7; SIZE_MAX];
        let pushed = (0..100).take_while(|_| push(&mut bundle, 1, FIELDS, &large)).count();
        assert_eq!(pushed, ROOM / SIZE_MAX);
        assert!(!push(&mut Bundle::new(), 1, FIELDS, &[7; SIZE_MAX + 1]));
    }
}
