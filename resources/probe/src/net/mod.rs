//! The network: the IP stack on our NIC, its configuration, and what is done with it.

pub mod bulk;
pub mod neighbour;
pub mod ping;
pub mod resolve;
pub mod services;
pub mod stack;
pub mod tcp;
