//! A machine from a file, TOML or JSON: the options' names and values, and the line of what is wrong.

use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::IntoDeserializer;
use serde_path_to_error::{Segment, Track};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::machine::MachineConfig;
use super::net::{NatConfig, NetConfig, TapConfig};
use super::validate::ConfigError;
use super::value::Word;

/// The longest file that is read.
const FILE_MAX: u64 = 1 << 20;

/// What is wrong with a file, and at which byte of it.
struct Mistake {
    at: usize,
    message: String,
}

/// A configuration file that was read.
#[derive(Debug, Clone)]
pub struct ConfigFile {
    path: PathBuf,
    text: String,
    /// It has a folder, which is not so for a pipe.
    regular: bool,
}

impl ConfigFile {
    /// Reads one.
    ///
    /// # Errors
    /// [`ConfigError::Read`].
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
        Ok(Self { path: path.to_owned(), text, regular })
    }

    /// The machine that it describes. Kernel and initrd are looked for beside the file, not in the
    /// working directory, unless it came by a pipe.
    ///
    /// # Errors
    /// Those of [`MachineConfig::from_text`].
    pub fn machine(&self) -> Result<MachineConfig, ConfigError> {
        let mut config = MachineConfig::from_text(&self.path, &self.text)?;
        if let (true, Some(folder)) = (self.regular, self.path.parent()) {
            let beside = |file: &mut PathBuf| *file = folder.join(&file);
            config.kernel.iter_mut().chain(&mut config.initrd).for_each(beside);
        }
        Ok(config)
    }

    /// Where a key of the machine's is in it, as `file:line`; none where it is not there.
    pub fn place(&self, key: &str) -> Option<String> {
        let at = if is_json(&self.path, &self.text) {
            self.text.find(&format!("\"{key}\""))?
        } else {
            let table = DeTable::parse(&self.text).ok()?;
            table.get_ref().get_key_value(key)?.0.span().start
        };
        Some(format!("{}:{}", self.path.display(), line(&self.text, at)))
    }
}

/// Whether a file is JSON: its name says so, or it begins with `{`. Else it is TOML.
fn is_json(path: &Path, text: &str) -> bool {
    path.extension().is_some_and(|e| e.eq_ignore_ascii_case("json"))
        || text.trim_start().starts_with('{')
}

/// The line of a byte, from 1.
fn line(text: &str, at: usize) -> usize {
    text.bytes().take(at).filter(|b| *b == b'\n').count() + 1
}

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

    /// The machine that a file's text describes; `path` is for messages, and for the form.
    ///
    /// # Errors
    /// [`ConfigError::File`], with the line that is wrong.
    pub fn from_text(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let config = if is_json(path, text) { from_json(text) } else { from_toml(text) };
        config.map_err(|mistake| ConfigError::File {
            path: path.display().to_string(),
            line: line(text, mistake.at),
            message: mistake.message,
        })
    }
}

fn from_toml(text: &str) -> Result<MachineConfig, Mistake> {
    let syntax = |e: toml::de::Error| Mistake {
        at: e.span().unwrap_or_default().start,
        message: e.message().replace('\n', " "),
    };
    let deserializer = toml::Deserializer::parse(text).map_err(syntax)?;
    let mut track = Track::new();
    let tracked = serde_path_to_error::Deserializer::new(deserializer, &mut track);
    MachineConfig::deserialize(tracked).map_err(|e: toml::de::Error| {
        let path = Place::of(track.path().iter());
        let at = path.entry(text).unwrap_or_else(|| e.span().unwrap_or_default().start);
        Mistake { at, message: path.message(e.message()) }
    })
}

fn from_json(text: &str) -> Result<MachineConfig, Mistake> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let mut track = Track::new();
    let tracked = serde_path_to_error::Deserializer::new(&mut deserializer, &mut track);
    let config = MachineConfig::deserialize(tracked);
    let config = config.and_then(|config| deserializer.end().map(|()| config));
    config.map_err(|e: serde_json::Error| {
        let line = e.line().saturating_sub(1);
        let at = text.split_inclusive('\n').take(line).map(str::len).sum();
        let said = e.to_string();
        let place = format!(" at line {} column {}", e.line(), e.column());
        let said = said.strip_suffix(&place).unwrap_or(&said);
        if e.is_data() && is_firecrackers(text) {
            let message = "this is a configuration of Firecracker's; minivmm has keys of its own: \
                           kernel, memory, net (see minivmm run --help)";
            return Mistake { at: 0, message: message.into() };
        }
        Mistake { at, message: Place::of(track.path().iter()).message(said) }
    })
}

/// Whether a JSON file has what Firecracker's must have.
fn is_firecrackers(text: &str) -> bool {
    let object: Result<serde_json::Map<String, serde_json::Value>, _> = serde_json::from_str(text);
    object.is_ok_and(|object| object.contains_key("boot-source"))
}

/// Where in a configuration a mistake is.
struct Place {
    /// The key at the top.
    key: Option<String>,
    /// The element of the list there.
    index: Option<usize>,
    /// The key in that.
    inner: Option<String>,
}

impl Place {
    fn of<'a>(mut path: impl Iterator<Item = &'a Segment>) -> Self {
        let name = |segment: Option<&Segment>| match segment {
            Some(Segment::Map { key }) => Some(key.clone()),
            _ => None,
        };
        let key = name(path.next());
        let index = match path.next() {
            Some(Segment::Seq { index }) => Some(*index),
            _ => None,
        };
        Self { key, index, inner: name(path.next()) }
    }

    /// What is wrong, behind the key that it is wrong with.
    fn message(&self, said: &str) -> String {
        let said = said.replace('\n', " ");
        let unknown = said.strip_prefix("unknown field `").and_then(|rest| rest.split('`').next());
        if let Some(key) = unknown {
            return unknown_key(key);
        }
        match (&self.key, &self.inner) {
            (_, Some(inner)) => format!("{inner}: {said}"),
            // An interface's own words name its mode or key.
            (Some(_), None) if self.index.is_some() && names_itself(&said) => said,
            (Some(key), None) => format!("{key}: {said}"),
            (None, None) => said,
        }
    }

    /// The byte at which the element of a list begins that is wrong, or its entry, in TOML.
    fn entry(&self, text: &str) -> Option<usize> {
        let table = DeTable::parse(text).ok()?;
        let list = table.get_ref().get(self.key.as_deref()?)?.get_ref().as_array()?;
        let element = list.get(self.index?)?;
        let entry = match (&self.inner, element.get_ref().as_table()) {
            (Some(inner), Some(table)) => table.get(&**inner).map(Spanned::span),
            (None, Some(table)) => wrong_entry(table),
            _ => None,
        };
        Some(entry.unwrap_or_else(|| element.span()).start)
    }
}

/// Whether what is wrong with an interface says where.
fn names_itself(said: &str) -> bool {
    let key = said.split_once(": ").map_or("", |(key, _)| key);
    NatConfig::KEYS.contains(&key)
        || TapConfig::KEYS.contains(&key)
        || said.contains(" has no key ")
        || said.starts_with("network mode ")
}

/// Which entry of an interface's table is wrong.
fn wrong_entry(table: &DeTable<'_>) -> Option<Range<usize>> {
    let mut entries: Vec<_> = table.iter().collect();
    entries.sort_by_key(|(key, _)| key.span().start);
    let pairs: Vec<_> =
        entries.iter().map(|(key, value)| (key.get_ref().to_string(), scalar(value))).collect();
    let (index, _) = NetConfig::from_table(&pairs).err()?;
    Some(entries.get(index?)?.0.span())
}

/// The text of a single value.
fn scalar(value: &Spanned<DeValue<'_>>) -> String {
    let word = Word::deserialize(value.clone().into_deserializer());
    word.map(|Word(text)| text).unwrap_or_default()
}

/// What to say of a key that is none, at the top.
fn unknown_key(key: &str) -> String {
    let keys = MachineConfig::KEYS;
    if NatConfig::KEYS.contains(&key) || TapConfig::KEYS.contains(&key) || key == "mode" {
        return format!("unknown key {key:?}: it belongs to an interface, below [[net]]");
    }
    let near = keys
        .iter()
        .map(|other| (strsim::damerau_levenshtein(key, other), other))
        .min()
        .filter(|(distance, other)| *distance <= 2.min(other.len() / 2));
    match near {
        Some((_, near)) => format!("unknown key {key:?}; did you mean {near:?}?"),
        None => format!("unknown key {key:?} (keys: {})", keys.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::{ConsoleKind, Size};

    fn parse(text: &str) -> Result<MachineConfig, String> {
        MachineConfig::from_text(Path::new("vm.toml"), text).map_err(|e| e.to_string())
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
            ("memry = 1", "vm.toml:1: unknown key \"memry\"; did you mean \"memory\"?"),
            (
                "mtu = 1400",
                "vm.toml:1: unknown key \"mtu\": it belongs to an interface, below [[net]]",
            ),
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

    fn json(text: &str) -> Result<MachineConfig, String> {
        MachineConfig::from_text(Path::new("vm.json"), text).map_err(|e| e.to_string())
    }

    #[test]
    fn json_says_what_toml_says() {
        let config = json(
            r#"{ "cpus": 2, "memory": "1G", "name": null, "net": ["nat,mtu=1400",
                 { "mode": "tap", "fd": 5 }], "publish": ["8080:80"] }"#,
        );
        let toml =
            "cpus = 2\nmemory = '1G'\npublish = ['8080:80']\nnet = ['nat,mtu=1400', 'tap,fd=5']";
        assert_eq!(config, parse(toml));
    }

    #[test]
    fn mistakes_in_json_are_found_by_line() {
        for (text, want) in [
            ("{\n\"cpus\": 1,\n\"colour\": 2}", "vm.json:3: unknown key \"colour\" (keys: name,"),
            ("{\n\"memory\": \"big\"}", "vm.json:2: memory: \"big\" is not a size"),
            ("{\"net\": [\n{\"mode\": \"nat\", \"mtu\": 1}]}", "vm.json:2: mtu: "),
            ("{\"net\": [\n\"nta\"]}", "vm.json:2: net: unknown network mode \"nta\""),
            ("{\"cpus\": 1} x", "vm.json:1: trailing characters"),
            ("{", "vm.json:1: EOF while parsing an object"),
            (
                "{\"boot-source\": {\"kernel_image_path\": \"k\"}, \"drives\": []}",
                "vm.json:1: this is a configuration of Firecracker's; minivmm has keys of its own",
            ),
        ] {
            let error = json(text).unwrap_err();
            assert!(error.contains(want), "{text:?}: {error} does not contain {want}");
            assert!(!error.contains('\n'), "{error}");
        }
    }

    /// A machine with every key.
    fn full() -> MachineConfig {
        parse(
            "name = 'a'\nkernel = 'k'\ninitrd = 'r'\ncmdline = 'quiet'\ncpus = 3\nmemory = 100\n\
             console = 'none'\ntransport = 'mmio'\ncpu-mask = 'pku'\nboot-protocol = 'pvh'\n\
             no-kernel-cache = true\npublish = ['[::1]:5353:53/udp', '80:80']\n\
             net = ['nat,subnet=10.9.0.0/24,mtu=1400,mac=52:4d:00:00:00:01,host=allow,ipv6=off,\
             max-flows=10/5', 'nat,ipv6=on', 'tap=t0,mtu=1400', 'tap,fd=5,mac=52:4d:00:00:00:02']",
        )
        .unwrap()
    }

    /// What `inspect` shows can be read back, from either form.
    #[test]
    fn what_is_written_is_read_back() {
        for config in [MachineConfig::default(), full()] {
            let text = serde_json::to_string(&config).unwrap();
            assert_eq!(json(&text).unwrap(), config, "{text}");
            let text = toml::to_string(&config).unwrap();
            assert_eq!(parse(&text).unwrap(), config, "{text}");
        }
        let value = serde_json::to_value(full()).unwrap();
        for key in MachineConfig::KEYS {
            assert!(value.get(key).is_some(), "{key}");
        }
    }

    #[test]
    fn files_are_looked_for_beside_the_configuration() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vm.toml");
        std::fs::write(&path, "kernel = 'k'\ninitrd = '/boot/rd'").unwrap();
        let file = ConfigFile::read(&path).unwrap();
        let config = file.machine().unwrap();
        assert_eq!(config.kernel, Some(dir.path().join("k")));
        assert_eq!(config.initrd, Some("/boot/rd".into()));
        let at = |line| Some(format!("{}:{line}", path.display()));
        assert_eq!(
            [file.place("kernel"), file.place("initrd"), file.place("cpus")],
            [at(1), at(2), None]
        );
    }

    #[test]
    fn what_is_no_configuration_is_not_read_for_ever() {
        let error = ConfigFile::read(Path::new("/dev/zero")).unwrap_err().to_string();
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
