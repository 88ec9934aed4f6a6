//! Stream sockets of the host: options and calls that `rustix` has no safe form of.
#![expect(unsafe_code, reason = "socket options and a read without a buffer are raw")]

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::ptr::null_mut;
use std::time::Duration;

use libc::{c_int, c_void, socklen_t};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::sockopt::{
    set_ip_tos, set_ipv6_tclass, set_ipv6_v6only, set_socket_keepalive, set_socket_linger,
    set_socket_oobinline, set_socket_reuseaddr, set_tcp_nodelay, socket_domain,
};
use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto};

use super::{address_family, result};
use crate::addr::Family;

/// Connections that wait to be accepted.
const BACKLOG: i32 = 128;

/// `SO_MEMINFO`'s numbers (`linux/sock_diag.h`): how many, and which two are looked at.
const MEMINFO_VARS: usize = 9;
const MEMINFO_SNDBUF: usize = 3;
const MEMINFO_WMEM_QUEUED: usize = 5;

/// Asks whether a socket is at its urgent mark (`asm-generic/sockios.h`).
const SIOCATMARK: libc::Ioctl = 0x8905;

/// The memory of a socket's send side, in bytes as the kernel accounts them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SendMemory {
    /// The most there may be.
    pub size: u32,
    /// What is used.
    pub used: u32,
}

fn socket(family: Family) -> io::Result<OwnedFd> {
    let family = address_family(family);
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(rustix::net::socket_with(family, SocketType::STREAM, flags, Some(ipproto::TCP))?)
}

/// What every flow's socket has: whoever sends decides how to cut the stream (no Nagle), urgent
/// data is data like any other, and a peer that is gone is noticed.
fn set_options(fd: &OwnedFd) -> io::Result<()> {
    set_tcp_nodelay(fd, true)?;
    set_socket_oobinline(fd, true)?;
    Ok(set_socket_keepalive(fd, true)?)
}

/// Has the kernel send what it holds back since it was told that more follows (`MSG_MORE`).
pub fn push(fd: impl AsFd) {
    // What was set already pushes all the same (`tcp(7)`). It fails only for what is no TCP socket.
    let _ = set_tcp_nodelay(fd, true);
}

/// A non-blocking socket that connects to `to`, its SYN in that traffic class, and whether it has
/// already.
///
/// # Errors
/// Those of `socket(2)` and `connect(2)`.
pub fn connect(to: SocketAddr, class: u8) -> io::Result<(OwnedFd, bool)> {
    let fd = socket(to.into())?;
    set_options(&fd)?;
    if class != 0 {
        // It is only a wish.
        let _ = set_traffic_class(&fd, class);
    }
    match rustix::net::connect(&fd, &to) {
        Ok(()) => Ok((fd, true)),
        Err(Errno::INPROGRESS) => Ok((fd, false)),
        Err(e) => Err(e.into()),
    }
}

/// A non-blocking socket that listens at `at`; an IPv6 address is not one for IPv4 too.
///
/// # Errors
/// Those of `bind(2)` and `listen(2)`.
pub fn listen(at: SocketAddr) -> io::Result<OwnedFd> {
    let fd = socket(at.into())?;
    if at.is_ipv6() {
        set_ipv6_v6only(&fd, true)?;
    }
    // Connections of a former run that linger in TIME_WAIT are no reason not to start.
    set_socket_reuseaddr(&fd, true)?;
    // Accepted sockets inherit these.
    set_options(&fd)?;
    rustix::net::bind(&fd, &at)?;
    rustix::net::listen(&fd, BACKLOG)?;
    Ok(fd)
}

/// Accepts a connection: a non-blocking socket and its peer.
///
/// # Errors
/// Those of `accept4(2)`.
pub fn accept(listener: impl AsFd) -> io::Result<(OwnedFd, SocketAddr)> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let (fd, peer) = rustix::net::acceptfrom_with(listener, flags)?;
    let peer = peer.and_then(|p| SocketAddr::try_from(p).ok());
    Ok((fd, peer.ok_or(io::ErrorKind::ConnectionAborted)?))
}

/// Sets the type of service or traffic class of what a socket sends from now on. Of the ECN bits
/// the kernel takes no notice: in TCP they are its own business (`ip(7)`, `IP_TOS`).
///
/// # Errors
/// Those of `setsockopt(2)`.
pub fn set_traffic_class(fd: impl AsFd, class: u8) -> io::Result<()> {
    match socket_domain(&fd)? {
        AddressFamily::INET => set_ip_tos(fd, class)?,
        _ => set_ipv6_tclass(fd, class.into())?,
    }
    Ok(())
}

/// Closes a connection with a reset.
pub fn abort(fd: OwnedFd) {
    let _ = set_socket_linger(&fd, Some(Duration::ZERO));
}

/// How much of its send buffer a socket uses; `None` where the kernel does not tell.
pub fn send_memory(fd: impl AsFd) -> Option<SendMemory> {
    let mut vars = [0u32; MEMINFO_VARS];
    let mut len = size_of_val(&vars) as socklen_t;
    // SAFETY: `vars` is writable for `len` bytes, and any bytes are valid numbers.
    let n = unsafe {
        libc::getsockopt(
            fd.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_MEMINFO,
            vars.as_mut_ptr().cast::<c_void>(),
            &raw mut len,
        )
    };
    (n == 0).then(|| SendMemory { size: vars[MEMINFO_SNDBUF], used: vars[MEMINFO_WMEM_QUEUED] })
}

/// True while there is an urgent byte that was not taken out.
pub fn has_urgent(fd: impl AsFd) -> bool {
    let mut fds = [PollFd::new(&fd, PollFlags::PRI)];
    poll(&mut fds, Some(&Timespec::default())).is_ok() && fds[0].revents().contains(PollFlags::PRI)
}

/// True if the first byte that was not taken out is urgent (`sockatmark(3)`).
pub fn is_at_mark(fd: impl AsFd) -> bool {
    let mut at: c_int = 0;
    // SAFETY: SIOCATMARK writes one int, which lives here.
    unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), SIOCATMARK, &raw mut at) == 0 && at != 0 }
}

/// Sets where the next `MSG_PEEK` begins, in bytes from the first unread one (`SO_PEEK_OFF`).
///
/// # Errors
/// `EOPNOTSUPP` where the kernel has no such thing for TCP: before Linux 6.9 over IPv4, before
/// 6.11 over IPv6.
pub fn set_peek_offset(fd: impl AsFd, offset: u32) -> io::Result<()> {
    let offset = c_int::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: `offset` is readable for the length given.
    let n = unsafe {
        libc::setsockopt(
            fd.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEEK_OFF,
            (&raw const offset).cast::<c_void>(),
            size_of::<c_int>() as socklen_t,
        )
    };
    if n == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Takes `len` bytes out of a socket's receive buffer without copying them (`tcp(7)`,
/// `MSG_TRUNC`) and returns how many there were.
///
/// # Errors
/// Those of `recv(2)`.
pub fn discard(fd: impl AsFd, len: usize) -> io::Result<usize> {
    // SAFETY: with MSG_TRUNC TCP writes nothing to the buffer, whatever its length is said to be.
    result(unsafe {
        libc::recv(fd.as_fd().as_raw_fd(), null_mut(), len, libc::MSG_TRUNC | libc::MSG_DONTWAIT)
    })
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    use super::*;
    use crate::sys;

    fn pair(at: &str) -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind(at).unwrap();
        let a = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (a, listener.accept().unwrap().0)
    }

    #[test]
    fn what_was_discarded_is_not_read_again() {
        let (mut a, mut b) = pair("127.0.0.1:0");
        a.write_all(b"abcdef").unwrap();
        while b.peek(&mut [0; 8]).unwrap() < 6 {}
        assert_eq!(discard(&b, 4).unwrap(), 4);
        let mut rest = [0; 2];
        b.read_exact(&mut rest).unwrap();
        assert_eq!(&rest, b"ef");
        assert_eq!(discard(&b, 4).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn peeking_goes_on_where_it_ended() {
        for at in ["127.0.0.1:0", "[::1]:0"] {
            let (mut a, b) = pair(at);
            // Not on every kernel; what depends on it asks the same way.
            if set_peek_offset(&b, 0).is_err() {
                continue;
            }
            a.write_all(b"abcdef").unwrap();
            let peek = |n: usize| {
                let mut buffer = [0; 8];
                let got = sys::recv(&b, &mut buffer[..n], [], libc::MSG_PEEK).unwrap();
                buffer[..got].to_vec()
            };
            while b.peek(&mut [0; 8]).is_ok_and(|n| n < 6) {
                set_peek_offset(&b, 0).unwrap();
            }
            set_peek_offset(&b, 0).unwrap();
            assert_eq!(peek(2), b"ab");
            assert_eq!(peek(2), b"cd");
            // Taking bytes out moves the offset along.
            assert_eq!(discard(&b, 3).unwrap(), 3);
            assert_eq!(peek(8), b"ef");
            set_peek_offset(&b, 0).unwrap();
            assert_eq!(peek(8), b"def");
        }
    }

    /// The traffic class of the SYN that a connection of `listener`'s began with.
    fn syn_class(listener: &TcpListener, class: u8) -> u8 {
        let on: c_int = 1;
        let len = size_of::<c_int>() as socklen_t;
        let (at, listener_fd) = (listener.local_addr().unwrap(), listener.as_raw_fd());
        // SAFETY: setsockopt reads one int, which lives here.
        let n = unsafe {
            let (tcp, save) = (libc::IPPROTO_TCP, libc::TCP_SAVE_SYN);
            libc::setsockopt(listener_fd, tcp, save, (&raw const on).cast(), len)
        };
        assert_eq!(n, 0);
        let (_client, _) = connect(at, class).unwrap();
        let (server, _) = listener.accept().unwrap();
        let mut syn = [0u8; 128];
        let mut len = syn.len() as socklen_t;
        // SAFETY: `syn` is writable for `len` bytes.
        let n = unsafe {
            let (tcp, saved) = (libc::IPPROTO_TCP, libc::TCP_SAVED_SYN);
            let to = syn.as_mut_ptr().cast::<c_void>();
            libc::getsockopt(server.as_raw_fd(), tcp, saved, to, &raw mut len)
        };
        assert!(n == 0 && len >= 40);
        if at.is_ipv4() { syn[1] } else { syn[0] << 4 | syn[1] >> 4 }
    }

    #[test]
    fn a_syn_has_the_traffic_class_and_no_ecn_bits_of_ours() {
        for at in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(at).unwrap();
            for (class, want) in [(0, 0), (0xb8, 0xb8), (0xbb, 0xb8), (3, 0)] {
                assert_eq!(syn_class(&listener, class), want, "{at}");
            }
        }
    }

    #[test]
    fn used_send_memory_shows() {
        let (a, _b) = pair("127.0.0.1:0");
        a.set_nonblocking(true).unwrap();
        let before = send_memory(&a).unwrap();
        assert!(before.size > 0 && before.used < before.size);
        while sys::send(&a, &[0; 4096], &[], 0, 0, 0).is_ok() {}
        let after = send_memory(&a).unwrap();
        assert!(after.used > after.size / 2, "{after:?}");
    }

    #[test]
    fn an_aborted_connection_is_reset() {
        let (mut a, b) = pair("127.0.0.1:0");
        abort(b.into());
        assert_eq!(a.read(&mut [0]).unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    }
}
