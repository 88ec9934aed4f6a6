//! The configuration: one model for the command line, files and the library, and what is left of it
//! once it has been checked.

mod file;
mod net;
mod publish;
mod size;
mod validate;

use std::path::PathBuf;
use std::str::FromStr;

pub use self::net::{HostAccess, Ipv6, MaxFlows, NatConfig, NetConfig, TapConfig};
pub use self::publish::PublishConfig;
pub use self::size::Size;
use self::validate::CPUS_MAX;
pub use self::validate::{ConfigError, Validated};

/// Where the guest's first serial port leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Console {
    /// The terminal, in raw mode; Ctrl-A x leaves.
    Tty,
    /// Standard input and output as plain bytes.
    Pipe,
    /// Nowhere: output is thrown away, there is no input.
    None,
}

/// How virtio devices are attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Transport {
    /// Virtio over PCI with MSI-X (Virtio 1.2 §4.1).
    #[default]
    Pci,
    /// Virtio over MMIO (Virtio 1.2 §4.2), for kernels without PCI.
    Mmio,
}

/// How the kernel is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum BootProtocol {
    /// PVH where the kernel has its note, else the 64-bit protocol.
    #[default]
    Auto,
    /// PVH only.
    Pvh,
    /// The 64-bit Linux boot protocol only.
    Linux64,
}

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
    pub console: Option<Console>,
    /// How virtio devices are attached.
    pub transport: Transport,
    /// CPU features to take away, separated by commas.
    pub cpu_mask: String,
    /// How the kernel is started.
    pub boot_protocol: BootProtocol,
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
            transport: Transport::default(),
            cpu_mask: String::new(),
            boot_protocol: BootProtocol::default(),
            no_kernel_cache: false,
            net: Vec::new(),
            publish: Vec::new(),
        }
    }
}

/// A number in plain digits: no sign, no spaces.
fn decimal<T: FromStr>(text: &str) -> Option<T> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

/// A number of CPUs as it is written; [`MachineConfig::validate`] checks its range.
///
/// # Errors
/// What is wrong with it, and what is allowed.
pub fn parse_cpus(text: &str) -> Result<u32, String> {
    decimal(text).ok_or_else(|| format!("{text:?} is no number of CPUs, 1 to {CPUS_MAX}"))
}
