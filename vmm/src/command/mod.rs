//! The `minivmm` command: one user of the library, with all that is a process's and not a machine's:
//! its arguments, messages, signals and terminal.

pub mod cli;
mod console;
pub mod log;
pub mod monitor;
mod resident;
mod signals;
mod stream;
pub mod terminal;
