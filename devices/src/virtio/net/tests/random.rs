//! Random drivers and backends.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
enum Op {
    /// A good frame, cut at these lengths.
    Send {
        len: usize,
        cuts: Vec<usize>,
        indirect: bool,
    },
    /// Whatever: place, length, flags, next.
    Garbage {
        transmit: bool,
        descriptors: Vec<(u64, u32, u16, u16)>,
        head: u16,
    },
    /// A receive chain of these lengths.
    Give {
        lens: Vec<u32>,
    },
    Drain {
        budget: usize,
        busy_after: usize,
    },
    Deliver {
        most: usize,
        least: usize,
        len: usize,
    },
    /// So many frames, the later ones filled before the first is delivered.
    DeliverMany {
        len: usize,
        most: usize,
    },
    Release {
        reserve: usize,
    },
    Flush,
}

fn op(garbage: bool) -> impl Strategy<Value = Op> {
    let cuts = proptest::collection::vec(1usize..300, 0..4);
    let send = (14usize..2500, cuts, any::<bool>()).prop_map(|(len, cuts, indirect)| Op::Send {
        len,
        cuts,
        indirect,
    });
    let give = proptest::collection::vec(0u32..900, 1..4).prop_map(|lens| Op::Give { lens });
    let drain =
        (1usize..20, 0usize..20).prop_map(|(budget, busy_after)| Op::Drain { budget, busy_after });
    let deliver = (14usize..3000, 0usize..3000, prop_oneof![Just(0usize), 0usize..30_000])
        .prop_map(|(least, less, more)| Op::Deliver {
            most: least + more,
            least,
            len: (least + more).saturating_sub(less),
        });
    let many = (14usize..1500, 1usize..6).prop_map(|(len, most)| Op::DeliverMany { len, most });
    let release = (14usize..70_000).prop_map(|reserve| Op::Release { reserve });
    let descriptor = (
        prop_oneof![0u64..0x2_0000, 0x10_0000u64..0x400_0000, any::<u64>()],
        prop_oneof![0u32..3000, any::<u32>()],
        0u16..8,
        0u16..20,
    );
    let garbage_op = (any::<bool>(), proptest::collection::vec(descriptor, 1..6), 0u16..17)
        .prop_map(|(transmit, descriptors, head)| Op::Garbage { transmit, descriptors, head });
    prop_oneof![
        3 => send,
        3 => give,
        3 => drain,
        3 => deliver,
        1 => many,
        1 => release,
        1 => Just(Op::Flush),
        (if garbage { 2 } else { 0 }) => garbage_op,
    ]
}

/// What the driver knows of its receive buffers.
#[derive(Default)]
struct Receiver {
    chains: Vec<(u16, Vec<(u64, u32)>)>,
    /// Frames that were delivered and not seen yet.
    expected: VecDeque<Vec<u8>>,
    current: Vec<u8>,
    missing: u16,
}

impl Receiver {
    /// What a frame may have: all that is in the ring, or its first buffer.
    fn room(&self, mergeable: bool) -> usize {
        let good = self
            .chains
            .iter()
            .map(|(_, chain)| chain.iter().map(|b| b.1 as usize).sum())
            .filter(|len: &usize| *len >= VNET_HEADER_LEN);
        good.take(if mergeable { usize::MAX } else { 1 }).sum()
    }

    fn poll(&mut self, driver: &mut NetDriver) {
        while let Some(used) = driver.rx.pop_used() {
            let at = self.chains.iter().position(|(head, _)| u32::from(*head) == used.id).unwrap();
            let (_, chain) = self.chains.remove(at);
            if used.len == 0 {
                assert!(chain.iter().map(|b| b.1).sum::<u32>() < 12, "a good buffer came back");
                continue;
            }
            let mut left = used.len;
            let mut bytes = Vec::new();
            for (at, len) in chain {
                let n = left.min(len);
                bytes.extend(driver.read(at, n as usize));
                left -= n;
            }
            assert_eq!(left, 0, "more than the chain holds");
            if self.missing == 0 {
                self.missing = u16::from_le_bytes([bytes[10], bytes[11]]);
                bytes.drain(..12);
            }
            self.current.extend(bytes);
            self.missing -= 1;
            if self.missing == 0 {
                let got = std::mem::take(&mut self.current);
                assert!(Some(got) == self.expected.pop_front());
            }
        }
        assert_eq!(self.missing, 0, "a frame was shown in part");
    }
}

/// Delivers up to `most` frames of `len` bytes, all filled before the first is delivered, and
/// returns them.
fn deliver_many(rig: &mut Rig, len: usize, most: usize, seed: u8) -> Vec<Vec<u8>> {
    let Some(mut slot) = RxSlot::reserve(rig.port.rx(), len) else { return Vec::new() };
    let ahead = slot.look_ahead(most - 1);
    assert!(ahead < most);
    let frames: Vec<_> = (0..=ahead).map(|n| pattern(len, seed.wrapping_add(n as u8))).collect();
    for (n, frame) in frames.iter().enumerate() {
        let mut rest = &frame[..];
        for piece in slot.pieces(n, 0, len) {
            piece.copy_from(&rest[..piece.len()]);
            rest = &rest[piece.len()..];
        }
        assert!(rest.is_empty(), "a frame has room for all of it");
    }
    slot.commit(len, Offload::default());
    for _ in 0..ahead {
        let slot = RxSlot::reserve(rig.port.rx(), len).expect("what was looked at is there");
        slot.commit(len, Offload::default());
    }
    frames
}

/// A driver whose receive buffers are shorter than `buffer`.
fn run(features: u64, buffer: u32, ops: Vec<Op>, garbage: bool) {
    let mut rig = Rig::new(features);
    let (mut sent, mut got) = (VecDeque::new(), VecDeque::new());
    let mut receiver = Receiver::default();
    let mergeable = features & MRG_RXBUF != 0;
    let (mut offered, mut returned, mut seed) = (0, 0, 0u8);
    for op in ops {
        seed = seed.wrapping_add(1);
        match op {
            Op::Send { len, cuts, indirect } => {
                let frame = pattern(len, seed);
                let buffers = rig.driver.pieces(&[0; 12], &frame, &cuts);
                let needed = if indirect { 1 } else { buffers.len() };
                if rig.driver.tx.free() < needed {
                    continue;
                }
                if indirect {
                    let table = rig.driver.alloc(16 * buffers.len());
                    rig.driver.tx.add_indirect(table, &buffers);
                } else {
                    rig.driver.tx.add(&buffers);
                }
                offered += 1;
                sent.push_back(frame);
            }
            Op::Garbage { transmit, descriptors, head } => {
                let queue = if transmit { &mut rig.driver.tx } else { &mut rig.driver.rx };
                for (index, (addr, len, flags, next)) in (0u16..).zip(descriptors) {
                    queue.raw(index, addr, len, flags, next);
                }
                queue.offer(head);
            }
            Op::Give { lens } => {
                let chain: Vec<_> = lens
                    .iter()
                    .map(|len| len % buffer)
                    .map(|len| Buffer::writable(rig.driver.alloc(len as usize), len))
                    .collect();
                if let Some(head) = rig.driver.rx.try_add(&chain) {
                    let chain = chain.iter().map(|b| (b.addr, b.len)).collect();
                    receiver.chains.push((head, chain));
                }
            }
            Op::Drain { budget, busy_after } => {
                let mut left = busy_after;
                rig.port.drain(budget, &rig.stats, &mut |frame, _| {
                    if left == 0 {
                        return TxOutcome::Busy;
                    }
                    left -= 1;
                    got.push_back(bytes(frame));
                    TxOutcome::Sent
                });
            }
            Op::Deliver { most, least, len } => {
                let before = rig.stats.drops(DropReason::RxBufferTooSmall);
                let frame = RxSlot::reserve_most(rig.port.rx(), most, least).map(|slot| {
                    assert!((least..=most).contains(&slot.len()));
                    let frame = pattern(len.min(slot.len()), seed);
                    slot.write_at(0, &frame);
                    slot.commit(frame.len(), Offload::default());
                    frame
                });
                rig.flush();
                if garbage {
                    continue;
                }
                // What is not delivered had no room.
                let missed = match frame {
                    Some(frame) if rig.stats.drops(DropReason::RxBufferTooSmall) == before => {
                        receiver.expected.push_back(frame);
                        None
                    }
                    Some(frame) => Some(frame.len()),
                    None if mergeable => Some(least),
                    None => Some(0),
                };
                receiver.poll(&mut rig.driver);
                if let Some(len) = missed {
                    assert!(receiver.room(mergeable) < len + VNET_HEADER_LEN);
                }
            }
            Op::DeliverMany { len, most } => {
                let before = rig.stats.drops(DropReason::RxBufferTooSmall);
                let frames = deliver_many(&mut rig, len, most, seed);
                rig.flush();
                if rig.stats.drops(DropReason::RxBufferTooSmall) == before {
                    receiver.expected.extend(frames);
                } else {
                    assert_eq!(frames.len(), 1, "what has no room is alone");
                }
            }
            Op::Release { reserve } => {
                if reserve <= FRAME_MAX {
                    drop(RxSlot::reserve(rig.port.rx(), reserve));
                }
            }
            Op::Flush => {
                rig.flush();
                returned += rig.driver.tx_used().len();
            }
        }
        if !garbage {
            receiver.poll(&mut rig.driver);
        }
    }
    if garbage {
        rig.drain(1000);
        return;
    }
    got.extend(rig.frames());
    returned += rig.driver.tx_used().len();
    assert!(sent == got);
    assert_eq!(returned, offered);
    receiver.poll(&mut rig.driver);
    assert!(receiver.expected.is_empty());
    assert_eq!(rig.driver.interrupts.resets(), 0);
}

const SETS: [u64; 4] = [0, RING_EVENT_IDX, TSO, TSO | RING_EVENT_IDX];

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn frames_are_neither_lost_nor_changed(
        set in 0usize..4,
        buffer in prop_oneof![Just(60u32), Just(900)],
        ops in proptest::collection::vec(op(false), 1..80),
    ) {
        run(SETS[set], buffer, ops, false);
    }

    #[test]
    fn no_descriptor_brings_the_device_down(
        set in 0usize..4,
        buffer in prop_oneof![Just(60u32), Just(900)],
        ops in proptest::collection::vec(op(true), 1..80),
    ) {
        run(SETS[set], buffer, ops, true);
    }
}
