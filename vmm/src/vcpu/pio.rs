//! Port exits.
#![expect(unsafe_code, reason = "the shared page of a vCPU says of what width an access is")]

use std::ptr;
use std::slice;

use kvm_bindings::KVM_EXIT_IO_OUT;
use kvm_ioctls::VcpuFd;
use minivmm_devices::bus::Bus;

/// Serves the port exit that `fd` has come back with.
///
/// KVM hands over a string instruction (`rep insb`, `rep outsl`) as one exit: many accesses of the
/// same port, where kvm-ioctls shows only their bytes.
pub fn serve(fd: &mut VcpuFd, pio: &Bus) {
    let run = ptr::from_mut(fd.get_kvm_run());
    // SAFETY: for a port exit `io` is the active member; KVM filled it.
    let io = unsafe { (*run).__bindgen_anon_1.io };
    let (size, count) = (usize::from(io.size), io.count as usize);
    // SAFETY: KVM says where in the mapping that begins with `run` it put these bytes, or wants
    // them. The mapping lives as long as `fd`, and is used by nobody else while `fd` is borrowed.
    let data = unsafe {
        slice::from_raw_parts_mut(run.cast::<u8>().add(io.data_offset as usize), size * count)
    };
    for access in data.chunks_exact_mut(size.max(1)) {
        if u32::from(io.direction) == KVM_EXIT_IO_OUT {
            pio.write(io.port.into(), access);
        } else {
            pio.read(io.port.into(), access);
        }
    }
}
