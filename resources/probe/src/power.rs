//! The end of a run.
#![expect(unsafe_code, reason = "the ACPI registers, and an undefined instruction on request")]

use core::arch::asm;
use core::sync::atomic::{AtomicU8, AtomicU32, Ordering};

use minivmm_probe::acpi::{Facts, Register};
use minivmm_probe::cmdline::End;

use crate::mem::Registers;
use crate::ring0;

/// The port that takes the result, as QEMU's isa-debug-exit does.
const EXIT_PORT: u16 = 0xf4;
/// SLP_EN and SLP_TYP 5 of the sleep control register (ACPI 6.5 §4.8.3.7).
const SLEEP_S5: u8 = 1 << 5 | 5 << 2;

/// The result of a run, as written to port 0xF4.
#[derive(Clone, Copy)]
#[repr(u8)]
pub enum Outcome {
    /// Every check that ran was fine.
    Ok = 0,
    /// A check failed.
    Failed = 1,
    /// The probe itself panicked or caused a CPU exception.
    Crashed = 2,
}

static AFTER_CRASH: AtomicU8 = AtomicU8::new(End::Reboot as u8);
// Kept as plain integers so that a crash can use them: 0 for none, port, or memory address (registers lie below 4 GiB).
static SLEEP_PORT: AtomicU32 = AtomicU32::new(0);
static SLEEP_MEMORY: AtomicU32 = AtomicU32::new(0);
static RESET_PORT: AtomicU32 = AtomicU32::new(0);
static RESET_MEMORY: AtomicU32 = AtomicU32::new(0);
static RESET_VALUE: AtomicU8 = AtomicU8::new(0);

/// Remembers the registers that end the machine and what a crash is to do.
pub fn configure(facts: &Facts, end: End) {
    let store = |register, port: &AtomicU32, memory: &AtomicU32| match register {
        Register::Port(at) => port.store(at.into(), Ordering::Relaxed),
        Register::Memory(at) => memory.store(u32::try_from(at).unwrap_or(0), Ordering::Relaxed),
    };
    if let Some(register) = facts.sleep {
        store(register, &SLEEP_PORT, &SLEEP_MEMORY);
    }
    if let Some((register, value)) = facts.reset {
        store(register, &RESET_PORT, &RESET_MEMORY);
        RESET_VALUE.store(value, Ordering::Relaxed);
    }
    if end == End::TripleFault || end == End::Halt {
        AFTER_CRASH.store(end as u8, Ordering::Relaxed);
    }
}

/// Reports the outcome and ends the machine.
pub fn end(outcome: Outcome, how: End) -> ! {
    if how == End::Crash {
        // SAFETY: ends in the crash report, on purpose.
        unsafe { asm!("ud2", options(noreturn)) };
    }
    ring0::out8(EXIT_PORT, outcome as u8);
    match how {
        End::PowerOff => write(&SLEEP_PORT, &SLEEP_MEMORY, SLEEP_S5),
        End::Reboot => write(&RESET_PORT, &RESET_MEMORY, RESET_VALUE.load(Ordering::Relaxed)),
        End::Halt => ring0::halt(),
        End::TripleFault | End::Crash => ring0::triple_fault(),
    }
    // Where ACPI did not do it: the keyboard controller's reset line, then the CPU's own.
    ring0::out8(0x64, 0xfe);
    ring0::triple_fault()
}

/// Ends the machine after a panic or exception.
pub fn end_crashed() -> ! {
    let after = AFTER_CRASH.load(Ordering::Relaxed);
    let how = [End::TripleFault, End::Halt].into_iter().find(|end| *end as u8 == after);
    end(Outcome::Crashed, how.unwrap_or(End::Reboot))
}

fn write(port: &AtomicU32, memory: &AtomicU32, value: u8) {
    let (port, memory) = (port.load(Ordering::Relaxed), memory.load(Ordering::Relaxed));
    if let Some(port) = u16::try_from(port).ok().filter(|port| *port != 0) {
        ring0::out8(port, value);
    }
    // SAFETY: the register that the FADT names.
    if let Some(registers) = unsafe { Registers::new(memory.into(), 1) } {
        registers.write8(0, value);
    }
}
