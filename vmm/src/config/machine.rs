//! A machine as a user describes it.

use std::path::PathBuf;

use minivmm_boot::Protocol;

use super::choice::{ConsoleKind, VirtioTransport};
use super::net::NetConfig;
use super::publish::PublishConfig;
use super::size::Size;

/// A machine, as a user describes it. Every field has its option in `minivmm run`.
#[derive(Debug, Clone, PartialEq)]
pub struct MachineConfig {
    /// Names the machine in messages, and the guest by DHCP. Letters, digits and hyphens, 63 at
    /// most (RFC 1123 §2.1).
    pub name: Option<String>,
    /// An ELF vmlinux or a bzImage; the built-in probe guest without one.
    pub kernel: Option<PathBuf>,
    /// The initial RAM disk.
    pub initrd: Option<PathBuf>,
    /// Goes to the kernel after what minivmm adds itself.
    pub cmdline: String,
    /// Virtual CPUs, 1 to 32.
    pub cpus: u32,
    /// Guest memory.
    pub memory: Size,
    /// Where the first serial port leads; by default the terminal if there is one and a kernel
    /// was named, else plain bytes.
    pub console: Option<ConsoleKind>,
    /// How virtio devices are attached.
    pub transport: VirtioTransport,
    /// CPU features to take away, separated by commas.
    pub cpu_mask: String,
    /// How the kernel is started.
    pub boot_protocol: Protocol,
    /// No unpacked kernel is taken from the user's cache folder, nor kept there.
    pub no_kernel_cache: bool,
    /// The guest's network interfaces.
    pub net: Vec<NetConfig>,
    /// Ports of the host that lead to the guest's first NAT interface.
    pub publish: Vec<PublishConfig>,
}

impl Default for MachineConfig {
    fn default() -> Self {
        Self {
            name: None,
            kernel: None,
            initrd: None,
            cmdline: String::new(),
            cpus: 1,
            memory: Size::mib(256),
            console: None,
            transport: VirtioTransport::default(),
            cpu_mask: String::new(),
            boot_protocol: Protocol::default(),
            no_kernel_cache: false,
            net: Vec::new(),
            publish: Vec::new(),
        }
    }
}
