//! Machines that are spoken with: by the commands, and by their API.
#![expect(clippy::unwrap_used, reason = "a test fails by it")]

mod abuse;
mod api;
mod commands;
mod crowd;
mod host;
mod killed;
