//! Checks that need more than one field or the host. What passes can be built.

use std::path::PathBuf;

use minivmm_boot::cpuid::Mask;
use minivmm_boot::{Cmdline, CmdlineError, Protocol, layout};
use minivmm_net::{MacAddr, PlanError, check_hostname, check_mac, check_mtu};

use super::choice::{ConsoleKind, VirtioTransport};
use super::machine::MachineConfig;
use super::net::{NetConfig, ParseNetError};
use super::publish::PublishConfig;
use super::size::Size;
use crate::cure::limit_cure;

/// The least memory a guest gets: room for the smallest kernel and the tables.
const MEMORY_MIN: Size = Size::mib(16);
/// The most interfaces: what fits on one PCI bus beside the host bridge, and the pins left for
/// MMIO devices.
const NICS_MAX: usize = 16;

/// A configuration that is refused. One line each, which begins with the file or the key that it is
/// about.
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
    /// An interface's words.
    #[error("net: {text}: {source}")]
    Net {
        /// All of them.
        text: String,
        /// What is wrong with them.
        source: ParseNetError,
    },
    /// A name that can't be a host name.
    #[error("name: {0}")]
    Name(#[source] PlanError),
    /// Too few or too many CPUs.
    #[error("cpus: {0} CPUs: a machine has 1 to {max}", max = layout::MAX_CPUS)]
    Cpus(u32),
    /// Too little memory.
    #[error("memory: {0} of memory: a guest needs at least {min}", min = MEMORY_MIN)]
    MemoryTooSmall(Size),
    /// More memory than the host has.
    #[error("memory: {asked} of memory: this host has {host} in all")]
    MemoryTooLarge {
        /// What was asked for.
        asked: Size,
        /// All of the host's, swap included.
        host: Size,
    },
    /// Memory that isn't whole pages.
    #[error("memory: {0} of memory: use a whole number of MiB")]
    MemoryUnaligned(Size),
    /// A feature that no CPU has.
    #[error("cpu-mask: {0}")]
    CpuMask(#[from] minivmm_boot::cpuid::MaskError),
    /// Too many interfaces.
    #[error("net: {0} network interfaces: a machine has at most {max}", max = NICS_MAX)]
    Nics(usize),
    /// An MTU or a MAC address that an interface can't have.
    #[error("net: {0}")]
    NetValue(#[source] PlanError),
    /// The same address twice.
    #[error("net: MAC {0} is given to two interfaces; each needs its own")]
    MacTwice(MacAddr),
    /// A TAP without a device, or with two.
    #[error("net: tap: name the device (tap=NAME) or an inherited descriptor (tap,fd=N), not both")]
    Tap,
    /// The same TAP twice.
    #[error("net: tap: two interfaces can't share one TAP device")]
    TapTwice,
    /// Ports that lead nowhere.
    #[error("publish: {0}: there is no NAT interface to publish it on")]
    PublishWithoutNat(PublishConfig),
    /// The same port twice.
    #[error("publish: {0} and {1} listen on the same port of the host")]
    PublishTwice(PublishConfig, PublishConfig),
    /// The probe has an initrd of its own making: none.
    #[error("initrd: it needs a kernel: the built-in probe takes no initrd")]
    InitrdWithoutKernel,
    /// A terminal that isn't one.
    #[error("console: tty: standard input and output are not both a terminal (use pipe)")]
    NoTerminal,
    /// What a command line can't carry.
    #[error("cmdline: {0}")]
    Cmdline(#[from] CmdlineError),
}

impl ConfigError {
    /// The key that it is about, one of [`MachineConfig::KEYS`]; none where it names a file.
    pub fn key(&self) -> Option<&'static str> {
        match self {
            Self::File { .. } | Self::Read { .. } => None,
            Self::Name(_) => Some("name"),
            Self::Cpus(_) => Some("cpus"),
            Self::MemoryTooSmall(_) | Self::MemoryTooLarge { .. } | Self::MemoryUnaligned(_) => {
                Some("memory")
            }
            Self::CpuMask(_) => Some("cpu-mask"),
            Self::Net { .. }
            | Self::Nics(_)
            | Self::NetValue(_)
            | Self::MacTwice(_)
            | Self::Tap
            | Self::TapTwice => Some("net"),
            Self::PublishWithoutNat(_) | Self::PublishTwice(..) => Some("publish"),
            Self::InitrdWithoutKernel => Some("initrd"),
            Self::NoTerminal => Some("console"),
            Self::Cmdline(_) => Some("cmdline"),
        }
    }
}

/// A configuration that has been checked, with the defaults filled in.
#[derive(Debug, Clone)]
pub struct Validated {
    /// What was asked for.
    pub config: MachineConfig,
    /// The machine's name.
    pub name: String,
    /// The kernel; the probe without one.
    pub kernel: Option<PathBuf>,
    /// The initial RAM disk.
    pub initrd: Option<PathBuf>,
    /// What the user adds to the command line.
    pub cmdline: String,
    /// Virtual CPUs.
    pub cpus: u32,
    /// Bytes of guest memory, whole MiB.
    pub memory: u64,
    /// Where the serial port leads, where that was said.
    pub console: Option<ConsoleKind>,
    /// How virtio devices are attached.
    pub transport: VirtioTransport,
    /// CPU features to take away.
    pub cpu_mask: Mask,
    /// How the kernel is started.
    pub boot_protocol: Protocol,
    /// Unpacked kernels are kept in the user's cache folder.
    pub kernel_cache: bool,
    /// The interfaces.
    pub net: Vec<NetConfig>,
    /// Published ports.
    pub publish: Vec<PublishConfig>,
}

impl MachineConfig {
    /// Checks it against itself and against the host's memory.
    ///
    /// # Errors
    /// [`ConfigError`], the first that is found.
    pub fn validate(&self) -> Result<Validated, ConfigError> {
        self.validate_for(host_memory())
    }

    fn validate_for(&self, host: Size) -> Result<Validated, ConfigError> {
        let name = self.name.clone().unwrap_or_else(|| "minivmm".into());
        check_hostname(&name).map_err(ConfigError::Name)?;
        if !(1..=layout::MAX_CPUS).contains(&self.cpus) {
            return Err(ConfigError::Cpus(self.cpus));
        }
        if self.memory < MEMORY_MIN {
            return Err(ConfigError::MemoryTooSmall(self.memory));
        }
        if self.memory > host {
            return Err(ConfigError::MemoryTooLarge { asked: self.memory, host });
        }
        if !self.memory.bytes().is_multiple_of(1 << 20) {
            return Err(ConfigError::MemoryUnaligned(self.memory));
        }
        Cmdline::new(&self.cmdline)?;
        if self.initrd.is_some() && self.kernel.is_none() {
            return Err(ConfigError::InitrdWithoutKernel);
        }
        self.check_net()?;
        self.check_publish()?;
        Ok(Validated {
            config: self.clone(),
            name,
            kernel: self.kernel.clone(),
            initrd: self.initrd.clone(),
            cmdline: self.cmdline.clone(),
            cpus: self.cpus,
            memory: self.memory.bytes(),
            console: self.console,
            transport: self.transport,
            cpu_mask: self.cpu_mask.parse()?,
            boot_protocol: self.boot_protocol,
            kernel_cache: !self.no_kernel_cache,
            net: self.net.clone(),
            publish: self.publish.clone(),
        })
    }

    fn check_net(&self) -> Result<(), ConfigError> {
        if self.net.len() > NICS_MAX {
            return Err(ConfigError::Nics(self.net.len()));
        }
        for (i, net) in self.net.iter().enumerate() {
            if let Some(mtu) = net.mtu() {
                check_mtu(mtu).map_err(ConfigError::NetValue)?;
            }
            if let Some(mac) = net.mac() {
                check_mac(mac).map_err(ConfigError::NetValue)?;
                if self.net[..i].iter().any(|other| other.mac() == Some(mac)) {
                    return Err(ConfigError::MacTwice(mac));
                }
            }
            if let NetConfig::Tap(tap) = net {
                if tap.name.is_some() == tap.fd.is_some() {
                    return Err(ConfigError::Tap);
                }
                let same = |other: &NetConfig| matches!(other, NetConfig::Tap(o) if o.name == tap.name && o.fd == tap.fd);
                if self.net[..i].iter().any(same) {
                    return Err(ConfigError::TapTwice);
                }
            }
        }
        Ok(())
    }

    fn check_publish(&self) -> Result<(), ConfigError> {
        for (i, publish) in self.publish.iter().enumerate() {
            if !self.net.iter().any(|n| matches!(n, NetConfig::Nat(_))) {
                return Err(ConfigError::PublishWithoutNat(*publish));
            }
            if let Some(other) = self.publish[..i].iter().find(|p| p.collides(publish)) {
                return Err(ConfigError::PublishTwice(*other, *publish));
            }
        }
        Ok(())
    }
}

/// RAM and swap of this host.
fn host_memory() -> Size {
    let info = rustix::system::sysinfo();
    let units = (info.totalram as u64).saturating_add(info.totalswap as u64);
    let mib = units.saturating_mul(info.mem_unit.into()) >> 20;
    Size::mib(mib)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::NatConfig;

    fn check(edit: impl FnOnce(&mut MachineConfig)) -> Result<Validated, String> {
        let mut config = MachineConfig::default();
        edit(&mut config);
        config.validate_for(Size::mib(8192)).map_err(|e| e.to_string())
    }

    fn net(list: &[&str]) -> Vec<NetConfig> {
        list.iter().map(|s| s.parse().unwrap()).collect()
    }

    #[test]
    fn the_defaults_are_a_machine() {
        let v = check(|_| {}).unwrap();
        assert_eq!((v.cpus, v.memory, v.name.as_str()), (1, 256 << 20, "minivmm"));
    }

    #[test]
    fn a_command_line_may_have_tabs() {
        check(|c| c.cmdline = "a\tb".into()).unwrap();
    }

    #[test]
    fn each_mistake_has_its_line() {
        let one = "nat,mac=52:4d:00:00:00:01";
        type Edit = Box<dyn FnOnce(&mut MachineConfig)>;
        let cases: Vec<(Edit, &str)> = vec![
            (Box::new(|c| c.cpus = 0), "0 CPUs: a machine has 1 to 32"),
            (Box::new(|c| c.cpus = 1000), "1000 CPUs"),
            (Box::new(|c| c.memory = Size::mib(0)), "0 bytes of memory"),
            (Box::new(|c| c.memory = Size::mib(1)), "1 MiB of memory: a guest needs at least"),
            (
                Box::new(|c| c.memory = "10T".parse().unwrap()),
                "10 TiB of memory: this host has 8 GiB",
            ),
            (Box::new(|c| c.memory = "16385K".parse().unwrap()), "whole number of MiB"),
            (Box::new(|c| c.name = Some("a b".into())), "name: \"a b\" cannot be"),
            (Box::new(|c| c.initrd = Some("i".into())), "initrd: it needs a kernel"),
            (Box::new(|c| c.cmdline = "a\nb".into()), "control character (0x0a) at byte 1"),
            (Box::new(|c| c.cmdline = "x".repeat(2048)), "has 2048 bytes"),
            (Box::new(|c| c.cpu_mask = "nonsense".into()), "cpu-mask: "),
            (
                Box::new(|c| {
                    let nat = NatConfig { mtu: Some(67), ..NatConfig::default() };
                    c.net = vec![NetConfig::Nat(nat)];
                }),
                "net: 67 cannot be the MTU",
            ),
            (
                Box::new(|c| {
                    let nat = NatConfig { mac: Some(MacAddr::BROADCAST), ..NatConfig::default() };
                    c.net = vec![NetConfig::Nat(nat)];
                }),
                "net: ff:ff:ff:ff:ff:ff cannot be",
            ),
            (Box::new(move |c| c.net = net(&[one, one])), "given to two interfaces"),
            (Box::new(|c| c.net = net(&["tap"])), "name the device"),
            (Box::new(|c| c.net = net(&["tap,fd=5", "tap,fd=5"])), "share one TAP"),
            (Box::new(|c| c.net = net(&["nat"; 17])), "17 network interfaces"),
            (Box::new(|c| c.publish = vec!["1:2".parse().unwrap()]), "no NAT interface"),
            (
                Box::new(|c| {
                    c.net = net(&["nat"]);
                    c.publish = vec!["80:1".parse().unwrap(), "127.0.0.1:80:2".parse().unwrap()];
                }),
                "listen on the same port",
            ),
        ];
        for (edit, want) in cases {
            let error = check(edit).unwrap_err();
            assert!(error.contains(want), "{error} does not contain {want}");
            assert!(!error.contains('\n'), "{error}");
        }
    }
}
