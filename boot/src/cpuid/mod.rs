//! CPUID policy: what KVM supports, with the topology of this machine and without what is masked.
//!
//! A pure function over plain entries. The machine is one socket of N cores with one thread each;
//! APIC IDs count from 0. Leaves: Intel SDM vol. 2A "CPUID", AMD APM vol. 3 appendix E.

mod entry;
mod features;
#[cfg(test)]
mod tests;

pub use entry::{CpuidEntry, FLAG_INDEX};
pub use features::{Mask, MaskError};

// Leaf 1.
const ECX_VMX: u32 = 1 << 5;
const ECX_TSC_DEADLINE: u32 = 1 << 24;
const ECX_HYPERVISOR: u32 = 1 << 31;
const EDX_HTT: u32 = 1 << 28;
// Leaf 0x8000_0001, ECX.
const ECX_CMP_LEGACY: u32 = 1 << 1;
const ECX_SVM: u32 = 1 << 2;
/// What SVM can do.
const SVM: u32 = 0x8000_000A;
/// Intel's extended topology leaves, which have equal layout.
const TOPOLOGY: [u32; 2] = [0xB, 0x1F];
/// AMD's extended topology: left out, as its subset in 0xB and 0x8000_001E says all there is.
const AMD_TOPOLOGY: u32 = 0x8000_0026;

/// The CPUID of vCPU `cpu` of `cpus`, from what KVM supports.
///
/// Virtualization is not passed on: a guest has no use for it unasked, and the host's KVM would
/// have to emulate it.
///
/// `cpu` is below `cpus`, which is 1 to [`crate::layout::MAX_CPUS`].
#[must_use]
pub fn policy(supported: &[CpuidEntry], cpu: u32, cpus: u32, mask: &Mask) -> Vec<CpuidEntry> {
    let leaf0 = supported.iter().find(|e| e.function == 0);
    let max_leaf = leaf0.map_or(0, |e| e.eax);
    let amd = leaf0.is_some_and(|e| {
        let vendor = [e.ebx, e.edx, e.ecx].map(u32::to_le_bytes).concat();
        vendor == b"AuthenticAMD" || vendor == b"HygonGenuine"
    });
    let id_bits = cpus.next_power_of_two().trailing_zeros();
    let mut entries: Vec<CpuidEntry> = supported
        .iter()
        .filter(|e| !TOPOLOGY.contains(&e.function) && ![AMD_TOPOLOGY, SVM].contains(&e.function))
        .copied()
        .collect();
    for e in &mut entries {
        match e.function {
            1 => leaf_1(e, cpu, cpus, amd),
            4 if !amd => leaf_4(e, id_bits),
            0x8000_0001 => {
                set(&mut e.ecx, ECX_SVM, false);
                if amd {
                    set(&mut e.ecx, ECX_CMP_LEGACY, cpus > 1);
                }
            }
            // NC and ApicIdSize.
            0x8000_0008 if amd => e.ecx = e.ecx & !0xF0FF | (cpus - 1) | id_bits << 12,
            0x8000_001D if amd => amd_cache(e, cpus),
            0x8000_001E if amd => {
                // Extended APIC ID; core ID, one thread per core; node 0 of 1.
                (e.eax, e.ebx, e.ecx, e.edx) = (cpu, cpu & 0xFF, 0, 0);
            }
            _ => {}
        }
    }
    // 0x1F is Intel's alone.
    let wanted = if amd { &TOPOLOGY[..1] } else { &TOPOLOGY[..] };
    for &function in wanted.iter().filter(|&&f| f <= max_leaf) {
        entries.extend(topology(function, cpu, cpus, id_bits));
    }
    mask.apply(&mut entries, amd);
    entries
}

fn set(register: &mut u32, bit: u32, on: bool) {
    *register = if on { *register | bit } else { *register & !bit };
}

fn leaf_1(e: &mut CpuidEntry, cpu: u32, cpus: u32, amd: bool) {
    // Initial APIC ID, logical processors; CLFLUSH size and brand stay. Intel counts the APIC IDs
    // that there is room for, AMD the cores that there are.
    let count = if amd { cpus } else { cpus.next_power_of_two() };
    e.ebx = e.ebx & 0xFFFF | count << 16 | cpu << 24;
    // KVM emulates the deadline timer; old kernels do not say so here.
    e.ecx |= ECX_HYPERVISOR | ECX_TSC_DEADLINE;
    set(&mut e.ecx, ECX_VMX, false);
    set(&mut e.edx, EDX_HTT, cpus > 1);
}

/// Intel cache parameters: L1 and L2 are a core's own, L3 is the socket's.
fn leaf_4(e: &mut CpuidEntry, id_bits: u32) {
    let (kind, level) = (e.eax & 0x1F, e.eax >> 5 & 7);
    if kind == 0 {
        return;
    }
    let ids = (1 << id_bits) - 1;
    let sharing = if level >= 3 { ids } else { 0 };
    e.eax = e.eax & 0x3FFF | sharing << 14 | ids << 26;
}

/// AMD cache topology: the same, as a count of cores.
fn amd_cache(e: &mut CpuidEntry, cpus: u32) {
    let (kind, level) = (e.eax & 0x1F, e.eax >> 5 & 7);
    if kind == 0 {
        return;
    }
    let sharing = if level >= 3 { cpus - 1 } else { 0 };
    e.eax = e.eax & !(0xFFF << 14) | sharing << 14;
}

/// Extended topology: one thread per core, `cpus` cores, then the invalid level that ends it.
fn topology(function: u32, cpu: u32, cpus: u32, id_bits: u32) -> [CpuidEntry; 3] {
    const SMT: u32 = 1;
    const CORE: u32 = 2;
    [(0, 1, SMT), (id_bits, cpus, CORE), (0, 0, 0)].map(|(shift, count, kind)| {
        let index = if kind == 0 { 2 } else { kind - 1 };
        CpuidEntry {
            function,
            index,
            flags: FLAG_INDEX,
            eax: shift,
            ebx: count,
            ecx: index | kind << 8,
            edx: cpu,
        }
    })
}
