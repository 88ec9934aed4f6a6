//! Each test of common behaviour runs over both transports.

use std::sync::{Arc, Mutex};

use proptest::prelude::*;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

use super::*;
use crate::bus::{Bus, BusDevice};
use crate::irq::testing::TestIrq;
use crate::virtio::memory::{GuestRam, Slices};
use crate::virtio::queue::QueueLayout;
use crate::virtio::spec::{feature, status};
use crate::virtio::testing::{
    Buffer, Driver, DriverQueue, MmioDriver, PciDriver, PciMachine, Refused, TestDevice,
    initialise, ram,
};

const BASE: u64 = 0xd000_0000;
const OFFER: u64 = 0b1011;
const LIVE: u8 = status::ACKNOWLEDGE | status::DRIVER | status::FEATURES_OK | status::DRIVER_OK;

fn device() -> TestDevice {
    TestDevice::new(&[16, 8], OFFER)
}

fn mmio(ram: &GuestRam, device: &TestDevice) -> (MmioDriver, Arc<MmioTransport>, Arc<TestIrq>) {
    let irq = Arc::new(TestIrq::default());
    let transport = MmioTransport::new(Box::new(device.clone()), ram.clone(), irq.clone()).unwrap();
    let (bus, transport) = (Arc::new(Bus::new()), Arc::new(transport));
    bus.insert(BASE, MmioTransport::SIZE, transport.clone()).unwrap();
    (MmioDriver::new(bus, BASE), transport, irq)
}

/// Runs a test over a fresh device behind each transport.
fn on_both(test: impl Fn(&dyn Driver, &TestDevice, &GuestRam)) {
    let (ram, device_a, device_b) = (ram(1 << 20), device(), device());
    let (driver, _transport, _irq) = mmio(&ram, &device_a);
    test(&driver, &device_a, &ram);
    let machine = PciMachine::new();
    let (driver, _irqs) = machine.attach(Box::new(device_b.clone()), &ram);
    test(&driver, &device_b, &ram);
}

fn queues(ram: &GuestRam) -> [DriverQueue; 2] {
    [DriverQueue::new(ram, 0x1000, 16), DriverQueue::new(ram, 0x2000, 8)]
}

fn layouts(queues: &[DriverQueue]) -> Vec<Option<QueueLayout>> {
    queues.iter().map(|q| Some(q.layout())).collect()
}

#[test]
fn a_driver_brings_a_device_up_and_down() {
    on_both(|driver, device, ram| {
        let mut q = queues(ram);
        assert_eq!(driver.device_features(), OFFER | feature::CORE);
        assert_eq!((driver.queue_max(0), driver.queue_max(1), driver.queue_max(2)), (16, 8, 0));
        initialise(driver, 0b1 | feature::RING_EVENT_IDX, &layouts(&q)).unwrap();
        assert_eq!(driver.status(), LIVE);
        device.with(|s| {
            let a = s.activation.as_mut().unwrap();
            assert_eq!(a.acked_features, 0b1 | feature::RING_EVENT_IDX | feature::VERSION_1);
            let sizes: Vec<_> = a.queues.iter().map(|q| (q.index, q.queue.size())).collect();
            assert_eq!(sizes, [(0, 16), (1, 8)]);
            // A buffer goes through queue 1.
            q[1].add(&[Buffer::readable(0x8000, 4)]);
            let mut segments = Slices::default();
            let chain = a.queues[1].queue.pop(&mut segments).unwrap().unwrap();
            a.queues[1].queue.push_used(chain.head, 0);
            a.queues[1].queue.publish();
        });
        assert!(q[1].pop_used().is_some());
        // A second DRIVER_OK is no second activation.
        driver.set_status(LIVE);
        driver.set_status(0);
        assert_eq!(driver.status(), 0);
        device.with(|s| {
            assert!(s.activation.is_none());
            assert_eq!((s.activations, s.resets), (1, 1));
        });
        // And once more.
        initialise(driver, 0, &layouts(&queues(ram))).unwrap();
        driver.set_status(0);
        driver.set_status(0);
        device.with(|s| assert_eq!((s.activations, s.resets), (2, 2)));
    });
}

#[test]
fn a_reset_in_the_middle_forgets_everything() {
    on_both(|driver, device, ram| {
        let q = queues(ram);
        driver.set_status(status::ACKNOWLEDGE | status::DRIVER);
        driver.set_driver_features(feature::VERSION_1);
        driver.set_status(status::FEATURES_OK);
        driver.set_queue(0, &QueueLayout { size: 4, ..q[0].layout() });
        driver.enable_queue(0);
        driver.set_status(0);
        assert_eq!((driver.status(), driver.queue_enabled(0)), (0, false));
        // The features are forgotten too: without VERSION_1 nothing is agreed.
        driver.set_status(status::ACKNOWLEDGE | status::DRIVER | status::FEATURES_OK);
        assert_eq!(driver.status(), status::ACKNOWLEDGE | status::DRIVER);
        driver.set_driver_features(feature::VERSION_1);
        driver.set_status(status::FEATURES_OK);
        driver.set_status(status::DRIVER_OK);
        device.with(|s| {
            assert!(s.activation.as_ref().unwrap().queues.is_empty());
            assert_eq!(s.resets, 0);
        });
    });
}

/// Packed virtqueues (§6), which are never offered.
const RING_PACKED: u64 = 1 << 34;

#[test]
fn features_are_refused_for_three_reasons() {
    on_both(|driver, device, ram| {
        let wanted = [
            // Not offered.
            (OFFER | 0b100) | feature::VERSION_1,
            RING_PACKED | feature::VERSION_1,
            // Legacy.
            0b1,
            // The device's own rule.
            0b10 | feature::VERSION_1,
        ];
        for features in wanted {
            driver.set_status(0);
            driver.set_status(status::ACKNOWLEDGE | status::DRIVER);
            driver.set_driver_features(features);
            driver.set_status(driver.status() | status::FEATURES_OK);
            assert_eq!(driver.status(), status::ACKNOWLEDGE | status::DRIVER, "{features:#x}");
            driver.set_status(LIVE & !status::FEATURES_OK);
            assert_eq!(driver.status() & status::DRIVER_OK, 0);
        }
        device.with(|s| assert_eq!(s.activations, 0));
        assert_eq!(
            initialise(driver, 0b100, &layouts(&queues(ram))),
            Err(Refused::NotOffered(0b100))
        );
    });
}

#[test]
fn features_are_frozen_once_agreed() {
    on_both(|driver, device, ram| {
        driver.set_status(status::ACKNOWLEDGE | status::DRIVER);
        driver.set_driver_features(feature::VERSION_1);
        driver.set_status(status::FEATURES_OK);
        driver.set_driver_features(feature::VERSION_1 | 0b1011);
        driver.set_queue(0, &queues(ram)[0].layout());
        driver.enable_queue(0);
        driver.set_status(status::DRIVER_OK);
        device.with(|s| {
            assert_eq!(s.activation.as_ref().unwrap().acked_features, feature::VERSION_1);
        });
    });
}

#[test]
fn bad_queue_addresses_need_a_reset() {
    on_both(|driver, device, ram| {
        let good = queues(ram)[0].layout();
        for bad in [
            QueueLayout { desc: good.desc + 1, ..good },
            QueueLayout { avail: 1 << 20, ..good },
            QueueLayout { used: u64::MAX - 3, ..good },
        ] {
            assert_eq!(initialise(driver, 0, &[Some(bad)]), Err(Refused::NeedsReset));
            device.with(|s| assert_eq!(s.activations, 0));
        }
        initialise(driver, 0, &[Some(good)]).unwrap();
    });
}

#[test]
fn a_device_that_cannot_start_needs_a_reset() {
    on_both(|driver, device, ram| {
        device.with(|s| s.refuse = true);
        let l = layouts(&queues(ram));
        assert_eq!(initialise(driver, 0, &l), Err(Refused::NeedsReset));
        assert_eq!(driver.status(), LIVE | status::DEVICE_NEEDS_RESET);
        device.with(|s| s.refuse = false);
        initialise(driver, 0, &l).unwrap();
        assert_eq!(driver.status(), LIVE);
    });
}

#[test]
fn odd_queue_sizes_are_ignored() {
    on_both(|driver, device, ram| {
        let good = queues(ram)[0].layout();
        driver.set_status(status::ACKNOWLEDGE | status::DRIVER);
        driver.set_driver_features(feature::VERSION_1);
        driver.set_status(status::FEATURES_OK);
        driver.set_queue(0, &QueueLayout { size: 4, ..good });
        for size in [0, 3, 32, 0x8000] {
            driver.set_queue(0, &QueueLayout { size, ..good });
        }
        driver.enable_queue(0);
        driver.set_status(status::DRIVER_OK);
        device.with(|s| {
            assert_eq!(s.activation.as_ref().unwrap().queues[0].queue.size(), 4);
        });
    });
}

#[test]
fn an_enabled_queue_cannot_be_changed() {
    on_both(|driver, device, ram| {
        let good = queues(ram)[0].layout();
        driver.set_status(status::ACKNOWLEDGE | status::DRIVER);
        driver.set_driver_features(feature::VERSION_1);
        driver.set_status(status::FEATURES_OK);
        let bad = QueueLayout { size: 16, desc: 1, avail: 1, used: 1, ..good };
        driver.set_queue(0, &QueueLayout { size: 8, ..good });
        driver.enable_queue(0);
        driver.set_queue(0, &bad);
        driver.set_status(status::DRIVER_OK);
        assert_eq!(driver.status(), LIVE);
        // Nor, from here on, one that is not.
        driver.set_queue(1, &bad);
        driver.enable_queue(1);
        assert!(!driver.queue_enabled(1));
        device.with(|s| {
            let a = s.activation.as_ref().unwrap();
            assert_eq!((a.queues.len(), a.queues[0].queue.size()), (1, 8));
        });
    });
}

#[test]
fn configuration_is_read_in_any_width_and_padded_with_zeros() {
    on_both(|driver, device, _ram| {
        let mut data = [0xff; 8];
        driver.read_config(3, &mut data);
        assert_eq!(data, [4, 5, 6, 7, 8, 0, 0, 0]);
        driver.read_config(0xe00, &mut data);
        assert_eq!(data, [0; 8]);
        device.with(|s| s.config[0] = 9);
        driver.read_config(0, &mut data[..1]);
        assert_eq!(data[0], 9);
    });
}

#[test]
fn a_notification_on_the_bus_kicks() {
    on_both(|driver, device, ram| {
        initialise(driver, 0, &layouts(&queues(ram))).unwrap();
        driver.notify(1);
        let kicks = |i: usize| {
            device.with(|s| s.activation.as_ref().unwrap().queues[i].kick.read().unwrap_or(0))
        };
        assert_eq!((kicks(0), kicks(1)), (0, 1));
        // A kick from before a reset does not outlive it.
        driver.notify(0);
        initialise(driver, 0, &layouts(&queues(ram))).unwrap();
        assert_eq!((kicks(0), kicks(1)), (0, 0));
    });
}

#[test]
fn a_broken_device_says_so_and_a_reset_heals() {
    on_both(|driver, device, ram| {
        initialise(driver, 0, &layouts(&queues(ram))).unwrap();
        let interrupt = device.with(|s| s.activation.as_ref().unwrap().config_interrupt.clone());
        let generation = driver.generation();
        interrupt.config_changed().unwrap();
        assert_eq!(driver.generation(), generation + 1);
        interrupt.needs_reset(&"the test").unwrap();
        assert_eq!(driver.status(), LIVE | status::DEVICE_NEEDS_RESET);
        driver.set_status(0);
        assert_eq!(driver.status(), 0);
    });
}

#[test]
fn the_user_hears_once_that_a_device_does_not_work() {
    #[derive(Clone, Default)]
    struct Heard(Arc<Mutex<Vec<String>>>);
    impl Visit for Heard {
        fn record_debug(&mut self, _: &Field, value: &dyn std::fmt::Debug) {
            self.0.lock().unwrap().push(format!("{value:?}"));
        }
    }
    impl Subscriber for Heard {
        fn enabled(&self, _: &Metadata<'_>) -> bool {
            true
        }
        fn new_span(&self, _: &Attributes<'_>) -> Id {
            Id::from_u64(1)
        }
        fn record(&self, _: &Id, _: &Record<'_>) {}
        fn record_follows_from(&self, _: &Id, _: &Id) {}
        fn event(&self, event: &Event<'_>) {
            assert_eq!(*event.metadata().level(), Level::WARN);
            event.record(&mut self.clone());
        }
        fn enter(&self, _: &Id) {}
        fn exit(&self, _: &Id) {}
    }

    let heard = Heard::default();
    // Where there is one subscriber, tracing asks that of the thread which is the first to come by,
    // and a test beside this one has none: with a second one, all are asked.
    let _second = tracing::Dispatch::new(heard.clone());
    tracing::subscriber::with_default(heard.clone(), || {
        on_both(|driver, device, ram| {
            let layouts = layouts(&queues(ram));
            for round in 0..3 {
                device.with(|s| s.refuse = round != 2);
                let outcome = initialise(driver, 0, &layouts);
                assert_eq!(outcome.is_ok(), round == 2);
                assert_eq!(initialise(driver, 0b10, &layouts), Err(Refused::Features));
            }
        });
    });
    let line = "virtio-rng does not work for the guest: refused by the test";
    assert_eq!(*heard.0.lock().unwrap(), [line, line]);
}

#[test]
fn mmio_sets_the_cause_before_the_edge() {
    let (ram, device) = (ram(1 << 20), device());
    let (driver, transport, irq) = mmio(&ram, &device);
    initialise(&driver, 0, &layouts(&queues(&ram))).unwrap();
    assert_eq!(irq.count(), 0);
    device.with(|s| {
        let a = s.activation.as_ref().unwrap();
        a.queues[1].interrupt.signal().unwrap();
        assert_eq!(driver.read(0x60), 1);
        a.config_interrupt.config_changed().unwrap();
    });
    assert_eq!((irq.take(), driver.take_interrupts(), driver.read(0x60)), (2, 3, 0));

    let fds = transport.ioeventfds(BASE);
    let data: Vec<_> = fds.iter().map(|f| (f.address, f.datamatch)).collect();
    assert_eq!(data, [(BASE + 0x50, Some(0)), (BASE + 0x50, Some(1))]);
    fds[1].fd.write(1).unwrap();
    device.with(|s| {
        assert_eq!(s.activation.as_ref().unwrap().queues[1].kick.read().unwrap(), 1);
    });
}

#[test]
fn a_queue_taken_from_a_live_device_stops_it() {
    let (ram, device) = (ram(1 << 20), device());
    let (driver, _transport, irq) = mmio(&ram, &device);
    let layouts = [Some(queues(&ram)[0].layout()), None];
    initialise(&driver, 0, &layouts).unwrap();
    let disable = |index| {
        driver.write(0x30, index);
        driver.write(0x44, 0);
        assert_eq!(driver.read(0x44), 0);
    };
    // Those that it does not have.
    disable(1);
    disable(2);
    assert_eq!((driver.status(), irq.count()), (LIVE, 0));
    disable(0);
    assert_eq!(driver.status(), LIVE | status::DEVICE_NEEDS_RESET);
    assert_eq!((driver.take_interrupts(), irq.take()), (2, 1));
    device.with(|s| assert!(s.activation.is_none()));
    driver.enable_queue(0);
    assert!(!driver.queue_enabled(0));
    initialise(&driver, 0, &layouts).unwrap();
    device.with(|s| assert_eq!((s.activations, s.resets), (2, 1)));
}

#[test]
fn mmio_has_no_shared_memory_and_strict_widths() {
    let (driver, transport, _irq) = mmio(&ram(1 << 20), &device());
    for at in [0xb0, 0xb4, 0xb8, 0xbc] {
        assert_eq!(driver.read(at), u32::MAX);
    }
    assert_eq!(driver.read(8), 4);
    let mut two = [0xff; 2];
    transport.read(0, &mut two);
    assert_eq!(two, [0; 2]);
    transport.write(0x70, &[1]);
    assert_eq!(driver.status(), 0);
}

#[test]
fn pci_interrupts_go_by_vector() {
    let (ram, device, machine) = (ram(1 << 20), device(), PciMachine::new());
    let (driver, irqs) = machine.attach(Box::new(device.clone()), &ram);
    let counts = || irqs.iter().map(|i| i.take()).collect::<Vec<_>>();
    initialise(&driver, 0, &layouts(&queues(&ram))).unwrap();
    let (queue, config) = device.with(|s| {
        let a = s.activation.as_ref().unwrap();
        (a.queues[1].interrupt.clone(), a.config_interrupt.clone())
    });
    // Without MSI-X there is the ISR byte only.
    queue.signal().unwrap();
    config.config_changed().unwrap();
    assert_eq!((driver.take_isr(), driver.take_isr(), counts()), (3, 0, vec![0, 0, 0]));

    driver.use_msix(2);
    queue.signal().unwrap();
    config.config_changed().unwrap();
    assert_eq!((counts(), driver.take_isr()), (vec![1, 0, 1], 2));
    assert_eq!(irqs[2].route().map(|m| m.data), Some(0x42));

    // Masked in the table, and as a whole.
    driver.set_vector(2, 0xfee0_0000, 0x42, true);
    queue.signal().unwrap();
    assert_eq!(counts(), [0, 0, 0]);
    driver.set_msix_control(0xc000);
    driver.set_vector(2, 0xfee0_0000, 0x42, false);
    assert_eq!(counts(), [0, 0, 0]);
    driver.set_msix_control(0x8000);
    assert_eq!(counts(), [0, 0, 1]);

    assert_eq!(driver.set_queue_vector(1, 3), 0xffff);
    queue.signal().unwrap();
    assert_eq!(counts(), [0, 0, 0]);

    // A reset forgets what was pending.
    driver.set_vector(2, 0xfee0_0000, 0x42, true);
    assert_eq!(driver.set_queue_vector(1, 2), 2);
    queue.signal().unwrap();
    driver.set_status(0);
    driver.set_vector(2, 0xfee0_0000, 0x42, false);
    assert_eq!(counts(), [0, 0, 0]);
    assert_eq!(driver.set_config_vector(0xffff), 0xffff);
}

#[test]
fn pci_kicks_come_by_ioeventfd_and_follow_the_bar() {
    let (ram, device, machine) = (ram(1 << 20), device(), PciMachine::new());
    let (mut driver, _irqs) = machine.attach(Box::new(device.clone()), &ram);
    let base = 0xc000_3000;
    assert_eq!(machine.ioeventfds(), [base, base + 4]);
    initialise(&driver, 0, &layouts(&queues(&ram))).unwrap();
    let kicks =
        || device.with(|s| s.activation.as_ref().unwrap().queues[1].kick.read().unwrap_or(0));
    assert!(driver.kick(1));
    assert_eq!(kicks(), 1);

    driver.move_bar(0xc008_0000);
    assert_eq!(machine.ioeventfds(), [0xc008_3000, 0xc008_3004]);
    assert_eq!(driver.status(), LIVE);
    assert!(driver.kick(1));
    assert_eq!(kicks(), 1);
    let mut old = [0; 4];
    machine.memory.read(0xc000_0000, &mut old);
    assert_eq!(old, [0xff; 4]);

    // Decoding off: nothing answers. On again: all is back.
    machine.write_config(driver.slot, 4, &[0, 4]);
    assert!(machine.ioeventfds().is_empty());
    assert_eq!(driver.status(), 0xff);
    machine.write_config(driver.slot, 4, &[6, 4]);
    assert_eq!((driver.status(), machine.ioeventfds().len()), (LIVE, 2));
}

#[test]
fn vectors_can_be_shared_and_are_silent_after_a_reset() {
    let (ram, device) = (ram(1 << 20), device());
    let irq = Arc::new(TestIrq::default());
    let transport =
        PciTransport::new(Box::new(device.clone()), ram.clone(), vec![irq.clone()]).unwrap();
    let (machine, transport) = (PciMachine::new(), Arc::new(transport));
    let slot = machine.pci.add(transport).unwrap();
    let driver = PciDriver::probe(&machine, slot);
    initialise(&driver, 0, &layouts(&queues(&ram))).unwrap();
    // All share the one vector.
    driver.set_msix_control(0x8000);
    driver.set_vector(0, 0xfee0_0000, 0x40, false);
    assert_eq!((driver.set_config_vector(0), driver.set_queue_vector(1, 0)), (0, 0));
    let interrupt = device.with(|s| s.activation.as_ref().unwrap().queues[1].interrupt.clone());
    interrupt.signal().unwrap();
    assert_eq!(irq.take(), 1);
    driver.set_status(0);
    device.with(|s| assert!(s.activation.is_none()));
    interrupt.signal().unwrap();
    assert_eq!(irq.take(), 0);
}

#[test]
fn pci_is_reached_through_the_access_capability_alone() {
    let (ram, device, machine) = (ram(1 << 20), device(), PciMachine::new());
    let (driver, _irqs) = machine.attach(Box::new(device), &ram);
    let (slot, cap) = (driver.slot, driver.access);
    // Memory decoding is off: that is what this capability is for.
    machine.write_config(slot, 4, &[0, 0]);
    let point = |offset: u32, length: u32| {
        machine.write_config(slot, cap + 4, &[0]);
        machine.write_config(slot, cap + 8, &offset.to_le_bytes());
        machine.write_config(slot, cap + 12, &length.to_le_bytes());
    };
    let get = || {
        let mut data = [0; 4];
        machine.read_config(slot, cap + 16, &mut data);
        u32::from_le_bytes(data)
    };
    point(0x12, 2);
    assert_eq!(get(), 2);
    point(0x14, 1);
    machine.write_config(slot, cap + 16, &[status::ACKNOWLEDGE, 0, 0, 0]);
    assert_eq!(get(), u32::from(status::ACKNOWLEDGE));
    point(0x2000, 4);
    assert_eq!(get(), 0x0403_0201);
    // Out of the BAR, misaligned, odd width: nothing is accessed.
    for (offset, length) in [(0x8000, 4), (u32::MAX - 3, 4), (0x2001, 2), (0x2000, 3), (0, 0)] {
        machine.write_config(slot, cap + 16, &[0xee; 4]);
        point(offset, length);
        machine.write_config(slot, cap + 16, &[0xee; 4]);
        assert_eq!(get(), 0xeeee_eeee, "{offset:#x} {length}");
    }
}

#[test]
fn pci_says_what_it_is() {
    let machine = PciMachine::new();
    let (driver, _irqs) = machine.attach(Box::new(device()), &ram(1 << 20));
    let config = |at: u8| {
        let mut data = [0; 4];
        machine.read_config(driver.slot, at, &mut data);
        u32::from_le_bytes(data)
    };
    assert_eq!((driver.slot, config(0), config(8)), (1, 0x1044_1af4, 0xff00_0001));
    assert_eq!((config(0x2c), config(0x3c)), (0x1044_1af4, 0));
}

#[derive(Debug, Clone)]
enum Op {
    Read(u64, usize),
    Write(u64, Vec<u8>),
    /// Well-formed, so that deep states are reached.
    Status(u8),
    Features(u64),
    Queue(u16, u16, u64),
    Enable(u16),
}

fn ops(range: std::ops::Range<u64>) -> impl Strategy<Value = Vec<Op>> {
    let value = prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..9),
        (0u32..8).prop_map(|v| v.to_le_bytes().to_vec()),
        any::<u32>().prop_map(|v| v.to_le_bytes().to_vec()),
        any::<u16>().prop_map(|v| v.to_le_bytes().to_vec()),
    ];
    let addr = prop_oneof![range.clone(), (range.start / 4..range.end / 4).prop_map(|v| 4 * v)];
    let op = prop_oneof![
        (addr.clone(), 0usize..17).prop_map(|(a, l)| Op::Read(a, l)),
        (addr, value).prop_map(|(a, v)| Op::Write(a, v)),
        prop_oneof![Just(LIVE), Just(0), Just(0xb), any::<u8>()].prop_map(Op::Status),
        prop_oneof![Just(feature::VERSION_1 | 1), any::<u64>()].prop_map(Op::Features),
        (
            0u16..3,
            prop_oneof![Just(8u16), any::<u16>()],
            prop_oneof![Just(0x1000u64), 0u64..0x11_0000, any::<u64>()]
        )
            .prop_map(|(q, s, a)| Op::Queue(q, s, a)),
        (0u16..3).prop_map(Op::Enable),
    ];
    proptest::collection::vec(op, 0..60)
}

fn run(driver: &dyn Driver, bus: &Bus, base: u64, op: &Op) {
    match op {
        Op::Read(at, len) => bus.read(base + at, &mut vec![0; *len]),
        Op::Write(at, data) => bus.write(base + at, data),
        Op::Status(value) => driver.set_status(*value),
        Op::Features(f) => driver.set_driver_features(*f),
        Op::Queue(index, size, at) => {
            let (avail, used) = (at.wrapping_add(0x400), at.wrapping_add(0x800));
            let layout = QueueLayout {
                size: *size,
                desc: *at,
                avail,
                used,
                event_idx: false,
                indirect: false,
            };
            driver.set_queue(*index, &layout);
        }
        Op::Enable(index) => driver.enable_queue(*index),
    }
}

/// What must hold whatever a driver did.
fn check(driver: &dyn Driver, device: &TestDevice) -> Result<(), TestCaseError> {
    let live = driver.status() & status::DRIVER_OK != 0;
    let needs_reset = driver.status() & status::DEVICE_NEEDS_RESET != 0;
    device.with(|s| {
        prop_assert_eq!(s.activation.is_some(), live && !needs_reset);
        prop_assert!(s.resets <= s.activations);
        if let Some(a) = &s.activation {
            prop_assert_eq!(a.acked_features & !(OFFER | feature::CORE), 0);
            prop_assert!(a.queues.iter().all(|q| q.queue.size() <= 16));
        }
        Ok(())
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn mmio_survives_any_driver(ops in ops(0..0x140)) {
        let (ram, device) = (ram(1 << 20), device());
        let irq = Arc::new(TestIrq::default());
        let transport = MmioTransport::new(Box::new(device.clone()), ram, irq).unwrap();
        let bus = Arc::new(Bus::new());
        bus.insert(BASE, MmioTransport::SIZE, Arc::new(transport)).unwrap();
        let driver = MmioDriver::new(bus.clone(), BASE);
        for op in ops {
            run(&driver, &bus, BASE, &op);
            check(&driver, &device)?;
        }
    }

    #[test]
    fn pci_survives_any_driver(
        ops in ops(0..0x5010),
        config in proptest::collection::vec(
            (any::<u8>(), proptest::collection::vec(any::<u8>(), 0..6)), 0..30),
    ) {
        let (ram, device, machine) = (ram(1 << 20), device(), PciMachine::new());
        let (driver, _irqs) = machine.attach(Box::new(device.clone()), &ram);
        for op in ops {
            run(&driver, &machine.memory, 0xc000_0000, &op);
            check(&driver, &device)?;
        }
        for (register, data) in config {
            machine.write_config(driver.slot, register, &data);
            let mut back = vec![0; data.len()];
            machine.read_config(driver.slot, register, &mut back);
        }
        // The function can always be brought back.
        machine.write_config(driver.slot, 4, &[2, 0]);
        machine.write_config(driver.slot, 0x10, &0xc000_0000u32.to_le_bytes());
        let driver = PciDriver::probe(&machine, driver.slot);
        initialise(&driver, 0, &[]).unwrap();
    }

    /// The BAR is on the bus exactly where the function says, and so are its ioeventfds.
    #[test]
    fn bars_and_ioeventfds_follow_configuration(
        moves in proptest::collection::vec((0u8..3, prop_oneof![
            (0u32..40).prop_map(|n| 0xbff0_0000 + n * 0x8000), any::<u32>()], any::<bool>()), 1..20),
    ) {
        let (ram, machine) = (ram(1 << 20), PciMachine::new());
        let n = 3;
        for _ in 0..n {
            machine.attach(Box::new(TestDevice::new(&[8], 0)), &ram);
        }
        for (which, bar, enable) in moves {
            let slot = 1 + which;
            machine.write_config(slot, 4, &[if enable { 2 } else { 0 }, 0]);
            machine.write_config(slot, 0x10, &bar.to_le_bytes());
            let mut expected = Vec::new();
            for slot in 1..=n {
                let (mut command, mut bar) = ([0; 2], [0; 4]);
                machine.read_config(slot, 4, &mut command);
                machine.read_config(slot, 0x10, &mut bar);
                let bar = u64::from(u32::from_le_bytes(bar));
                let inside = PciMachine::WINDOW.contains(&bar)
                    && bar + 0x8000 <= PciMachine::WINDOW.end;
                if command[0] & 2 != 0 && inside {
                    expected.push(bar + 0x3000);
                }
            }
            // Of BARs at one address one answers.
            expected.sort_unstable();
            expected.dedup();
            let mut fds = machine.ioeventfds();
            fds.sort_unstable();
            prop_assert_eq!(&fds, &expected);
            for at in fds {
                let mut queues = [0; 2];
                machine.memory.read(at - 0x3000 + 0x12, &mut queues);
                prop_assert_eq!(queues, [1, 0]);
            }
        }
    }
}
