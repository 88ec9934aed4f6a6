//! The local APIC (Intel SDM vol. 3, ch. 11) and IOAPIC: just enough to be woken from `hlt`.
#![expect(unsafe_code, reason = "MSR writes and memory-mapped interrupt controllers")]

use crate::mem::Registers;
use crate::ring0::{self, VECTOR_DEVICE, VECTOR_SPURIOUS, VECTOR_TIMER};

const IA32_APIC_BASE: u32 = 0x1b;
const APIC_ENABLE: u64 = 1 << 11;
const APIC_X2: u64 = 1 << 10;
const XAPIC: u64 = 0xfee0_0000;

const ID: u32 = 0x2;
const SPURIOUS: u32 = 0xf;
const LVT_TIMER: u32 = 0x32;
const LVT_LINT0: u32 = 0x35;
const TIMER_DIVIDE: u32 = 0x3e;

const IOAPIC: u32 = 0xfec0_0000;

/// The local APIC of this CPU, enabled.
pub struct Apic {
    mmio: Option<Registers>,
    id: u32,
}

impl Apic {
    /// Enables it, in x2APIC mode where there is one, with a one-shot timer.
    pub fn new() -> Self {
        let x2 = ring0::cpuid(1, 0)[2] & (1 << 21) != 0;
        let base = ring0::rdmsr(IA32_APIC_BASE);
        let wanted = base | APIC_ENABLE | if x2 { APIC_X2 } else { 0 };
        if wanted != base {
            // SAFETY: selects the register interface; no memory is involved.
            unsafe { ring0::wrmsr(IA32_APIC_BASE, wanted) };
        }
        // SAFETY: the architectural place of the local APIC.
        let mmio = if x2 { None } else { unsafe { Registers::new(XAPIC, 4096) } };
        if x2 {
            ring0::use_x2apic();
        }
        let mut apic = Self { mmio, id: 0 };
        apic.write(SPURIOUS, 0x100 | u32::from(VECTOR_SPURIOUS));
        apic.write(LVT_LINT0, 1 << 16);
        apic.write(LVT_TIMER, VECTOR_TIMER.into());
        apic.write(TIMER_DIVIDE, 0b1011);
        apic.id = match apic.mmio {
            Some(registers) => registers.read32((ID * 16) as usize) >> 24,
            None => ring0::rdmsr(0x800 + ID) as u32,
        };
        apic
    }

    fn write(&self, register: u32, value: u32) {
        match self.mmio {
            Some(registers) => registers.write32((register * 16) as usize, value),
            // SAFETY: APIC registers never touch memory.
            None => unsafe { ring0::wrmsr(0x800 + register, value.into()) },
        }
    }

    /// The message that raises our device interrupt: address and data of an MSI.
    pub fn message(&self) -> (u64, u32) {
        (XAPIC | u64::from(self.id & 0xff) << 12, VECTOR_DEVICE.into())
    }

    /// Routes a GSI to our device interrupt, edge-triggered.
    pub fn route(&self, ioapics: &[Option<(u32, u32)>; 2], gsi: u32) {
        let below = ioapics.iter().flatten().filter(|(_, first)| *first <= gsi);
        let (address, first) =
            below.max_by_key(|(_, first)| *first).copied().unwrap_or((IOAPIC, 0));
        // SAFETY: the IOAPIC that the MADT names, or where every PC has one.
        if let Some(registers) = unsafe { Registers::new(address.into(), 0x20) } {
            let entry = 0x10 + 2 * (gsi - first);
            registers.write32(0, entry + 1);
            registers.write32(0x10, self.id << 24);
            registers.write32(0, entry);
            registers.write32(0x10, VECTOR_DEVICE.into());
        }
    }

    /// Sleeps until an interrupt or for about `nanos` (KVM's APIC timer ticks once a nanosecond), 0 for no bound.
    pub fn sleep(&self, nanos: u64) {
        ring0::sleep(u32::try_from(nanos).unwrap_or(u32::MAX));
    }
}
