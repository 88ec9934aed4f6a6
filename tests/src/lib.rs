//! Harness, end-to-end tests, the lab and the benches.

pub mod natbed;
