//! The commands that speak with machines that run.

use clap::Args;

const NAMES: &str = "\
Names are those of minivmm ps.

Exit status: 0; 68 where no machine has that name, or it does not answer; 2 for a mistake";

/// Options of `minivmm ps`.
#[derive(Debug, Args)]
pub struct PsArgs {
    /// An object a line, as inspect has it
    #[arg(long)]
    pub json: bool,
}

/// Options of `minivmm inspect`.
#[derive(Debug, Args)]
#[command(after_help = NAMES)]
pub struct InspectArgs {
    /// Which machines
    #[arg(required = true, value_name = "NAME")]
    pub names: Vec<String>,
}

/// Options of `minivmm stop`.
#[derive(Debug, Args)]
#[command(after_help = NAMES)]
pub struct StopArgs {
    /// Which machines
    #[arg(required = true, value_name = "NAME")]
    pub names: Vec<String>,
    /// How long a guest has to power off, in seconds
    #[arg(short, long, value_name = "SECONDS", default_value_t = 10)]
    pub timeout: u32,
    /// An object a line: name, status, reason
    #[arg(long)]
    pub json: bool,
}

/// Options of `minivmm kill`, `pause` and `resume`.
#[derive(Debug, Args)]
#[command(after_help = NAMES)]
pub struct OrderArgs {
    /// Which machines
    #[arg(required = true, value_name = "NAME")]
    pub names: Vec<String>,
    /// An object a line
    #[arg(long)]
    pub json: bool,
}

/// Options of `minivmm wait`.
#[derive(Debug, Args)]
#[command(after_help = "\
Exit status: the machine's own, as minivmm run --help has it; 68 where no machine has that name")]
pub struct WaitArgs {
    /// Which machine
    pub name: String,
    /// An object at the end: name, status, reason
    #[arg(long)]
    pub json: bool,
}

/// Options of `minivmm events`.
#[derive(Debug, Args)]
#[command(after_help = NAMES)]
pub struct EventsArgs {
    /// Which machine
    pub name: String,
}

/// Options of `minivmm stats`.
#[derive(Debug, Args)]
#[command(after_help = NAMES)]
pub struct StatsArgs {
    /// Which machine; all of them without a name
    pub name: Option<String>,
    /// Again each second, until interrupted
    #[arg(long)]
    pub watch: bool,
    /// An object a line, with every counter
    #[arg(long, conflicts_with = "prometheus")]
    pub json: bool,
    /// Prometheus' text format
    #[arg(long)]
    pub prometheus: bool,
}

/// Options of `minivmm logs`.
#[derive(Debug, Args)]
#[command(after_help = NAMES)]
pub struct LogsArgs {
    /// Which machine
    pub name: String,
    /// Go on until the machine has ended
    #[arg(short, long)]
    pub follow: bool,
    /// What the monitor had to say, in place of the guest's console
    #[arg(long)]
    pub messages: bool,
}
