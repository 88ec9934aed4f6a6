//! Errors in the words of the command line: which option, or which line of the file, is wrong.
//!
//! The library says what is wrong and where in the configuration, by its keys. Here it becomes what
//! the user has written.

use minivmm::Error;
use minivmm::config::{ConfigError, ConfigFile, Place};

/// Where a configuration came from.
#[derive(Debug, Default)]
pub struct Origin {
    /// The file of `--config`.
    pub file: Option<ConfigFile>,
    /// The keys that options have set, in place of the file's.
    pub options: Vec<&'static str>,
    /// The words of each `--net`.
    pub nets: Vec<String>,
}

impl Origin {
    /// An error in one line.
    pub fn words(&self, error: &Error) -> String {
        let text = error.to_string();
        let Some(place) = error.place() else { return text };
        let problem = text.strip_prefix(&format!("{place}: "));
        let by_option = self.options.iter().any(|key| *key == place.key);
        let file = self.file.as_ref().filter(|_| !by_option);
        let at = file.and_then(|file| Some((file.path(), file.line(&place)?)));
        let said = match (at, problem) {
            (Some((path, line)), Some(problem)) => {
                let key = place.inner.as_ref().unwrap_or(&place.key);
                format!("{}:{line}: {key}: {problem}", path.display())
            }
            (Some((path, line)), None) => format!("{}:{line}: {text}", path.display()),
            // It is about something that the user named; what that was is in the text.
            (None, None) => text,
            (None, Some(problem)) => self.option(&place, problem),
        };
        format!("{said}{}", cure(error))
    }

    /// What is wrong with an option.
    fn option(&self, place: &Place, problem: &str) -> String {
        match (&*place.key, place.index) {
            ("net", Some(index)) => {
                let words = self.nets.get(index).map_or("", |words| words);
                match &place.inner {
                    Some(key) => format!("--net {words}: {key}: {problem}"),
                    None => format!("--net {words}: {problem}"),
                }
            }
            // The port is in the problem.
            ("publish", _) => format!("-p {problem}"),
            (key, _) => format!("--{key}: {problem}"),
        }
    }
}

/// Which option would help.
fn cure(error: &Error) -> &'static str {
    let Error::Config(error) = error else { return "" };
    match error {
        ConfigError::PublishWithoutNat { .. } => " (add --net nat)",
        ConfigError::InitrdWithoutKernel => " (add --kernel FILE)",
        ConfigError::NoTerminal => " (use --console pipe)",
        ConfigError::Tap { .. } => " (--net tap=NAME, or --net tap,fd=N)",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use minivmm::config::MachineConfig;

    use super::*;

    fn refused(config: &MachineConfig, origin: &Origin) -> String {
        let error = Error::from(config.validate().unwrap_err());
        assert!(!error.to_string().contains("--"), "{error}");
        origin.words(&error)
    }

    #[test]
    fn a_mistake_of_a_file_has_its_line() {
        for (text, want) in [
            ("cpus = 1\ncpu-mask = 'nosuch'", "vm.toml:2: cpu-mask: unknown CPU feature"),
            ("cpus = 1\nmemory = 1", "vm.toml:2: memory: 1 MiB, where a guest needs at least"),
            ("name = 'a b'", "vm.toml:1: name: \"a b\" cannot be"),
            ("initrd = 'i'", "vm.toml:1: initrd: the built-in probe takes none"),
            ("\npublish = ['80:80']", "vm.toml:2: publish: 80:80: there is no NAT interface"),
            (
                "[[net]]\nmode = 'nat'\nsubnet = '10.9.0.0/24'\n[[net]]\nmode = 'nat'\n\
                 subnet = '10.9.0.0/16'",
                "vm.toml:6: subnet: 10.9.0.0/16 overlaps 10.9.0.0/24, which is that of net[0]",
            ),
            ("[[net]]\nmode = 'nat'\n[[net]]\nmode = 'tap'", "vm.toml:3: net: name the TAP"),
        ] {
            let file = ConfigFile::new(Path::new("vm.toml"), text);
            let config = file.config().unwrap();
            let said = refused(&config, &Origin { file: Some(file), ..Origin::default() });
            assert!(said.starts_with(want), "{said} does not begin with {want}");
            assert!(!said.contains('\n'), "{said}");
        }
    }

    #[test]
    fn a_mistake_of_an_option_names_it() {
        let nets = ["nat,mac=52:4d:00:00:00:01", "nat,mac=52:4d:00:00:00:01,mtu=1400"];
        let net = |words: &&str| words.parse().unwrap();
        let config = |edit: fn(&mut MachineConfig)| {
            let mut config = MachineConfig::default();
            edit(&mut config);
            config
        };
        let origin = |options: &[&'static str], nets: &[&str]| Origin {
            file: Some(ConfigFile::new(Path::new("vm.toml"), "memory = 64\n")),
            options: options.to_vec(),
            nets: nets.iter().map(|words| (*words).to_owned()).collect(),
        };
        let wrong = config(|config| config.memory = "1M".parse().unwrap());
        let said = refused(&wrong, &origin(&["memory"], &[]));
        assert!(said.starts_with("--memory: 1 MiB, where a guest needs"), "{said}");
        let wrong = config(|config| config.publish = vec!["80:80".parse().unwrap()]);
        let said = refused(&wrong, &origin(&["publish"], &[]));
        assert_eq!(said, "-p 80:80: there is no NAT interface to publish it on (add --net nat)");
        let wrong =
            MachineConfig { net: nets.iter().map(net).collect(), ..MachineConfig::default() };
        let said = refused(&wrong, &origin(&["net"], &nets));
        let want = format!("--net {}: mac: 52:4d:00:00:00:01 is given to two", nets[1]);
        assert!(said.starts_with(&want), "{said}");
    }

    /// A key that nobody has given has its default by an option as well.
    #[test]
    fn a_default_is_an_options() {
        let config = MachineConfig { cpus: 0, ..MachineConfig::default() };
        let file = ConfigFile::new(Path::new("vm.toml"), "memory = 64\n");
        let origin = Origin { file: Some(file), ..Origin::default() };
        assert!(refused(&config, &origin).starts_with("--cpus: 0 CPUs, where"));
    }
}
