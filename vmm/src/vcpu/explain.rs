//! What it means that a guest can't be run on, in words that say what to do.

use std::io;

use kvm_bindings::{
    KVM_INTERNAL_ERROR_DELIVERY_EV, KVM_INTERNAL_ERROR_EMULATION,
    KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES, KVM_INTERNAL_ERROR_SIMUL_EX,
    KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON, KVM_SYSTEM_EVENT_CRASH, KVM_SYSTEM_EVENT_RESET,
    KVM_SYSTEM_EVENT_SHUTDOWN, kvm_sregs,
};
use kvm_ioctls::VcpuFd;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::stop::Stop;
use crate::cure::THREAD_CURE;

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

/// A `KVM_EXIT_MEMORY_FAULT`.
pub fn memory_fault(gpa: u64, size: u64) -> String {
    format!(
        "the host can't provide {size} bytes of guest memory at {gpa:#x}; is the host, or this \
         process's control group, out of memory?"
    )
}

/// A `KVM_EXIT_UNKNOWN`.
pub fn unknown_exit(fd: &mut VcpuFd) -> String {
    // SAFETY: for this exit reason `hw` is the active member; KVM filled it.
    #[expect(unsafe_code, reason = "kvm_run is a union")]
    let reason = unsafe { fd.get_kvm_run().__bindgen_anon_1.hw.hardware_exit_reason };
    format!("KVM does not know the processor's exit reason {reason:#x}{}", location(fd))
}

/// An exit that nothing here asked KVM for.
pub fn unexpected_exit(exit: &str, fd: &VcpuFd) -> String {
    format!("KVM gave up the guest{} with the unexpected exit {exit}", location(fd))
}

/// An error of `KVM_RUN` itself.
pub fn run_failed(errno: i32, fd: &VcpuFd) -> Stop {
    run_failed_at(errno, &location(fd))
}

fn run_failed_at(errno: i32, location: &str) -> Stop {
    let hint = match errno {
        // A thread of KVM's own, which since Linux 6.13 is made when the guest first runs, and
        // counts as one of ours. Until 6.14 its lack is told as one of memory.
        libc::EAGAIN => format!("; it can't have the thread it needs{THREAD_CURE}"),
        libc::ENOMEM => format!(
            "; the host, or this process's control group, is out of memory, or KVM can't have the \
             thread it needs{THREAD_CURE}"
        ),
        libc::EFAULT => "; is the host, or this process's control group, out of memory?".into(),
        libc::EHWPOISON => "; the host's memory there is broken".into(),
        _ => String::new(),
    };
    let source = io::Error::from_raw_os_error(errno);
    let text = format!("KVM can't run the guest{location}: {source}{hint}");
    if hint.is_empty() { Stop::Failed(text) } else { Stop::Refused(text) }
}

/// Where the vCPU is, or nothing where KVM doesn't say.
fn location(fd: &VcpuFd) -> String {
    fd.get_regs().map(|r| format!(" at {:#x}", r.rip)).unwrap_or_default()
}

/// A `KVM_EXIT_INTERNAL_ERROR`.
pub fn internal_error(fd: &mut VcpuFd, memory: &GuestMemoryMmap) -> String {
    // SAFETY: for this exit reason `internal` is the active member; KVM filled it.
    #[expect(unsafe_code, reason = "kvm_run is a union")]
    let suberror = unsafe { fd.get_kvm_run().__bindgen_anon_1.internal.suberror };
    let (rip, sregs) = match (fd.get_regs(), fd.get_sregs()) {
        (Ok(regs), Ok(sregs)) => (regs.rip, sregs),
        _ => return format!("KVM internal error {suberror}, and its registers can't be read"),
    };
    match suberror {
        KVM_INTERNAL_ERROR_EMULATION => {
            let bytes = reported_instruction(fd)
                .unwrap_or_else(|| instruction(fd, memory, linear(rip, &sregs)));
            let ring = sregs.ss.dpl;
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

/// The linear address of the next instruction: code segments have a base outside 64-bit mode.
fn linear(rip: u64, sregs: &kvm_sregs) -> u64 {
    const EFER_LMA: u64 = 1 << 10;
    if sregs.efer & EFER_LMA != 0 && sregs.cs.l != 0 {
        rip
    } else {
        u64::from((sregs.cs.base as u32).wrapping_add(rip as u32))
    }
}

/// The instruction as KVM fetched it, where it says.
fn reported_instruction(fd: &mut VcpuFd) -> Option<Vec<u8>> {
    // SAFETY: for this exit reason and suberror `emulation_failure` is the active member.
    #[expect(unsafe_code, reason = "kvm_run is a union")]
    let failure = unsafe { fd.get_kvm_run().__bindgen_anon_1.emulation_failure };
    let flag = u64::from(KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES);
    // Words: the flags, and two with the size and the bytes. Older kernels fill in none.
    if failure.ndata < 3 || failure.flags & flag == 0 {
        return None;
    }
    // SAFETY: the flag says that these were filled in; they are plain integers.
    #[expect(unsafe_code, reason = "part of a union")]
    let code = unsafe { failure.__bindgen_anon_1.__bindgen_anon_1 };
    let len = usize::from(code.insn_size).min(code.insn_bytes.len());
    (len > 0).then(|| code.insn_bytes[..len].to_vec())
}

/// The bytes at `address`, as far as they are mapped RAM.
fn instruction(fd: &VcpuFd, memory: &GuestMemoryMmap, address: u64) -> Vec<u8> {
    (0..INSTRUCTION_MAX as u64)
        .map_while(|i| {
            let at = fd.translate_gva(address.wrapping_add(i)).ok().filter(|t| t.valid != 0)?;
            memory.read_obj::<u8>(GuestAddress(at.physical_address)).ok()
        })
        .collect()
}

fn hex(bytes: &[u8]) -> String {
    if bytes.is_empty() {
        return "no bytes there can be read".into();
    }
    bytes.iter().map(|b| format!("{b:02x}")).collect::<Vec<_>>().join(" ")
}

/// What an instruction that KVM does not know points to.
///
/// A processor with hardware virtualization runs kernel code itself, and leaves to KVM only what
/// touches a device. A KVM without it (as in clouds without nesting) emulates all of ring 0.
fn likely_cause(bytes: &[u8], ring: u8) -> String {
    // Legacy prefixes, then REX.
    let prefix = |b: &u8| {
        matches!(b, 0x26 | 0x2e | 0x36 | 0x3e | 0x64 | 0x65 | 0x66 | 0x67 | 0xf0 | 0xf2 | 0xf3)
    };
    let rest = match bytes.iter().position(|b| !prefix(b)) {
        Some(n) => &bytes[n..],
        None => &[],
    };
    let rest = match rest {
        [0x40..=0x4f, rest @ ..] => rest,
        rest => rest,
    };
    // Whether it has an operand in memory, which could be a device's.
    let (name, memory) = match *rest {
        [] => return "likely cause: the guest jumped to where there is no memory".into(),
        [0xcc, ..] => ("int3", false),
        [0x0f, 0xae, modrm, ..] if modrm < 0xc0 => match modrm >> 3 & 7 {
            0 => ("fxsave", true),
            1 => ("fxrstor", true),
            4 => ("xsave", true),
            5 => ("xrstor", true),
            6 => ("xsaveopt", true),
            _ => ("this instruction", true),
        },
        [0x0f, 0xc7, modrm, ..] if modrm < 0xc0 && modrm >> 3 & 7 == 1 => ("cmpxchg16b", true),
        [0xc4 | 0xc5 | 0x62, ..] => ("an AVX instruction", true),
        [0xff, 0xff, ..] | [0, 0, ..] => {
            return "likely cause: the guest has run into memory that holds no code".into();
        }
        _ => ("this instruction", true),
    };
    let software = format!(
        "this host's KVM runs kernel code by emulation, for want of hardware virtualization, and \
         does not know {name}: run this guest on a host with hardware virtualization"
    );
    match (ring, memory) {
        (0, false) => format!("likely cause: {software}"),
        (0, true) => format!(
            "likely cause: {software}; or, on a host that has it, the operand is not in RAM"
        ),
        _ => {
            format!("likely cause: the operand of {name} is not in RAM, where KVM must emulate it")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_host_lacks_is_no_crash_of_the_guest() {
        for (errno, want) in [
            (libc::EAGAIN, "ulimit -u"),
            (libc::ENOMEM, "out of memory"),
            (libc::ENOMEM, "pids.max"),
            (libc::EFAULT, "out of memory"),
            (libc::EHWPOISON, "broken"),
        ] {
            let stop = run_failed_at(errno, " at 0x1000");
            assert!(matches!(&stop, Stop::Refused(text) if text.contains(want)), "{stop:?}");
        }
        assert!(matches!(run_failed_at(libc::EINVAL, ""), Stop::Failed(_)));
    }

    #[test]
    fn known_traps_are_named() {
        for (bytes, ring, want) in [
            (&[0xcc, 0x90][..], 0, "int3"),
            (&[0x48, 0x0f, 0xae, 0x21], 0, "xsave"),
            (&[0xf0, 0x48, 0x0f, 0xc7, 0x0e], 0, "cmpxchg16b"),
            (&[0x65, 0x48, 0x0f, 0xae, 0x21], 0, "xsave"),
            (&[0xc5, 0xf8, 0x77], 3, "AVX"),
            (&[0x66, 0x0f, 0x6f, 0x00], 3, "not in RAM"),
            (&[0x66, 0xf0], 0, "no memory"),
            (&[], 0, "no memory"),
            (&[0, 0, 0], 0, "no code"),
        ] {
            let text = likely_cause(bytes, ring);
            assert!(
                text.starts_with("likely cause: ") && text.contains(want),
                "{bytes:x?}: {text}"
            );
        }
    }
}
