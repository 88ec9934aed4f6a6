//! The command line: words to configuration, and nothing else.

mod machines;
mod run;

use std::ffi::OsString;
use std::fmt::Write as _;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Parser, Subcommand};

pub use self::machines::{
    EventsArgs, InspectArgs, LogsArgs, OrderArgs, PsArgs, StatsArgs, StopArgs, WaitArgs,
};
pub use self::run::RunArgs;

const EXAMPLES: &str = "\
Try it:
  minivmm run --net nat                    boot the built-in probe, which reports what works
  minivmm run --kernel vmlinux --net nat   boot a Linux kernel with a working network

All options, networks and exit statuses: minivmm run --help";

/// A minimal virtual machine monitor for Linux/KVM with networking built in.
#[derive(Debug, Parser)]
#[command(
    name = "minivmm",
    version,
    max_term_width = 100,
    disable_help_subcommand = true,
    after_help = EXAMPLES
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Boot a guest and stay with it until it ends
    ///
    /// Without --kernel that is the built-in probe, which configures its network as any guest would
    /// and reports what works. Without --net there is no network. Nothing stays behind: networks,
    /// published ports and TAPs made for the guest go with the command.
    Run(Box<RunArgs>),
    /// List the machines that run
    Ps(PsArgs),
    /// Show what a machine is, as JSON
    Inspect(InspectArgs),
    /// Have a guest power off, or end its machine
    ///
    /// A guest that listens to its ACPI power button is asked to power off, and its machine ends when
    /// it has done so or its time is over. One that does not listen is ended at once.
    Stop(StopArgs),
    /// End a machine at once
    Kill(OrderArgs),
    /// Stop a machine's processors; its devices and networks go on
    Pause(OrderArgs),
    /// Let a paused machine go on
    Resume(OrderArgs),
    /// Wait for a machine's end, and end with its status
    Wait(WaitArgs),
    /// Show what happens to a machine, an object a line, until it ends
    Events(EventsArgs),
    /// Show what machines count
    Stats(StatsArgs),
    /// Show what the guest of a machine that runs detached (run -d) wrote to its console
    ///
    /// The last 1 to 2 MiB of it are kept, for as long as the machine runs.
    Logs(LogsArgs),
}

/// Parses the process's arguments.
///
/// # Errors
/// One line that says what is wrong, for standard error; help and version print themselves and
/// end the process.
pub fn parse() -> Result<Cli, String> {
    let args: Vec<OsString> = std::env::args_os().collect();
    Cli::try_parse_from(&args).map_err(|e| {
        if e.use_stderr() && e.kind() != ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
            not_yet(&e, &args).unwrap_or_else(|| one_line(&e))
        } else {
            e.exit()
        }
    })
}

/// Commands of a later version.
const COMMANDS_NOT_YET: [&str; 6] = ["exec", "net", "port", "capture", "doctor", "completions"];
/// Options of `minivmm run` in a later version.
const OPTIONS_NOT_YET: [&str; 2] = ["--disk", "--rootfs"];

/// What to say of a word that is right, but too early.
fn not_yet(error: &clap::Error, args: &[OsString]) -> Option<String> {
    let word = |kind| match error.get(kind) {
        Some(ContextValue::String(word)) => Some(word.as_str()),
        _ => None,
    };
    let what = match error.kind() {
        ErrorKind::InvalidSubcommand => word(ContextKind::InvalidSubcommand)
            .filter(|word| COMMANDS_NOT_YET.contains(word))
            .map(|word| format!("the command {word}")),
        ErrorKind::UnknownArgument => word(ContextKind::InvalidArg).and_then(|word| {
            if OPTIONS_NOT_YET.contains(&word) {
                Some(word.to_owned())
            } else {
                args.iter().any(|arg| arg == "--").then(|| "a command for the guest (--)".into())
            }
        }),
        _ => None,
    }?;
    Some(format!("{what} is not in this version (what there is: minivmm run --help)"))
}

/// Clap's message without its usage and hints, which `--help` shows in full.
fn one_line(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let mut line = String::new();
    for part in text.lines().take_while(|l| !l.starts_with("Usage:")).map(str::trim) {
        let part = part.strip_prefix("error: ").unwrap_or(part);
        if part.is_empty() || part.starts_with("For more information") {
            continue;
        }
        if !line.is_empty() {
            line.push(' ');
        }
        // Writing to a string can't fail.
        let _ = write!(line, "{part}");
    }
    line.push_str(" (see minivmm run --help)");
    line
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn mistakes_take_one_line() {
        for args in [
            &["minivmm", "run", "--cpus", "x"][..],
            &["minivmm", "run", "--nonsense"],
            &["minivmm", "run", "--net"],
            &["minivmm", "run", "-p", "80"],
            &["minivmm", "walk"],
            &["minivmm", "run", "--console", "x"],
            &["minivmm", "run", "--cpus", "-1"],
            &["minivmm", "run", "--memory", "-1"],
        ] {
            let line = one_line(&Cli::try_parse_from(args).unwrap_err());
            assert!(!line.contains('\n') && line.len() < 250, "{args:?}: {line}");
        }
    }

    #[test]
    fn what_comes_later_is_said_to() {
        let said = |words: &[&str]| {
            let args: Vec<OsString> =
                ["minivmm"].iter().chain(words).map(|&word| word.into()).collect();
            not_yet(&Cli::try_parse_from(&args).unwrap_err(), &args)
        };
        for command in COMMANDS_NOT_YET {
            let line = said(&[command, "x"]).unwrap();
            assert!(line.contains(&format!("command {command} is not in this version")), "{line}");
        }
        for words in [&["--disk", "d"][..], &["--disk=d"], &["--rootfs", "d"], &["--", "ls"]] {
            let line = said(&[&["run"], words].concat()).unwrap();
            assert!(line.contains("not in this version"), "{line}");
        }
        assert_eq!(said(&["walk"]), None);
        assert_eq!(said(&["run", "surplus"]), None);
    }
}
