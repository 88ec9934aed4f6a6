//! Harness, end-to-end tests, the lab and the benches.

pub mod cli;
pub mod natbed;
pub mod user;
