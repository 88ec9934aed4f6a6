//! Numbers and addresses in network order. The caller has checked the lengths.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::addr::MacAddr;

/// The big-endian 16-bit number at `at`.
#[inline]
pub fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

/// The big-endian 32-bit number at `at`.
#[inline]
pub fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(array_at(bytes, at))
}

/// The link-layer address at `at`.
#[inline]
pub fn mac_at(bytes: &[u8], at: usize) -> MacAddr {
    MacAddr(array_at(bytes, at))
}

/// The IPv4 address at `at`.
#[inline]
pub fn ipv4_at(bytes: &[u8], at: usize) -> Ipv4Addr {
    Ipv4Addr::from(array_at::<4>(bytes, at))
}

/// The IPv6 address at `at`.
#[inline]
pub fn ipv6_at(bytes: &[u8], at: usize) -> Ipv6Addr {
    Ipv6Addr::from(array_at::<16>(bytes, at))
}

#[inline]
fn array_at<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut array = [0; N];
    array.copy_from_slice(&bytes[at..at + N]);
    array
}

/// Writes `value` to `at`.
#[inline]
pub fn put<const N: usize>(to: &mut [u8], at: usize, value: [u8; N]) {
    to[at..at + N].copy_from_slice(&value);
}

/// Writes a big-endian 16-bit number to `at`.
#[inline]
pub fn put_u16(to: &mut [u8], at: usize, value: u16) {
    put(to, at, value.to_be_bytes());
}
