//! The keys of a machine, and of an interface: one table for each mode, which parser, errors, help and
//! documents are made of.

use std::fmt::Display;

use minivmm_net::{Ipv6Mode, MacAddr, check_mac, check_mtu};
use serde::Serialize;

use super::net::{HostAccess, MaxFlows, NatConfig, TapConfig};
use super::number::decimal;

/// The keys of a machine, which are the options' names.
pub(super) const MACHINE: &[&str] = &[
    "name",
    "kernel",
    "initrd",
    "cmdline",
    "cpus",
    "memory",
    "console",
    "transport",
    "cpu-mask",
    "boot-protocol",
    "no-kernel-cache",
    "publish",
    "net",
];

/// What a mode of networks is, for help and documents.
#[derive(Debug, Clone, Copy)]
pub struct Mode {
    /// Its word.
    pub word: &'static str,
    /// How `--net` takes it.
    pub usage: &'static str,
    /// What it is, in one sentence.
    pub help: &'static str,
    keys: fn() -> Vec<About>,
}

impl Mode {
    /// The keys that it has.
    pub fn keys(&self) -> Vec<About> {
        (self.keys)()
    }
}

/// All modes.
pub const MODES: &[Mode] = &[
    Mode {
        word: "nat",
        usage: "nat[,key=value…]",
        help: "A NAT gateway of the guest's own, in user space: DHCP, DNS, IPv6 where the host \
               has it. No privilege is needed.",
        keys: || NAT.iter().map(|key| key.about).collect(),
    },
    Mode {
        word: "tap",
        usage: "tap=NAME[,key=value…]",
        help: "A TAP device of the host.",
        keys: || TAP.iter().map(|key| key.about).collect(),
    },
];

/// Modes of a later version.
pub(super) const MODES_NOT_YET: [&str; 4] = ["bridge", "host-only", "hybrid", "private"];

/// What a key is, for help and documents.
#[derive(Debug, Clone, Copy)]
pub struct About {
    /// Its name.
    pub name: &'static str,
    /// Its value, as usage writes it; none where the key alone says it.
    pub value: &'static str,
    /// What it says, in one line.
    pub help: &'static str,
    /// What it is where it isn't given.
    pub default: &'static str,
}

impl About {
    /// The key as it is given.
    pub fn usage(&self) -> String {
        match self.value {
            "" => self.name.to_owned(),
            value => format!("{}={value}", self.name),
        }
    }
}

/// A key of a mode that `T` describes.
pub(super) struct Key<T: 'static> {
    pub about: About,
    /// Takes a value; an error says what is wrong with it and what is allowed.
    pub set: fn(&mut T, &str) -> Result<(), String>,
    /// What was given.
    pub get: fn(&T) -> Option<Given>,
}

impl<T> Key<T> {
    pub fn find(keys: &'static [Self], name: &str) -> Option<&'static Self> {
        keys.iter().find(|key| key.about.name == name)
    }

    /// True where the key alone says it.
    pub fn is_flag(keys: &'static [Self], name: &str) -> bool {
        Self::find(keys, name).is_some_and(|key| key.about.value.is_empty())
    }

    pub fn names(keys: &'static [Self]) -> Vec<&'static str> {
        keys.iter().map(|key| key.about.name).collect()
    }
}

/// A value that was given, as files have it.
#[derive(Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub(super) enum Given {
    True(bool),
    Number(i64),
    Text(String),
}

fn number(n: Option<impl Into<i64>>) -> Option<Given> {
    n.map(|n| Given::Number(n.into()))
}

fn text(value: Option<impl Display>) -> Option<Given> {
    value.map(|value| Given::Text(value.to_string()))
}

/// The keys of `nat`.
pub(super) const NAT: &[Key<NatConfig>] = &[
    Key {
        about: About {
            name: "subnet",
            value: "CIDR",
            help: "the guest's network",
            default: "one that overlaps no route of the host",
        },
        set: |nat, value| {
            let problem = |_| format!("{value:?} is no IPv4 network, as in 10.77.0.0/24");
            nat.subnet = Some(value.parse().map_err(problem)?);
            Ok(())
        },
        get: |nat| text(nat.subnet),
    },
    Key {
        about: About { default: "1500", ..MTU },
        set: |nat, value| mtu(value).map(|mtu| nat.mtu = Some(mtu)),
        get: |nat| number(nat.mtu),
    },
    Key {
        about: MAC,
        set: |nat, value| mac(value).map(|mac| nat.mac = Some(mac)),
        get: |nat| text(nat.mac),
    },
    Key {
        about: About {
            name: "engine",
            value: "user",
            help: "who translates: the gateway in user space",
            default: "user",
        },
        set: |_, value| match value {
            "user" => Ok(()),
            "kernel" => Err("\"kernel\" is not in this version (user)".into()),
            _ => Err(format!("{value:?} is no engine (user)")),
        },
        get: |_| None,
    },
    Key {
        about: About {
            name: "host",
            value: "allow|deny",
            help: "whether the host's loopback is reachable at the gateway's address, as \
                   host.minivmm.internal",
            default: "deny",
        },
        set: |nat, value| {
            nat.host = match value {
                "deny" => HostAccess::Deny,
                "allow" => HostAccess::Allow,
                _ => return Err(format!("{value:?} is neither deny nor allow")),
            };
            Ok(())
        },
        get: |nat| text((nat.host == HostAccess::Allow).then_some("allow")),
    },
    Key {
        about: About {
            name: "ipv6",
            value: "auto|on|off",
            help: "whether IPv6 is offered; auto: while the host can route it",
            default: "auto",
        },
        set: |nat, value| {
            nat.ipv6 = match value {
                "auto" => Ipv6Mode::Auto,
                "on" => Ipv6Mode::On,
                "off" => Ipv6Mode::Off,
                _ => return Err(format!("{value:?} is none of auto, on, off")),
            };
            Ok(())
        },
        get: |nat| match nat.ipv6 {
            Ipv6Mode::Auto => None,
            Ipv6Mode::On => text(Some("on")),
            Ipv6Mode::Off => text(Some("off")),
        },
    },
    Key {
        about: About {
            name: "max-flows",
            value: "TCP[/UDP]",
            help: "the most connections and UDP flows at once, each 1 to 1048576; UDP a quarter \
                   of TCP where it is not said",
            default: "4096/1024, or what the limit of open files leaves room for",
        },
        set: |nat, value| value.parse().map(|flows| nat.max_flows = Some(flows)),
        get: |nat| text(nat.max_flows.map(|MaxFlows { tcp, udp }| format!("{tcp}/{udp}"))),
    },
];

/// The keys of `tap`.
pub(super) const TAP: &[Key<TapConfig>] = &[
    Key {
        about: About {
            name: "name",
            value: "NAME",
            help: "the device",
            default: "what is behind tap=",
        },
        set: |tap, value| {
            tap.name = Some(value.to_owned());
            Ok(())
        },
        get: |tap| text(tap.name.as_ref()),
    },
    Key {
        about: About {
            name: "fd",
            value: "N",
            help: "in place of a name, a TAP that was opened before and is inherited as \
                   descriptor N",
            default: "none",
        },
        set: |tap, value| {
            let problem = || {
                format!(
                    "{value:?} is no inherited descriptor: a number from 3 on (0 to 2 are the \
                     standard streams)"
                )
            };
            tap.fd = Some(decimal(value).filter(|fd| *fd > 2).ok_or_else(problem)?);
            Ok(())
        },
        get: |tap| number(tap.fd),
    },
    Key {
        about: About {
            name: "create",
            value: "",
            help: "make the device where it doesn't exist, which needs CAP_NET_ADMIN; it goes with \
                   the machine",
            default: "it must exist",
        },
        set: |tap, value| {
            tap.create = match value {
                "true" => true,
                "false" => false,
                _ => return Err(format!("{value:?} is neither true nor false")),
            };
            Ok(())
        },
        get: |tap| tap.create.then_some(Given::True(true)),
    },
    Key {
        about: About { default: "the device's", ..MTU },
        set: |tap, value| mtu(value).map(|mtu| tap.mtu = Some(mtu)),
        get: |tap| number(tap.mtu),
    },
    Key {
        about: MAC,
        set: |tap, value| mac(value).map(|mac| tap.mac = Some(mac)),
        get: |tap| text(tap.mac),
    },
];

const MTU: About = About {
    name: "mtu",
    value: "N",
    help: "the largest IP packet on the link, 68 to 65535 bytes; IPv6 needs 1280",
    default: "",
};

const MAC: About =
    About { name: "mac", value: "MAC", help: "the interface's address", default: "random" };

fn mtu(value: &str) -> Result<u16, String> {
    let mtu =
        decimal(value).ok_or_else(|| format!("{value:?} is no number of bytes, 68 to 65535"))?;
    check_mtu(mtu).map_err(|e| e.to_string())?;
    Ok(mtu)
}

fn mac(value: &str) -> Result<MacAddr, String> {
    let mac = value.parse::<MacAddr>().map_err(|e| e.to_string())?;
    check_mac(mac).map_err(|e| e.to_string())?;
    Ok(mac)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_is_said_of_every_key() {
        for mode in MODES {
            let keys = mode.keys();
            for (i, key) in keys.iter().enumerate() {
                let said = [key.name, key.help, key.default];
                assert!(said.iter().all(|said| !said.is_empty()), "{}: {key:?}", mode.word);
                assert!(keys[..i].iter().all(|other| other.name != key.name), "{}", key.name);
            }
        }
    }
}
