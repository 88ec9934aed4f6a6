//! An interface in words: its mode and that mode's keys, the same on the command line
//! (`--net nat,mtu=1400`) and in files (`[[net]]`).

use std::str::FromStr;

use super::keys::{Key, MACHINE, MODES, MODES_NOT_YET, NAT, TAP};
use super::near::question;
use super::net::NetConfig;

/// A `--net` that says nothing we know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseNetError {
    /// No such mode.
    #[error("unknown network mode {0:?}{near} (modes: {MODE_USAGE})", near = near_mode(.0))]
    Mode(String),
    /// A mode of a later version.
    #[error("network mode {0:?} is not in this version (modes: {MODE_USAGE})")]
    NotYet(String),
    /// Not `key=value`.
    #[error("{0:?} is not key=value, as in mtu=1400")]
    Pair(String),
    /// A key twice.
    #[error("the key {0:?} is given twice")]
    Twice(String),
    /// A key that is the machine's.
    #[error("{0:?} is a key of the machine, not of an interface")]
    Machine(String),
    /// No such key.
    #[error(
        "{mode} has no key {key:?}{} (keys: {})",
        question(key, keys.iter().copied()),
        keys.join(", ")
    )]
    Key {
        /// The mode.
        mode: &'static str,
        /// What was given.
        key: String,
        /// What there is.
        keys: Vec<&'static str>,
    },
    /// A value that its key can't have.
    #[error("{key}: {problem}")]
    Value {
        /// The key.
        key: String,
        /// What is wrong with the value, which is named, and what is allowed.
        problem: String,
    },
}

/// The modes, as an error lists them.
const MODE_USAGE: &str = "nat, tap=NAME";

fn near_mode(word: &str) -> String {
    let word = word.split('=').next().unwrap_or_default();
    question(word, MODES.iter().map(|mode| mode.word))
}

/// A key and its value; without one where that is a list or a table.
pub(super) type Pair<'a> = (&'a str, Option<&'a str>);

impl NetConfig {
    /// The interface that `mode` and its keys describe. An error comes with the index of the pair
    /// that it is about; without one it is about the mode.
    pub(super) fn from_pairs(
        mode: &str,
        pairs: &[Pair<'_>],
    ) -> Result<Self, (Option<usize>, ParseNetError)> {
        match mode {
            "nat" => filled("nat", NAT, pairs).map(Self::Nat),
            "tap" => filled("tap", TAP, pairs).map(Self::Tap),
            _ if MODES_NOT_YET.contains(&mode) => {
                return Err((None, ParseNetError::NotYet(mode.to_owned())));
            }
            _ => return Err((None, ParseNetError::Mode(mode.to_owned()))),
        }
        .map_err(|(index, error)| (Some(index), error))
    }
}

/// What a mode's keys say.
fn filled<T: Default>(
    mode: &'static str,
    keys: &'static [Key<T>],
    pairs: &[Pair<'_>],
) -> Result<T, (usize, ParseNetError)> {
    let mut config = T::default();
    for (index, &(name, value)) in pairs.iter().enumerate() {
        let key = name.to_owned();
        let error = if pairs[..index].iter().any(|(other, _)| *other == name) {
            ParseNetError::Twice(key)
        } else if let Some(known) = Key::find(keys, name) {
            let set = value.ok_or_else(|| "a single value is wanted".to_owned());
            match set.and_then(|value| (known.set)(&mut config, value)) {
                Ok(()) => continue,
                Err(problem) => ParseNetError::Value { key, problem },
            }
        } else if MACHINE.contains(&name) {
            ParseNetError::Machine(key)
        } else {
            ParseNetError::Key { mode, key, keys: Key::names(keys) }
        };
        return Err((index, error));
    }
    Ok(config)
}

impl FromStr for NetConfig {
    type Err = ParseNetError;

    fn from_str(s: &str) -> Result<Self, ParseNetError> {
        let mut parts = s.split(',');
        let first = parts.next().unwrap_or_default();
        let mut pairs: Vec<Pair<'_>> = Vec::new();
        let mode = match first.split_once('=') {
            Some(("tap", name)) => {
                pairs.push(("name", Some(name)));
                "tap"
            }
            Some((mode, _)) if MODES_NOT_YET.contains(&mode) => mode,
            _ => first,
        };
        for part in parts {
            let pair = part.split_once('=').map(|(key, value)| (key, Some(value)));
            let flag =
                || (mode == "tap" && Key::is_flag(TAP, part)).then_some((part, Some("true")));
            pairs.push(pair.or_else(flag).ok_or_else(|| ParseNetError::Pair(part.to_owned()))?);
        }
        Self::from_pairs(mode, &pairs).map_err(|(_, error)| error)
    }
}

#[cfg(test)]
mod tests {
    use minivmm_net::{Ipv6Mode, MacAddr};
    use proptest::prelude::*;

    use super::*;
    use crate::config::{HostAccess, MaxFlows, NatConfig, TapConfig};

    fn parse(s: &str) -> Result<NetConfig, String> {
        s.parse().map_err(|e: ParseNetError| e.to_string())
    }

    #[test]
    fn every_key_of_a_nat() {
        let keys = "subnet=10.9.0.0/24,mtu=1400,mac=52:4d:00:00:00:01,engine=user,host=allow,ipv6=off,\
                    max-flows=10000/500";
        let nat = NatConfig {
            subnet: Some("10.9.0.0/24".parse().unwrap()),
            mtu: Some(1400),
            mac: Some(MacAddr([0x52, 0x4d, 0, 0, 0, 1])),
            host: HostAccess::Allow,
            ipv6: Ipv6Mode::Off,
            max_flows: Some(MaxFlows { tcp: 10_000, udp: 500 }),
        };
        assert_eq!(parse(&format!("nat,{keys}")).unwrap(), NetConfig::Nat(nat));
        for key in Key::names(NAT) {
            assert!(keys.contains(&format!("{key}=")), "{key}");
        }
    }

    #[test]
    fn udp_has_a_quarter_of_tcps_flows() {
        for (text, tcp, udp) in [("10000", 10_000, 2500), ("1", 1, 1), ("1048576/1", 1 << 20, 1)] {
            assert_eq!(text.parse(), Ok(MaxFlows { tcp, udp }), "{text}");
        }
    }

    #[test]
    fn a_tap_has_a_name_or_a_descriptor() {
        let tap = |name: Option<&str>, fd| TapConfig {
            name: name.map(Into::into),
            fd,
            ..TapConfig::default()
        };
        assert_eq!(parse("tap=vm 0").unwrap(), NetConfig::Tap(tap(Some("vm 0"), None)));
        let made = TapConfig { create: true, ..tap(Some("t0"), None) };
        assert_eq!(parse("tap=t0,create").unwrap(), NetConfig::Tap(made.clone()));
        assert_eq!(parse("tap=t0,create=true").unwrap(), NetConfig::Tap(made));
        assert_eq!(parse("tap=t0,create=false").unwrap(), NetConfig::Tap(tap(Some("t0"), None)));
        assert_eq!(parse("tap,fd=5").unwrap(), NetConfig::Tap(tap(None, Some(5))));
    }

    #[test]
    fn mistakes_are_named() {
        for (text, want) in [
            ("nta", "unknown network mode \"nta\"; did you mean \"nat\"? (modes: nat, tap=NAME)"),
            ("tpa=t0", "unknown network mode \"tpa=t0\"; did you mean \"tap\"?"),
            ("wifi", "unknown network mode \"wifi\" (modes: nat, tap=NAME)"),
            ("nat=x", "unknown network mode"),
            ("bridge=br0", "\"bridge\" is not in this version"),
            ("bridge", "not in this version"),
            ("host-only", "not in this version"),
            ("private=lan,vlan=5", "not in this version"),
            ("hybrid", "not in this version"),
            ("nat,mtx=1", "nat has no key \"mtx\"; did you mean \"mtu\"? (keys: subnet, mtu,"),
            ("nat,speed=1", "nat has no key \"speed\" (keys: subnet, mtu,"),
            ("nat,publish=80:80", "\"publish\" is a key of the machine, not of an interface"),
            ("nat,name=web", "\"name\" is a key of the machine, not of an interface"),
            ("tap=t0,subnet=10.0.0.0/8", "tap has no key \"subnet\" (keys: name, fd,"),
            ("nat,mtu", "not key=value"),
            ("nat,create", "not key=value"),
            ("tap=t0,create=yes", "create: \"yes\" is neither true nor false"),
            ("nat,mtu=68,mtu=68", "\"mtu\" is given twice"),
            ("tap=t0,name=t1", "\"name\" is given twice"),
            ("nat,mtu=big", "mtu: \"big\" is no number of bytes, 68 to 65535"),
            ("nat,mtu=", "mtu: \"\" is no number"),
            ("nat,mtu=+1500", "mtu: \"+1500\" is no number"),
            ("nat,mtu=70000", "mtu: \"70000\" is no number of bytes, 68 to 65535"),
            ("tap=t0,mtu=67", "mtu: 67 cannot be the MTU"),
            ("nat,mac=52:4d", "mac: \"52:4d\" is not a MAC address"),
            ("nat,mac=01:00:5e:00:00:01", "mac: 01:00:5e:00:00:01 cannot be a guest's"),
            ("tap=t0,mac=00:00:00:00:00:00", "mac: 00:00:00:00:00:00 cannot be a guest's"),
            ("nat,subnet=10.0.0.0", "subnet: \"10.0.0.0\" is no IPv4 network"),
            ("nat,host=maybe", "host: \"maybe\" is neither deny nor allow"),
            ("nat,ipv6=yes", "ipv6: \"yes\" is none of auto, on, off"),
            ("nat,engine=kernel", "engine: \"kernel\" is not in this version"),
            ("nat,engine=warp", "engine: \"warp\" is no engine"),
            ("nat,max-flows=many", "max-flows: \"many\" is no number of flows"),
            ("nat,max-flows=0", "each 1 to 1048576"),
            ("nat,max-flows=1048577", "each 1 to 1048576"),
            ("nat,max-flows=5/", "max-flows: \"5/\" is no number"),
            ("nat,max-flows=/5", "max-flows: \"/5\" is no number"),
            ("nat,max-flows=5/0", "max-flows: \"5/0\" is no number"),
            ("nat,max-flows=5/6/7", "max-flows: \"5/6/7\" is no number"),
            ("tap,fd=0", "fd: \"0\" is no inherited descriptor"),
            ("tap,fd=-1", "fd: \"-1\" is no inherited"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(want), "{text}: {error}");
            assert!(!error.contains('\n'), "{error}");
        }
    }

    /// Something like what users write, or anything.
    fn words() -> impl Strategy<Value = String> {
        let mode = prop_oneof!["nat", "tap", "tap=[a-z0-9 ]{0,20}", "bridge", "\\PC{0,8}"];
        let key = prop_oneof![
            "subnet",
            "mtu",
            "mac",
            "host",
            "ipv6",
            "engine",
            "fd",
            "max-flows",
            "\\PC{0,6}"
        ];
        let value = prop_oneof![
            "[0-9]{0,6}",
            "[0-9]{0,4}/[0-9]{0,4}",
            "[0-9a-f:./]{0,20}",
            "auto|on|allow",
            "\\PC{0,12}"
        ];
        (mode, proptest::collection::vec((key, value), 0..4)).prop_map(|(mode, pairs)| {
            pairs.iter().fold(mode, |text, (key, value)| format!("{text},{key}={value}"))
        })
    }

    proptest! {
        #[test]
        fn any_words_are_taken_or_refused_in_one_line(text in words()) {
            match text.parse::<NetConfig>() {
                Ok(net) => {
                    prop_assert!(net.mtu().is_none_or(|mtu| mtu >= 68));
                    prop_assert!(net.mac().is_none_or(|mac| mac.0[0] & 1 == 0));
                }
                Err(e) => prop_assert!(!e.to_string().contains('\n')),
            }
        }
    }
}
