//! A machine that can be spoken with: HTTP/1.1 on a Unix socket in a folder of its user's.
//!
//! The calls are those of `docs/openapi.json`. The server has one thread and serves any number of
//! clients, some at a time; none of them can hold up another, or the machine.

mod api;
mod client;
mod connections;
mod log;
mod registry;
mod routes;
mod server;
mod stream;

pub use self::api::{End, MachineInfo, Problem, StateInfo, StopRequest};
pub use self::client::{Client, ClientError};
pub use self::log::LogFile;
pub use self::registry::{Claim, ClaimError, Entry, NoMachine, Registry};
pub use self::server::{OpenServer, Server};
