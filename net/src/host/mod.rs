//! What the engine has to know of the host: its routes, addresses and resolvers.

pub mod resolvers;
