//! Time since the first instruction, from the TSC.
#![expect(unsafe_code, reason = "rdtsc, and the page that KVM writes the TSC's factor to")]

use core::arch::x86_64::_rdtsc;

use minivmm_probe::scale::Scale;

use crate::ring0;

const KVM_FEATURES: u32 = 0x4000_0001;
const MSR_KVM_SYSTEM_TIME_NEW: u32 = 0x4b56_4d01;

/// The clock.
#[derive(Clone, Copy)]
pub struct Clock {
    origin: u64,
    scale: Scale,
    /// Where the frequency came from.
    pub source: &'static str,
}

#[repr(C, align(32))]
struct PvClock {
    words: [u32; 8],
}

static mut PVCLOCK: PvClock = PvClock { words: [0; 8] };

impl Clock {
    /// `tsc` is the counter at ring 3's first instruction. Ring 0 may run on another offset (a software KVM applies it to
    /// emulated instructions only), so its two readings count as a difference alone.
    pub fn new(tsc: u64, boot: &ring0::BootFacts) -> Self {
        let (scale, source) = scale();
        let origin = tsc.wrapping_sub(boot.tsc_leave.wrapping_sub(boot.tsc_entry));
        Self { origin, scale, source }
    }

    /// Nanoseconds since the first instruction.
    pub fn nanos(&self) -> u64 {
        // SAFETY: the TSC is readable in ring 3 (CR4.TSD is clear).
        let now = unsafe { _rdtsc() };
        self.scale.nanos(now.wrapping_sub(self.origin))
    }

    /// Microseconds since the first instruction.
    pub fn micros(&self) -> u64 {
        self.nanos() / 1000
    }

    /// TSC frequency in kHz.
    pub fn khz(&self) -> u64 {
        self.scale.khz()
    }

    /// The low bits of the TSC: different at each boot.
    pub fn seed(&self) -> u64 {
        self.origin.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ self.nanos()
    }
}

fn scale() -> (Scale, &'static str) {
    let [_, b, c, d] = ring0::cpuid(0x4000_0000, 0);
    let kvm = [b, c, d] == [0x4b4d_564b, 0x564b_4d56, 0x4d];
    if kvm
        && ring0::cpuid(KVM_FEATURES, 0)[0] & (1 << 3) != 0
        && let Some(scale) = pvclock()
    {
        return (scale, "kvmclock");
    }
    if let Some(scale) = Scale::from_khz(ring0::cpuid(0x4000_0010, 0)[0]) {
        return (scale, "cpuid 0x40000010");
    }
    if ring0::cpuid(0, 0)[0] >= 0x15 {
        let [a, b, c, _] = ring0::cpuid(0x15, 0);
        let hz = u64::from(c) * u64::from(b) / u64::from(a.max(1));
        if let Some(scale) = u32::try_from(hz / 1000).ok().and_then(Scale::from_khz) {
            return (scale, "cpuid 0x15");
        }
    }
    let fallback = Scale::from_khz(2_000_000).expect("invariant: not zero");
    (fallback, "assumed, times are not exact")
}

fn pvclock() -> Option<Scale> {
    let page = &raw mut PVCLOCK;
    // SAFETY: KVM fills this static, which is 32-byte aligned, inside one page and read by nobody but us below; it is
    // disabled again before the function ends.
    unsafe { ring0::wrmsr(MSR_KVM_SYSTEM_TIME_NEW, page as u64 | 1) };
    // SAFETY: a static of plain integers; volatile because KVM wrote it.
    let words = unsafe { (&raw const (*page).words).read_volatile() };
    // SAFETY: bit 0 clear stops KVM from writing.
    unsafe { ring0::wrmsr(MSR_KVM_SYSTEM_TIME_NEW, 0) };
    let [_, _, _, _, _, _, mul, shift_flags] = words;
    Scale::from_pvclock(mul, shift_flags as i8)
}
