//! `minivmm run`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};

use super::super::words::Origin;
use super::help;
use minivmm::config::{
    BOOT_PROTOCOLS, CONSOLES, Choice, ConfigError, ConfigFile, ConsoleKind, MachineConfig,
    Protocol, PublishConfig, Size, TRANSPORTS, VirtioTransport, parse_cpus,
};

/// Options of `minivmm run`.
#[derive(Debug, Args)]
#[command(after_long_help = help::below(), after_help = "More, with examples and exit statuses: minivmm run --help")]
pub struct RunArgs {
    /// The kernel: an ELF vmlinux or a bzImage; the built-in probe guest without one
    ///
    /// A bzImage is unpacked on the host (gzip, zstd, xz, lz4) and started as the ELF in it.
    #[arg(long, value_name = "FILE", help_heading = "Guest")]
    kernel: Option<PathBuf>,
    /// The initial RAM disk
    #[arg(long, value_name = "FILE", help_heading = "Guest")]
    initrd: Option<PathBuf>,
    /// Added to the kernel command line
    ///
    /// It comes after what minivmm puts there: for the probe what it is to report, for a kernel
    /// console=ttyS0 panic=-1 reboot=panic_warm,acpi. So a panic ends the machine with status 70;
    /// with reboot=warm every reset does.
    #[arg(long, value_name = "STR", help_heading = "Guest", allow_hyphen_values = true)]
    cmdline: Option<String>,
    /// Virtual CPUs, 1 to 32 [default: 1]
    #[arg(
        short,
        long,
        value_name = "N",
        help_heading = "Guest",
        allow_hyphen_values = true,
        value_parser = parse_cpus
    )]
    cpus: Option<u32>,
    /// Guest memory: MiB, or with K, M, G or T behind the number [default: 256M]
    ///
    /// At least 16M. The host gives a page when the guest first touches it.
    #[arg(short, long, value_name = "SIZE", help_heading = "Guest", allow_hyphen_values = true)]
    memory: Option<Size>,
    /// Names the machine, and the guest by DHCP [default: one is made; minivmm by DHCP]
    ///
    /// The other commands find the machine by it. One name is one machine's at a time.
    #[arg(long, value_name = "NAME", help_heading = "Guest")]
    name: Option<String>,
    /// CPU features to take away, separated by commas, as in avx512f,pku
    ///
    /// The names are those of /proc/cpuinfo. What depends on a feature goes with it.
    #[arg(long, value_name = "FEATURES", help_heading = "Guest")]
    cpu_mask: Option<String>,
    /// How the kernel is started [default: auto]
    #[arg(long, value_name = "PROTOCOL", help_heading = "Guest", value_parser = choice(BOOT_PROTOCOLS))]
    boot_protocol: Option<Protocol>,
    /// Unpack a bzImage at each start, and keep nothing of it
    ///
    /// Else it is kept for the next start in minivmm/kernels of $XDG_CACHE_HOME or ~/.cache: 512 MiB
    /// in all, those not used for longest go first.
    #[arg(long, help_heading = "Guest")]
    no_kernel_cache: bool,
    /// A network interface, as described below with --help
    #[arg(long, value_name = "MODE[,KEY=VALUE…]", help_heading = "Network")]
    net: Vec<String>,
    /// Publish guest ports: [ADDRESS:]HOST[-HOST]:GUEST[-GUEST][/udp]
    #[arg(short, long, value_name = "PORTS", help_heading = "Network")]
    publish: Vec<PublishConfig>,
    /// How virtio devices are attached [default: pci]
    ///
    /// ACPI tells the kernel of those on MMIO. One without ACPI, or with acpi=off, is told by its
    /// command line: virtio_mmio.device=4K@0xd0000000:5 for the first interface, the same with
    /// 4K@0xd0001000:6 for the second, and so on; where --cmdline has such a word, by that alone.
    #[arg(long, help_heading = "Devices", value_parser = choice(TRANSPORTS))]
    transport: Option<VirtioTransport>,
    /// Where the serial console leads [default: tty for a kernel on a terminal, else pipe]
    #[arg(long, help_heading = "Devices", value_parser = choice(CONSOLES))]
    console: Option<ConsoleKind>,
    /// Read the machine from a file, TOML or JSON; options given beside it win
    ///
    /// Its keys are the options' names; networks are [[net]] tables with a mode and the keys below,
    /// or a list, as in net = ["nat"]; --net or -p replaces all of the file's. A kernel or initrd
    /// is looked for beside the file. See resources/examples.
    #[arg(long, value_name = "FILE", help_heading = "Monitor")]
    config: Option<PathBuf>,
    /// Return when the machine runs, and print its name
    ///
    /// Its console is kept in a file of 1 to 2 MiB, for minivmm logs. The exit status is that of the
    /// start; the machine's own is minivmm wait's.
    #[arg(short, long, help_heading = "Monitor")]
    pub detach: bool,
    /// End the machine after this time: seconds, or with s, m or h behind the number
    ///
    /// It ends without being asked, with status 124. Time goes on while it is paused.
    #[arg(long, value_name = "TIME", help_heading = "Monitor", value_parser = parse_time)]
    pub timeout: Option<Duration>,
    /// This is the process that -d starts
    #[arg(long, hide = true)]
    pub detached: bool,
    /// Messages and results as JSON, one object a line
    #[arg(long, help_heading = "Monitor")]
    pub json: bool,
    /// Print how long each phase of the start took, at the end
    ///
    /// Wall-clock time, except before the monitor's main: there it is processor time.
    #[arg(long, help_heading = "Monitor")]
    pub timings: bool,
    /// More messages; twice for debugging
    #[arg(short, long, action = clap::ArgAction::Count, help_heading = "Monitor")]
    pub verbose: u8,
}

impl RunArgs {
    /// The configuration that the options, and the file they name, describe; and where each part of
    /// it came from, to say so of what is wrong.
    pub fn config(&self) -> (Origin, Result<MachineConfig, ConfigError>) {
        let mut origin = Origin { nets: self.net.clone(), ..Origin::default() };
        let config = self.file(&mut origin).and_then(|config| self.over(config, &mut origin));
        (origin, config)
    }

    /// What the file says.
    fn file(&self, origin: &mut Origin) -> Result<MachineConfig, ConfigError> {
        match &self.config {
            None => Ok(MachineConfig::default()),
            Some(path) => origin.file.insert(ConfigFile::read(path)?).config(),
        }
    }

    /// The options over that.
    fn over(
        &self,
        mut config: MachineConfig,
        origin: &mut Origin,
    ) -> Result<MachineConfig, ConfigError> {
        let options = &mut origin.options;
        set_some(options, "kernel", &mut config.kernel, &self.kernel);
        set_some(options, "initrd", &mut config.initrd, &self.initrd);
        set_some(options, "name", &mut config.name, &self.name);
        set_some(options, "console", &mut config.console, &self.console);
        set(options, "cmdline", &mut config.cmdline, &self.cmdline);
        set(options, "cpus", &mut config.cpus, &self.cpus);
        set(options, "memory", &mut config.memory, &self.memory);
        set(options, "cpu-mask", &mut config.cpu_mask, &self.cpu_mask);
        set(options, "boot-protocol", &mut config.boot_protocol, &self.boot_protocol);
        set(options, "transport", &mut config.transport, &self.transport);
        config.no_kernel_cache |= self.no_kernel_cache;
        if !self.publish.is_empty() {
            options.push("publish");
            config.publish.clone_from(&self.publish);
        }
        if !self.net.is_empty() {
            options.push("net");
            let parse = |(index, text): (_, &String)| {
                text.parse().map_err(|source| ConfigError::Net { index, source })
            };
            config.net = self.net.iter().enumerate().map(parse).collect::<Result<_, _>>()?;
        }
        Ok(config)
    }
}

fn set<T: Clone>(
    given: &mut Vec<&'static str>,
    key: &'static str,
    field: &mut T,
    option: &Option<T>,
) {
    if let Some(value) = option {
        given.push(key);
        field.clone_from(value);
    }
}

fn set_some<T: Clone>(
    given: &mut Vec<&'static str>,
    key: &'static str,
    field: &mut Option<T>,
    option: &Option<T>,
) {
    if option.is_some() {
        given.push(key);
        field.clone_from(option);
    }
}

/// Takes the words of a choice, which help and errors list.
fn choice<T: Copy + Send + Sync>(
    choices: &'static [Choice<T>],
) -> impl TypedValueParser<Value = T> {
    let words = choices.iter().map(|choice| PossibleValue::new(choice.word).help(choice.help));
    PossibleValuesParser::new(words)
        .map(|word| Choice::find(choices, &word).expect("no other word passes the parser"))
}

/// A time of more than nothing, and less than a hundred years.
fn parse_time(text: &str) -> Result<Duration, String> {
    let (number, unit) = match text.char_indices().last() {
        Some((at, 'h')) => (&text[..at], 3600),
        Some((at, 'm')) => (&text[..at], 60),
        Some((at, 's')) => (&text[..at], 1),
        _ => (text, 1),
    };
    let digits = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    let seconds = digits.then(|| number.parse::<u32>().ok()).flatten();
    seconds
        .filter(|seconds| *seconds > 0)
        .map(|seconds| Duration::from_secs(u64::from(seconds) * unit))
        .ok_or_else(|| "a time is a whole number of seconds, or 10s, 5m, 1h".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_units() {
        let seconds = |text| parse_time(text).map(|time| time.as_secs()).ok();
        for (text, want) in [("10", 10), ("10s", 10), ("5m", 300), ("2h", 7200)] {
            assert_eq!(seconds(text), Some(want), "{text}");
        }
        for text in ["", "0", "s", "-1", "1.5", "1d", "1 s", "99999999999", "ä"] {
            assert_eq!(seconds(text), None, "{text}");
        }
    }
}
