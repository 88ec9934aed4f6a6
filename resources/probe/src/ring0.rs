//! The services of ring 0 (`boot/entry.s`): everything a ring-3 program cannot do itself. On a software KVM each call costs
//! some ten microseconds, so none of them is on a data path.
#![expect(unsafe_code, reason = "the int3 gate and the variables it shares with the boot stub")]

use core::arch::asm;

/// Vector of the virtio interrupt.
pub const VECTOR_DEVICE: u8 = 0x40;
/// Vector of the timer interrupt.
pub const VECTOR_TIMER: u8 = 0x41;
/// Vector for spurious interrupts.
pub const VECTOR_SPURIOUS: u8 = 0x4f;

/// What the boot stub left behind.
#[derive(Clone, Copy)]
pub struct BootFacts {
    /// TSC at the first instruction.
    pub tsc_entry: u64,
    /// TSC just before ring 3.
    pub tsc_leave: u64,
    /// Guest-physical address of `hvm_start_info` or `boot_params`.
    pub info: u64,
    /// Entered by the Linux 64-bit boot protocol, not by PVH.
    pub linux: bool,
}

/// The registers saved at a CPU exception.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct CrashRecord {
    /// Exception vector.
    pub vector: u64,
    /// Error code, 0 where the vector has none.
    pub error: u64,
    /// Where it happened.
    pub rip: u64,
    /// Code segment: 0x23 is ring 3, 0x08 ring 0.
    pub cs: u64,
    /// Flags.
    pub rflags: u64,
    /// Stack pointer.
    pub rsp: u64,
    /// Faulting address of a page fault.
    pub cr2: u64,
}

unsafe extern "C" {
    static tsc_entry: u64;
    static tsc_leave: u64;
    static boot_info: u64;
    static boot_proto: u32;
    static mut x2apic: u32;
    static crash_record: CrashRecord;
}

/// Reads what the boot stub recorded.
pub fn boot_facts() -> BootFacts {
    // SAFETY: written by the boot stub before ring 3 started and never again.
    unsafe {
        BootFacts {
            tsc_entry: (&raw const tsc_entry).read_volatile(),
            tsc_leave: (&raw const tsc_leave).read_volatile(),
            info: (&raw const boot_info).read_volatile(),
            linux: (&raw const boot_proto).read_volatile() == 1,
        }
    }
}

/// The exception that brought us to the crash report.
pub fn crash() -> CrashRecord {
    // SAFETY: plain integers, written by the exception stub before it came here.
    unsafe { (&raw const crash_record).read_volatile() }
}

/// Tells the interrupt paths to use x2APIC registers instead of the memory-mapped ones.
pub fn use_x2apic() {
    // SAFETY: a plain integer that only the interrupt paths read, and interrupts are off in ring 3.
    unsafe { (&raw mut x2apic).write_volatile(1) };
}

/// One call.
///
/// # Safety
/// The arguments must be valid for service `number` as `boot/entry.s` describes it.
unsafe fn call(number: u64, a: u64, b: u64, c: u64) -> u64 {
    let result;
    // SAFETY: the services clobber only what is listed and leave our stack alone.
    unsafe {
        asm!(
            "int3",
            inout("rax") number => result,
            inout("rdi") a => _,
            inout("rsi") b => _,
            inout("rdx") c => _,
            out("rcx") _,
            out("r8") _,
            out("r9") _,
        );
    }
    result
}

/// Writes `bytes` to an I/O port, one after the other.
pub fn outs(port: u16, bytes: &[u8]) {
    // SAFETY: the slice is readable for its length.
    unsafe { call(0, port.into(), bytes.as_ptr() as u64, bytes.len() as u64) };
}

/// Sleeps until an interrupt. `ticks` of the local APIC's timer bound it unless 0.
pub fn sleep(ticks: u32) {
    // SAFETY: no memory is involved; interrupt handlers touch none of ours.
    unsafe { call(1, ticks.into(), 0, 0) };
}

/// Reads a model-specific register that must exist.
pub fn rdmsr(msr: u32) -> u64 {
    // SAFETY: reading changes nothing; a missing register ends in the crash report.
    unsafe { call(2, msr.into(), 0, 0) }
}

/// Writes a model-specific register.
///
/// # Safety
/// The value must not make the CPU or hypervisor touch memory that Rust owns.
pub unsafe fn wrmsr(msr: u32, value: u64) {
    // SAFETY: the caller's.
    unsafe { call(3, msr.into(), value, 0) };
}

/// Writes a byte to an I/O port.
pub fn out8(port: u16, value: u8) {
    // SAFETY: no port we know of makes a device write to memory by one byte.
    unsafe { call(4, port.into(), value.into(), 0) };
}

/// Writes 32 bits to an I/O port.
pub fn out32(port: u16, value: u32) {
    // SAFETY: used for PCI configuration access only.
    unsafe { call(5, port.into(), value.into(), 0) };
}

/// Reads 32 bits from an I/O port.
pub fn in32(port: u16) -> u32 {
    // SAFETY: as `out32`.
    (unsafe { call(6, port.into(), 0, 0) }) as u32
}

/// CPUID as the VMM defines it: EAX, EBX, ECX, EDX.
pub fn cpuid(leaf: u32, subleaf: u32) -> [u32; 4] {
    let mut out = [0u32; 4];
    // SAFETY: the service writes exactly four words there.
    unsafe { call(7, leaf.into(), subleaf.into(), (&raw mut out) as u64) };
    out
}

/// Resets the machine the hard way.
pub fn triple_fault() -> ! {
    // SAFETY: does not return.
    unsafe { call(8, 0, 0, 0) };
    halt()
}

/// Stops the CPU with interrupts off.
pub fn halt() -> ! {
    loop {
        // SAFETY: does not return.
        unsafe { call(9, 0, 0, 0) };
    }
}
