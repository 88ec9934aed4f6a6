use minivmm_net::nic::{
    Drained, FRAME_MAX, HEAD_MAX, Offload, Offloads, PartialChecksum, Port, PortReady, Ready,
    RxSlot, SegmentKind, Segmentation, TxFrame, TxOutcome, VNET_HEADER_LEN,
};
use minivmm_net::{DropReason, Stats};

use super::features::{CSUM, GUEST_CSUM, GUEST_TSO4, HOST_TSO4, HOST_TSO6, MRG_RXBUF};
use super::testing::NetDriver;
use super::*;
use crate::virtio::spec::feature::RING_EVENT_IDX;
use crate::virtio::spec::ring;
use crate::virtio::testing::{Buffer, Used};

mod hostile;
mod live;
mod random;

const TSO: u64 = CSUM | HOST_TSO4 | GUEST_CSUM | GUEST_TSO4 | MRG_RXBUF;

/// A driver and its device, driven by hand.
struct Rig {
    driver: NetDriver,
    port: NicPort,
    stats: Stats,
}

impl Rig {
    fn new(features: u64) -> Self {
        Self::sized(features, 16)
    }

    fn sized(features: u64, size: u16) -> Self {
        let driver = NetDriver::new(features, size);
        let port = NicPort::new(driver.activation()).unwrap();
        Self { driver, port, stats: Stats::default() }
    }

    /// Drains up to `budget` frames and returns them.
    fn drain(&mut self, budget: usize) -> (Vec<(Vec<u8>, Offload)>, Drained) {
        let mut frames = Vec::new();
        let drained = self.port.drain(budget, &self.stats, &mut |frame, _| {
            frames.push((bytes(frame), frame.offload));
            TxOutcome::Sent
        });
        self.port.flush(&self.stats);
        (frames, drained)
    }

    fn frames(&mut self) -> Vec<Vec<u8>> {
        let (frames, drained) = self.drain(usize::MAX);
        assert_eq!(drained, Drained::Empty);
        frames.into_iter().map(|(frame, _)| frame).collect()
    }

    /// Delivers `frame` by a reservation of `reserve` bytes; false if there is no room.
    fn deliver(&mut self, frame: &[u8], reserve: usize, offload: Offload) -> bool {
        let Some(slot) = RxSlot::reserve(self.port.rx(), reserve) else { return false };
        slot.write_at(0, frame);
        slot.commit(frame.len(), offload);
        true
    }

    fn flush(&mut self) {
        self.port.flush(&self.stats);
    }

    /// The worker hears of a kick of the receive queue.
    fn kicked(&mut self) {
        let ready = self.port.ready(RX_QUEUE.into(), Ready::IN);
        assert_eq!(ready, PortReady { tx: false, rx: true });
    }
}

fn bytes(frame: &TxFrame<'_>) -> Vec<u8> {
    assert_eq!(frame.head.len(), frame.len.min(HEAD_MAX));
    let mut all = frame.head.to_vec();
    for slice in frame.tail {
        let at = all.len();
        all.resize(at + slice.len(), 0);
        slice.copy_to(&mut all[at..]);
    }
    assert_eq!(all.len(), frame.len);
    all
}

fn pattern(len: usize, seed: u8) -> Vec<u8> {
    (0..len).map(|i| (i as u8).wrapping_mul(7).wrapping_add(seed)).collect()
}

fn tso(size: u16) -> Offload {
    Offload {
        checksum: Some(PartialChecksum { start: 34, offset: 16 }),
        segmentation: Some(Segmentation {
            kind: SegmentKind::Tcp4,
            size,
            header_len: 54,
            ecn: false,
        }),
        validated: false,
    }
}

// ---- The device as the transport sees it ----

#[test]
fn features_follow_what_the_segment_takes() {
    let none = features::offered(Offloads::default());
    assert_eq!(none & (CSUM | HOST_TSO4 | HOST_TSO6), 0);
    assert_eq!(none & (GUEST_CSUM | MRG_RXBUF), GUEST_CSUM | MRG_RXBUF);
    let tso4 = Offloads { checksum: true, tso4: true, tso6: false };
    assert_eq!(features::offered(tso4) & (CSUM | HOST_TSO4 | HOST_TSO6), CSUM | HOST_TSO4);
    // Segmentation without checksums is not offered.
    let odd = Offloads { checksum: false, tso4: true, tso6: true };
    assert_eq!(features::offered(odd), none);
}

#[test]
fn a_missing_queue_is_an_error() {
    let mut activation = NetDriver::new(0, 16).activation();
    activation.queues.pop();
    assert!(matches!(NicPort::new(activation), Err(ActivateError::MissingQueue(TX_QUEUE))));
}

// ---- Transmit ----

#[test]
fn a_frame_is_the_same_however_it_is_cut() {
    let mut rig = Rig::new(TSO);
    let header = tso(1448).encode(0);
    let frame = pattern(3000, 1);
    let cuts: [&[usize]; 6] =
        [&[], &[12], &[5, 3, 6], &[1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1], &[192], &[191, 2, 1000]];
    for cut in cuts {
        let buffers = rig.driver.pieces(&header, &frame, cut);
        let direct = rig.driver.tx.add(&buffers);
        let table = rig.driver.alloc(16 * buffers.len());
        let indirect = rig.driver.tx.add_indirect(table, &buffers);
        let (got, drained) = rig.drain(8);
        assert_eq!(drained, Drained::Empty);
        assert!(got == [(frame.clone(), tso(1448)), (frame.clone(), tso(1448))], "{cut:?}");
        let used = [direct, indirect].map(|head| Used { id: head.into(), len: 0 });
        assert_eq!(rig.driver.tx_used(), used);
    }
    assert_eq!(rig.stats.total_drops(), 0);
}

#[test]
fn the_longest_and_the_shortest_frame_pass() {
    let mut rig = Rig::new(TSO);
    for len in [14, HEAD_MAX - 1, HEAD_MAX, HEAD_MAX + 1, FRAME_MAX] {
        let frame = pattern(len, 3);
        rig.driver.send(&frame);
        assert!(rig.frames() == [frame], "{len}");
    }
}

#[test]
fn a_guest_does_not_vouch_for_checksums() {
    let mut rig = Rig::new(TSO);
    let buffers = rig.driver.pieces(&[2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], &pattern(60, 1), &[]);
    rig.driver.tx.add(&buffers);
    assert_eq!(rig.drain(8).0[0].1, Offload::default());
}

#[test]
fn a_busy_sink_leaves_the_frame_first_in_line() {
    let mut rig = Rig::new(0);
    let frames: Vec<_> = (0..4).map(|n| pattern(100, n)).collect();
    for frame in &frames {
        rig.driver.send(frame);
    }
    let mut taken = Vec::new();
    let drained = rig.port.drain(8, &rig.stats, &mut |frame, _| {
        if taken.len() == 2 {
            return TxOutcome::Busy;
        }
        taken.push(bytes(frame));
        TxOutcome::Sent
    });
    rig.flush();
    assert_eq!(drained, Drained::Blocked);
    assert_eq!(rig.driver.tx_used().len(), 2);
    taken.extend(rig.frames());
    assert!(taken == frames);
}

#[test]
fn a_budget_ends_a_drain_and_kicks_stay_off_until_it_is_done() {
    for features in [0, RING_EVENT_IDX] {
        let mut rig = Rig::new(features);
        assert_eq!(rig.frames().len(), 0);
        rig.driver.send(&pattern(60, 0));
        assert!(rig.driver.tx.needs_kick(), "an idle device wants a kick");
        rig.driver.send(&pattern(60, 1));
        rig.driver.send(&pattern(60, 2));
        assert_eq!(rig.drain(2).1, Drained::More);
        rig.driver.send(&pattern(60, 3));
        assert!(!rig.driver.tx.needs_kick(), "a busy one does not");
        assert_eq!(rig.frames().len(), 2);
        rig.driver.send(&pattern(60, 4));
        assert!(rig.driver.tx.needs_kick());
    }
}

#[test]
fn one_interrupt_tells_of_a_batch_where_it_is_wanted() {
    let mut rig = Rig::new(RING_EVENT_IDX);
    let batch = |rig: &mut Rig, n: u8, used_event| {
        rig.driver.tx.set_used_event(used_event);
        for i in 0..n {
            rig.driver.send(&pattern(60, i));
        }
        rig.frames();
        rig.driver.tx_used();
        rig.driver.interrupts.take(TX_QUEUE)
    };
    assert_eq!(batch(&mut rig, 5, 0), 1);
    assert_eq!(batch(&mut rig, 5, 4), 0, "passed before");
    assert_eq!(batch(&mut rig, 5, 12), 1);
    assert_eq!(batch(&mut rig, 5, 20), 0, "not reached yet");
    assert_eq!(batch(&mut rig, 1, 20), 1);

    let mut rig = Rig::new(0);
    assert_eq!(batch(&mut rig, 5, 0), 1);
    rig.driver.tx.set_no_interrupt(true);
    assert_eq!(batch(&mut rig, 5, 0), 0);
}

#[test]
fn a_large_batch_is_shown_in_portions_and_interrupts_once() {
    let mut rig = Rig::sized(RING_EVENT_IDX, 256);
    for n in 0..200 {
        rig.driver.send(&pattern(60, n));
    }
    let (tx, mut seen) = (&rig.driver.tx, Vec::new());
    rig.port.drain(256, &rig.stats, &mut |_, _| {
        seen.push(tx.used_idx());
        TxOutcome::Sent
    });
    assert_eq!(seen[199], 192, "the driver works on what is done");
    assert_eq!(rig.driver.interrupts.take(TX_QUEUE), 0);
    rig.flush();
    assert_eq!(rig.driver.interrupts.take(TX_QUEUE), 1);
    assert_eq!(rig.driver.tx_used().len(), 200);
}

// ---- Receive ----

#[test]
fn a_frame_spans_merged_buffers_and_shows_all_at_once() {
    let mut rig = Rig::new(TSO | RING_EVENT_IDX);
    let given: Vec<_> = (0..6).map(|_| rig.driver.give(1000)).collect();
    let frame = pattern(2500, 9);
    assert!(rig.deliver(&frame, 4000, tso(1448)));
    assert_eq!(rig.driver.rx.used_idx(), 0, "nothing before the whole");
    rig.flush();
    assert_eq!(rig.driver.interrupts.take(RX_QUEUE), 1);
    let used = rig.driver.rx_used();
    let lens: Vec<_> = used.iter().map(|u| u.len).collect();
    assert_eq!(lens, [1000, 1000, 512]);
    assert!(used.iter().zip(&given).all(|(u, g)| u.id == u32::from(g.1)));
    let mut got = Vec::new();
    for (buffer, len) in given.iter().zip(lens) {
        got.extend(rig.driver.read(buffer.0, len as usize));
    }
    assert_eq!(got[..VNET_HEADER_LEN], tso(1448).encode(3));
    assert!(got[VNET_HEADER_LEN..] == frame);

    // The next frame starts in the next buffer.
    assert!(rig.deliver(&pattern(60, 1), 60, Offload::default()));
    rig.flush();
    assert_eq!(rig.driver.rx_used(), [Used { id: given[3].1.into(), len: 72 }]);
    assert_eq!(rig.driver.read(given[3].0, 12), Offload::default().encode(1));
    assert!(rig.driver.read(given[3].0 + 12, 60) == pattern(60, 1));
    assert_eq!((rig.stats.rx_frames.get(), rig.stats.rx_bytes.get()), (2, 2560));
}

#[test]
fn a_reservation_given_back_costs_no_buffer() {
    for features in [0, MRG_RXBUF] {
        let mut rig = Rig::new(features);
        let given: Vec<_> = (0..3).map(|_| rig.driver.give(2000)).collect();
        for _ in 0..100 {
            drop(RxSlot::reserve(rig.port.rx(), 1500).unwrap());
        }
        for n in 0..3 {
            assert!(rig.deliver(&pattern(700, n), 1500, Offload::default()));
        }
        assert!(!rig.deliver(&pattern(700, 9), 1500, Offload::default()));
        rig.flush();
        let used = rig.driver.rx_used();
        assert_eq!(used.len(), 3);
        for (n, (address, _)) in given.iter().enumerate() {
            assert!(rig.driver.read(address + 12, 700) == pattern(700, n as u8));
        }
    }
}

#[test]
fn the_header_may_be_in_pieces_of_its_own() {
    for (features, cut) in [(MRG_RXBUF, [12, 500]), (MRG_RXBUF, [5, 507]), (0, [11, 501])] {
        let mut rig = Rig::new(features);
        let at = rig.driver.alloc(512);
        rig.driver
            .rx
            .add(&[Buffer::writable(at, cut[0]), Buffer::writable(at + u64::from(cut[0]), cut[1])]);
        assert!(rig.deliver(&pattern(400, 4), 500, Offload::default()));
        rig.flush();
        assert_eq!(rig.driver.rx_used()[0].len, 412);
        assert_eq!(rig.driver.read(at, 12), Offload::default().encode(1));
        assert!(rig.driver.read(at + 12, 400) == pattern(400, 4));
    }
}

#[test]
fn checksums_are_only_vouched_for_to_who_understands() {
    let valid = Offload { validated: true, ..Offload::default() };
    for (features, flags) in [(0, 0), (GUEST_CSUM, 2)] {
        let mut rig = Rig::new(features);
        let (at, _) = rig.driver.give(200);
        assert!(rig.deliver(&pattern(60, 0), 100, valid));
        assert_eq!(rig.driver.read(at, 1), [flags]);
    }
}

#[test]
fn without_room_a_kick_is_asked_for_and_only_then() {
    for features in [MRG_RXBUF, MRG_RXBUF | RING_EVENT_IDX] {
        let mut rig = Rig::new(features);
        rig.driver.give(1526);
        assert!(rig.deliver(&pattern(60, 0), 1514, Offload::default()));
        rig.driver.rx.needs_kick();
        rig.driver.give(600);
        rig.flush();
        let unwanted = rig.driver.rx.needs_kick();
        assert!(!unwanted, "{features:#x}: there was room");
        assert!(!rig.deliver(&pattern(60, 0), 1514, Offload::default()));
        rig.driver.give(600);
        assert!(rig.driver.rx.needs_kick());
        rig.kicked();
        assert!(!rig.deliver(&pattern(60, 0), 1514, Offload::default()));
        rig.driver.give(600);
        assert!(rig.driver.rx.needs_kick());
        rig.kicked();
        assert!(rig.deliver(&pattern(1514, 5), 1514, Offload::default()));
        rig.flush();
        assert_eq!(rig.driver.rx_used().len(), 4);
        rig.driver.give(2000);
        assert!(!rig.driver.rx.needs_kick());
    }
}

#[test]
fn a_small_frame_does_not_end_the_wait_for_a_large_one() {
    for features in [MRG_RXBUF, MRG_RXBUF | RING_EVENT_IDX] {
        let mut rig = Rig::new(features);
        rig.driver.give(600);
        rig.driver.give(600);
        assert!(!rig.deliver(&pattern(60, 0), 1514, Offload::default()));
        assert!(rig.deliver(&pattern(60, 0), 60, Offload::default()));
        rig.flush();
        rig.driver.rx.needs_kick();
        rig.driver.give(2000);
        assert!(rig.driver.rx.needs_kick(), "{features:#x}");
    }
}

#[test]
fn as_much_is_reserved_as_there_is_room_for() {
    // Buffers in the ring, features, bytes asked for, bytes got.
    for (features, most, got) in [
        (TSO, 9000, 9000),
        (TSO, 60_000, 16 * 1526 - 12),
        (TSO & !MRG_RXBUF, 60_000, 1514),
        (0, 60_000, 1514),
    ] {
        let mut rig = Rig::new(features);
        for _ in 0..16 {
            rig.driver.give(1526);
        }
        let slot = RxSlot::reserve_most(rig.port.rx(), most, 1514).unwrap();
        assert_eq!(slot.len(), got, "{features:#x}");
        slot.write_at(0, &pattern(got, 1));
        slot.commit(got, Offload::default());
        rig.flush();
        assert_eq!((rig.stats.rx_frames.get(), rig.stats.total_drops()), (1, 0));
    }
}

#[test]
fn only_who_gets_too_little_waits_for_a_kick() {
    let mut rig = Rig::new(TSO);
    rig.driver.give(1526);
    assert_eq!(RxSlot::reserve_most(rig.port.rx(), 60_000, 1000).unwrap().len(), 1514);
    rig.driver.give(1000);
    assert!(!rig.driver.rx.needs_kick());
    assert!(RxSlot::reserve_most(rig.port.rx(), 60_000, 3000).is_none());
    rig.driver.give(1000);
    assert!(rig.driver.rx.needs_kick());
}

/// Not in five large ones and then one for each buffer that is left.
#[test]
fn a_bulk_stream_empties_a_ring_in_large_frames() {
    let mut rig = Rig::sized(TSO | RING_EVENT_IDX, 256);
    for _ in 0..256 {
        rig.driver.give(1536);
    }
    let mut lens = Vec::new();
    while let Some(slot) = RxSlot::reserve_most(rig.port.rx(), FRAME_MAX, 1514) {
        let len = slot.len();
        slot.commit(len, tso(1448));
        lens.push(len);
    }
    rig.flush();
    assert_eq!(rig.driver.rx_used().len(), 256);
    assert!(lens.len() <= 6, "{lens:?}");
    assert_eq!(lens.iter().filter(|len| **len == FRAME_MAX).count(), 5);
}

#[test]
fn buffers_of_any_size_are_found_for_frames_ahead() {
    // Features, buffers, their size, and frames of 9000 bytes found behind the first.
    for (features, buffers, size, found) in [
        (TSO, 24, 1526, 3),
        // Six for each frame.
        (TSO, 23, 1526, 2),
        // Three for each, most of the last one lost.
        (TSO, 12, 4096, 3),
        (TSO, 11, 4096, 2),
        (TSO, 4, 20_000, 3),
        (TSO, 1, 1_000_000, 0),
        (TSO & !MRG_RXBUF, 4, 9012, 3),
        (TSO & !MRG_RXBUF, 3, 9012, 2),
        (TSO, 5, 1526, 0),
    ] {
        let mut rig = Rig::sized(features, 32);
        for _ in 0..buffers {
            rig.driver.give(size);
        }
        let name = format!("{features:#x}: {buffers} of {size}");
        let mut slot = RxSlot::reserve_most(rig.port.rx(), 9000, 1000).expect(&name);
        assert_eq!(slot.look_ahead(3), found, "{name}");
        assert_eq!(slot.look_ahead(1), found.min(1), "{name}");
        assert_eq!(slot.look_ahead(0), 0, "{name}");
    }
}

/// What one system call does not take together is not found.
#[test]
fn frames_ahead_are_no_more_than_a_call_takes() {
    let mut rig = Rig::sized(TSO, 256);
    for _ in 0..256 {
        rig.driver.give(100);
    }
    // 61 slices each, of 240.
    let mut slot = RxSlot::reserve(rig.port.rx(), 6000).unwrap();
    assert_eq!(slot.look_ahead(3), 2);
}

/// Four slices lie in two descriptors of a ring of four: the driver can add more.
#[test]
fn a_ring_of_indirect_chains_is_not_full_before_its_descriptors_are_used() {
    let mut rig = Rig::sized(MRG_RXBUF, 4);
    for _ in 0..2 {
        let at = rig.driver.alloc(400);
        let table = rig.driver.alloc(32);
        let chain = [Buffer::writable(at, 200), Buffer::writable(at + 200, 200)];
        rig.driver.rx.add_indirect(table, &chain);
    }
    assert!(!rig.deliver(&pattern(1000, 1), 1000, Offload::default()));
    rig.driver.give(1000);
    assert!(rig.deliver(&pattern(1000, 1), 1000, Offload::default()));
    rig.flush();
    assert_eq!((rig.stats.rx_frames.get(), rig.stats.total_drops()), (1, 0));
}

#[test]
fn small_frames_pass_a_ring_too_small_for_the_reservation() {
    // As a TAP reserves for what it may read.
    for (features, size, each) in [(0, 16, 1526), (TSO, 4, 4096)] {
        let mut rig = Rig::sized(features, size);
        let given: Vec<_> = (0..4).map(|_| rig.driver.give(each)).collect();
        assert!(rig.deliver(&pattern(1000, 2), FRAME_MAX, Offload::default()));
        rig.flush();
        assert_eq!(rig.driver.rx_used(), [Used { id: given[0].1.into(), len: 1012 }]);
        assert!(rig.driver.read(given[0].0 + 12, 1000) == pattern(1000, 2));
    }
}

#[test]
fn a_frame_that_can_never_fit_is_dropped_and_counted() {
    for (features, size) in [(0, 16), (TSO, 4)] {
        let mut rig = Rig::sized(features, size);
        for _ in 0..4 {
            rig.driver.give(112);
        }
        assert!(rig.deliver(&pattern(1000, 2), 1000, Offload::default()));
        rig.flush();
        assert_eq!(rig.stats.drops(DropReason::RxBufferTooSmall), 1);
        assert_eq!((rig.stats.rx_frames.get(), rig.driver.rx_used().len()), (0, 0));
        // The buffers are still there for what fits.
        assert!(rig.deliver(&pattern(100, 2), 100, Offload::default()));
        rig.flush();
        assert_eq!(rig.driver.rx_used().len(), 1);
    }
}

#[test]
fn one_large_buffer_takes_a_large_segment_without_merging() {
    let mut rig = Rig::new(TSO & !MRG_RXBUF);
    let (at, _) = rig.driver.give(65562);
    assert!(rig.deliver(&pattern(65500, 2), FRAME_MAX, tso(1448)));
    rig.flush();
    assert_eq!(rig.driver.rx_used()[0].len, 65512);
    assert_eq!(rig.driver.read(at, 12), tso(1448).encode(1));
    assert!(rig.driver.read(at + 12, 65500) == pattern(65500, 2));
}

#[test]
fn answers_go_out_while_frames_come_in() {
    let mut rig = Rig::new(MRG_RXBUF);
    let given: Vec<_> = (0..3).map(|_| rig.driver.give(400)).collect();
    for n in 0..3 {
        rig.driver.send(&pattern(300, n));
    }
    rig.port.drain(8, &rig.stats, &mut |frame, rx| {
        let slot = RxSlot::reserve(rx, frame.len).unwrap();
        slot.write_at(0, &bytes(frame));
        slot.commit(frame.len, Offload::default());
        TxOutcome::Sent
    });
    rig.flush();
    assert_eq!((rig.driver.rx_used().len(), rig.driver.tx_used().len()), (3, 3));
    for (n, (at, _)) in given.iter().enumerate() {
        assert!(rig.driver.read(at + 12, 300) == pattern(300, n as u8));
    }
}
