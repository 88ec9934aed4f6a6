//! The commands there are.

use clap::{Parser, Subcommand};

use super::machines::{
    EventsArgs, InspectArgs, LogsArgs, OrderArgs, PsArgs, StatsArgs, StopArgs, WaitArgs,
};
use super::pages::{CompletionsArgs, ManArgs};
use super::run::RunArgs;

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
