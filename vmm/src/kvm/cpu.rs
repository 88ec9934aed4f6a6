//! A vCPU's first state: CPUID and registers, from `boot`'s plain values to KVM's.

use kvm_bindings::{
    CpuId, Msrs, kvm_cpuid_entry2, kvm_dtable, kvm_msr_entry, kvm_regs, kvm_segment,
};
use kvm_ioctls::VcpuFd;
use minivmm_boot::cpuid::CpuidEntry;
use minivmm_boot::regs::{EntryState, FIRMWARE_MSRS, SegmentRegister, TableRegister};

use super::error::{KvmError, refused};

/// KVM's list as `boot` reads it.
pub fn cpuid_entries(cpuid: &CpuId) -> Vec<CpuidEntry> {
    cpuid
        .as_slice()
        .iter()
        .map(|e| CpuidEntry {
            function: e.function,
            index: e.index,
            flags: e.flags,
            eax: e.eax,
            ebx: e.ebx,
            ecx: e.ecx,
            edx: e.edx,
        })
        .collect()
}

/// Gives a vCPU its CPUID, and the MSRs that firmware would have set.
///
/// # Errors
/// [`KvmError::Ioctl`].
pub fn set_cpuid(vcpu: &VcpuFd, entries: &[CpuidEntry]) -> Result<(), KvmError> {
    let entries: Vec<kvm_cpuid_entry2> = entries
        .iter()
        .map(|e| kvm_cpuid_entry2 {
            function: e.function,
            index: e.index,
            flags: e.flags,
            eax: e.eax,
            ebx: e.ebx,
            ecx: e.ecx,
            edx: e.edx,
            ..Default::default()
        })
        .collect();
    let list = CpuId::from_entries(&entries)
        .map_err(|_| KvmError::Capability("room for so many CPUID entries"))?;
    vcpu.set_cpuid2(&list).map_err(refused("set CPUID"))?;
    for (index, data) in FIRMWARE_MSRS {
        let msr = kvm_msr_entry { index, data, ..Default::default() };
        let list = Msrs::from_entries(&[msr])
            .map_err(|_| KvmError::Capability("room for one model-specific register"))?;
        // A KVM that lacks one has guests that do without.
        vcpu.set_msrs(&list).map_err(refused("set model-specific registers"))?;
    }
    Ok(())
}

/// Puts the boot processor where the kernel starts.
///
/// # Errors
/// [`KvmError::Ioctl`].
pub fn set_boot_registers(vcpu: &VcpuFd, state: &EntryState) -> Result<(), KvmError> {
    let mut sregs = vcpu.get_sregs().map_err(refused("read registers"))?;
    sregs.cr0 = state.cr0;
    sregs.cr3 = state.cr3;
    sregs.cr4 = state.cr4;
    sregs.efer = state.efer;
    sregs.cs = segment(&state.cs);
    let data = segment(&state.data);
    (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data, data, data, data, data);
    sregs.tr = segment(&state.tr);
    sregs.gdt = table(&state.gdt);
    sregs.idt = table(&state.idt);
    vcpu.set_sregs(&sregs).map_err(refused("set special registers"))?;
    let regs = kvm_regs {
        rip: state.rip,
        rsp: state.rsp,
        rsi: state.rsi,
        rbx: state.rbx,
        rflags: state.rflags,
        ..Default::default()
    };
    vcpu.set_regs(&regs).map_err(refused("set registers"))
}

fn segment(s: &SegmentRegister) -> kvm_segment {
    kvm_segment {
        base: s.base,
        limit: s.limit,
        selector: s.selector,
        type_: s.type_,
        present: s.present.into(),
        dpl: s.dpl,
        db: s.db.into(),
        s: s.s.into(),
        l: s.l.into(),
        g: s.g.into(),
        avl: s.avl.into(),
        unusable: (!s.present).into(),
        padding: 0,
    }
}

fn table(t: &TableRegister) -> kvm_dtable {
    kvm_dtable { base: t.base, limit: t.limit, padding: [0; 3] }
}
