//! An embedded, minimal virtual machine monitor for Linux/KVM with networking built in.
//!
//! This crate is the machine: KVM, processors, memory and the wiring of the others. What a guest
//! finds at boot is `minivmm_boot`'s, its devices are `minivmm_devices`', its network is
//! `minivmm_net`'s.
//!
//! A configuration ([`config::MachineConfig`]) is checked, the files that it names are opened
//! ([`Files::open`]), and a [`Machine`] is built from both, which then runs until its [`Ending`].
//! The library takes no terminal and reads no arguments: that is the command's, which is a program
//! of its own and another user of this crate.

pub mod config;
pub mod console;
#[cfg(feature = "control")]
pub mod control;
mod cure;
mod ending;
mod error;
pub mod exit;
mod kernel_cache;
mod kvm;
mod machine;
#[cfg(feature = "test-utils")]
pub mod memory;
#[cfg(not(feature = "test-utils"))]
mod memory;
mod power;
pub mod probe;
mod timings;
mod vcpu;

pub use self::ending::Ending;
pub use self::error::{Error, NetError};
pub use self::kvm::KvmError;
pub use self::machine::{
    BuildOptions, ConsoleTo, Ended, Event, Events, Files, Handle, Machine, MachineBuilder,
    MachineStats, Nic, Opened, PortInfo, PortStats, State, What, prometheus,
};
pub use self::memory::{Backing, MemoryError};
pub use self::timings::{ProcessStart, Timings};
