//! An embedded, minimal virtual machine monitor for Linux/KVM with networking built in.
//!
//! This crate is the machine: KVM, processors, memory and the wiring of the others. What a guest
//! finds at boot is `minivmm_boot`'s, its devices are `minivmm_devices`', its network is
//! `minivmm_net`'s.
//!
//! A configuration ([`config::MachineConfig`]) is checked, a [`machine::Machine`] is built from
//! it, and [`monitor::run`] stays with it until it ends.

pub mod cli;
pub mod config;
pub mod console;
mod cure;
pub mod ending;
pub mod error;
pub mod exit;
mod kernel_cache;
mod kvm;
pub mod log;
pub mod machine;
pub mod memory;
pub mod monitor;
pub mod peer;
pub mod probe;
mod resident;
mod signals;
mod stream;
pub mod terminal;
pub mod timings;
mod vcpu;
