//! Panics and CPU exceptions: one line, the outcome, and the end.
#![expect(unsafe_code, reason = "entered from the exception stub by name")]

use core::panic::PanicInfo;

use crate::{power, ring0};

const NAMES: [&str; 22] = [
    "#DE divide error",
    "#DB debug",
    "NMI",
    "#BP breakpoint",
    "#OF overflow",
    "#BR bound",
    "#UD undefined instruction",
    "#NM no FPU",
    "#DF double fault",
    "coprocessor overrun",
    "#TS invalid TSS",
    "#NP segment not present",
    "#SS stack",
    "#GP general protection",
    "#PF page fault",
    "reserved",
    "#MF x87",
    "#AC alignment",
    "#MC machine check",
    "#XM SIMD",
    "#VE virtualization",
    "#CP control protection",
];

/// Where the exception stub continues in ring 3.
#[unsafe(no_mangle)]
extern "C" fn ring3_report_crash() -> ! {
    let c = ring0::crash();
    let name = usize::try_from(c.vector).ok().and_then(|v| NAMES.get(v)).unwrap_or(&"reserved");
    let ring = c.cs & 3;
    say!(
        "probe: crashed: {name} (vector {}) in ring {ring} at rip {:#x}, error code {:#x}, cr2 {:#x}, rsp {:#x}",
        c.vector,
        c.rip,
        c.error,
        c.cr2,
        c.rsp
    );
    power::end_crashed()
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    match info.location() {
        Some(at) => say!("probe: panicked at {}:{}: {}", at.file(), at.line(), info.message()),
        None => say!("probe: panicked: {}", info.message()),
    }
    power::end_crashed()
}
