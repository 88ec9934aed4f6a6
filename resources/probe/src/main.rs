//! The probe guest. See README.md for what it does and how it is told.
#![no_std]
#![no_main]
#![expect(unsafe_code, reason = "entered from the boot stub by name; takes all memory")]

#[macro_use]
mod console;
mod apic;
mod bootinfo;
mod clock;
mod crash;
mod libc;
mod mem;
mod paging;
mod power;
mod ring0;

use minivmm_probe::acpi;
use minivmm_probe::cmdline::{Mode, Options};
use minivmm_probe::stats::Millis;

core::arch::global_asm!(include_str!("boot/entry.s"), options(att_syntax));

/// Where the boot stub calls us, in ring 3. `tsc` was read at its first instruction.
#[unsafe(no_mangle)]
extern "C" fn ring3_main(tsc: u64) -> ! {
    let boot = ring0::boot_facts();
    let clock = clock::Clock::new(tsc, &boot);
    let info = bootinfo::BootInfo::read(&boot);
    let options = Options::parse(info.cmdline());
    let proto = if boot.linux { "linux" } else { "pvh" };
    say!("probe: up {} after entry ({proto}, {} MHz by {}, {} MiB)", Millis(clock.micros()), clock.khz() / 1000, clock.source, info.ram_end >> 20);
    let facts = acpi::walk(&mem::Physical, info.rsdp);
    power::configure(&facts, options.end);
    say!("cmdline {}\n{facts:x?}", info.cmdline());
    let t = clock.micros();
    let apic = apic::Apic::new();
    let t2 = clock.micros();
    apic.sleep(1_000_000);
    let t3 = clock.micros();
    apic.sleep(1_000_000_000);
    let t4 = clock.micros();
    say!("apic init {} sleep 1ms {} 1s {}", t2 - t, t3 - t2, t4-t3);
    if options.mode == Mode::None {}
    power::end(power::Outcome::Ok, options.end)
}
