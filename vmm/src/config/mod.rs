//! The configuration: one model for the command line, files and the library, and what is left of it
//! once it has been checked.

mod choice;
mod error;
mod file;
mod keys;
mod machine;
mod near;
mod net;
mod net_serde;
mod net_words;
mod number;
mod place;
mod publish;
mod size;
mod tree;
mod validate;
mod value;

pub use minivmm_boot::Protocol;

pub use self::choice::{
    BOOT_PROTOCOLS, CONSOLES, Choice, ConsoleKind, TRANSPORTS, VirtioTransport,
};
pub use self::error::ConfigError;
pub use self::file::ConfigFile;
pub use self::keys::{About, MODES, Mode};
pub use self::machine::MachineConfig;
pub use self::near::nearest;
pub use self::net::{HostAccess, MaxFlows, NatConfig, NetConfig, TapConfig};
pub use self::net_words::ParseNetError;
pub use self::number::parse_cpus;
pub use self::place::Place;
pub use self::publish::{PublishAddress, PublishConfig};
pub use self::size::Size;
pub use self::validate::Validated;
