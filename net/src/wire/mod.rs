//! Headers on the wire: bytes to values, and back.
//!
//! Each header's file has its offsets, by name, in one `field` module, a plain value for whoever
//! decides, and `parse` and `emit`, which are inverses. Nothing here knows what is to be done with
//! a packet, and nothing panics for what a guest has sent.

pub mod arp;
mod bytes;
pub mod checksum;
pub mod ethernet;
pub mod icmp;
pub mod ip;
pub mod names;
pub mod ndp;
pub mod port;
pub mod seq;
pub mod tcp;
pub mod transport;
pub mod udp;

pub use self::bytes::{u16_at, u32_at};
pub use self::ethernet::ETHERNET_LEN;
pub use self::ip::{IPV4_LEN, IPV6_LEN, protocol};
pub use self::tcp::TCP_LEN;
pub use self::udp::UDP_LEN;
