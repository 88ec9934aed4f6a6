//! Whatever comes, the probe's parsers survive it: their examples with bytes changed, cut and added.

use crate::cmdline::{self, Options};
use crate::{dns, names, neighbour, offload, ra};

/// Numbers that are the same in each run (xorshift64*).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() >> 16) as usize % n
    }

    /// `sound` with up to eight changes.
    fn damage(&mut self, sound: &[u8]) -> Vec<u8> {
        let mut bytes = sound.to_vec();
        for _ in 0..self.below(9) {
            let at = self.below(bytes.len() + 1);
            match self.below(4) {
                0 => bytes.truncate(at),
                1 => bytes.insert(at, self.next() as u8),
                _ => {
                    if let Some(byte) = bytes.get_mut(at) {
                        *byte = [0, 1, 0x7f, 0x80, 0xc0, 0xff, self.next() as u8][self.below(7)];
                    }
                }
            }
        }
        bytes
    }
}

const ROUNDS: usize = 50_000;

#[test]
fn packets() {
    let dns_answer =
        b"\x12\x34\x81\x80\x00\x01\x00\x02\x00\x00\x00\x00\x01a\x04test\x00\x00\x01\x00\x01\
        \xc0\x0c\x00\x05\x00\x01\x00\x00\x00\x01\x00\x02\xc0\x0c\
        \xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x01\x00\x04\x0a\x01\x02\x03";
    let mut advertisement = vec![0x33, 0x33, 0, 0, 0, 1, 2, 0, 0, 0, 0, 1, 0x86, 0xdd];
    advertisement.extend([0x60, 0, 0, 0, 0, 72, 58, 255]);
    advertisement.extend([0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    advertisement.extend([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    advertisement.extend([134, 0, 0, 0, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0]);
    advertisement.extend([3, 4, 64, 0xc0]);
    advertisement.extend([0; 28]);
    advertisement.extend([25, 3, 0, 0, 0, 0, 7, 8]);
    advertisement.extend([0xfd; 16]);
    let mut segment = vec![0; 12];
    segment.extend([8, 0, 0x45, 0, 0, 60, 0, 0, 0, 0, 64, 6, 0, 0, 10, 0, 0, 2, 10, 0, 0, 1]);
    segment.extend([0, 7, 0, 80, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 1, 0, 0, 0, 0, 0]);
    segment.extend([0x5a; 20]);
    assert!(dns::answer(0x1234, dns_answer).is_some_and(|answer| answer.address.is_some()));
    assert!(ra::parse(&advertisement).is_some_and(|ra| ra.dns.is_some()));
    assert_ne!(offload::prepare(&mut segment.clone(), Some(1400)), [0; 12]);
    let mut numbers = Numbers(1);
    for _ in 0..ROUNDS {
        let packet = numbers.damage(dns_answer);
        let _ = dns::answer(0x1234, &packet);
        for sound in [&advertisement, &segment] {
            let mut frame = numbers.damage(sound);
            let _ = ra::parse(&frame);
            let _ = neighbour::answer(&frame);
            let _ = offload::sum_holds(numbers.next() as u8 & 3, &frame);
            let _ = offload::prepare(&mut frame, Some(1400));
        }
    }
}

#[test]
fn words() {
    let line =
        b"quiet probe=serve probe.expect=dns,ipv6 probe.seconds=0.5 probe.ip=10.0.0.2/24,10.0.0.1 \
        probe.peer=10.0.0.1:7 probe.without=tso,mrg probe.name=a.test probe.end=reboot \
        virtio_mmio.device=4K@0xd0000000:5";
    assert_eq!(Options::parse(std::str::from_utf8(line).expect("text")).unknown, None);
    let mut numbers = Numbers(2);
    for _ in 0..ROUNDS {
        let bytes = numbers.damage(line);
        let line = String::from_utf8_lossy(&bytes);
        let _ = Options::parse(&line).expected();
        let _ = cmdline::mmio_devices(&line).count();
        let _ = names::Names::parse(&line);
        let _ = dns::is_name(&line);
    }
}
