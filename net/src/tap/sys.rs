//! The ioctls of `tun(4)` (Linux `include/uapi/linux/if_tun.h`).
#![expect(unsafe_code, reason = "ioctls that no safe wrapper has")]

use std::ffi::{c_int, c_short, c_ulong};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use libc::{TUNGETIFF, TUNSETIFF, TUNSETOFFLOAD, TUNSETVNETHDRSZ, TUNSETVNETLE, ifreq};

/// `ifr_flags` of the only kind of interface used here: a TAP, no packet information header, a
/// virtio-net header before each frame.
pub const IFF: u16 = (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as u16;

/// The flag of one queue of several: frames of ours would be in the others.
pub const MULTI_QUEUE: u16 = libc::IFF_MULTI_QUEUE as u16;

fn check(result: c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// An interface request for `name`, which must leave room for a final NUL.
fn request(name: &str) -> io::Result<ifreq> {
    // SAFETY: all-zero bytes are a valid ifreq: an empty name and integers.
    let mut ifr: ifreq = unsafe { std::mem::zeroed() };
    if name.len() >= ifr.ifr_name.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in ifr.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    Ok(ifr)
}

fn name(ifr: &ifreq) -> String {
    let bytes: Vec<u8> =
        ifr.ifr_name.iter().take_while(|c| **c != 0).map(|c| c.cast_unsigned()).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Attaches `fd`, an open `/dev/net/tun`, to interface `if_name`.
pub fn set_iff(fd: BorrowedFd<'_>, if_name: &str, flags: u16) -> io::Result<()> {
    let mut ifr = request(if_name)?;
    ifr.ifr_ifru.ifru_flags = flags.cast_signed();
    // SAFETY: TUNSETIFF reads and writes one ifreq, which lives here.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), TUNSETIFF, &raw mut ifr) })
}

/// The interface that `fd` is attached to, and its flags.
pub fn get_iff(fd: BorrowedFd<'_>) -> io::Result<(String, u16)> {
    let mut ifr = request("")?;
    // SAFETY: TUNGETIFF writes one ifreq, which lives here.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), TUNGETIFF, &raw mut ifr) })?;
    // SAFETY: TUNGETIFF fills the flags of the union, and any bits are a valid c_short.
    let flags: c_short = unsafe { ifr.ifr_ifru.ifru_flags };
    Ok((name(&ifr), flags.cast_unsigned()))
}

/// Sets the virtio-net header to `len` bytes, little endian.
pub fn set_vnet_header(fd: BorrowedFd<'_>, len: usize) -> io::Result<()> {
    let len = c_int::try_from(len).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: both ioctls read one int, which lives here.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), TUNSETVNETHDRSZ, &raw const len) })?;
    let little: c_int = 1;
    // SAFETY: as above.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), TUNSETVNETLE, &raw const little) })
}

/// Which offloads the reader of `fd` takes.
pub fn set_offload(fd: BorrowedFd<'_>, flags: u32) -> io::Result<()> {
    // SAFETY: this one takes its argument by value.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), TUNSETOFFLOAD, c_ulong::from(flags)) })
}

/// The link-layer address of the TAP behind `fd`.
pub fn hardware_address(fd: BorrowedFd<'_>) -> io::Result<[u8; 6]> {
    let mut ifr = request("")?;
    // SAFETY: SIOCGIFHWADDR, which tun serves on its own descriptor, writes one ifreq.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::SIOCGIFHWADDR, &raw mut ifr) })?;
    // SAFETY: it fills the address of the union, and any bytes are a valid sockaddr.
    let data = unsafe { ifr.ifr_ifru.ifru_hwaddr.sa_data };
    Ok(std::array::from_fn(|i| data[i].cast_unsigned()))
}

/// The MTU of interface `if_name` of this network namespace.
pub fn mtu(if_name: &str) -> io::Result<u16> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
    let socket = socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    let mut ifr = request(if_name)?;
    // SAFETY: SIOCGIFMTU reads and writes one ifreq, which lives here.
    check(unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), libc::SIOCGIFMTU, &raw mut ifr) })?;
    // SAFETY: it fills the MTU of the union, and any bits are a valid int.
    let mtu = unsafe { ifr.ifr_ifru.ifru_mtu };
    Ok(u16::try_from(mtu).unwrap_or(u16::MAX))
}
