//! The `minivmm` command: one user of the library, with all that is a process's and not a machine's:
//! its arguments, messages, signals and terminal.

pub mod cli;
mod console;
mod control;
pub mod detach;
pub mod error;
mod follow;
pub mod log;
pub mod machines;
pub mod monitor;
mod resident;
pub mod runtime;
mod signals;
mod stream;
pub mod table;
pub mod terminal;
pub mod words;
