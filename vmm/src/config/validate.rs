//! Checks that need more than one field or the host. What passes can be built.

use std::path::PathBuf;

use minivmm_boot::cpuid::Mask;
use minivmm_boot::{Cmdline, Protocol, layout};
use minivmm_net::{check_hostname, check_mac, check_mtu};

use super::choice::{ConsoleKind, VirtioTransport};
use super::error::{ConfigError, MEMORY_MIN, NICS_MAX};
use super::machine::MachineConfig;
use super::net::NetConfig;
use super::publish::PublishConfig;
use super::size::Size;

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
        for (index, net) in self.net.iter().enumerate() {
            if let Some(mtu) = net.mtu() {
                check_mtu(mtu).map_err(|source| ConfigError::Mtu { index, source })?;
            }
            if let Some(mac) = net.mac() {
                check_mac(mac).map_err(|source| ConfigError::Mac { index, source })?;
                if self.net[..index].iter().any(|other| other.mac() == Some(mac)) {
                    return Err(ConfigError::MacTwice { index, mac });
                }
            }
            if let NetConfig::Tap(tap) = net {
                if tap.name.is_some() == tap.fd.is_some() {
                    return Err(ConfigError::Tap { index });
                }
                if tap.create && tap.fd.is_some() {
                    return Err(ConfigError::TapCreate { index });
                }
                let same = |other: &NetConfig| matches!(other, NetConfig::Tap(o) if o.name == tap.name && o.fd == tap.fd);
                if self.net[..index].iter().any(same) {
                    return Err(ConfigError::TapTwice { index });
                }
            }
            self.check_subnet(index)?;
        }
        Ok(())
    }

    /// Each network of this machine is its own.
    fn check_subnet(&self, index: usize) -> Result<(), ConfigError> {
        let Some(subnet) = self.net[index].subnet() else { return Ok(()) };
        for (other_index, other) in self.net[..index].iter().enumerate() {
            let Some(other) = other.subnet() else { continue };
            if other.contains(&subnet.network()) || subnet.contains(&other.network()) {
                return Err(ConfigError::SubnetTwice { index, subnet, other_index, other });
            }
        }
        Ok(())
    }

    fn check_publish(&self) -> Result<(), ConfigError> {
        for (index, publish) in self.publish.iter().enumerate() {
            if !self.net.iter().any(|n| matches!(n, NetConfig::Nat(_))) {
                return Err(ConfigError::PublishWithoutNat { index, publish: *publish });
            }
            if let Some(other) = self.publish[..index].iter().find(|p| p.collides(publish)) {
                let (other, publish) = (*other, *publish);
                return Err(ConfigError::PublishTwice { index, other, publish });
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
    use minivmm_net::MacAddr;

    use super::*;
    use crate::config::NatConfig;

    fn check(edit: impl FnOnce(&mut MachineConfig)) -> Result<Validated, String> {
        let mut config = MachineConfig::default();
        edit(&mut config);
        config.validate_for(Size::mib(8192)).map_err(|e| {
            let place = e.place().map(|place| format!("{place}: ")).unwrap_or_default();
            assert!(!place.is_empty() && e.to_string().starts_with(&place), "{place} {e}");
            assert!(!e.to_string().contains("--"), "{e}");
            e.to_string()
        })
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
            (Box::new(|c| c.cpus = 0), "cpus: 0 CPUs, where a machine has 1 to 32"),
            (Box::new(|c| c.cpus = 1000), "1000 CPUs"),
            (Box::new(|c| c.memory = Size::mib(0)), "memory: 0 bytes, where"),
            (
                Box::new(|c| c.memory = Size::mib(1)),
                "memory: 1 MiB, where a guest needs at least 16 MiB",
            ),
            (
                Box::new(|c| c.memory = "10T".parse().unwrap()),
                "memory: 10 TiB, where this host has 8 GiB",
            ),
            (Box::new(|c| c.memory = "16385K".parse().unwrap()), "whole number of MiB"),
            (Box::new(|c| c.name = Some("a b".into())), "name: \"a b\" cannot be"),
            (Box::new(|c| c.initrd = Some("i".into())), "initrd: the built-in probe takes none"),
            (Box::new(|c| c.cmdline = "a\nb".into()), "control character (0x0a) at byte 1"),
            (Box::new(|c| c.cmdline = "x".repeat(2048)), "has 2048 bytes"),
            (Box::new(|c| c.cpu_mask = "nonsense".into()), "cpu-mask: "),
            (
                Box::new(|c| {
                    let nat = NatConfig { mtu: Some(67), ..NatConfig::default() };
                    c.net = vec![NetConfig::Nat(nat)];
                }),
                "net[0].mtu: 67 cannot be the MTU",
            ),
            (
                Box::new(|c| {
                    let nat = NatConfig { mac: Some(MacAddr::BROADCAST), ..NatConfig::default() };
                    c.net = vec![NetConfig::Nat(nat)];
                }),
                "net[0].mac: ff:ff:ff:ff:ff:ff cannot be",
            ),
            (
                Box::new(move |c| c.net = net(&[one, one])),
                "net[1].mac: 52:4d:00:00:00:01 is given to two interfaces",
            ),
            (
                Box::new(|c| {
                    c.net = net(&["nat,subnet=10.9.0.0/24", "tap=t", "nat,subnet=10.9.0.0/16"]);
                }),
                "net[2].subnet: 10.9.0.0/16 overlaps 10.9.0.0/24, which is that of net[0]",
            ),
            (Box::new(|c| c.net = net(&["tap"])), "net[0]: name the TAP device"),
            (Box::new(|c| c.net = net(&["tap,fd=5,create"])), "net[0].create: an inherited"),
            (
                Box::new(|c| c.net = net(&["tap,fd=5", "tap,fd=5"])),
                "net[1]: two interfaces can't share one TAP",
            ),
            (Box::new(|c| c.net = net(&["nat"; 17])), "net: 17 interfaces"),
            (
                Box::new(|c| c.publish = vec!["1:2".parse().unwrap()]),
                "publish[0]: 1:2: there is no NAT interface",
            ),
            (
                Box::new(|c| {
                    c.net = net(&["nat"]);
                    c.publish = vec!["80:1".parse().unwrap(), "127.0.0.1:80:2".parse().unwrap()];
                }),
                "publish[1]: 80:1 and 127.0.0.1:80:2 listen on the same port",
            ),
        ];
        for (edit, want) in cases {
            let error = check(edit).unwrap_err();
            assert!(error.contains(want), "{error} does not contain {want}");
            assert!(!error.contains('\n'), "{error}");
        }
    }
}
