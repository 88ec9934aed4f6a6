//! A machine: memory, devices, processors, networks, and the order in which they come and go.

mod builder;
mod devices;
mod events;
mod files;
mod flows;
mod handle;
mod nic;
mod open;
mod publish;
mod running;
mod stats;

pub use self::builder::{MachineBuilder, Nic};
pub use self::events::{Event, Events, What};
pub use self::files::Files;
pub use self::handle::{Handle, State};
pub use self::open::{BuildOptions, ConsoleTo, Opened};
pub use self::running::{Ended, Machine};
pub use self::stats::{MachineStats, PortInfo, PortStats, prometheus};
