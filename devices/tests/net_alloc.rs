//! The data path of virtio-net does not allocate once it runs.
#![expect(unsafe_code, reason = "a global allocator")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use minivmm_devices::virtio::net::testing::NetDriver;
use minivmm_devices::virtio::net::{NicPort, features};
use minivmm_devices::virtio::spec::feature::RING_EVENT_IDX;
use minivmm_devices::virtio::testing::Buffer;
use minivmm_net::Stats;
use minivmm_net::nic::{Drained, Offload, Port, RxSlot, TxOutcome};

thread_local! {
    /// Allocations while counting; `None` while not.
    static ALLOCATIONS: Cell<Option<u64>> = const { Cell::new(None) };
}

struct Counting;

// SAFETY: hands everything on to the system's allocator; the counter is a plain cell.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // The cell is gone when a thread ends.
        let _ = ALLOCATIONS.try_with(|n| n.set(n.get().map(|n| n + 1)));
        // SAFETY: the caller's promises are the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// Allocations of `f`.
fn allocations(f: impl FnOnce()) -> u64 {
    ALLOCATIONS.set(Some(0));
    f();
    ALLOCATIONS.take().unwrap_or(0)
}

#[test]
fn no_frame_costs_an_allocation() {
    let merged = features::MRG_RXBUF;
    for features in [0, RING_EVENT_IDX, merged, merged | RING_EVENT_IDX] {
        let mut driver = NetDriver::new(features, 256);
        let mut port = NicPort::new(driver.activation()).unwrap();
        let stats = Stats::default();
        let at = driver.alloc(2048);
        let (mut echoed, mut counted) = (0u64, 0);
        for round in 0..400u32 {
            for n in 0..32u32 {
                let len = 60 + (round * 37 + n * 101) % 1400;
                driver.tx.add(&[Buffer::readable(at, 20), Buffer::readable(at, len - 8)]);
                driver.rx.add(&[Buffer::writable(at, 200), Buffer::writable(at, 1400)]);
            }
            let n = allocations(|| {
                let drained = port.drain(64, &stats, &mut |frame, rx| {
                    // Reserves more than it needs, as a reader of a TAP does.
                    if let Some(slot) = RxSlot::reserve_most(rx, 20_000, 1514) {
                        slot.write_at(0, frame.head);
                        slot.commit(frame.len, Offload::default());
                        echoed += 1;
                    }
                    TxOutcome::Sent
                });
                port.flush(&stats);
                assert_eq!(drained, Drained::Empty);
            });
            // The first rounds may size what is reused.
            if round > 20 {
                counted += n;
            }
            assert_eq!((driver.tx_used().len(), stats.total_drops()), (32, 0));
            driver.rx_used();
        }
        assert_eq!((echoed, counted), (400 * 32, 0), "features {features:#x}");
    }
}

#[test]
fn the_counter_counts() {
    assert_eq!(allocations(|| drop(std::hint::black_box(Box::new(1u64)))), 1);
}
