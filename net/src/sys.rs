//! Scatter/gather I/O between file descriptors and memory that a guest may be writing.
//!
//! `std::io::IoSlice` needs a `&[u8]`, which must not exist over guest memory; these calls pass
//! the pointers of `VolatileSlice`s straight to the kernel instead.
#![expect(unsafe_code, reason = "iovecs over guest memory can only be made from raw pointers")]

use std::io;
use std::mem::MaybeUninit;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd};

use libc::{c_int, iovec, msghdr, sockaddr_in, sockaddr_in6, sockaddr_storage};
use rustix::net::AddressFamily;
use vm_memory::VolatileSlice;

use crate::addr::Family;
use crate::scatter::Scatter;

pub mod dgram;
pub mod stream;

/// True where this process, or the host, has no descriptors left.
pub fn is_exhausted(e: &io::Error) -> bool {
    matches!(e.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
}

/// Pieces that one call can carry. A 64 KiB frame in 1.5 KiB buffers has 44.
pub const IOV_MAX: usize = 256;

/// An iovec list on the stack.
struct Iov {
    list: [MaybeUninit<iovec>; IOV_MAX],
    len: usize,
}

impl Iov {
    fn new() -> Self {
        Self { list: [const { MaybeUninit::uninit() }; IOV_MAX], len: 0 }
    }

    fn push(&mut self, base: *mut u8, len: usize) -> io::Result<()> {
        if len == 0 {
            return Ok(());
        }
        let slot = self.list.get_mut(self.len).ok_or(io::ErrorKind::InvalidInput)?;
        slot.write(iovec { iov_base: base.cast(), iov_len: len });
        self.len += 1;
        Ok(())
    }

    /// `len` bytes of `slices` from `offset` on; fewer where they end before.
    fn push_slices(
        &mut self,
        slices: &[VolatileSlice<'_>],
        offset: usize,
        len: usize,
    ) -> io::Result<()> {
        self.push_pieces(Scatter::new(slices).pieces(offset, len))
    }

    fn push_pieces<'a>(
        &mut self,
        pieces: impl IntoIterator<Item = VolatileSlice<'a>>,
    ) -> io::Result<()> {
        for piece in pieces {
            // The guard only keeps lazily mapped (Xen) memory alive; ours is mapped for as long
            // as the slice lives.
            self.push(piece.ptr_guard_mut().as_ptr(), piece.len())?;
        }
        Ok(())
    }

    fn ptr(&mut self) -> *mut iovec {
        self.list.as_mut_ptr().cast()
    }
}

fn result(n: isize) -> io::Result<usize> {
    usize::try_from(n).map_err(|_| io::Error::last_os_error())
}

/// `writev(2)` of `parts` and then `tail`: one frame, one call.
///
/// # Errors
/// Those of `writev(2)`; `InvalidInput` for more than [`IOV_MAX`] pieces.
pub fn write_frame(
    fd: impl AsFd,
    parts: &[&[u8]],
    tail: &[VolatileSlice<'_>],
) -> io::Result<usize> {
    let mut iov = Iov::new();
    for part in parts {
        iov.push(part.as_ptr().cast_mut(), part.len())?;
    }
    iov.push_slices(tail, 0, usize::MAX)?;
    // SAFETY: the first `len` entries are initialised and point to memory that outlives the call;
    // writev only reads from it.
    result(unsafe { libc::writev(fd.as_fd().as_raw_fd(), iov.ptr(), iov.len as c_int) })
}

/// `readv(2)` into `head`, then the first `len` bytes of `tail`, then `spill`: one frame, one call.
///
/// # Errors
/// Those of `readv(2)`; `InvalidInput` for more than [`IOV_MAX`] pieces.
pub fn read_frame(
    fd: impl AsFd,
    head: &mut [u8],
    tail: &[VolatileSlice<'_>],
    len: usize,
    spill: &mut [u8],
) -> io::Result<usize> {
    let mut iov = Iov::new();
    iov.push(head.as_mut_ptr(), head.len())?;
    iov.push_slices(tail, 0, len)?;
    iov.push(spill.as_mut_ptr(), spill.len())?;
    // SAFETY: the first `len` entries are initialised and point to writable memory that outlives
    // the call; `head` and `spill` are borrowed exclusively, and nobody holds a reference into a
    // VolatileSlice.
    result(unsafe { libc::readv(fd.as_fd().as_raw_fd(), iov.ptr(), iov.len as c_int) })
}

/// `sendmsg(2)` of `head` and then `len` bytes of `tail` from `offset` on, to a socket that is
/// connected. `MSG_NOSIGNAL | MSG_DONTWAIT` are always set.
///
/// # Errors
/// Those of `sendmsg(2)`; `InvalidInput` for more than [`IOV_MAX`] pieces.
pub fn send(
    fd: impl AsFd,
    head: &[u8],
    tail: &[VolatileSlice<'_>],
    offset: usize,
    len: usize,
    flags: c_int,
) -> io::Result<usize> {
    let mut iov = Iov::new();
    iov.push(head.as_ptr().cast_mut(), head.len())?;
    iov.push_slices(tail, offset, len)?;
    // SAFETY: an all-zero msghdr is valid: no name, no data, no control message.
    let mut msg: msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    msg.msg_iov = iov.ptr();
    msg.msg_iovlen = iov.len;
    let flags = flags | libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
    // SAFETY: the iovecs point to live memory that sendmsg only reads.
    result(unsafe { libc::sendmsg(fd.as_fd().as_raw_fd(), &msg, flags) })
}

/// `recvmsg(2)` into the pieces of `tail`, one after the other, after `head` is full.
/// `MSG_DONTWAIT` is always set. Returns how many bytes came.
///
/// # Errors
/// Those of `recvmsg(2)`; `InvalidInput` for more than [`IOV_MAX`] pieces.
pub fn recv<'a>(
    fd: impl AsFd,
    head: &mut [u8],
    tail: impl IntoIterator<Item = VolatileSlice<'a>>,
    flags: c_int,
) -> io::Result<usize> {
    let mut iov = Iov::new();
    iov.push(head.as_mut_ptr(), head.len())?;
    iov.push_pieces(tail)?;
    // SAFETY: an all-zero msghdr is valid: no name, no data, no control message.
    let mut msg: msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    msg.msg_iov = iov.ptr();
    msg.msg_iovlen = iov.len;
    let flags = flags | libc::MSG_DONTWAIT;
    // SAFETY: the iovecs point to live, writable memory of the lengths given; nobody holds a
    // reference into it during the call.
    result(unsafe { libc::recvmsg(fd.as_fd().as_raw_fd(), &raw mut msg, flags) })
}

fn address_family(family: Family) -> AddressFamily {
    match family {
        Family::V4 => AddressFamily::INET,
        Family::V6 => AddressFamily::INET6,
    }
}

/// The kernel's form of a socket address, and its length.
fn to_sockaddr(addr: SocketAddr) -> (sockaddr_storage, u32) {
    // SAFETY: all-zero bytes are a valid sockaddr_storage.
    let mut storage: sockaddr_storage = unsafe { MaybeUninit::zeroed().assume_init() };
    match addr {
        SocketAddr::V4(v4) => {
            let sin = sockaddr_in {
                sin_family: libc::AF_INET as u16,
                sin_port: v4.port().to_be(),
                sin_addr: libc::in_addr { s_addr: u32::from(*v4.ip()).to_be() },
                sin_zero: [0; 8],
            };
            // SAFETY: sockaddr_storage is larger than and at least as aligned as sockaddr_in.
            unsafe { std::ptr::from_mut(&mut storage).cast::<sockaddr_in>().write(sin) };
            (storage, size_of::<sockaddr_in>() as u32)
        }
        SocketAddr::V6(v6) => {
            let sin6 = sockaddr_in6 {
                sin6_family: libc::AF_INET6 as u16,
                sin6_port: v6.port().to_be(),
                sin6_flowinfo: v6.flowinfo(),
                sin6_addr: libc::in6_addr { s6_addr: v6.ip().octets() },
                sin6_scope_id: v6.scope_id(),
            };
            // SAFETY: sockaddr_storage is larger than and at least as aligned as sockaddr_in6.
            unsafe { std::ptr::from_mut(&mut storage).cast::<sockaddr_in6>().write(sin6) };
            (storage, size_of::<sockaddr_in6>() as u32)
        }
    }
}

fn from_sockaddr(storage: &sockaddr_storage) -> Option<SocketAddr> {
    match c_int::from(storage.ss_family) {
        libc::AF_INET => {
            // SAFETY: the family says what the kernel wrote, and the storage is large and
            // aligned enough for it.
            let sin = unsafe { std::ptr::from_ref(storage).cast::<sockaddr_in>().read() };
            let ip = Ipv4Addr::from(u32::from_be(sin.sin_addr.s_addr));
            Some(SocketAddrV4::new(ip, u16::from_be(sin.sin_port)).into())
        }
        libc::AF_INET6 => {
            // SAFETY: as above.
            let sin6 = unsafe { std::ptr::from_ref(storage).cast::<sockaddr_in6>().read() };
            let ip = Ipv6Addr::from(sin6.sin6_addr.s6_addr);
            let port = u16::from_be(sin6.sin6_port);
            Some(SocketAddrV6::new(ip, port, sin6.sin6_flowinfo, sin6.sin6_scope_id).into())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;

    use super::*;

    #[test]
    fn a_datagram_crosses_in_pieces() {
        let (a, b) = UnixDatagram::pair().unwrap();
        let (mut x, mut y) = (*b"..cde", *b"fgh..");
        let tail = [VolatileSlice::from(&mut x[..]), VolatileSlice::from(&mut y[..])];
        assert_eq!(send(&a, b"ab", &tail, 2, 6, 0).unwrap(), 8);

        let (mut head, mut p, mut q) = ([0; 3], [0; 2], [0; 9]);
        let got = {
            let tail = [VolatileSlice::from(&mut p[..]), VolatileSlice::from(&mut q[..])];
            recv(&b, &mut head, Scatter::new(&tail).pieces(1, 8), 0).unwrap()
        };
        assert_eq!((got, &head, p, &q[..5]), (8, b"abc", [0, b'd'], &b"efgh\0"[..]));
    }

    #[test]
    fn a_call_takes_so_many_pieces_and_no_more() {
        let (a, _b) = UnixDatagram::pair().unwrap();
        let mut bytes = [0; IOV_MAX + 1];
        let pieces: Vec<_> = bytes.chunks_mut(1).map(VolatileSlice::from).collect();
        assert_eq!(send(&a, &[], &pieces, 0, IOV_MAX, 0).unwrap(), IOV_MAX);
        let error = send(&a, &[], &pieces, 0, IOV_MAX + 1, 0).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }
}
