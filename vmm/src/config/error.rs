//! Why a configuration is refused.

use ipnet::Ipv4Net;
use minivmm_boot::{CmdlineError, layout};
use minivmm_net::{MacAddr, PlanError};

use super::net_words::ParseNetError;
use super::place::Place;
use super::publish::PublishConfig;
use super::size::Size;
use crate::cure::limit_cure;

/// The least memory a guest gets: room for the smallest kernel and the tables.
pub(super) const MEMORY_MIN: Size = Size::mib(16);
/// The most interfaces: what fits on one PCI bus beside the host bridge, and the pins left for
/// MMIO devices.
pub(super) const NICS_MAX: usize = 16;

/// A configuration that is refused. One line each, which begins with its [`ConfigError::place`].
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file is not what it should be.
    #[error("{path}:{line}: {message}")]
    File {
        /// The file.
        path: String,
        /// The line in it, from 1.
        line: usize,
        /// What is wrong with it.
        message: String,
    },
    /// The file can't be read.
    #[error("cannot read {path}: {source}{}", limit_cure(source))]
    Read {
        /// The file.
        path: String,
        /// The refusal.
        source: std::io::Error,
    },
    /// The words for an interface.
    #[error("net[{index}]: {source}")]
    Net {
        /// Which, from 0.
        index: usize,
        /// What is wrong with them.
        source: ParseNetError,
    },
    /// A name that can't be a host name.
    #[error("name: {0}")]
    Name(#[source] PlanError),
    /// Too few or too many CPUs.
    #[error("cpus: {0} CPUs, where a machine has 1 to {max}", max = layout::MAX_CPUS)]
    Cpus(u32),
    /// Too little memory.
    #[error("memory: {0}, where a guest needs at least {min}", min = MEMORY_MIN)]
    MemoryTooSmall(Size),
    /// More memory than the host has.
    #[error("memory: {asked}, where this host has {host} in all")]
    MemoryTooLarge {
        /// What was asked for.
        asked: Size,
        /// All of the host's, swap included.
        host: Size,
    },
    /// Memory that isn't whole pages.
    #[error("memory: {0} is not a whole number of MiB")]
    MemoryUnaligned(Size),
    /// A feature that no CPU has.
    #[error("cpu-mask: {0}")]
    CpuMask(#[from] minivmm_boot::cpuid::MaskError),
    /// Too many interfaces.
    #[error("net: {0} interfaces, where a machine has at most {max}", max = NICS_MAX)]
    Nics(usize),
    /// An MTU that an interface can't have.
    #[error("net[{index}].mtu: {source}")]
    Mtu {
        /// Whose, from 0.
        index: usize,
        /// Why not.
        source: PlanError,
    },
    /// A MAC address that an interface can't have.
    #[error("net[{index}].mac: {source}")]
    Mac {
        /// Whose, from 0.
        index: usize,
        /// Why not.
        source: PlanError,
    },
    /// The same address twice.
    #[error("net[{index}].mac: {mac} is given to two interfaces; each needs its own")]
    MacTwice {
        /// The second of them, from 0.
        index: usize,
        /// The address.
        mac: MacAddr,
    },
    /// Two interfaces whose networks share addresses.
    #[error("net[{index}].subnet: {subnet} overlaps {other}, which is that of net[{other_index}]")]
    SubnetTwice {
        /// The second of them, from 0.
        index: usize,
        /// Its network.
        subnet: Ipv4Net,
        /// The first, from 0.
        other_index: usize,
        /// Its network.
        other: Ipv4Net,
    },
    /// A TAP without a device, or with two.
    #[error("net[{index}]: name the TAP device, or an inherited descriptor (fd), not both")]
    Tap {
        /// Which interface, from 0.
        index: usize,
    },
    /// A TAP to be made that is there.
    #[error("net[{index}].create: an inherited descriptor (fd) is of a TAP that was made")]
    TapCreate {
        /// Which interface, from 0.
        index: usize,
    },
    /// The same TAP twice.
    #[error("net[{index}]: two interfaces can't share one TAP device")]
    TapTwice {
        /// The second of them, from 0.
        index: usize,
    },
    /// Ports that lead nowhere.
    #[error("publish[{index}]: {publish}: there is no NAT interface to publish it on")]
    PublishWithoutNat {
        /// Which, from 0.
        index: usize,
        /// What was to be published.
        publish: PublishConfig,
    },
    /// The same port twice.
    #[error("publish[{index}]: {other} and {publish} listen on the same port of the host")]
    PublishTwice {
        /// The second of them, from 0.
        index: usize,
        /// The first.
        other: PublishConfig,
        /// The second.
        publish: PublishConfig,
    },
    /// The probe has an initrd of its own making: none.
    #[error("initrd: the built-in probe takes none, only a kernel does")]
    InitrdWithoutKernel,
    /// A terminal that isn't one.
    #[error("console: standard input and output are not both a terminal, as tty needs")]
    NoTerminal,
    /// What a command line can't carry.
    #[error("cmdline: {0}")]
    Cmdline(#[from] CmdlineError),
}

impl ConfigError {
    /// What is wrong; nothing where it is the file itself.
    pub fn place(&self) -> Option<Place> {
        Some(match *self {
            Self::File { .. } | Self::Read { .. } => return None,
            Self::Net { index, .. } | Self::Tap { index } | Self::TapTwice { index } => {
                Place::item("net", index)
            }
            Self::Name(_) => Place::key("name"),
            Self::Cpus(_) => Place::key("cpus"),
            Self::MemoryTooSmall(_) | Self::MemoryTooLarge { .. } | Self::MemoryUnaligned(_) => {
                Place::key("memory")
            }
            Self::CpuMask(_) => Place::key("cpu-mask"),
            Self::Nics(_) => Place::key("net"),
            Self::Mtu { index, .. } => Place::net(index, "mtu"),
            Self::Mac { index, .. } | Self::MacTwice { index, .. } => Place::net(index, "mac"),
            Self::TapCreate { index } => Place::net(index, "create"),
            Self::SubnetTwice { index, .. } => Place::net(index, "subnet"),
            Self::PublishWithoutNat { index, .. } | Self::PublishTwice { index, .. } => {
                Place::item("publish", index)
            }
            Self::InitrdWithoutKernel => Place::key("initrd"),
            Self::NoTerminal => Place::key("console"),
            Self::Cmdline(_) => Place::key("cmdline"),
        })
    }
}
