//! The network engine: frames, segments, the NAT gateway and TAP ports.
//!
//! A *segment* is one layer-2 network. Each network mode is a wiring of the same parts: a station
//! (a guest's NIC, or a TAP device) is a [`port::Port`]; what it is joined to is a
//! [`port::Backend`]: the user-space [`gateway`], or a TAP device. One worker thread owns both
//! and runs their events ([`segment`]), so the data path has no locks.
//!
//! The crate knows nothing of virtio, KVM or descriptors. It sees a guest's memory as
//! `vm_memory::VolatileSlice`: to be copied or handed to the kernel, never to be parsed in place.
//! Time is always a parameter.

pub mod addr;
pub mod buffer;
pub mod frame;
pub mod gateway;
pub mod host;
pub mod poll;
pub mod port;
pub mod rx;
pub mod scatter;
pub mod segment;
mod slab;
pub mod stats;
pub mod sys;
pub mod tap;
pub mod wire;
