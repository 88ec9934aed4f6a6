//! What it means that a guest can't be run on, in words that say what to do.

use kvm_bindings::{
    KVM_INTERNAL_ERROR_DELIVERY_EV, KVM_INTERNAL_ERROR_EMULATION, KVM_INTERNAL_ERROR_SIMUL_EX,
    KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON, KVM_SYSTEM_EVENT_CRASH, KVM_SYSTEM_EVENT_RESET,
    KVM_SYSTEM_EVENT_SHUTDOWN,
};
use kvm_ioctls::VcpuFd;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::Stop;

/// The longest x86 instruction.
const INSTRUCTION_MAX: usize = 15;

/// A `KVM_EXIT_SYSTEM_EVENT`.
pub fn system_event(kind: u32, data: &[u64]) -> Stop {
    match kind {
        KVM_SYSTEM_EVENT_SHUTDOWN => Stop::PowerOff,
        KVM_SYSTEM_EVENT_RESET => Stop::Reset,
        KVM_SYSTEM_EVENT_CRASH => Stop::Failed(format!("it reported a crash ({data:x?})")),
        _ => Stop::Failed(format!("unknown system event {kind}")),
    }
}

/// A `KVM_EXIT_FAIL_ENTRY`.
pub fn fail_entry(reason: u64, cpu: u32) -> String {
    format!(
        "the processor refused the guest's state (hardware reason {reason:#x} on host CPU {cpu}); \
         see the kernel's log for details"
    )
}

/// Where the vCPU is, or nothing where KVM doesn't say.
pub fn location(fd: &VcpuFd) -> String {
    fd.get_regs().map(|r| format!(" at {:#x}", r.rip)).unwrap_or_default()
}

/// A `KVM_EXIT_INTERNAL_ERROR`.
pub fn internal_error(fd: &mut VcpuFd, memory: &GuestMemoryMmap) -> String {
    // SAFETY: for this exit reason `internal` is the active member; KVM filled it.
    #[expect(unsafe_code, reason = "kvm_run is a union")]
    let suberror = unsafe { fd.get_kvm_run().__bindgen_anon_1.internal.suberror };
    let (rip, ring) = match (fd.get_regs(), fd.get_sregs()) {
        (Ok(regs), Ok(sregs)) => (regs.rip, sregs.cs.dpl),
        _ => return format!("KVM internal error {suberror}, and its registers can't be read"),
    };
    match suberror {
        KVM_INTERNAL_ERROR_EMULATION => {
            let bytes = instruction(fd, memory, rip);
            format!(
                "KVM can't emulate the instruction at {rip:#x} (ring {ring}): {}; {}",
                hex(&bytes),
                likely_cause(&bytes, ring)
            )
        }
        KVM_INTERNAL_ERROR_SIMUL_EX => {
            format!("an exception while another was delivered, at {rip:#x}")
        }
        KVM_INTERNAL_ERROR_DELIVERY_EV => {
            format!("an event could not be delivered at {rip:#x}: the guest's IDT or stack is bad")
        }
        KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON => {
            format!("KVM did not expect the processor's exit reason at {rip:#x}")
        }
        _ => format!("KVM internal error {suberror} at {rip:#x}"),
    }
}

/// The bytes at `rip`, as far as they are mapped RAM.
fn instruction(fd: &VcpuFd, memory: &GuestMemoryMmap, rip: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(INSTRUCTION_MAX);
    for i in 0..INSTRUCTION_MAX as u64 {
        let byte = fd
            .translate_gva(rip.wrapping_add(i))
            .ok()
            .filter(|t| t.valid != 0)
            .and_then(|t| memory.read_obj::<u8>(GuestAddress(t.physical_address)).ok());
        match byte {
            Some(byte) => bytes.push(byte),
            None => break,
        }
    }
    bytes
}

fn hex(bytes: &[u8]) -> String {
    if bytes.is_empty() {
        return "no bytes there can be read".into();
    }
    bytes.iter().map(|b| format!("{b:02x}")).collect::<Vec<_>>().join(" ")
}

/// A KVM that runs the guest's ring 0 by emulation (no virtualization in hardware, as in clouds
/// without nesting) stops at instructions that one with hardware support runs natively.
fn likely_cause(bytes: &[u8], ring: u8) -> String {
    // Legacy prefixes, then REX.
    let rest = match bytes.iter().position(|b| !matches!(b, 0x66 | 0x67 | 0xf0 | 0xf2 | 0xf3)) {
        Some(n) => &bytes[n..],
        None => &[],
    };
    let rest = match rest {
        [0x40..=0x4f, rest @ ..] => rest,
        rest => rest,
    };
    let name = match *rest {
        [] => return "the guest jumped to where there is no memory".into(),
        [0xcc, ..] => "int3",
        [0x0f, 0xae, modrm, ..] => match modrm >> 3 & 7 {
            0 => "fxsave",
            1 => "fxrstor",
            4 => "xsave",
            5 => "xrstor",
            6 => "xsaveopt",
            _ => "an instruction of group 15",
        },
        [0x0f, 0xc7, modrm, ..] if modrm >> 3 & 7 == 1 => "cmpxchg16b",
        [0x0f, 0xc7, ..] => "an instruction of group 9",
        [0xc4 | 0xc5 | 0x62, ..] => "an AVX instruction",
        [0x0f, ..] => "a two-byte instruction",
        [0xff, 0xff, ..] | [0, 0, ..] => {
            return "the guest has run into memory that holds no code".into();
        }
        _ => "this instruction",
    };
    if ring == 0 {
        format!(
            "likely cause: this host's KVM emulates kernel code in software and does not know \
             {name}; run this kernel on a host with hardware virtualization"
        )
    } else {
        format!("likely cause: {name} touched a device's memory, where KVM must emulate it")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_traps_are_named() {
        for (bytes, ring, want) in [
            (&[0xcc, 0x90][..], 0, "int3"),
            (&[0x48, 0x0f, 0xae, 0x21], 0, "xsave"),
            (&[0xf0, 0x48, 0x0f, 0xc7, 0x0e], 0, "cmpxchg16b"),
            (&[0xc5, 0xf8, 0x77], 3, "AVX"),
            (&[], 0, "no memory"),
            (&[0, 0, 0], 0, "no code"),
        ] {
            let text = likely_cause(bytes, ring);
            assert!(text.contains(want), "{bytes:x?}: {text}");
        }
    }
}
