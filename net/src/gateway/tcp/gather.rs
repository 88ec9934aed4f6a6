//! Small segments of one flow, put together for one system call.
//!
//! A guest without segmentation offload sends its stream in frames of an MTU each. Within a batch
//! of frames these are copied here and given to the socket together; they are acknowledged after
//! that, when the batch is over.

use crate::gateway::packet::Payload;

/// Payload that is worth copying; larger ones go to the socket from where they are.
const SEGMENT_MAX: usize = 16 * 1024;

/// Bytes put together at most.
const ROOM: usize = 64 * 1024;

/// See the [module's documentation](self).
#[derive(Debug)]
pub struct Gather {
    bytes: Box<[u8]>,
    len: usize,
    /// Whose bytes they are.
    flow: Option<u32>,
}

impl Gather {
    /// Nothing gathered.
    pub fn new() -> Self {
        Self { bytes: vec![0; ROOM].into(), len: 0, flow: None }
    }

    /// Whose bytes there are, if any.
    pub fn flow(&self) -> Option<u32> {
        self.flow
    }

    /// Adds `len` bytes of `payload` from `skip` on. False if they are too many, or there are
    /// bytes of another flow's.
    pub fn push(&mut self, flow: u32, payload: &Payload<'_>, skip: usize, len: usize) -> bool {
        if len > SEGMENT_MAX || len > ROOM - self.len || self.flow.is_some_and(|f| f != flow) {
            return false;
        }
        payload.copy_at(skip, &mut self.bytes[self.len..self.len + len]);
        self.flow = Some(flow);
        self.len += len;
        true
    }

    /// What was gathered, which is thereby forgotten.
    pub fn take(&mut self) -> &[u8] {
        self.flow = None;
        &self.bytes[..std::mem::take(&mut self.len)]
    }
}

#[cfg(test)]
mod tests {
    use vm_memory::VolatileSlice;

    use super::*;

    #[test]
    fn pieces_are_put_together_wherever_they_begin() {
        let (mut b, mut c) = (*b"cde", *b"fghi");
        let tail = [VolatileSlice::from(&mut b[..]), VolatileSlice::from(&mut c[..])];
        let payload = Payload { head: b"ab", tail: &tail, len: 8 };
        for skip in 0..8 {
            let mut gather = Gather::new();
            assert!(gather.push(1, &payload, skip, 8 - skip));
            assert!(gather.push(1, &payload, 0, 8));
            assert!(!gather.push(2, &payload, 0, 8));
            assert_eq!(gather.flow(), Some(1));
            let want = [&b"abcdefgh"[skip..], b"abcdefgh"].concat();
            assert_eq!(gather.take(), want);
            assert_eq!((gather.flow(), gather.take()), (None, &b""[..]));
        }
    }

    #[test]
    fn there_is_an_end_to_the_room() {
        let bytes = [7; SEGMENT_MAX + 1];
        let payload = Payload { head: &bytes, tail: &[], len: bytes.len() };
        let mut gather = Gather::new();
        assert!(!gather.push(1, &payload, 0, SEGMENT_MAX + 1));
        for _ in 0..ROOM / SEGMENT_MAX {
            assert!(gather.push(1, &payload, 0, SEGMENT_MAX));
        }
        assert!(!gather.push(1, &payload, 0, 1));
        assert_eq!(gather.take().len(), ROOM);
    }
}
