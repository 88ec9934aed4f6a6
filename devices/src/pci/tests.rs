use super::*;
use crate::virtio::testing::{PciMachine, TestDevice, ram};

fn read(machine: &PciMachine, slot: u8, register: u8, len: usize) -> Vec<u8> {
    let mut data = vec![0; len];
    machine.read_config(slot, register, &mut data);
    data
}

#[test]
fn the_host_bridge_is_in_slot_0_and_the_rest_is_empty() {
    let machine = PciMachine::new();
    assert_eq!(read(&machine, 0, 0, 4), [0x36, 0x1b, 0x08, 0x00]);
    assert_eq!(read(&machine, 0, 10, 2), [0x00, 0x06]);
    for slot in 1..32 {
        assert_eq!(read(&machine, slot, 0, 4), [0xff; 4]);
    }
}

#[test]
fn mechanism_1_and_ecam_see_the_same_in_all_widths() {
    let machine = PciMachine::new();
    machine.attach(Box::new(TestDevice::new(&[8], 0)), &ram(0x1000));
    for register in 0..=255u8 {
        for len in 1..=4 - usize::from(register & 3) {
            let mut data = vec![0; len];
            machine.memory.read(PciMachine::ECAM + (1 << 15) + u64::from(register), &mut data);
            assert_eq!(read(&machine, 1, register, len), data, "{register:#x} {len}");
        }
    }
    // Beyond the 256 bytes: no extended capabilities.
    let mut data = [1; 4];
    machine.memory.read(PciMachine::ECAM + (1 << 15) + 0x100, &mut data);
    assert_eq!(data, [0; 4]);
    // Other functions, other slots.
    for offset in [1 << 12, (1 << 15) + (1 << 12), 2 << 15] {
        machine.memory.read(PciMachine::ECAM + offset, &mut data);
        assert_eq!(data, [0xff; 4]);
    }
}

#[test]
fn the_address_port_wants_a_dword_and_the_enable_bit() {
    let machine = PciMachine::new();
    let mut data = [0; 4];
    machine.ports.read(0xcfc, &mut data);
    assert_eq!(data, [0xff; 4]);
    machine.ports.write(0xcf8, &0x8000_0000u32.to_le_bytes());
    machine.ports.read(0xcf8, &mut data);
    assert_eq!(data, [0, 0, 0, 0x80]);
    machine.ports.write(0xcf9, &[6]);
    machine.ports.write(0xcf8, &[0; 2]);
    machine.ports.read(0xcfc, &mut data);
    assert_eq!(data, [0x36, 0x1b, 8, 0]);
    // Another bus, another function.
    for address in [0x8001_0000u32, 0x8000_0100, 0x0000_0000] {
        machine.ports.write(0xcf8, &address.to_le_bytes());
        machine.ports.read(0xcfc, &mut data);
        assert_eq!(data, [0xff; 4]);
    }
    // Accesses over the edges of either register.
    let mut long = [0; 8];
    machine.ports.read(0xcf8, &mut long);
    machine.ports.write(0xcf8, &[0xff; 8]);
    machine.ports.write(0xcfe, &[0xff; 16]);
}

#[test]
fn the_bus_and_its_window_can_be_full() {
    let machine = PciMachine::new();
    let ram = ram(0x1000);
    // 31 devices of 32 KiB in 1 MiB: slots run out before the window does.
    for _ in 1..32 {
        machine.attach(Box::new(TestDevice::new(&[8], 0)), &ram);
    }
    let device = || {
        let device = Box::new(TestDevice::new(&[8], 0));
        let irq: Arc<dyn crate::irq::IrqLine> = Arc::<crate::irq::testing::TestIrq>::default();
        Arc::new(crate::virtio::PciTransport::new(device, ram.clone(), vec![irq]).unwrap())
    };
    assert_eq!(machine.pci.add(device()), Err(PciError::Slots));

    let small = PciBus::new(Arc::new(Bus::new()), 0xc000_1000..0xc001_7fff, Arc::new(|_| {}));
    let first = device();
    assert_eq!(small.add(first.clone()), Ok(1));
    small.write_config(1, 4, &[2, 0]);
    assert_eq!(first.bar_address(0), Some(0xc000_8000));
    assert_eq!(small.add(device()), Err(PciError::Window(0x8000)));
}

#[test]
fn a_bar_in_anothers_way_waits_for_it_to_go() {
    let machine = PciMachine::new();
    let ram = ram(0x1000);
    let (a, _) = machine.attach(Box::new(TestDevice::new(&[8], 0)), &ram);
    let (b, _) = machine.attach(Box::new(TestDevice::new(&[8, 8], 0)), &ram);
    let queues = || {
        let mut data = [0; 2];
        machine.memory.read(0xc000_0012, &mut data);
        data[0]
    };
    machine.write_config(b.slot, 0x10, &0xc000_0000u32.to_le_bytes());
    assert_eq!(queues(), 1);
    machine.write_config(a.slot, 0x10, &0xc000_8000u32.to_le_bytes());
    assert_eq!(queues(), 2);
    assert_eq!(machine.ioeventfds().len(), 3);
}
