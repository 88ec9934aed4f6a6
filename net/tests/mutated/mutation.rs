//! What is done to frames.

use minivmm_net::nic::{ETHERNET_LEN, FRAME_MAX, Offload, Offloads, VNET_HEADER_LEN};

/// Frames that are remembered, to be changed.
const KEPT: usize = 512;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;

/// Changes frames of those it has seen.
pub struct Mutator {
    random: u64,
    seen: Vec<Vec<u8>>,
}

impl Mutator {
    pub fn new(seed: u64) -> Self {
        Self { random: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1, seen: Vec::new() }
    }

    fn next(&mut self) -> u64 {
        // xorshift64*
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        self.random.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    /// A number below `n`, which is not 0.
    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    pub fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    pub fn offloads(&mut self) -> Offloads {
        let checksum = self.one_in(2);
        let tso = checksum && self.one_in(2);
        Offloads { checksum, tso4: tso, tso6: tso }
    }

    /// Remembers `frame`.
    pub fn learn(&mut self, frame: &[u8]) {
        if self.seen.len() < KEPT {
            self.seen.push(frame.to_vec());
        } else {
            let at = self.below(KEPT);
            self.seen[at] = frame.to_vec();
        }
    }

    /// One of those it has seen, with some changes, and a virtio-net header.
    pub fn changed(&mut self) -> (Vec<u8>, [u8; VNET_HEADER_LEN]) {
        let at = self.below(self.seen.len());
        let mut frame = self.seen[at].clone();
        for _ in 0..1 + self.below(4) {
            self.change(&mut frame);
        }
        frame.truncate(FRAME_MAX);
        // Most of what is wrong is only looked at where the sums are right.
        if !self.one_in(3) {
            seal(&mut frame);
        }
        let mut header = [0; VNET_HEADER_LEN];
        if self.one_in(4) {
            self.offload(&frame, &mut header);
        }
        (frame, header)
    }

    fn change(&mut self, frame: &mut Vec<u8>) {
        if frame.is_empty() {
            frame.resize(60, 0);
        }
        // Where the headers are, mostly.
        let reach = if self.one_in(4) { frame.len() } else { frame.len().min(100) };
        let at = self.below(reach);
        match self.below(12) {
            0..3 => frame[at] ^= 1 << self.below(8),
            3 | 4 => frame[at] = self.next() as u8,
            5 | 6 => frame[at] = [0, 1, 0x7f, 0x80, 0xff][self.below(5)],
            7 if at + 1 < frame.len() => {
                let len = frame.len() as u16;
                let values = [0, 1, 7, 8, 19, 20, 39, 40, 576, 1280, 1500, 0x7fff, 0x8000, 0xffff];
                let value = match self.below(4) {
                    0 => len.wrapping_sub(self.below(64) as u16),
                    1 => u16::from_be_bytes([frame[at], frame[at + 1]]).wrapping_add(1),
                    2 => u16::from_be_bytes([frame[at], frame[at + 1]]).wrapping_sub(1),
                    _ => values[self.below(values.len())],
                };
                frame[at..at + 2].copy_from_slice(&value.to_be_bytes());
            }
            8 => frame.truncate(at),
            9 => {
                let more = if self.one_in(16) { self.below(FRAME_MAX) } else { self.below(64) };
                let byte = self.next() as u8;
                frame.resize(frame.len() + more, byte);
            }
            10 => {
                let n = 1 + self.below(8);
                if self.one_in(2) {
                    frame.splice(at..at, vec![self.next() as u8; n]);
                } else {
                    frame.drain(at..(at + n).min(frame.len()));
                }
            }
            _ => {
                let other = self.below(self.seen.len());
                let tail = self.seen[other].get(at..).unwrap_or_default().to_vec();
                frame.truncate(at);
                frame.extend(tail);
            }
        }
    }

    /// A header that leaves some work to the link, rightly or not.
    fn offload(&mut self, frame: &[u8], header: &mut [u8; VNET_HEADER_LEN]) {
        header[0] = [1, 1, 1, 2, 3, 0xff][self.below(6)];
        header[1] = [0, 0, 1, 4, 0x81, 0x84, 3, 5][self.below(8)];
        let (start, offset) = match transport(frame) {
            Some((at, TCP)) => (at, 16),
            Some((at, UDP)) => (at, 6),
            Some((at, _)) => (at, 2),
            None => (ETHERNET_LEN, 0),
        };
        let stray = |mutator: &mut Self| if mutator.one_in(3) { mutator.below(64) } else { 0 };
        let values = [
            start + 20 + stray(self),
            [1, 88, 536, 1460, 9000][self.below(5)],
            start + stray(self),
            offset + stray(self),
        ];
        for (i, value) in values.into_iter().enumerate() {
            header[2 + 2 * i..4 + 2 * i].copy_from_slice(&(value as u16).to_le_bytes());
        }
    }
}

fn sum(bytes: &[u8], mut sum: u32) -> u32 {
    for pair in bytes.chunks(2) {
        sum += u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum
}

fn put(frame: &mut [u8], at: usize, sum: u32) {
    if let Some(field) = frame.get_mut(at..at + 2) {
        field.copy_from_slice(&(!(sum as u16)).to_be_bytes());
    }
}

/// Where the transport header is and which it is, without extension headers.
fn transport(frame: &[u8]) -> Option<(usize, u8)> {
    let ip = frame.get(ETHERNET_LEN..)?;
    match (frame[12], frame[13]) {
        (8, 0) => Some((ETHERNET_LEN + usize::from(*ip.first()? & 15) * 4, *ip.get(9)?)),
        (0x86, 0xdd) => Some((ETHERNET_LEN + 40, *ip.get(6)?)),
        _ => None,
    }
}

/// Makes the sums right, as far as the frame looks like one that has any.
fn seal(frame: &mut [u8]) {
    let Some((at, protocol)) = transport(frame) else { return };
    let field = match protocol {
        TCP => 16,
        UDP => 6,
        1 | ICMPV6 => 2,
        _ => return,
    };
    let v4 = frame[12] == 8;
    let least = ETHERNET_LEN + if v4 { 20 } else { 40 };
    if at < least || at + field + 2 > frame.len() {
        return;
    }
    let end = if v4 {
        frame[24..26].fill(0);
        let sum = sum(&frame[ETHERNET_LEN..at], 0);
        put(frame, 24, sum);
        ETHERNET_LEN + usize::from(u16::from_be_bytes([frame[16], frame[17]]))
    } else {
        at + usize::from(u16::from_be_bytes([frame[18], frame[19]]))
    };
    let end = end.clamp(at + field + 2, frame.len());
    frame[at + field..at + field + 2].fill(0);
    let addresses = if v4 { 26..34 } else { 22..54 };
    let pseudo = match (v4, protocol) {
        (true, 1) => 0,
        _ => sum(&frame[addresses], u32::from(protocol) + (end - at) as u32),
    };
    let sum = sum(&frame[at..end], pseudo);
    put(frame, at + field, sum);
}

/// Does the work on `frame` that its sender left to the link, but for cutting it.
pub fn complete(frame: &mut [u8], offload: &Offload) {
    if offload.checksum.is_some() {
        seal(frame);
    }
}
