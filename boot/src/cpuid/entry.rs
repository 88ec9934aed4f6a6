//! A leaf of CPUID as a plain value.

/// [`CpuidEntry::flags`]: the entry is for one value of ECX (`KVM_CPUID_FLAG_SIGNIFCANT_INDEX`).
pub const FLAG_INDEX: u32 = 1;

/// One CPUID leaf or sub-leaf, as `kvm_cpuid_entry2`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuidEntry {
    /// EAX on input.
    pub function: u32,
    /// ECX on input, if `flags` has [`FLAG_INDEX`].
    pub index: u32,
    /// KVM's flags.
    pub flags: u32,
    /// EAX.
    pub eax: u32,
    /// EBX.
    pub ebx: u32,
    /// ECX.
    pub ecx: u32,
    /// EDX.
    pub edx: u32,
}
