//! A machine from a file, TOML or JSON: the options' names and values, and the line of what is wrong.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_path_to_error::Track;

use super::error::ConfigError;
use super::keys::{MACHINE, MODES, Mode};
use super::machine::MachineConfig;
use super::near::question;
use super::net::NetConfig;
use super::net_words::Pair;
use super::place::Place;
use super::tree::{Content, Entry, Node};

#[cfg(test)]
mod tests;

/// The longest file that is read.
const FILE_MAX: u64 = 1 << 20;

/// What is wrong with a file, and at which byte of it.
struct Mistake {
    at: usize,
    message: String,
}

/// How a file is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Toml,
    Json,
}

/// A file that describes a machine.
#[derive(Debug)]
pub struct ConfigFile {
    /// For messages.
    path: PathBuf,
    text: String,
    form: Form,
    /// Where its kernel and initrd are looked for.
    folder: Option<PathBuf>,
}

impl ConfigFile {
    /// Reads a file, JSON where its name says so or it begins with `{`, else TOML. Kernel and initrd
    /// are looked for beside it, not in the working directory, unless it comes by a pipe.
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
        let folder = path.parent().filter(|_| regular).map(Path::to_owned);
        Ok(Self { folder, ..Self::new(path, text) })
    }

    /// A file's text; `path` is for messages, and for the form.
    pub fn new(path: &Path, text: impl Into<String>) -> Self {
        let text = text.into();
        let json = path.extension().is_some_and(|e| e.eq_ignore_ascii_case("json"))
            || text.trim_start().starts_with('{');
        let form = if json { Form::Json } else { Form::Toml };
        Self { path: path.to_owned(), text, form, folder: None }
    }

    /// The machine that it describes.
    ///
    /// # Errors
    /// [`ConfigError::File`], with the line that is wrong.
    pub fn config(&self) -> Result<MachineConfig, ConfigError> {
        let config = match self.form {
            Form::Toml => self.read_toml(),
            Form::Json => self.read_json(),
        };
        let mut config = config.map_err(|mistake| ConfigError::File {
            path: self.path.display().to_string(),
            line: self.line_of(mistake.at),
            message: mistake.message,
        })?;
        if let Some(folder) = &self.folder {
            let beside = |file: &mut PathBuf| *file = folder.join(&file);
            config.kernel.iter_mut().chain(&mut config.initrd).for_each(beside);
        }
        Ok(config)
    }

    /// Where it is, as it was given.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The line, from 1, of a place, or of what that is in; nothing where its key was not given.
    pub fn line(&self, place: &Place) -> Option<usize> {
        Some(self.line_of(self.tree()?.find(place)?))
    }

    fn line_of(&self, at: usize) -> usize {
        self.text.bytes().take(at).filter(|b| *b == b'\n').count() + 1
    }

    fn tree(&self) -> Option<Node> {
        match self.form {
            Form::Toml => Node::of_toml(&self.text),
            Form::Json => Node::of_json(&self.text),
        }
    }

    fn read_toml(&self) -> Result<MachineConfig, Mistake> {
        let byte = |e: &toml::de::Error| e.span().unwrap_or_default().start;
        let deserializer = toml::Deserializer::parse(&self.text)
            .map_err(|e| Mistake { at: byte(&e), message: e.message().replace('\n', " ") })?;
        let mut track = Track::new();
        let tracked = serde_path_to_error::Deserializer::new(deserializer, &mut track);
        MachineConfig::deserialize(tracked)
            .map_err(|e| self.mistake(Place::of(&track.path()), byte(&e), e.message()))
    }

    fn read_json(&self) -> Result<MachineConfig, Mistake> {
        // Serde would take a list for the keys' values in their order.
        if self.text.trim_start().starts_with('[') {
            let message = "an object is wanted, as in {\"memory\": \"1G\"}".into();
            return Err(Mistake { at: 0, message });
        }
        let mut deserializer = serde_json::Deserializer::from_str(&self.text);
        let mut track = Track::new();
        let tracked = serde_path_to_error::Deserializer::new(&mut deserializer, &mut track);
        let config = MachineConfig::deserialize(tracked);
        let config = config.and_then(|config| deserializer.end().map(|()| config));
        config.map_err(|e: serde_json::Error| {
            let before = self.text.split_inclusive('\n').take(e.line().saturating_sub(1));
            let said = e.to_string();
            let place = format!(" at line {} column {}", e.line(), e.column());
            let said = said.strip_suffix(&place).unwrap_or(&said);
            let at = before.map(str::len).sum();
            if e.is_data() {
                self.mistake(Place::of(&track.path()), at, said)
            } else {
                Mistake { at, message: said.to_owned() }
            }
        })
    }

    /// What serde said of a place, in words of ours and where that is; at `at` where it isn't known.
    fn mistake(&self, place: Option<Place>, at: usize, said: &str) -> Mistake {
        let said = said.replace('\n', " ");
        let Some(tree) = self.tree() else { return Mistake { at, message: said } };
        let twice = said.strip_prefix("duplicate field `").and_then(|rest| rest.strip_suffix('`'));
        if let Some(key) = twice {
            let again = tree.entries().iter().rfind(|entry| entry.key == key);
            let message = format!("the key {key:?} is given twice");
            return Mistake { at: again.map_or(at, |entry| entry.at), message };
        }
        let Some(place) = place else { return Mistake { at, message: said } };
        let found = tree.find(&place).unwrap_or(at);
        if said.starts_with("unknown field `") {
            return Mistake { at: found, message: unknown_key(&place.key, &tree) };
        }
        if let (Some(index), "net") = (place.index, &*place.key)
            && let Some(Node { content: Content::Table(entries), .. }) = tree.item("net", index)
            && let Some((entry, message)) = self.wrong_entry(entries)
        {
            return Mistake { at: entry.map_or(found, |entry| entry.at), message };
        }
        Mistake { at: found, message: format!("{}: {said}", place.key) }
    }

    /// Which entry of an interface's table is wrong, if it is one, and what is.
    fn wrong_entry<'t>(&self, entries: &'t [Entry]) -> Option<(Option<&'t Entry>, String)> {
        let pair = |entry: &'t Entry| -> Pair<'t> {
            match &entry.value.content {
                Content::Single(text) => (&entry.key, text.as_deref()),
                Content::List(_) | Content::Table(_) => (&entry.key, None),
            }
        };
        let pairs: Vec<_> = entries.iter().map(pair).collect();
        let (index, error) = NetConfig::from_table(&pairs).err()?;
        let entry = index.and_then(|index| entries.get(index));
        let message = match (error.is_the_machines(), self.form) {
            (true, Form::Toml) => format!("{error}: it belongs above the first [[net]]"),
            (true, Form::Json) => format!("{error}: it belongs beside \"net\", not in it"),
            (false, _) => error.to_string(),
        };
        // A table without its mode has no key to name.
        Some((entry, if entry.is_some() { message } else { format!("net: {message}") }))
    }
}

impl MachineConfig {
    /// The keys of a file, which are the options' names.
    pub const KEYS: &[&str] = MACHINE;

    /// The machine that a file describes: see [`ConfigFile::read`].
    ///
    /// # Errors
    /// [`ConfigError::Read`] and [`ConfigError::File`].
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        ConfigFile::read(path)?.config()
    }

    /// The machine that a file's text describes: see [`ConfigFile::new`].
    ///
    /// # Errors
    /// [`ConfigError::File`], with the line that is wrong.
    pub fn from_text(path: &Path, text: &str) -> Result<Self, ConfigError> {
        ConfigFile::new(path, text).config()
    }
}

/// Keys that a configuration of Firecracker's has.
const FIRECRACKERS: [&str; 4] = ["boot-source", "machine-config", "network-interfaces", "drives"];

/// What to say of a key that is none, at the top.
fn unknown_key(key: &str, tree: &Node) -> String {
    if tree.entries().iter().any(|entry| FIRECRACKERS.contains(&&*entry.key)) {
        return "this is a configuration of Firecracker's; minivmm has keys of its own: kernel, \
                memory, net"
            .into();
    }
    let of_interface = |mode: &Mode| mode.keys().iter().any(|about| about.name == key);
    if key == "mode" || MODES.iter().any(of_interface) {
        return format!("unknown key {key:?}: it belongs to an interface, below [[net]]");
    }
    let near = question(key, MACHINE.iter().copied());
    format!("unknown key {key:?}{near} (keys: {})", MACHINE.join(", "))
}
