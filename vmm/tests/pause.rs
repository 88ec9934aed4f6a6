//! Pausing and resuming a machine, many times, and what is left of one that has ended.
#![expect(clippy::unwrap_used, reason = "a test fails by it")]

mod common;

use std::thread;
use std::time::Duration;

use common::{CODE, Code, DATA, eventually, kernel};
use minivmm::config::{ConsoleKind, MachineConfig, Size};
use minivmm::exit::Exit;
use minivmm::{Backing, BuildOptions, Ended, Files, Machine, Opened, ProcessStart};
use vm_memory::{Bytes, GuestAddress};

/// Where an application processor starts: vector 8, in real mode.
const TRAMPOLINE: u32 = 0x8000;
/// The next free counter's offset, then the counters, within reach of real mode.
const SLOT: u32 = 0x8100;
const COUNTERS: u32 = 0x8104;

/// Starts the other CPUs; each counts for ever in a word of its own.
fn counters() -> Code {
    #[rustfmt::skip]
    let trampoline = [
        0x31, 0xc0,                         // xor ax, ax
        0x8e, 0xd8,                         // mov ds, ax
        0xbb, 4, 0,                         // mov bx, 4
        0xf0, 0x0f, 0xc1, 0x1e, 0x00, 0x81, // lock xadd [SLOT], bx
        0x66, 0xff, 0x87, 0x04, 0x81,       // inc dword [bx + COUNTERS]
        0xeb, 0xf9,                         // jmp to it
    ];
    let code = Code::new().mov_eax(4).store_eax(SLOT);
    let at = code.here() + 5;
    let code = code
        .jump(at + trampoline.len() as u32)
        .raw(&trampoline)
        .copy(at, TRAMPOLINE, trampoline.len() as u32)
        // To all but itself: INIT, then the start at the trampoline (Intel SDM vol. 3A §11.6.1).
        .mov_eax(0x000c_4500)
        .store_eax(0xfee0_0300)
        .mov_eax(0x000c_4608)
        .store_eax(0xfee0_0300);
    let again = code.here();
    code.inc(COUNTERS).jump(again)
}

fn machine(code: &Code, cpus: u32) -> Machine {
    let (_dir, path) = kernel(code);
    let config = MachineConfig {
        kernel: Some(path),
        cpus,
        memory: Size::mib(16),
        console: Some(ConsoleKind::None),
        ..MachineConfig::default()
    };
    let config = config.validate().unwrap();
    let files = Files::open(&config).unwrap();
    let start = ProcessStart::now();
    let options = BuildOptions { backing: Backing::default(), start, ..BuildOptions::default() };
    Opened::new(&config, &files, options).unwrap().spawn().unwrap()
}

fn counts(machine: &Machine, cpus: u32) -> Vec<u32> {
    let address = |cpu| GuestAddress(u64::from(COUNTERS + 4 * cpu));
    let read = |cpu| machine.memory().read_obj(address(cpu)).unwrap();
    (0..cpus).map(read).collect()
}

#[test]
fn no_cpu_runs_while_paused() {
    for cpus in [1, 4] {
        let machine = machine(&counters(), cpus);
        assert_eq!(counts(&machine, cpus), vec![0; cpus as usize], "it runs before its start");
        machine.resume();
        eventually("every CPU counts", || counts(&machine, cpus).iter().all(|n| *n > 0));
        for round in 0..300 {
            machine.pause();
            let paused = counts(&machine, cpus);
            if round % 10 == 0 {
                thread::sleep(Duration::from_millis(2));
            }
            assert_eq!(counts(&machine, cpus), paused, "round {round} of {cpus} CPUs");
            machine.resume();
            if round % 10 == 0 {
                let go_on = || counts(&machine, cpus).iter().zip(&paused).all(|(n, p)| n != p);
                eventually("every CPU goes on", go_on);
            }
        }
    }
}

/// Pause and resume from several threads at once: whatever their order, nobody hangs, and the last
/// word counts.
#[test]
fn orders_from_many_threads() {
    let machine = machine(&counters(), 2);
    machine.resume();
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..100 {
                    machine.pause();
                    machine.resume();
                }
            });
        }
    });
    machine.pause();
    let paused = counts(&machine, 2);
    thread::sleep(Duration::from_millis(5));
    assert_eq!(counts(&machine, 2), paused);
}

/// A CPU that has crashed counts as paused, and the machine as ended.
#[test]
fn a_crashed_machine_can_be_paused() {
    let machine = machine(&Code::new().no_idt().raw(&[0x0f, 0x0b]), 2);
    machine.resume();
    eventually("it crashes", || machine.ending().get().is_some());
    machine.pause();
    machine.resume();
    let Ended { outcome, output, .. } = machine.finish();
    assert_eq!(outcome.exit, Exit::Crash("triple fault".into()));
    assert!(output.is_none());
}

#[test]
fn a_machine_can_end_at_any_moment() {
    for round in 0..40 {
        let machine = machine(&Code::new().inc(DATA).jump(CODE), 3);
        if round % 4 > 0 {
            machine.resume();
        }
        if round % 4 > 1 {
            thread::sleep(Duration::from_micros(100 * round));
        }
        if round % 4 > 2 {
            machine.pause();
        }
        assert_eq!(machine.finish().outcome.exit, Exit::Quit);
    }
}
