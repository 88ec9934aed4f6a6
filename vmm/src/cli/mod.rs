//! The command line: words to configuration, and nothing else.

mod run;

use std::fmt::Write as _;

use clap::{Parser, Subcommand};

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
}

/// Parses the process's arguments.
///
/// # Errors
/// One line that says what is wrong, for standard error; help and version print themselves and
/// end the process.
pub fn parse() -> Result<Cli, String> {
    Cli::try_parse().map_err(|e| {
        if e.use_stderr()
            && e.kind() != clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
        {
            one_line(&e)
        } else {
            e.exit()
        }
    })
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
        ] {
            let line = one_line(&Cli::try_parse_from(args).unwrap_err());
            assert!(!line.contains('\n') && line.len() < 250, "{args:?}: {line}");
        }
    }
}
