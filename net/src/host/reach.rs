//! Whether the host reaches the Internet by IPv6, and when that may have changed.

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{
    AddressFamily, RecvFlags, SocketFlags, SocketType, bind, connect, getsockname, recv,
    socket_with,
};

use crate::wire::port;

/// Stands for the whole Internet: the address of a root server. Nothing is ever sent to it.
const FAR: Ipv6Addr = Ipv6Addr::new(0x2001, 0x503, 0xba3e, 0, 0, 0, 2, 0x30);

/// The multicast groups of rtnetlink(7) that tell of changes to routes, rules and addresses, as
/// bits: `RTNLGRP_IPV4_IFADDR`, `_IPV4_ROUTE`, `_IPV4_RULE`, `_IPV6_IFADDR`, `_IPV6_ROUTE`,
/// `_IPV6_RULE`.
const GROUPS: u32 = 1 << 4 | 1 << 6 | 1 << 7 | 1 << 8 | 1 << 10 | 1 << 18;

/// Messages that are read in one event.
const READS_MAX: usize = 256;

/// What the host has routes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Reach {
    /// The IPv6 Internet, from an address that is good for more than its link.
    pub ipv6: bool,
}

impl Reach {
    /// Asks the kernel for the routes it would take. That follows all tables, rules and address
    /// selection, which a look at the list of routes would have to repeat.
    pub fn probe() -> Self {
        Self { ipv6: has_route(FAR) }
    }
}

/// True if a datagram to `ip` would have a way and a source address to go from. Connecting a UDP
/// socket finds out without sending any.
fn has_route(ip: Ipv6Addr) -> bool {
    let source = || -> rustix::io::Result<SocketAddr> {
        let flags = SocketFlags::CLOEXEC;
        let socket = socket_with(AddressFamily::INET6, SocketType::DGRAM, flags, None)?;
        connect(&socket, &SocketAddr::from((ip, port::DNS)))?;
        SocketAddr::try_from(getsockname(&socket)?)
    };
    match source().map(|source| source.ip()) {
        Ok(IpAddr::V6(source)) => {
            !source.is_loopback() && !source.is_unspecified() && !source.is_unicast_link_local()
        }
        _ => false,
    }
}

/// Tells when routes or addresses of the host change, not how: what matters is looked up anew,
/// so that a lost message loses nothing.
#[derive(Debug)]
pub struct Watch(OwnedFd);

impl Watch {
    /// Changes from here on are told.
    ///
    /// # Errors
    /// Those of `socket(2)` and `bind(2)`.
    pub fn new() -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        // Protocol 0 is NETLINK_ROUTE.
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
        bind(&socket, &SocketAddrNetlink::new(0, GROUPS))?;
        Ok(Self(socket))
    }

    /// Takes the messages that came. True if there were any.
    pub fn drain(&self) -> bool {
        let mut changed = false;
        for _ in 0..READS_MAX {
            // Cut at one byte: that there is one is all.
            match recv(&self.0, &mut [0u8; 1][..], RecvFlags::DONTWAIT) {
                Ok(_) | Err(Errno::NOBUFS) => changed = true,
                Err(Errno::INTR) => {}
                Err(_) => break,
            }
        }
        changed
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
