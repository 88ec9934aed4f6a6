//! Headers on the wire: field positions, checksums and the numbers the protocols assign.

pub mod checksum;
pub mod udp;

/// Bytes of an Ethernet header without tags.
pub const ETHERNET_LEN: usize = 14;
/// Bytes of an IPv4 header without options (RFC 791 §3.1).
pub const IPV4_LEN: usize = 20;
/// Bytes of an IPv6 header (RFC 8200 §3).
pub const IPV6_LEN: usize = 40;
/// Bytes of a UDP header (RFC 768).
pub const UDP_LEN: usize = 8;
/// Bytes of a TCP header without options (RFC 9293 §3.1).
pub const TCP_LEN: usize = 20;

/// EtherTypes.
pub mod ethertype {
    /// RFC 894.
    pub const IPV4: u16 = 0x0800;
    /// RFC 826.
    pub const ARP: u16 = 0x0806;
    /// RFC 2464.
    pub const IPV6: u16 = 0x86dd;
}

/// IP protocol numbers.
pub mod protocol {
    /// RFC 792.
    pub const ICMP: u8 = 1;
    /// RFC 9293.
    pub const TCP: u8 = 6;
    /// RFC 768.
    pub const UDP: u8 = 17;
    /// RFC 4443.
    pub const ICMPV6: u8 = 58;
    /// RFC 8200 §4.7: nothing.
    pub const NO_NEXT_HEADER: u8 = 59;
}

/// The big-endian 16-bit number at `at`; the caller has checked the length.
pub fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

/// The big-endian 32-bit number at `at`; the caller has checked the length.
pub fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}
