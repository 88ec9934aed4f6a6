//! The network engine: frames, segments, the NAT gateway and TAP ports.
//!
//! A *segment* is one layer-2 network. Each network mode is a wiring of the same parts: a station
//! (a guest's NIC, or a TAP device) is a [`nic::Port`]; what it is joined to is a
//! [`Backend`]: the user-space [`Gateway`], or a TAP device ([`TapBackend`]). One worker thread owns
//! both and runs their events ([`Segment`]), so the data path has no locks.
//!
//! The crate knows nothing of virtio, KVM or descriptors. It sees a guest's memory as
//! `vm_memory::VolatileSlice`: to be copied or handed to the kernel, never to be parsed in place.
//! Time is always a parameter.

mod addr;
mod buffer;
mod frame;
mod gateway;
mod host;
mod poll;
mod port;
mod rx;
mod scatter;
mod segment;
mod slab;
mod stats;
mod sys;
mod tap;
mod wire;

pub use addr::MacAddr;
pub use gateway::Gateway;
pub use gateway::config::{FlowLimits, GatewayConfig, Ipv6Mode, Publish, Redirect, Transport};
pub use gateway::error::GatewayError;
pub use gateway::plan::{
    DEFAULT_MTU, PlanError, PlanRequest, check_hostname, check_mac, check_mtu,
};
pub use host::interfaces::{interface_exists, interface_names};
pub use host::network::{HostNetwork, Known, ListError};
pub use port::Backend;
pub use segment::{AttachError, OpenSegment, Segment, SegmentHandle};
pub use stats::{DropReason, Stats};
pub use tap::{Tap, TapBackend, TapError, check_name as check_interface_name};

/// What a station is made of: a [`Port`](nic::Port) hands over frames and lends receive buffers.
pub mod nic {
    pub use crate::buffer::HostBuffer;
    pub use crate::frame::{
        FRAME_MAX, HEAD_MAX, Offload, Offloads, PartialChecksum, SegmentKind, Segmentation,
        TxFrame, TxOutcome, VNET_HEADER_LEN,
    };
    pub use crate::poll::{Poller, Ready, Source, Token};
    pub use crate::port::{Drained, FrameSink, Io, Port, PortReady};
    pub use crate::rx::{RxRing, RxSlot};
    pub use crate::scatter::Scatter;
    pub use crate::sys::IOV_MAX;
    pub use crate::wire::ETHERNET_LEN;
}

/// What only tests use.
#[cfg(feature = "test-utils")]
pub mod testing {
    pub use crate::host::reach::{Reach, Watch};
    pub use crate::host::subnet::{check_subnet, choose_subnet};
    pub use crate::tap::TapPort;
}
