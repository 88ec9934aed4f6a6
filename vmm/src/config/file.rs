//! A machine from a TOML file: the options' names and values, and the line of what is wrong.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::choice::{BOOT_PROTOCOLS, CONSOLES, Choice, TRANSPORTS};
use super::machine::MachineConfig;
use super::net::NetConfig;
use super::number::parse_cpus;
use super::validate::ConfigError;

/// The longest file that is read.
const FILE_MAX: u64 = 1 << 20;

/// What is wrong with a file, and where in it.
struct Mistake {
    at: Range<usize>,
    message: String,
}

type Value<'a> = Spanned<DeValue<'a>>;

impl MachineConfig {
    /// The keys of a file, which are the options' names.
    pub const KEYS: &[&str] = &[
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

    /// Reads a TOML file. Kernel and initrd are looked for beside it, not in the working directory,
    /// unless it comes by a pipe.
    ///
    /// # Errors
    /// [`ConfigError::Read`], and those of [`MachineConfig::from_toml`].
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let refused = |source| ConfigError::Read { path: path.display().to_string(), source };
        let file = File::open(path).map_err(refused)?;
        let regular = file.metadata().map_err(refused)?.is_file();
        let mut text = Vec::new();
        file.take(FILE_MAX + 1).read_to_end(&mut text).map_err(refused)?;
        if text.len() as u64 > FILE_MAX {
            return Err(refused(io::Error::other("it is longer than 1 MiB")));
        }
        let text = String::from_utf8(text)
            .map_err(|_| refused(io::Error::other("it is no text (UTF-8)")))?;
        let mut config = Self::from_toml(path, &text)?;
        if let (true, Some(folder)) = (regular, path.parent()) {
            let beside = |file: &mut PathBuf| *file = folder.join(&file);
            config.kernel.iter_mut().chain(&mut config.initrd).for_each(beside);
        }
        Ok(config)
    }

    /// The machine that a TOML file's text describes; `path` is for messages.
    ///
    /// # Errors
    /// [`ConfigError::File`], with the line that is wrong.
    pub fn from_toml(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let table = DeTable::parse(text).map_err(|e| Mistake {
            at: e.span().unwrap_or_default(),
            message: e.message().replace('\n', " "),
        });
        table.and_then(|table| machine(table.get_ref())).map_err(|mistake| ConfigError::File {
            path: path.display().to_string(),
            line: text.bytes().take(mistake.at.start).filter(|b| *b == b'\n').count() + 1,
            message: mistake.message,
        })
    }
}

fn machine(table: &DeTable<'_>) -> Result<MachineConfig, Mistake> {
    let mut config = MachineConfig::default();
    for (name, value) in in_order(table) {
        let key = &**name.get_ref();
        match key {
            "name" => config.name = Some(string(key, value)?),
            "kernel" => config.kernel = Some(string(key, value)?.into()),
            "initrd" => config.initrd = Some(string(key, value)?.into()),
            "cmdline" => config.cmdline = string(key, value)?,
            "cpus" => config.cpus = parsed(key, value, parse_cpus)?,
            "memory" => config.memory = parsed(key, value, FromStr::from_str)?,
            "console" => config.console = Some(word(key, value, CONSOLES)?),
            "transport" => config.transport = word(key, value, TRANSPORTS)?,
            "cpu-mask" => config.cpu_mask = string(key, value)?,
            "boot-protocol" => config.boot_protocol = word(key, value, BOOT_PROTOCOLS)?,
            "no-kernel-cache" => config.no_kernel_cache = boolean(key, value)?,
            "publish" => {
                for port in list(key, value, "a list, as in [\"8080:80\"]")? {
                    let text = string(key, port)?;
                    let port = text.parse().map_err(|e| mistake(port, key, e))?;
                    config.publish.push(port);
                }
            }
            "net" => {
                for net in list(key, value, "[[net]] tables, or a list, as in [\"nat\"]")? {
                    config.net.push(interface(key, net)?);
                }
            }
            _ => {
                let message =
                    format!("unknown key {key:?} (keys: {})", MachineConfig::KEYS.join(", "));
                return Err(Mistake { at: name.span(), message });
            }
        }
    }
    Ok(config)
}

/// `[[net]]`, or what `--net` takes.
fn interface(key: &str, value: &Value<'_>) -> Result<NetConfig, Mistake> {
    let table = match value.get_ref() {
        DeValue::Table(table) => table,
        DeValue::String(text) => return text.parse().map_err(|e| mistake(value, key, e)),
        _ => return Err(mistake(value, key, "a table is wanted, or text, as in \"nat\"")),
    };
    let mut mode = None;
    let mut pairs = Vec::new();
    for (name, value) in in_order(table) {
        let key = &**name.get_ref();
        if key == "mode" {
            mode = Some((string(key, value)?, value.span()));
        } else {
            pairs.push((key, scalar(key, value)?, name.span()));
        }
    }
    let (mode, at) =
        mode.ok_or_else(|| mistake(value, key, "the key mode is missing (nat, tap)"))?;
    let words: Vec<_> = pairs.iter().map(|(key, value, _)| (*key, &**value)).collect();
    NetConfig::from_pairs(&mode, &words).map_err(|(index, e)| Mistake {
        at: index.and_then(|i| pairs.get(i)).map_or(at, |(_, _, at)| at.clone()),
        message: e.to_string(),
    })
}

/// A table's entries as they are written.
fn in_order<'t, 'a>(table: &'t DeTable<'a>) -> Vec<(&'t Spanned<Cow<'a, str>>, &'t Value<'a>)> {
    let mut entries: Vec<_> = table.iter().collect();
    entries.sort_by_key(|(name, _)| name.span().start);
    entries
}

fn mistake(value: &Value<'_>, key: &str, problem: impl std::fmt::Display) -> Mistake {
    Mistake { at: value.span(), message: format!("{key}: {problem}") }
}

fn string(key: &str, value: &Value<'_>) -> Result<String, Mistake> {
    let problem = || mistake(value, key, "text in quotes is wanted");
    value.get_ref().as_str().map(str::to_owned).ok_or_else(problem)
}

fn boolean(key: &str, value: &Value<'_>) -> Result<bool, Mistake> {
    value.get_ref().as_bool().ok_or_else(|| mistake(value, key, "true or false is wanted"))
}

/// Text, or the text of what needs no quotes; what it means is the key's.
fn scalar(key: &str, value: &Value<'_>) -> Result<String, Mistake> {
    Ok(match value.get_ref() {
        DeValue::String(text) => text.to_string(),
        DeValue::Integer(n) => match i128::from_str_radix(n.as_str(), n.radix()) {
            Ok(n) => n.to_string(),
            Err(_) => n.to_string(),
        },
        DeValue::Float(n) => n.to_string(),
        DeValue::Boolean(is) => is.to_string(),
        DeValue::Datetime(time) => time.to_string(),
        DeValue::Array(_) | DeValue::Table(_) => {
            return Err(mistake(value, key, "a single value is wanted"));
        }
    })
}

fn parsed<T, E: std::fmt::Display>(
    key: &str,
    value: &Value<'_>,
    parse: impl FnOnce(&str) -> Result<T, E>,
) -> Result<T, Mistake> {
    parse(&scalar(key, value)?).map_err(|e| mistake(value, key, e))
}

fn word<T: Copy>(key: &str, value: &Value<'_>, choices: &[Choice<T>]) -> Result<T, Mistake> {
    parsed(key, value, |text| {
        Choice::find(choices, text).ok_or_else(|| {
            let words: Vec<_> = choices.iter().map(|choice| choice.word).collect();
            format!("{text:?} is none of {}", words.join(", "))
        })
    })
}

fn list<'t, 'a>(
    key: &str,
    value: &'t Value<'a>,
    wanted: &str,
) -> Result<impl Iterator<Item = &'t Value<'a>>, Mistake> {
    let problem = || mistake(value, key, format_args!("{wanted} is wanted"));
    Ok(value.get_ref().as_array().ok_or_else(problem)?.iter())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::{ConsoleKind, Size};

    fn parse(text: &str) -> Result<MachineConfig, String> {
        MachineConfig::from_toml(Path::new("vm.toml"), text).map_err(|e| e.to_string())
    }

    #[test]
    fn files_say_what_options_say() {
        let config = parse(
            "cpus = 2\nmemory = 512\nconsole = 'none'\npublish = ['8080:80']\n\
             [[net]]\nmtu = 1_400\nmode = 'nat'\n[[net]]\nmode = 'tap'\nfd = 0x5\n",
        )
        .unwrap();
        assert_eq!((config.cpus, config.memory), (2, Size::mib(512)));
        assert_eq!(config.console, Some(ConsoleKind::None));
        assert_eq!(config.publish, ["8080:80".parse().unwrap()]);
        assert_eq!(config.net, ["nat,mtu=1400".parse().unwrap(), "tap,fd=5".parse().unwrap()]);
        let words = parse("net = ['nat,mtu=1400', 'tap,fd=5']").unwrap();
        assert_eq!(words.net, config.net);
    }

    /// Every mistake names its line, its key, its value, and what is allowed.
    #[test]
    fn mistakes_are_found_by_line() {
        for (text, want) in [
            ("cpus = 1\ncolour = 'blue'", "vm.toml:2: unknown key \"colour\" (keys: name, kernel,"),
            ("cpus = = 1", "vm.toml:1: "),
            ("name = 5", "vm.toml:1: name: text in quotes is wanted"),
            ("memory = -1", "vm.toml:1: memory: \"-1\" is not a size (a whole number of MiB"),
            ("\n\nmemory = 1.5", "vm.toml:3: memory: \"1.5\" is not a size"),
            ("memory = [1]", "vm.toml:1: memory: a single value is wanted"),
            ("cpus = 'two'", "vm.toml:1: cpus: \"two\" is no number of CPUs, 1 to 32"),
            ("cpus = -1", "vm.toml:1: cpus: \"-1\" is no number of CPUs"),
            ("console = 'screen'", "vm.toml:1: console: \"screen\" is none of tty, pipe, none"),
            ("publish = '80:80'", "vm.toml:1: publish: a list, as in"),
            (
                "publish = [\n'8080:80',\n'80']",
                "vm.toml:3: publish: \"80\" is not a published port",
            ),
            ("net = 'nat'", "vm.toml:1: net: [[net]] tables, or a list"),
            ("net = [5]", "vm.toml:1: net: a table is wanted"),
            ("net = [\n'nat',\n'nta']", "vm.toml:3: net: unknown network mode \"nta\""),
            ("[[net]]\nmtu = 1500", "net: the key mode is missing (nat, tap)"),
            (
                "[[net]]\nmode = 'bridge'",
                "vm.toml:2: network mode \"bridge\" is not in this version",
            ),
            (
                "cpus = 2\n[[net]]\nmode = 'nat'\nmtx = 1",
                "vm.toml:4: nat has no key \"mtx\" (keys: ",
            ),
            (
                "[[net]]\nmode = 'nat'\n\nmtu = 'big'",
                "vm.toml:4: mtu: \"big\" is no number of bytes, 68 to 65535",
            ),
            ("[[net]]\nmtu = -1\nmode = 'nat'", "vm.toml:2: mtu: \"-1\" is no number of bytes"),
            ("[[net]]\nmode = 'nat'\nengine = 'kernel'", "vm.toml:3: engine: \"kernel\" is not in"),
            ("[[net]]\nmode = 'tap'\nfd = true", "vm.toml:3: fd: \"true\" is no inherited"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(want), "{text:?}: {error} does not contain {want}");
            assert!(!error.contains('\n'), "{error}");
        }
    }

    #[test]
    fn files_are_looked_for_beside_the_configuration() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vm.toml");
        std::fs::write(&path, "kernel = 'k'\ninitrd = '/boot/rd'").unwrap();
        let config = MachineConfig::read(&path).unwrap();
        assert_eq!(config.kernel, Some(dir.path().join("k")));
        assert_eq!(config.initrd, Some("/boot/rd".into()));
    }

    #[test]
    fn what_is_no_configuration_is_not_read_for_ever() {
        let error = MachineConfig::read(Path::new("/dev/zero")).unwrap_err().to_string();
        assert!(error.contains("longer than 1 MiB"), "{error}");
    }

    /// A line that may belong into a file.
    fn line() -> impl Strategy<Value = String> {
        let keys: Vec<_> = MachineConfig::KEYS.iter().map(|key| (*key).to_owned()).collect();
        let key = prop_oneof![
            4 => proptest::sample::select(keys),
            2 => Just("mode".to_owned()),
            1 => "[a-z-]{1,8}"
        ];
        let value = prop_oneof![
            "-?[0-9]{1,20}",
            "'[a-z0-9:/=,. -]{0,16}'",
            "\\['(nat|tap=t|8080:80|x)'\\]",
            "true|1\\.5|\\{\\}|\\[\\]"
        ];
        prop_oneof![
            6 => (key, value).prop_map(|(key, value)| format!("{key} = {value}")),
            1 => Just("[[net]]".to_owned()),
            1 => "\\PC{0,20}"
        ]
    }

    proptest! {
        #[test]
        fn any_file_is_taken_or_refused_by_a_line_of_it(
            lines in proptest::collection::vec(line(), 0..8),
        ) {
            if let Err(error) = parse(&lines.join("\n")) {
                let at = error.strip_prefix("vm.toml:").and_then(|e| e.split_once(':'));
                let at = at.and_then(|(line, _)| line.parse().ok());
                prop_assert!(at.is_some_and(|at| (1..=lines.len()).contains(&at)), "{}", error);
                prop_assert!(!error.contains('\n'), "{}", error);
            }
        }
    }
}
