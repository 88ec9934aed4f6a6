//! The command line: words to configuration, and nothing else.

mod definition;
mod help;
mod hints;
mod machines;
mod pages;
mod run;

use std::ffi::OsString;

use clap::Parser;
use clap::error::ErrorKind;
use rustix::termios::isatty;

pub use self::definition::{Cli, Command};
pub use self::machines::OrderArgs;
pub use self::pages::ManArgs;
pub use self::run::RunArgs;

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
