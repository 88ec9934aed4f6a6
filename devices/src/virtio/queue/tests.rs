use proptest::prelude::*;
use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestMemoryMmap};

use super::*;
use crate::virtio::testing::{Buffer, DriverQueue, Used, ram};

const MIB: usize = 1 << 20;
const DATA: u64 = 0x8_0000;

fn pair(size: u16) -> (GuestRam, DriverQueue, VirtQueue) {
    let ram = ram(MIB);
    let driver = DriverQueue::new(&ram, 0x1000, size);
    let queue = VirtQueue::new(&ram, &driver.layout()).unwrap();
    (ram, driver, queue)
}

fn fault(queue: &mut VirtQueue) -> ChainFault {
    let mut s = Slices::default();
    let r = queue.pop(&mut s);
    assert!(s.is_empty());
    match r {
        Err(QueueError::Chain { fault, .. }) => fault,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_chain_comes_with_its_memory() {
    let (ram, mut driver, mut queue) = pair(8);
    ram.guest_memory().write_slice(b"hello", GuestAddress(DATA)).unwrap();
    let head = driver.add(&[
        Buffer::readable(DATA, 5),
        Buffer::writable(DATA + 0x100, 16),
        Buffer::writable(DATA + 0x200, 32),
    ]);
    let mut s = Slices::default();
    let chain = queue.pop(&mut s).unwrap().unwrap();
    assert_eq!((chain.head, chain.readable_len, chain.writable_len), (head, 5, 48));
    let mut text = [0u8; 5];
    chain.readable(&s)[0].copy_to(&mut text);
    assert_eq!(&text, b"hello");
    assert_eq!(chain.writable(&s).len(), 2);
    assert_eq!(queue.pop(&mut s), Ok(None));

    queue.push_used(chain.head, 7);
    assert_eq!(driver.used_idx(), 0);
    assert!(queue.publish());
    assert!(!queue.publish());
    assert_eq!(driver.pop_used(), Some(Used { id: u32::from(head), len: 7 }));
}

#[test]
fn chains_collect_in_one_list() {
    let (_ram, mut driver, mut queue) = pair(8);
    let mut s = Slices::default();
    driver.add(&[Buffer::writable(DATA, 10), Buffer::writable(DATA + 10, 20)]);
    driver.add(&[Buffer::writable(DATA + 64, 30)]);
    let a = queue.pop(&mut s).unwrap().unwrap();
    let b = queue.pop(&mut s).unwrap().unwrap();
    assert_eq!(s.as_slice().iter().map(VolatileSlice::len).collect::<Vec<_>>(), [10, 20, 30]);
    assert_eq!(a.writable(&s).len(), 2);
    assert_eq!(b.writable(&s).len(), 1);
    assert!(a.readable(&s).is_empty());
    s.truncate(0);
    assert!(b.writable(&s).is_empty());
}

#[test]
fn undone_pops_come_again_in_order() {
    let (_ram, mut driver, mut queue) = pair(8);
    let heads: Vec<u16> = (0..4).map(|i| driver.add(&[Buffer::writable(DATA + i, 1)])).collect();
    let mut s = Slices::default();
    for _ in 0..3 {
        queue.pop(&mut s).unwrap().unwrap();
    }
    queue.undo_pop(2);
    assert_eq!(queue.available(), Ok(3));
    let again: Vec<u16> =
        std::iter::from_fn(|| queue.pop(&mut s).unwrap()).map(|c| c.head).collect();
    assert_eq!(again, heads[1..]);
}

#[test]
fn a_batch_is_seen_at_once_and_its_rest_popped_again() {
    let (_ram, mut driver, mut queue) = pair(4);
    let mut s = Slices::default();
    for round in 0..20_000u32 {
        for i in 0..3 {
            driver.add(&[Buffer::writable(DATA + i, 1)]);
        }
        for i in 0..3 {
            let c = queue.pop(&mut s).unwrap().unwrap();
            if i < 2 {
                queue.push_used(c.head, round + i);
            }
        }
        queue.undo_pop(1);
        assert_eq!(driver.pop_used(), None);
        queue.publish();
        assert_eq!(driver.pop_used().map(|u| u.len), Some(round));
        assert_eq!(driver.pop_used().map(|u| u.len), Some(round + 1));
        assert_eq!(driver.pop_used(), None);
        let c = queue.pop(&mut s).unwrap().unwrap();
        queue.push_used(c.head, 9);
        queue.publish();
        assert_eq!(driver.pop_used().map(|u| u.len), Some(9));
        s.clear();
    }
}

#[test]
fn indirect_tables_are_walked() {
    let (_ram, mut driver, mut queue) = pair(4);
    driver.add_indirect(
        0x4000,
        &[Buffer::readable(DATA, 5), Buffer::readable(DATA + 9, 6), Buffer::writable(DATA, 7)],
    );
    let mut s = Slices::default();
    let c = queue.pop(&mut s).unwrap().unwrap();
    assert_eq!((c.readable_len, c.writable_len, s.len()), (11, 7, 3));

    // Direct descriptors may precede the table.
    driver.raw(2, DATA, 3, ring::DESC_F_NEXT, 3);
    driver.raw(3, 0x4000, 48, ring::DESC_F_INDIRECT, 0);
    driver.offer(2);
    s.clear();
    let c = queue.pop(&mut s).unwrap().unwrap();
    assert_eq!((c.readable_len, c.writable_len, s.len()), (14, 7, 4));
}

#[test]
fn a_table_may_be_as_long_as_the_queue() {
    let (_ram, mut driver, mut queue) = pair(4);
    let buffers: Vec<Buffer> = (0..5).map(|i| Buffer::readable(DATA + i, 1)).collect();
    driver.add_indirect(0x4000, &buffers[..4]);
    let chain = queue.pop(&mut Slices::default()).unwrap().unwrap();
    assert_eq!(chain.readable_len, 4);
    driver.add_indirect(0x4000, &buffers);
    assert_eq!(fault(&mut queue), ChainFault::TooManyDescriptors);
}

#[test]
fn bad_indirect_tables_are_refused() {
    let (_ram, mut driver, mut queue) = pair(4);
    for (addr, len, flags) in [
        (0x4000, 0, ring::DESC_F_INDIRECT),
        (0x4000, 17, ring::DESC_F_INDIRECT),
        (0x4000, 16, ring::DESC_F_INDIRECT | ring::DESC_F_NEXT),
        (MIB as u64 - 16, 32, ring::DESC_F_INDIRECT),
        (u64::MAX - 15, 32, ring::DESC_F_INDIRECT),
    ] {
        driver.raw(0, addr, len, flags, 0);
        driver.offer(0);
        assert_eq!(fault(&mut queue), ChainFault::Indirect, "{addr:#x} {len} {flags}");
        queue.push_used(0, 0);
        queue.publish();
    }
    // A table in a table.
    driver.write_descriptor(0x4000, 0, 0x5000, 16, ring::DESC_F_INDIRECT, 0);
    driver.raw(0, 0x4000, 16, ring::DESC_F_INDIRECT, 0);
    driver.offer(0);
    assert_eq!(fault(&mut queue), ChainFault::Indirect);

    let mut layout = driver.layout();
    layout.indirect = false;
    let mut queue = VirtQueue::new(queue.ram(), &layout).unwrap();
    driver.set_avail_idx(1);
    assert_eq!(fault(&mut queue), ChainFault::Indirect);
}

#[test]
fn bad_chains_are_consumed_and_leave_nothing() {
    let (_ram, mut driver, mut queue) = pair(4);
    let w = ring::DESC_F_WRITE;
    let n = ring::DESC_F_NEXT;
    type Raw = (u64, u32, u16, u16);
    let cases: &[(&[Raw], ChainFault)] = &[
        (&[(DATA, 1, n, 4)], ChainFault::NextOutOfRange),
        (&[(DATA, 1, n, 0)], ChainFault::TooManyDescriptors),
        (&[(DATA, 1, n, 1), (DATA, 1, n, 0)], ChainFault::TooManyDescriptors),
        (&[(DATA, 1, n | w, 1), (DATA, 1, 0, 0)], ChainFault::Order),
        (&[(MIB as u64 - 1, 2, 0, 0)], ChainFault::NotRam),
        (&[(u64::MAX, 2, 0, 0)], ChainFault::NotRam),
        (&[(DATA, u32::MAX, 0, 0)], ChainFault::NotRam),
    ];
    for (chain, expected) in cases {
        for (i, &(addr, len, flags, next)) in (0u16..).zip(*chain) {
            driver.raw(i, addr, len, flags, next);
        }
        driver.offer(0);
        assert_eq!(fault(&mut queue), *expected);
        queue.push_used(0, 0);
        queue.publish();
    }
    assert_eq!(driver.used_idx(), 7);
    driver.raw(0, DATA, 1, 0, 0);
    driver.offer(0);
    assert!(queue.pop(&mut Slices::default()).unwrap().is_some());
}

#[test]
fn total_length_is_bounded() {
    // 3 GiB of address space; no page of it is touched but the rings.
    let ram = ram(3 << 30);
    let mut driver = DriverQueue::new(&ram, 0x1000, 4);
    let mut queue = VirtQueue::new(&ram, &driver.layout()).unwrap();
    driver.add(&[Buffer::readable(0, 3 << 30), Buffer::readable(0, 1 << 30)]);
    assert_eq!(fault(&mut queue), ChainFault::TooLong);
}

#[test]
fn empty_buffers_are_skipped() {
    let (_ram, mut driver, mut queue) = pair(4);
    driver.add(&[Buffer::readable(u64::MAX, 0), Buffer::writable(DATA, 3)]);
    let mut s = Slices::default();
    let c = queue.pop(&mut s).unwrap().unwrap();
    assert_eq!((c.readable_len, c.writable_len, s.len()), (0, 3, 1));
}

#[test]
fn an_impossible_available_index_kills_the_queue() {
    let (_ram, mut driver, mut queue) = pair(4);
    driver.add(&[Buffer::readable(DATA, 1)]);
    driver.set_avail_idx(5);
    let mut s = Slices::default();
    assert_eq!(queue.pop(&mut s), Err(QueueError::AvailIndex(5)));
    assert!(!matches!(queue.pop(&mut s), Err(QueueError::Chain { .. })));
    driver.set_avail_idx(1);
    queue.undo_pop(1);
    assert_eq!(queue.pop(&mut s), Err(QueueError::AvailIndex(5)));
    assert!(queue.enable_notification().is_err());
}

#[test]
fn a_driver_cannot_hand_out_more_than_the_queue_holds() {
    let (_ram, mut driver, mut queue) = pair(4);
    let mut s = Slices::default();
    for _ in 0..4 {
        driver.add(&[Buffer::readable(DATA, 1)]);
        queue.pop(&mut s).unwrap().unwrap();
    }
    // None was given back, yet a fifth arrives.
    driver.offer(0);
    assert_eq!(queue.pop(&mut s), Err(QueueError::AvailIndex(5)));
}

#[test]
fn an_unknown_head_kills_the_queue() {
    let (_ram, mut driver, mut queue) = pair(4);
    driver.offer(4);
    let mut s = Slices::default();
    assert_eq!(queue.pop(&mut s), Err(QueueError::Head(4)));
    assert_eq!(queue.pop(&mut s), Err(QueueError::Head(4)));
}

#[test]
fn interrupts_follow_the_flag_without_event_idx() {
    let (_ram, driver, mut queue) = pair(4);
    driver.set_no_interrupt(true);
    queue.push_used(0, 0);
    assert!(!queue.publish());
    driver.set_no_interrupt(false);
    queue.push_used(0, 0);
    assert!(queue.publish());
    // used_event means nothing here.
    driver.set_used_event(1000);
    queue.push_used(0, 0);
    assert!(queue.publish());
}

#[test]
fn interrupts_follow_used_event_for_whole_batches() {
    let ram = ram(MIB);
    let mut driver = DriverQueue::new(&ram, 0x1000, 8).with_event_idx();
    let mut queue = VirtQueue::new(&ram, &driver.layout()).unwrap();
    driver.set_used_event(2);
    for expected in [false, true, false] {
        queue.push_used(0, 0);
        queue.push_used(0, 0);
        assert_eq!(queue.publish(), expected);
    }
    // A batch that passes the event in its middle.
    driver.set_used_event(8);
    for _ in 0..6 {
        queue.push_used(0, 0);
    }
    assert!(queue.publish());
    assert_eq!(driver.used_idx(), 12);
    assert!(!driver.needs_kick());
}

#[test]
fn need_event_matches_its_definition() {
    for old in [0u16, 1, 65530, 65535] {
        for batch in 0..10u16 {
            for event in 0..=u16::MAX {
                let passed = (0..batch).any(|i| old.wrapping_add(i) == event);
                assert_eq!(need_event(event, old.wrapping_add(batch), old), passed);
            }
        }
    }
}

#[test]
fn kicks_are_asked_for_only_when_wanted() {
    for event_idx in [false, true] {
        let ram = ram(MIB);
        let mut driver = DriverQueue::new(&ram, 0x1000, 8);
        if event_idx {
            driver = driver.with_event_idx();
        }
        let mut queue = VirtQueue::new(&ram, &driver.layout()).unwrap();
        let mut s = Slices::default();

        driver.add(&[Buffer::readable(DATA, 1)]);
        assert!(driver.needs_kick());
        queue.disable_notification();
        queue.pop(&mut s).unwrap().unwrap();
        driver.add(&[Buffer::readable(DATA, 1)]);
        assert!(!driver.needs_kick());
        // Enabling finds what came without a kick.
        assert_eq!(queue.enable_notification(), Ok(true));
        queue.disable_notification();
        queue.pop(&mut s).unwrap().unwrap();
        assert_eq!(queue.enable_notification(), Ok(false));
        driver.add(&[Buffer::readable(DATA, 1)]);
        assert!(driver.needs_kick());
    }
}

#[test]
fn layouts_are_checked() {
    let ram = ram(MIB);
    let good = DriverQueue::new(&ram, 0x1000, 8).layout();
    let new = |l: QueueLayout| VirtQueue::new(&ram, &l).map(|_| ());
    assert_eq!(new(good), Ok(()));
    for size in [0, 3, 32769, u16::MAX] {
        assert_eq!(new(QueueLayout { size, ..good }), Err(LayoutError::Size(size)));
    }
    for layout in [
        QueueLayout { desc: good.desc + 8, ..good },
        QueueLayout { avail: good.avail + 1, ..good },
        QueueLayout { used: good.used + 2, ..good },
    ] {
        assert!(matches!(new(layout), Err(LayoutError::Misaligned { .. })));
    }
    for layout in [
        QueueLayout { desc: MIB as u64 - 112, ..good },
        QueueLayout { avail: MIB as u64 - 20, ..good },
        QueueLayout { used: MIB as u64 - 68, ..good },
        QueueLayout { used: u64::MAX - 3, ..good },
    ] {
        assert!(matches!(new(layout), Err(LayoutError::NotRam { .. })));
    }
}

#[test]
fn a_buffer_over_a_region_border_is_two_slices() {
    let ram = GuestRam::new(
        GuestMemoryMmap::from_ranges(&[
            (GuestAddress(0), 0x10000),
            (GuestAddress(0x10000), 0x10000),
        ])
        .unwrap(),
    );
    let mut driver = DriverQueue::new(&ram, 0x1000, 4);
    let mut queue = VirtQueue::new(&ram, &driver.layout()).unwrap();
    driver.add(&[Buffer::writable(0xff00, 0x200)]);
    let mut s = Slices::default();
    let c = queue.pop(&mut s).unwrap().unwrap();
    assert_eq!((c.writable_len, c.writable(&s).len()), (0x200, 2));
}

fn buffers() -> impl Strategy<Value = Vec<Buffer>> {
    (
        proptest::collection::vec((0u64..0x7_0000, 1u32..0x2000), 0..4),
        proptest::collection::vec((0u64..0x7_0000, 1u32..0x2000), 0..4),
    )
        .prop_filter("a chain has a buffer", |(r, w)| r.len() + w.len() > 0)
        .prop_map(|(r, w)| {
            let readable = r.into_iter().map(|(a, l)| Buffer::readable(DATA + a, l));
            let writable = w.into_iter().map(|(a, l)| Buffer::writable(DATA + a, l));
            readable.chain(writable).collect()
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// For well-formed chains the queue agrees with the virtio-queue crate, chain by chain.
    #[test]
    fn agrees_with_the_virtio_queue_crate(
        rounds in proptest::collection::vec(
            proptest::collection::vec((buffers(), any::<bool>()), 0..4), 1..12),
        start in prop::sample::select(vec![0u16, 65533]),
        event_idx in any::<bool>(),
    ) {
        let ram = ram(MIB);
        let mut driver = DriverQueue::new(&ram, 0x1000, 16);
        if event_idx { driver = driver.with_event_idx(); }
        let l = driver.layout();
        let mut ours = VirtQueue::new(&ram, &l).unwrap();
        let mem = ram.guest_memory();
        let mut oracle = Queue::new(16).unwrap();
        oracle.set_size(16);
        oracle.try_set_desc_table_address(GuestAddress(l.desc)).unwrap();
        oracle.try_set_avail_ring_address(GuestAddress(l.avail)).unwrap();
        oracle.try_set_used_ring_address(GuestAddress(l.used)).unwrap();
        oracle.set_event_idx(event_idx);
        oracle.set_ready(true);
        driver.set_avail_idx(start);
        (ours.next_avail, ours.avail_idx, ours.next_used, ours.published) =
            (start, start, start, start);
        oracle.set_next_avail(start);
        oracle.set_next_used(start);
        driver.jump_used(start);
        mem.store(start, GuestAddress(l.used + 2), Ordering::SeqCst).unwrap();

        for (r, round) in (0u16..).zip(rounds) {
            for (i, (bufs, indirect)) in (0u64..).zip(round) {
                if indirect {
                    driver.add_indirect(0x4000 + 0x100 * i, &bufs);
                } else if driver.try_add(&bufs).is_none() {
                    break;
                }
            }
            driver.set_used_event(start.wrapping_add(r));
            let mut s = Slices::default();
            let mut n = 0u16;
            while let Some(chain) = ours.pop(&mut s).unwrap() {
                let theirs = oracle.pop_descriptor_chain(mem).unwrap();
                prop_assert_eq!(theirs.head_index(), chain.head);
                let (w, r): (Vec<_>, Vec<_>) = theirs.partition(|d| d.is_write_only());
                prop_assert_eq!(r.iter().map(|d| d.len()).sum::<u32>(), chain.readable_len);
                prop_assert_eq!(w.iter().map(|d| d.len()).sum::<u32>(), chain.writable_len);
                let host = |d: &Descriptor| {
                    vm_memory::GuestMemoryBackend::get_host_address(mem, d.addr()).unwrap()
                };
                let hosts = |v: &[VolatileSlice<'_>]| {
                    v.iter().map(|s| s.ptr_guard_mut().as_ptr()).collect::<Vec<_>>()
                };
                prop_assert_eq!(r.iter().map(host).collect::<Vec<_>>(), hosts(chain.readable(&s)));
                prop_assert_eq!(w.iter().map(host).collect::<Vec<_>>(), hosts(chain.writable(&s)));
                oracle.add_used(mem, chain.head, u32::from(n)).unwrap();
                ours.push_used(chain.head, u32::from(n));
                n += 1;
            }
            prop_assert!(oracle.pop_descriptor_chain(mem).is_none());
            let needs = oracle.needs_notification(mem).unwrap();
            // The crate published; it says true without event_idx even for nothing.
            prop_assert_eq!(ours.publish(), needs && n > 0);
            for i in 0..n {
                prop_assert_eq!(driver.pop_used().map(|u| u.len), Some(u32::from(i)));
            }
            prop_assert!(driver.pop_used().is_none());
            prop_assert_eq!(
                ours.enable_notification().unwrap(),
                oracle.enable_notification(mem).unwrap()
            );
        }
    }

    /// Whatever a guest writes to rings and tables, popping ends and never panics.
    #[test]
    fn any_ring_contents_are_survived(
        size_log in 0u32..6,
        descriptors in proptest::collection::vec(
            (prop_oneof![0u64..0x2000, any::<u64>(), Just(0x1000u64)],
             prop_oneof![0u32..64, any::<u32>(), Just(64u32)],
             prop_oneof![0u16..8, any::<u16>()],
             prop_oneof![0u16..40, any::<u16>()]), 1..64),
        heads in proptest::collection::vec(prop_oneof![0u16..40, any::<u16>()], 0..70),
        jump in proptest::option::of(any::<u16>()),
        event_idx in any::<bool>(),
        undo in 0u16..3,
    ) {
        let size = 1u16 << size_log;
        let ram = ram(0x4000);
        let mut driver = DriverQueue::new(&ram, 0x1000, size);
        if event_idx { driver = driver.with_event_idx(); }
        let mut queue = VirtQueue::new(&ram, &driver.layout()).unwrap();
        for (i, &(addr, len, flags, next)) in (0u16..).zip(&descriptors) {
            if i < size { driver.raw(i, addr, len, flags, next); }
            // The same garbage as an indirect table.
            driver.write_descriptor(0x2000, i, addr, len, flags, next);
        }
        let mut s = Slices::default();
        let mut popped = 0u32;
        for head in heads {
            driver.offer(head);
            for _ in 0..2 {
                s.clear();
                match queue.pop(&mut s) {
                    Ok(None) => break,
                    Ok(Some(c)) => {
                        popped += 1;
                        for slice in c.writable(&s) {
                            slice.copy_from(&[0xffu8; 8]);
                        }
                        if undo > 0 { queue.undo_pop(1); queue.pop(&mut s).ok(); }
                        queue.push_used(c.head, c.writable_len);
                        queue.publish();
                    }
                    Err(e) if !matches!(e, QueueError::Chain { .. }) => return Ok(()),
                    Err(QueueError::Chain { head, .. }) => {
                        queue.push_used(head, 0);
                        queue.publish();
                    }
                    Err(_) => unreachable!(),
                }
            }
        }
        if let Some(idx) = jump {
            driver.set_avail_idx(idx);
            for _ in 0..=u32::from(size) {
                s.clear();
                if !matches!(queue.pop(&mut s), Ok(Some(_)) | Err(QueueError::Chain { .. })) { break; }
            }
            s.clear();
            prop_assert!(!matches!(queue.pop(&mut s), Ok(Some(_))));
        }
        prop_assert!(popped <= 140);
        let _ = queue.enable_notification();
    }
}
