//! The command line: words to configuration, and nothing else.

mod help;
mod hints;
mod machines;
mod pages;
mod run;

use std::ffi::OsString;

use clap::error::ErrorKind;
use clap::{Parser, Subcommand};
use rustix::termios::isatty;

pub use self::machines::{
    EventsArgs, InspectArgs, LogsArgs, OrderArgs, PsArgs, StatsArgs, StopArgs, WaitArgs,
};
pub use self::pages::{CompletionsArgs, ManArgs};
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
    propagate_version = true,
    max_term_width = 100,
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
    /// Print a script that completes words of this command in a shell
    ///
    /// For bash: minivmm completions bash > ~/.local/share/bash-completion/completions/minivmm
    Completions(CompletionsArgs),
    /// Write manual pages
    Man(ManArgs),
}

/// What the arguments ask for.
#[derive(Debug)]
pub enum Asked {
    /// A command.
    For(Box<Command>),
    /// A text on standard output: help, the version.
    Text(String),
}

/// Parses the process's arguments.
///
/// # Errors
/// One line that says what is wrong, for standard error. No arguments at all end the process, with
/// the help there.
pub fn parse() -> Result<Asked, String> {
    let mut args: Vec<OsString> = std::env::args_os().collect();
    // As git, docker and others have it.
    if args.len() == 2 && args[1] == "version" {
        args[1] = "--version".into();
    }
    match Cli::try_parse_from(&args) {
        Ok(cli) => Ok(Asked::For(Box::new(cli.command))),
        Err(e) if !e.use_stderr() => Ok(Asked::Text(if isatty(std::io::stdout()) {
            e.render().ansi().to_string()
        } else {
            e.to_string()
        })),
        // All of the help, on standard error.
        Err(e) if e.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => e.exit(),
        Err(e) => Err(hints::hint(&e, &args).unwrap_or_else(|| hints::one_line(&e, &args))),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }
}
