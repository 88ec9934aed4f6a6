//! What the engine has to know of the host: its routes and addresses, whether it reaches the
//! Internet, and who resolves its names.

pub mod interfaces;
pub mod network;
pub mod reach;
pub mod resolvers;
pub mod subnet;
