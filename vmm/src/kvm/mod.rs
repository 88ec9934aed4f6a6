//! The machine as KVM has it: memory slots, interrupt controller, notifications.

mod cpu;
mod error;
mod irq;

use std::io;
use std::path::Path;
use std::sync::Arc;

use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES, kvm_userspace_memory_region};
use kvm_ioctls::{Cap, IoEventAddress, Kvm, NoDatamatch, VcpuFd, VmFd};
use minivmm_boot::layout;
use minivmm_devices::virtio::IoEventFd;
use vm_memory::{Address, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};

pub use self::cpu::{cpuid_entries, set_boot_registers, set_cpuid};
pub use self::error::{KvmError, refused};
pub use self::irq::{IrqLines, Line, pin_is_masked};

/// A virtual machine without processors or devices.
#[derive(Debug)]
pub struct Vm {
    fd: Arc<VmFd>,
    supported_cpuid: CpuId,
    max_vcpus: usize,
}

impl Vm {
    /// Opens the KVM device at `path`, and makes a machine of it with `memory` and an in-kernel
    /// interrupt controller.
    ///
    /// # Errors
    /// [`KvmError`].
    pub fn new(path: &Path, memory: &GuestMemoryMmap) -> Result<Self, KvmError> {
        let kvm = open(path)?;
        for (cap, name) in [
            (Cap::Irqchip, "an in-kernel interrupt controller"),
            (Cap::Irqfd, "irqfd"),
            (Cap::Ioeventfd, "ioeventfd"),
            (Cap::ImmediateExit, "immediate_exit"),
            (Cap::SignalMsi, "message-signalled interrupts"),
        ] {
            if !kvm.check_extension(cap) {
                return Err(KvmError::Capability(name));
            }
        }
        let fd = loop {
            // Creating a machine is interrupted by any signal, and is then to be tried again.
            match kvm.create_vm() {
                Err(e) if e.errno() == libc::EINTR => {}
                other => break other.map_err(refused("create a virtual machine"))?,
            }
        };
        // Before the interrupt controller: its registration leaves KVM with work to be done in the
        // background, which a change of memory would wait for, some milliseconds.
        map(&fd, memory)?;
        fd.set_identity_map_address(layout::KVM_IDENTITY_MAP)
            .map_err(refused("set the identity map address"))?;
        fd.set_tss_address(layout::KVM_TSS as usize).map_err(refused("set the TSS address"))?;
        fd.create_irq_chip().map_err(refused("create the interrupt controller"))?;
        Ok(Self {
            fd: Arc::new(fd),
            supported_cpuid: kvm
                .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
                .map_err(refused("list the CPUID it supports"))?,
            max_vcpus: kvm.get_max_vcpus(),
        })
    }

    /// How many vCPUs this KVM allows.
    pub fn max_vcpus(&self) -> usize {
        self.max_vcpus
    }

    /// The CPUID that this KVM can give a guest.
    pub fn supported_cpuid(&self) -> &CpuId {
        &self.supported_cpuid
    }

    /// Creates vCPU `index`.
    ///
    /// # Errors
    /// [`KvmError::Ioctl`].
    pub fn create_vcpu(&self, index: u32) -> Result<VcpuFd, KvmError> {
        self.fd.create_vcpu(index.into()).map_err(refused("create a virtual CPU"))
    }

    /// Makes the interrupt lines of this machine.
    pub fn irq_lines(&self) -> Arc<IrqLines> {
        IrqLines::new(Arc::clone(&self.fd))
    }

    /// A second handle on the machine, for devices that come and go while it runs.
    pub fn handle(&self) -> Arc<VmFd> {
        Arc::clone(&self.fd)
    }
}

#[expect(unsafe_code, reason = "KVM is given host addresses of guest memory")]
fn map(vm: &VmFd, memory: &GuestMemoryMmap) -> Result<(), KvmError> {
    for (slot, region) in memory.iter().enumerate() {
        let slot = kvm_userspace_memory_region {
            slot: slot as u32,
            flags: 0,
            guest_phys_addr: region.start_addr().raw_value(),
            memory_size: region.len(),
            userspace_addr: region.as_ptr() as u64,
        };
        // SAFETY: the region is a live mapping of that length, and regions do not overlap. The
        // machine that owns this VM holds a clone of the memory until all vCPU threads have ended.
        unsafe { vm.set_user_memory_region(slot) }.map_err(refused("map guest memory"))?;
    }
    Ok(())
}

fn open(path: &Path) -> Result<Kvm, KvmError> {
    let shown = path.display().to_string();
    let c_path = std::ffi::CString::new(path.as_os_str().as_encoded_bytes())
        .expect("the path is a constant of ours");
    let kvm = Kvm::new_with_path(c_path).map_err(|e| {
        let (path, source) = (shown.clone(), io::Error::from_raw_os_error(e.errno()));
        match e.errno() {
            libc::EACCES => KvmError::Permission { path },
            libc::EPERM => KvmError::Policy { path },
            libc::ENOENT | libc::ENXIO | libc::ENODEV => KvmError::Missing { path, source },
            _ => KvmError::Open { path, source },
        }
    })?;
    match kvm.get_api_version() {
        12 => Ok(kvm),
        version => Err(KvmError::Version { path: shown, version }),
    }
}

/// Lets a write to the guest address of `event` wake its eventfd without an exit.
///
/// # Errors
/// [`KvmError::Ioctl`].
pub fn register_ioevent(vm: &VmFd, event: &IoEventFd) -> Result<(), KvmError> {
    let address = IoEventAddress::Mmio(event.address);
    match event.datamatch {
        Some(value) => vm.register_ioevent(&event.fd, &address, value),
        None => vm.register_ioevent(&event.fd, &address, NoDatamatch),
    }
    .map_err(refused("register a queue notification"))
}

/// Undoes [`register_ioevent`].
///
/// # Errors
/// [`KvmError::Ioctl`].
pub fn unregister_ioevent(vm: &VmFd, event: &IoEventFd) -> Result<(), KvmError> {
    let address = IoEventAddress::Mmio(event.address);
    match event.datamatch {
        Some(value) => vm.unregister_ioevent(&event.fd, &address, value),
        None => vm.unregister_ioevent(&event.fd, &address, NoDatamatch),
    }
    .map_err(refused("remove a queue notification"))
}
