//! Drivers that break the rules.

use minivmm_net::nic::IOV_MAX;

use super::*;

#[test]
fn bad_transmit_chains_are_given_back_and_counted() {
    let mut rig = Rig::new(TSO);
    let at = rig.driver.alloc(200_000);
    let outside = 1 << 40;
    let long = u32::try_from(VNET_HEADER_LEN + FRAME_MAX + 1).unwrap();
    let bad: [&[Buffer]; 8] = [
        &[Buffer::writable(at, 100)],
        &[Buffer::readable(at, 80), Buffer::writable(at, 1)],
        &[Buffer::writable(at, 80), Buffer::readable(at, 80)],
        &[Buffer::readable(at, 11)],
        &[Buffer::readable(at, 0)],
        &[Buffer::readable(at, long)],
        &[Buffer::readable(at, 60), Buffer::readable(outside, 60)],
        &[Buffer::readable(at, 0x8000_0000), Buffer::readable(at, 0x8000_0000)],
    ];
    let good = pattern(60, 1);
    for (n, chain) in (1..).zip(bad) {
        let head = rig.driver.tx.add(chain);
        rig.driver.send(&good);
        assert!(rig.frames() == [good.clone()], "{chain:?}");
        assert_eq!(rig.stats.drops(DropReason::BadChain), n, "{chain:?}");
        let used = rig.driver.tx_used();
        assert_eq!((used.len(), used[0]), (2, Used { id: head.into(), len: 0 }));
    }
    for len in [12, 13, 25] {
        rig.driver.tx.add(&[Buffer::readable(at, len)]);
    }
    assert!(rig.frames().is_empty());
    assert_eq!(rig.stats.drops(DropReason::Truncated), 3);
    assert_eq!(rig.driver.interrupts.resets(), 0);
}

#[test]
fn descriptor_loops_end() {
    let mut rig = Rig::new(0);
    let at = rig.driver.alloc(4096);
    rig.driver.tx.raw(3, at, 60, ring::DESC_F_NEXT, 3);
    rig.driver.tx.offer(3);
    rig.driver.rx.raw(5, at, 60, ring::DESC_F_NEXT | ring::DESC_F_WRITE, 6);
    rig.driver.rx.raw(6, at, 60, ring::DESC_F_NEXT | ring::DESC_F_WRITE, 5);
    rig.driver.rx.offer(5);
    assert!(rig.frames().is_empty());
    assert!(!rig.deliver(&pattern(60, 0), 60, Offload::default()));
    rig.flush();
    assert_eq!(rig.stats.drops(DropReason::BadChain), 2);
    assert_eq!(rig.driver.rx_used(), [Used { id: 5, len: 0 }]);
    assert_eq!(rig.driver.tx_used(), [Used { id: 3, len: 0 }]);
}

#[test]
fn an_indirect_table_beyond_the_queue_is_refused() {
    let mut rig = Rig::new(0);
    let at = rig.driver.alloc(4096);
    let table = rig.driver.alloc(16 * 17);
    rig.driver.tx.add_indirect(table, &[Buffer::readable(at, 60); 17]);
    assert!(rig.frames().is_empty());
    assert_eq!(rig.stats.drops(DropReason::BadChain), 1);
}

#[test]
fn more_pieces_than_one_system_call_takes_are_refused() {
    let mut rig = Rig::sized(0, 256);
    let at = rig.driver.alloc(4096);
    for pieces in [IOV_MAX - 8, IOV_MAX - 7] {
        rig.driver.tx.add(&vec![Buffer::readable(at, 20); pieces]);
        let good = rig.frames().len();
        assert_eq!(good as u64 + rig.stats.drops(DropReason::BadChain), 1);
        rig.driver.tx_used();
        if pieces == IOV_MAX - 8 {
            assert_eq!(good, 1);
            rig.stats = Stats::default();
        }
    }
}

#[test]
fn offloads_that_were_not_negotiated_are_refused() {
    let header = tso(1448).encode(0);
    let checksum_only = Offload { segmentation: None, ..tso(1) }.encode(0);
    let tcp6 = {
        let mut header = header;
        header[1] = 4;
        header
    };
    for (features, header, passes) in [
        (0, checksum_only, false),
        (CSUM, checksum_only, true),
        (CSUM, header, false),
        (CSUM | HOST_TSO4, header, true),
        (CSUM | HOST_TSO4, tcp6, false),
        (CSUM | HOST_TSO6, tcp6, true),
    ] {
        let mut rig = Rig::new(features);
        let buffers = rig.driver.pieces(&header, &pattern(4000, 0), &[]);
        rig.driver.tx.add(&buffers);
        assert_eq!(rig.frames().len(), usize::from(passes), "{features:#x}");
        assert_eq!(rig.stats.drops(DropReason::BadOffload), u64::from(!passes));
        assert_eq!(rig.driver.tx_used().len(), 1);
    }
}

#[test]
fn headers_that_point_outside_the_frame_are_refused() {
    let mut rig = Rig::new(TSO);
    for (start, offset) in [(0u16, 0u16), (13, 4), (34, 2000), (u16::MAX, u16::MAX), (60, 0)] {
        let mut header = [0; VNET_HEADER_LEN];
        header[0] = 1;
        header[6..8].copy_from_slice(&start.to_le_bytes());
        header[8..10].copy_from_slice(&offset.to_le_bytes());
        let buffers = rig.driver.pieces(&header, &pattern(60, 0), &[]);
        rig.driver.tx.add(&buffers);
    }
    assert!(rig.frames().is_empty());
    assert_eq!(rig.stats.drops(DropReason::BadOffload), 5);
}

#[test]
fn bad_receive_chains_are_given_back_and_the_next_is_used() {
    for features in [0, MRG_RXBUF] {
        let mut rig = Rig::new(features);
        let at = rig.driver.alloc(4096);
        rig.driver.rx.add(&[Buffer::readable(at, 2000)]);
        rig.driver.rx.add(&[Buffer::readable(at, 20), Buffer::writable(at, 2000)]);
        rig.driver.rx.add(&[Buffer::writable(at, 11)]);
        rig.driver.rx.add(&[Buffer::writable(1 << 40, 2000)]);
        let good = rig.driver.rx.add(&[Buffer::writable(at, 2000)]);
        assert!(rig.deliver(&pattern(60, 0), 1514, Offload::default()));
        rig.flush();
        let used = rig.driver.rx_used();
        assert_eq!(used.len(), 5);
        assert!(used[..4].iter().all(|u| u.len == 0));
        assert_eq!(used[4], Used { id: good.into(), len: 72 });
        assert_eq!(rig.stats.drops(DropReason::BadChain), 4);
    }
}

#[test]
fn tiny_buffers_neither_hang_nor_overflow_a_system_call() {
    let mut rig = Rig::sized(MRG_RXBUF, 256);
    let given: Vec<_> = (0..256).map(|_| rig.driver.give(14).0).collect();
    let mut at = 0;
    // The second is as long as many buffers as no system call takes.
    for (len, buffers) in [(1000, 73), (2540, 183)] {
        let frame = pattern(len, 1);
        let slot = RxSlot::reserve(rig.port.rx(), len).unwrap();
        assert!(slot.slices().len() <= IOV_MAX);
        slot.write_at(0, &frame);
        slot.commit(len, Offload::default());
        rig.flush();
        let used = rig.driver.rx_used();
        assert_eq!(used.len(), buffers);
        let mut got = Vec::new();
        for u in &used {
            got.extend(rig.driver.read(given[at], u.len as usize));
            at += 1;
        }
        assert_eq!(got[..12], Offload::default().encode(buffers as u16));
        assert!(got[12..] == frame);
    }
}

#[test]
fn a_reservation_over_too_many_slices_is_served_from_our_own_memory() {
    let mut rig = Rig::sized(MRG_RXBUF, 256);
    for _ in 0..256 {
        rig.driver.give(14);
    }
    let slot = RxSlot::reserve(rig.port.rx(), 3500).unwrap();
    assert_eq!(slot.slices().len(), 1);
    slot.write_at(0, &pattern(3500, 1));
    slot.commit(3500, Offload::default());
    rig.flush();
    assert_eq!(rig.driver.rx_used().len(), 251);
}

#[test]
fn an_impossible_available_index_asks_for_a_reset_once() {
    for queue in [TX_QUEUE, RX_QUEUE] {
        let mut rig = Rig::new(MRG_RXBUF);
        let broken = if queue == TX_QUEUE { &mut rig.driver.tx } else { &mut rig.driver.rx };
        broken.set_avail_idx(17);
        for _ in 0..3 {
            assert!(queue == TX_QUEUE || rig.port.rx().reserve(60, 60).is_none());
            let drained = rig.port.drain(8, &rig.stats, &mut |_, _| unreachable!());
            rig.flush();
            assert_eq!(rig.driver.interrupts.resets(), 1, "queue {queue}");
            assert!(drained == Drained::Broken || queue == RX_QUEUE);
        }
        assert_eq!(rig.drain(8).1, Drained::Broken);
        // Both queues stand still, the sound one as well.
        rig.driver.give(1526);
        assert!(!rig.deliver(&pattern(60, 0), 60, Offload::default()));
    }
}

#[test]
fn a_head_outside_the_table_asks_for_a_reset() {
    let mut rig = Rig::new(0);
    rig.driver.send(&pattern(60, 0));
    rig.driver.tx.offer(16);
    let (frames, drained) = rig.drain(8);
    assert_eq!((frames.len(), drained), (1, Drained::Broken));
    assert_eq!(rig.driver.interrupts.resets(), 1);
}
