//! The configuration: one serde model for the command line, files and the library, and what is
//! left of it once it has been checked.

mod net;
mod publish;
mod size;
mod text;
mod validate;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use self::net::{Engine, HostAccess, Ipv6, NatConfig, NetConfig, TapConfig};
pub use self::publish::PublishConfig;
pub use self::size::Size;
pub use self::validate::{ConfigError, Validated};

/// Where the guest's first serial port leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Console {
    /// The terminal, in raw mode; Ctrl-A x leaves.
    Tty,
    /// Standard input and output as plain bytes.
    Pipe,
    /// Nowhere: output is thrown away, there is no input.
    None,
}

/// How virtio devices are attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Transport {
    /// Virtio over PCI with MSI-X (Virtio 1.2 §4.1).
    #[default]
    Pci,
    /// Virtio over MMIO (Virtio 1.2 §4.2), for kernels without PCI.
    Mmio,
}

/// How the kernel is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
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
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
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
            net: Vec::new(),
            publish: Vec::new(),
        }
    }
}

impl MachineConfig {
    /// Reads a TOML file's text.
    ///
    /// # Errors
    /// [`ConfigError::File`], with the line that is wrong.
    pub fn from_toml(path: &std::path::Path, text: &str) -> Result<Self, ConfigError> {
        toml::from_str(text).map_err(|e| ConfigError::file(path, text, &e))
    }
}
