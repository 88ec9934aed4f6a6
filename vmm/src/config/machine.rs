//! A machine as a user describes it.

use std::path::{Path, PathBuf};

use minivmm_boot::Protocol;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::choice::{BOOT_PROTOCOLS, CONSOLES, ConsoleKind, TRANSPORTS, VirtioTransport};
use super::net::NetConfig;
use super::number::parse_cpus;
use super::publish::PublishConfig;
use super::size::Size;
use super::value;

#[cfg(test)]
mod tests;

/// A machine, as a user describes it. Every field has its option in `minivmm run`, of the same name;
/// so have the keys of files and of JSON.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct MachineConfig {
    /// Names the machine in messages, and the guest by DHCP. Letters, digits and hyphens, 63 at
    /// most (RFC 1123 §2.1).
    #[serde(deserialize_with = "value::some_text", skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// An ELF vmlinux or a bzImage; the built-in probe guest without one.
    #[serde(with = "path", skip_serializing_if = "Option::is_none")]
    pub kernel: Option<PathBuf>,
    /// The initial RAM disk.
    #[serde(with = "path", skip_serializing_if = "Option::is_none")]
    pub initrd: Option<PathBuf>,
    /// Goes to the kernel after what minivmm adds itself.
    #[serde(deserialize_with = "value::text", skip_serializing_if = "String::is_empty")]
    pub cmdline: String,
    /// Virtual CPUs, 1 to 32.
    #[serde(deserialize_with = "cpus")]
    pub cpus: u32,
    /// Guest memory.
    pub memory: Size,
    /// Where the first serial port leads; by default the terminal if there is one and a kernel
    /// was named, else plain bytes.
    #[serde(with = "console", skip_serializing_if = "Option::is_none")]
    pub console: Option<ConsoleKind>,
    /// How virtio devices are attached.
    #[serde(with = "transport")]
    pub transport: VirtioTransport,
    /// CPU features to take away, separated by commas.
    #[serde(deserialize_with = "value::text", skip_serializing_if = "String::is_empty")]
    pub cpu_mask: String,
    /// How the kernel is started.
    #[serde(with = "boot_protocol")]
    pub boot_protocol: Protocol,
    /// No unpacked kernel is taken from the user's cache folder, nor kept there.
    #[serde(deserialize_with = "value::truth")]
    pub no_kernel_cache: bool,
    /// Ports of the host that lead to the guest's first NAT interface.
    #[serde(deserialize_with = "publish", skip_serializing_if = "Vec::is_empty")]
    pub publish: Vec<PublishConfig>,
    /// The guest's network interfaces. They are tables, which come last in TOML.
    #[serde(deserialize_with = "net", skip_serializing_if = "Vec::is_empty")]
    pub net: Vec<NetConfig>,
}

fn cpus<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    value::parsed_by(deserializer, parse_cpus)
}

fn publish<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<PublishConfig>, D::Error> {
    value::list(deserializer, "a list, as in [\"8080:80\"]")
}

fn net<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<NetConfig>, D::Error> {
    value::list(deserializer, "[[net]] tables, or a list, as in [\"nat\"]")
}

/// A path as text, as well as it can be: Linux's paths are bytes.
mod path {
    use super::*;

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<PathBuf>, D::Error> {
        value::some_text(deserializer)
    }

    pub(super) fn serialize<S: Serializer>(
        path: &Option<PathBuf>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        path.as_deref().map(Path::to_string_lossy).serialize(serializer)
    }
}

/// A choice as its word.
macro_rules! by_word {
    ($name:ident, $type:ty, $choices:expr) => {
        mod $name {
            use super::*;

            pub(super) fn deserialize<'de, D: Deserializer<'de>>(
                deserializer: D,
            ) -> Result<$type, D::Error> {
                value::chosen(deserializer, $choices)
            }

            pub(super) fn serialize<S: Serializer>(
                value: &$type,
                serializer: S,
            ) -> Result<S::Ok, S::Error> {
                value::word_of(*value, $choices, serializer)
            }
        }
    };
}

by_word!(transport, VirtioTransport, TRANSPORTS);
by_word!(boot_protocol, Protocol, BOOT_PROTOCOLS);

mod console {
    use super::*;

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<ConsoleKind>, D::Error> {
        value::chosen(deserializer, CONSOLES).map(Some)
    }

    pub(super) fn serialize<S: Serializer>(
        value: &Option<ConsoleKind>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match value {
            Some(value) => value::word_of(*value, CONSOLES, serializer),
            None => serializer.serialize_none(),
        }
    }
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
            publish: Vec::new(),
            net: Vec::new(),
        }
    }
}
