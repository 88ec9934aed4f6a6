//! The probe guest. See README.md for what it does and how it is told.
#![no_std]
#![no_main]
#![expect(unsafe_code, reason = "entered from the boot stub by name; takes all memory")]

#[macro_use]
mod console;
mod apic;
mod bootinfo;
mod checks;
mod clock;
mod crash;
mod libc;
mod mem;
mod net;
mod paging;
mod power;
mod report;
mod ring0;
mod virtio;

use minivmm_probe::acpi::{self, Facts};
use minivmm_probe::cmdline::{Mode, Options};
use minivmm_probe::stats::Millis;

use crate::apic::Apic;
use crate::bootinfo::BootInfo;
use crate::checks::Checks;
use crate::clock::Clock;
use crate::mem::Arena;
use crate::net::services::Services;
use crate::net::stack::Stack;
use crate::power::Outcome;
use crate::report::{Report, State, Value};
use crate::virtio::net::Nic;

core::arch::global_asm!(include_str!("boot/entry.s"), options(att_syntax));

/// Where the boot stub calls us, in ring 3. `tsc` was read at its first instruction.
#[unsafe(no_mangle)]
extern "C" fn ring3_main(tsc: u64) -> ! {
    let boot = ring0::boot_facts();
    let clock = Clock::new(tsc, &boot);
    let info = BootInfo::read(&boot);
    let options = Options::parse(info.cmdline());
    if options.crlf {
        console::to_terminal();
    }
    let mut report = Report::new(&options);
    say_up(&mut report, &options, &clock, &info, boot.linux);
    let facts = acpi::walk(&mem::Physical, info.rsdp);
    power::configure(&facts, options.end);
    if let Some(word) = options.unknown {
        report.check("cmdline", State::Failed, format_args!("not understood: {word}"), &[]);
    }
    if options.mode != Mode::None {
        network(&mut report, &options, clock, &info, &facts);
    }
    report.summary(clock.micros());
    power::end(if report.ok() { Outcome::Ok } else { Outcome::Failed }, options.end)
}

fn say_up(report: &mut Report, options: &Options<'_>, clock: &Clock, info: &BootInfo, linux: bool) {
    let micros = clock.micros();
    let (protocol, mhz) = (if linux { "linux" } else { "pvh" }, clock.khz() / 1000);
    // The firmware's part of the first MiB is none of the map's RAM.
    let mib = info.ram_total.div_ceil(1 << 20);
    let initrd = info.initrd.map(|initrd| (initrd.size, initrd.crc32()));
    if options.json {
        report.note(
            "boot",
            format_args!("up"),
            &[
                ("up_us", Value::Number(micros)),
                ("protocol", Value::Text(&protocol)),
                ("tsc_mhz", Value::Number(mhz)),
                ("clock", Value::Text(&clock.source)),
                ("memory_mib", Value::Number(mib)),
                ("initrd_bytes", Value::optional(initrd.map(|(size, _)| size))),
                ("initrd_crc32", Value::optional(initrd.map(|(_, sum)| sum.into()))),
            ],
        );
    } else {
        report.met("boot");
        let source = clock.source;
        say!(
            "probe: up {} after entry ({protocol}, {mib} MiB, TSC {mhz} MHz by {source})",
            Millis(micros)
        );
        if let Some((size, sum)) = initrd {
            say!("probe: initrd of {size} bytes, CRC-32 {sum:08x}");
        }
    }
}

/// Brings the NIC up and does what the mode asks for. Returns when the run is over.
fn network(
    report: &mut Report,
    options: &Options<'_>,
    clock: Clock,
    info: &BootInfo,
    facts: &Facts,
) {
    let apic = Apic::new();
    let Some(transport) = virtio::find::find(info.cmdline(), facts, &apic, options.nic) else {
        no_nic(report, options, clock, &apic);
        return;
    };
    // SAFETY: RAM by the VMM's map; what it left there was read before, and only we run.
    let mut arena = unsafe { Arena::new(info.ram_end) };
    let nic = match Nic::start(transport, options, &mut arena) {
        Ok(nic) => nic,
        Err(error) => {
            report.check("link", State::Failed, format_args!("{}", error.text()), &[]);
            return;
        }
    };
    let started = clock.micros();
    checks::link(report, &nic, started);
    if use_network(report, options, nic, clock, apic, &mut arena, started).is_none() {
        let left = arena.left() >> 10;
        report.check("memory", State::Failed, format_args!("too little: {left} KiB left"), &[]);
    }
}

/// NICs are there from the start or never. One that was asked for, or that is needed to serve, fails the run; only what is to
/// hold does so without.
fn no_nic(report: &mut Report, options: &Options<'_>, clock: Clock, apic: &Apic) {
    let needed = options.nic > 0 || (options.mode.stays() && options.mode != Mode::Hold);
    let state = if needed { State::Failed } else { State::Absent };
    match options.nic {
        0 => report.check("link", state, format_args!("no virtio-net device"), &[]),
        n => report.check(
            "link",
            state,
            format_args!("no virtio-net device {n} (counted from 0)"),
            &[],
        ),
    }
    if options.mode.stays() && !needed {
        report.settle();
        ready(report, clock, "without a NIC, answering nothing");
        loop {
            apic.sleep(0);
        }
    }
}

fn ready(report: &mut Report, clock: Clock, what: &str) {
    report.note("ready", format_args!("{what}"), &[("at_us", Value::Number(clock.micros()))]);
}

/// `None` if memory is short.
fn use_network(
    report: &mut Report,
    options: &Options<'_>,
    nic: Nic,
    clock: Clock,
    apic: Apic,
    arena: &mut Arena,
    started: u64,
) -> Option<()> {
    let mut stack = Stack::new(nic, clock, apic, options, arena)?;
    let mut checks = Checks { stack: &mut stack, arena, report, options };
    let ipv4 = checks.lease();
    if options.mode == Mode::Report {
        checks.all(ipv4, started)?;
        return Some(());
    }
    let mut services = Services::new(options.mode, &mut stack, arena, !options.json)?;
    let scratch = arena.take(64 << 10, 64)?;
    report.settle();
    if !ipv4 && !options.without.dhcp {
        // A lease, or a prefix, may still come; until then nobody gets here.
        let waits = format_args!("not before there is an address");
        report.check("ready", State::Absent, waits, &[]);
        stack.run(u64::MAX, |stack| {
            services.serve(stack, scratch);
            (stack.ipv4().is_some() || stack.ipv6().is_some()).then_some(())
        });
    }
    ready(report, clock, options.mode.services());
    loop {
        stack.run(u64::MAX, |stack| {
            services.serve(stack, scratch);
            None::<()>
        });
    }
}
