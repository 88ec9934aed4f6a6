//! What is made from the definition of the command line: completions and manual pages.

use std::io;
use std::path::PathBuf;

use clap::{Args, Command};
use clap_complete::Shell;

/// Options of `minivmm completions`.
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// For which shell
    shell: Shell,
}

impl CompletionsArgs {
    /// The script, for a command.
    pub fn text(&self, mut command: Command) -> String {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut command, "minivmm", &mut script);
        String::from_utf8_lossy(&script).into_owned()
    }
}

/// Options of `minivmm man`.
#[derive(Debug, Args)]
pub struct ManArgs {
    /// A folder that exists: minivmm.1, minivmm-run.1 and so on are written there
    #[arg(value_name = "DIR")]
    folder: PathBuf,
}

impl ManArgs {
    /// Writes a page for each command below one, and one for all.
    ///
    /// # Errors
    /// Those of writing.
    pub fn write(&self, command: Command) -> io::Result<()> {
        clap_mangen::generate_to(command.disable_help_subcommand(true), &self.folder)
    }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, ValueEnum};

    use super::super::Cli;
    use super::*;

    #[test]
    fn every_shell_has_a_script_with_every_command() {
        for shell in Shell::value_variants() {
            let script = CompletionsArgs { shell: *shell }.text(Cli::command());
            for command in Cli::command().get_subcommands() {
                assert!(script.contains(command.get_name()), "{shell}: {}", command.get_name());
            }
            assert!(script.contains("publish"), "{shell}");
        }
    }

    #[test]
    fn every_command_has_a_page() {
        let dir = tempfile::tempdir().unwrap();
        ManArgs { folder: dir.path().to_owned() }.write(Cli::command()).unwrap();
        for command in Cli::command().get_subcommands() {
            let page = dir.path().join(format!("minivmm-{}.1", command.get_name()));
            let text = std::fs::read_to_string(&page).unwrap();
            assert!(text.contains(".SH SYNOPSIS"), "{}", page.display());
        }
        let all = std::fs::read_to_string(dir.path().join("minivmm.1")).unwrap();
        assert!(all.contains("minivmm\\-run(1)"), "{all}");
    }
}
