//! Ports of the services that the gateway has or knows (the registry of RFC 6335).

/// Names, over UDP and TCP (RFC 1035 §4.2).
pub const DNS: u16 = 53;
/// A DHCP server's (RFC 2131 §4.1).
pub const DHCP_SERVER: u16 = 67;
/// A DHCP client's (RFC 2131 §4.1).
pub const DHCP_CLIENT: u16 = 68;
/// A DHCPv6 server's (RFC 8415 §7.2).
pub const DHCP6_SERVER: u16 = 547;
