//! The parts of the probe that are pure: bytes and text in, values out. They build for `std` so that they can be tested
//! on the machine that builds them.
#![cfg_attr(not(test), no_std)]

pub mod acpi;
pub mod cmdline;
pub mod crc;
#[cfg(test)]
mod damaged;
pub mod dns;
pub mod icmp;
pub mod json;
pub mod names;
pub mod neighbour;
pub mod offload;
pub mod options;
pub mod pattern;
pub mod ra;
pub mod scale;
pub mod sink;
pub mod stats;
