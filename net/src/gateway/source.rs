//! Whose event it is: the tags of the gateway's sources.

use crate::poll::Source;

/// The watch over the host's routes and addresses.
pub const ENVIRONMENT: Source = Source::Backend(0);
/// The DNS forwarder's sockets.
pub const DNS: Source = Source::Backend(1);
/// Published TCP ports.
pub const TCP_LISTENER: Source = Source::Backend(2);
/// TCP flows.
pub const TCP: Source = Source::Backend(3);
/// UDP sockets, of flows and of published ports.
pub const UDP: Source = Source::Backend(4);
/// ICMP echo sockets.
pub const PING: Source = Source::Backend(5);
