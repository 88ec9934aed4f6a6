//! Arrival sockets of the host: what `sendmsg(2)` and `recvmsg(2)` say beside the payload.
#![expect(unsafe_code, reason = "control messages and iovecs over guest memory are raw")]

pub mod batch;
mod raw;

use std::io;
use std::mem::{MaybeUninit, zeroed};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use libc::{c_int, cmsghdr, msghdr, sockaddr_storage};
use rustix::net::sockopt::{
    self, Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery, set_ip_mtu_discover, set_ipv6_mtu_discover,
};
use rustix::net::{Protocol, SocketFlags, SocketType, bind, ipproto, socket_with};
use vm_memory::VolatileSlice;

use super::{Iov, address_family, from_sockaddr, result, to_sockaddr};
use crate::addr::Family;

/// Room for the control messages of one call: the most are an extended error with an IPv6 address,
/// 64 bytes, the datagram's destination, 40, and its traffic class, 24.
const CONTROL_LEN: usize = 192;

/// A buffer with the alignment that control messages want.
#[repr(C, align(8))]
struct ControlBuffer([u8; CONTROL_LEN]);

impl ControlBuffer {
    /// Writes a control message behind the first `used` bytes, which are others, and returns how
    /// many are used then.
    fn put<T: Copy>(&mut self, used: usize, level: c_int, kind: c_int, value: T) -> usize {
        let len = size_of::<T>() as u32;
        // SAFETY: this one only counts.
        let (len, space) = unsafe { (libc::CMSG_LEN(len), libc::CMSG_SPACE(len) as usize) };
        let to = &mut self.0[used..used + space];
        let c = to.as_mut_ptr().cast::<cmsghdr>();
        // SAFETY: `to` has the room of a header and the value behind it, both are written without
        // asking for alignment, and CMSG_DATA only adds to the pointer.
        unsafe {
            let mut header: cmsghdr = zeroed();
            header.cmsg_len = len as _;
            header.cmsg_level = level;
            header.cmsg_type = kind;
            c.write_unaligned(header);
            libc::CMSG_DATA(c).cast::<T>().write_unaligned(value);
        }
        used + space
    }

    /// Writes the one that sets a datagram's source.
    fn put_source(&mut self, used: usize, local: IpAddr) -> usize {
        match local {
            IpAddr::V4(ip) => {
                let info = libc::in_pktinfo {
                    ipi_ifindex: 0,
                    ipi_spec_dst: libc::in_addr { s_addr: u32::from(ip).to_be() },
                    ipi_addr: libc::in_addr { s_addr: 0 },
                };
                self.put(used, libc::IPPROTO_IP, libc::IP_PKTINFO, info)
            }
            IpAddr::V6(ip) => {
                let info = libc::in6_pktinfo {
                    ipi6_addr: libc::in6_addr { s6_addr: ip.octets() },
                    ipi6_ifindex: 0,
                };
                self.put(used, libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, info)
            }
        }
    }
}

/// What of a datagram's IP header a socket sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IpFields {
    /// TTL or hop limit, from 1.
    pub hop_limit: u8,
    /// Type of service or traffic class.
    pub traffic_class: u8,
    /// Not to be fragmented, neither here nor on the way.
    pub dont_fragment: bool,
}

/// What [`Dgram::recv`] got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrival {
    /// Bytes of payload.
    pub len: usize,
    /// Who sent it.
    pub from: SocketAddr,
    /// Which address of the host it was sent to, where the socket was made to tell.
    pub local: Option<IpAddr>,
    /// Type of service or traffic class.
    pub traffic_class: u8,
}

/// Who reported an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The host's own stack.
    Local,
    /// An ICMP or ICMPv6 message of this type and code.
    Icmp(u8, u8),
}

/// An entry of a socket's error queue (`ip(7)`, `IP_RECVERR`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SocketError {
    /// Where the datagram was sent to.
    pub to: Option<SocketAddr>,
    /// The error number.
    pub errno: i32,
    /// Who reported it.
    pub origin: Origin,
    /// The path's MTU where the datagram was too big.
    pub mtu: u32,
    /// The node that sent the ICMP message.
    pub offender: Option<IpAddr>,
    /// Bytes of the datagram's payload that came back.
    pub len: usize,
}

/// The protocol of ICMP sockets.
fn icmp(family: Family) -> Protocol {
    match family {
        Family::V4 => ipproto::ICMP,
        Family::V6 => ipproto::ICMPV6,
    }
}

/// A datagram socket, non-blocking, with its error queue on.
#[derive(Debug)]
pub struct Dgram {
    fd: OwnedFd,
    family: Family,
    header: Option<IpFields>,
}

impl AsFd for Dgram {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Dgram {
    /// A UDP socket on a port that the kernel chooses.
    ///
    /// # Errors
    /// Those of `socket(2)`.
    pub fn udp(family: Family) -> io::Result<Self> {
        let socket = Self::open(family, SocketType::DGRAM, ipproto::UDP)?;
        socket.receive_together();
        let any: IpAddr = match family {
            Family::V4 => Ipv4Addr::UNSPECIFIED.into(),
            Family::V6 => Ipv6Addr::UNSPECIFIED.into(),
        };
        bind(&socket.fd, &SocketAddr::new(any, 0))?;
        Ok(socket)
    }

    /// A UDP socket on `listen` that tells which address a datagram was sent to.
    ///
    /// # Errors
    /// Those of `bind(2)`.
    pub fn listen(listen: SocketAddr) -> io::Result<Self> {
        let socket = Self::open(listen.into(), SocketType::DGRAM, ipproto::UDP)?;
        socket.receive_together();
        let (level, option) = if listen.is_ipv4() {
            (libc::IPPROTO_IP, libc::IP_PKTINFO)
        } else {
            (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO)
        };
        set(&socket.fd, level, option)?;
        bind(&socket.fd, &listen)?;
        Ok(socket)
    }

    /// An ICMP echo socket (`icmp(7)`, `ping_group_range`).
    ///
    /// # Errors
    /// `EACCES` where this user may have none.
    pub fn ping(family: Family) -> io::Result<Self> {
        Self::open(family, SocketType::DGRAM, icmp(family))
    }

    /// Has the kernel hand over equal datagrams of one sender together, where it can: each receives
    /// by [`batch::Batch`] then.
    fn receive_together(&self) {
        // Before Linux 5.0 they come one by one.
        let _ = set(&self.fd, libc::SOL_UDP, libc::UDP_GRO);
    }

    fn open(family: Family, kind: SocketType, protocol: Protocol) -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let fd = socket_with(address_family(family), kind, flags, Some(protocol))?;
        if family == Family::V4 {
            set(&fd, libc::IPPROTO_IP, libc::IP_RECVERR)?;
            set(&fd, libc::IPPROTO_IP, libc::IP_RECVTOS)?;
        } else {
            // A raw socket is of one family anyway, and does not take this.
            if kind != SocketType::RAW {
                sockopt::set_ipv6_v6only(&fd, true)?;
            }
            set(&fd, libc::IPPROTO_IPV6, libc::IPV6_RECVERR)?;
            set(&fd, libc::IPPROTO_IPV6, libc::IPV6_RECVTCLASS)?;
        }
        Ok(Self { fd, family, header: None })
    }

    /// The address and port it is bound to.
    ///
    /// # Errors
    /// Those of `getsockname(2)`.
    #[cfg(test)]
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(SocketAddr::try_from(rustix::net::getsockname(&self.fd)?)?)
    }

    /// The family of all that it sends and receives.
    pub fn family(&self) -> Family {
        self.family
    }

    /// Sets what the next datagrams' IP headers say.
    ///
    /// # Errors
    /// Those of `setsockopt(2)`.
    pub fn set_header(&mut self, header: IpFields) -> io::Result<()> {
        if self.header == Some(header) {
            return Ok(());
        }
        let old = self.header.take();
        if old.is_none_or(|h| h.hop_limit != header.hop_limit) {
            if self.family == Family::V4 {
                sockopt::set_ip_ttl(&self.fd, header.hop_limit.max(1).into())?;
            } else {
                sockopt::set_ipv6_unicast_hops(&self.fd, Some(header.hop_limit.max(1)))?;
            }
        }
        if old.is_none_or(|h| h.traffic_class != header.traffic_class) {
            if self.family == Family::V4 {
                sockopt::set_ip_tos(&self.fd, header.traffic_class)?;
            } else {
                sockopt::set_ipv6_tclass(&self.fd, header.traffic_class.into())?;
            }
        }
        if old.is_none_or(|h| h.dont_fragment != header.dont_fragment) {
            match (self.family, header.dont_fragment) {
                (Family::V4, true) => set_ip_mtu_discover(&self.fd, Ipv4PathMtuDiscovery::DO)?,
                (Family::V4, false) => set_ip_mtu_discover(&self.fd, Ipv4PathMtuDiscovery::DONT)?,
                (Family::V6, true) => set_ipv6_mtu_discover(&self.fd, Ipv6PathMtuDiscovery::DO)?,
                // A router never fragments, but the guest did, to the size of its own link.
                (Family::V6, false) => set_ipv6_mtu_discover(&self.fd, Ipv6PathMtuDiscovery::WANT)?,
            }
        }
        self.header = Some(header);
        Ok(())
    }

    /// Sends `head` and then `len` bytes of `tail`, from the address `local` where that is given.
    ///
    /// # Errors
    /// Those of `sendmsg(2)`, among them errors of earlier datagrams.
    pub fn send(
        &self,
        head: &[u8],
        tail: &[VolatileSlice<'_>],
        len: usize,
        to: SocketAddr,
        local: Option<IpAddr>,
    ) -> io::Result<usize> {
        let mut iov = Iov::new();
        iov.push(head.as_ptr().cast_mut(), head.len())?;
        iov.push_slices(tail, 0, len)?;
        self.sendmsg(&mut iov, to, local, None)
    }

    /// Sends `bytes` as datagrams of `size` bytes each, the last with what is left, all of them or
    /// none (`UDP_SEGMENT`, `udp(7)`).
    ///
    /// # Errors
    /// Those of `sendmsg(2)`: where the path's MTU is too small, or the kernel too old, among them.
    pub fn send_segments(
        &self,
        bytes: &[u8],
        size: u16,
        to: SocketAddr,
        local: Option<IpAddr>,
    ) -> io::Result<usize> {
        let mut iov = Iov::new();
        iov.push(bytes.as_ptr().cast_mut(), bytes.len())?;
        self.sendmsg(&mut iov, to, local, Some(size))
    }

    fn sendmsg(
        &self,
        iov: &mut Iov,
        to: SocketAddr,
        local: Option<IpAddr>,
        size: Option<u16>,
    ) -> io::Result<usize> {
        let (mut name, name_len) = to_sockaddr(to);
        let mut control = ControlBuffer([0; CONTROL_LEN]);
        // SAFETY: an all-zero msghdr is valid: no name, no data, no control message.
        let mut msg: msghdr = unsafe { zeroed() };
        msg.msg_name = (&raw mut name).cast();
        msg.msg_namelen = name_len;
        msg.msg_iov = iov.ptr();
        msg.msg_iovlen = iov.len;
        let mut len = 0;
        if let Some(local) = local {
            len = control.put_source(len, local);
        }
        if let Some(size) = size {
            len = control.put(len, libc::SOL_UDP, libc::UDP_SEGMENT, size);
        }
        if len > 0 {
            msg.msg_control = (&raw mut control).cast();
            msg.msg_controllen = len;
        }
        let flags = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
        // SAFETY: name, iovecs and control message point to live memory that sendmsg only reads.
        result(unsafe { libc::sendmsg(self.fd.as_raw_fd(), &raw const msg, flags) })
    }

    /// Receives a datagram into `len` bytes of `slices` from `offset` on, what does not fit into
    /// `spill`.
    ///
    /// # Errors
    /// Those of `recvmsg(2)`, among them errors of earlier datagrams.
    pub fn recv(
        &self,
        slices: &[VolatileSlice<'_>],
        offset: usize,
        len: usize,
        spill: &mut [u8],
    ) -> io::Result<Arrival> {
        let mut iov = Iov::new();
        iov.push_slices(slices, offset, len)?;
        iov.push(spill.as_mut_ptr(), spill.len())?;
        let mut name = MaybeUninit::<sockaddr_storage>::zeroed();
        let mut control = ControlBuffer([0; CONTROL_LEN]);
        let (msg, len) = self.recvmsg(&mut iov, &mut name, &mut control, 0)?;
        let (mut local, mut class) = (None, None);
        let each = |c: Cmsg<'_>| {
            local = local.or_else(|| destination(c));
            class = class.or_else(|| traffic_class(c));
        };
        // SAFETY: `msg` describes the control buffer, which the kernel has filled.
        unsafe { each_control(&msg, each) };
        // SAFETY: the storage was zeroed, so all of it is initialised.
        let from = from_sockaddr(unsafe { name.assume_init_ref() });
        let from = from.ok_or(io::ErrorKind::InvalidData)?;
        Ok(Arrival { len, from, local, traffic_class: class.unwrap_or(0) })
    }

    /// Takes the next entry from the error queue, and the start of the datagram it is about.
    ///
    /// # Errors
    /// `WouldBlock` when there is none.
    pub fn next_error(&self, payload: &mut [u8]) -> io::Result<SocketError> {
        let mut iov = Iov::new();
        iov.push(payload.as_mut_ptr(), payload.len())?;
        let mut name = MaybeUninit::<sockaddr_storage>::zeroed();
        let mut control = ControlBuffer([0; CONTROL_LEN]);
        let (msg, len) = self.recvmsg(&mut iov, &mut name, &mut control, libc::MSG_ERRQUEUE)?;
        // SAFETY: the storage was zeroed, so all of it is initialised.
        let to = from_sockaddr(unsafe { name.assume_init_ref() });
        let mut error = None;
        // SAFETY: `msg` describes the control buffer, which the kernel has filled.
        unsafe { each_control(&msg, |c| error = error.or(extended_error(c))) };
        let (e, offender) = error.ok_or(io::ErrorKind::InvalidData)?;
        let origin = match e.ee_origin {
            libc::SO_EE_ORIGIN_ICMP | libc::SO_EE_ORIGIN_ICMP6 => {
                Origin::Icmp(e.ee_type, e.ee_code)
            }
            _ => Origin::Local,
        };
        Ok(SocketError {
            to,
            errno: e.ee_errno.cast_signed(),
            origin,
            mtu: e.ee_info,
            offender: offender.map(|o| o.ip()),
            len,
        })
    }

    fn recvmsg(
        &self,
        iov: &mut Iov,
        name: &mut MaybeUninit<sockaddr_storage>,
        control: &mut ControlBuffer,
        flags: c_int,
    ) -> io::Result<(msghdr, usize)> {
        // SAFETY: an all-zero msghdr is valid: no name, no data, no control message.
        let mut msg: msghdr = unsafe { zeroed() };
        msg.msg_name = name.as_mut_ptr().cast();
        msg.msg_namelen = size_of::<sockaddr_storage>() as u32;
        msg.msg_iov = iov.ptr();
        msg.msg_iovlen = iov.len;
        msg.msg_control = std::ptr::from_mut(control).cast();
        msg.msg_controllen = CONTROL_LEN;
        let flags = flags | libc::MSG_DONTWAIT;
        // SAFETY: name, iovecs and control buffer point to live, writable memory of the lengths
        // given; nobody holds a reference into it during the call.
        let n = result(unsafe { libc::recvmsg(self.fd.as_raw_fd(), &raw mut msg, flags) })?;
        Ok((msg, n))
    }
}

/// Turns a boolean option on.
fn set(fd: &OwnedFd, level: c_int, option: c_int) -> io::Result<()> {
    let on: c_int = 1;
    // SAFETY: setsockopt reads one int, which lives here.
    let n = unsafe {
        let len = size_of::<c_int>() as u32;
        libc::setsockopt(fd.as_raw_fd(), level, option, (&raw const on).cast(), len)
    };
    result(n as isize).map(drop)
}

/// A control message from the kernel.
#[derive(Clone, Copy)]
struct Cmsg<'a> {
    level: c_int,
    kind: c_int,
    data: &'a [u8],
}

/// Calls `f` with each control message of `msg`.
///
/// # Safety
/// `msg` was filled by `recvmsg`, and its control buffer lives.
unsafe fn each_control(msg: &msghdr, mut f: impl FnMut(Cmsg<'_>)) {
    // SAFETY: the kernel writes well-formed headers within `msg_controllen`; CMSG_NXTHDR stays
    // within it, and the data's length is taken from the header it wrote.
    unsafe {
        let mut c: *mut cmsghdr = libc::CMSG_FIRSTHDR(msg);
        while !c.is_null() {
            let header = c.read_unaligned();
            let len = header.cmsg_len.saturating_sub(libc::CMSG_LEN(0) as usize);
            let data = std::slice::from_raw_parts(libc::CMSG_DATA(c), len.min(CONTROL_LEN));
            f(Cmsg { level: header.cmsg_level, kind: header.cmsg_type, data });
            c = libc::CMSG_NXTHDR(msg, c);
        }
    }
}

fn destination(c: Cmsg<'_>) -> Option<IpAddr> {
    match (c.level, c.kind) {
        // struct in_pktinfo: the interface, the local address, the header's destination.
        (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
            let octets: [u8; 4] = c.data.get(4..8)?.try_into().ok()?;
            Some(octets.into())
        }
        (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
            let octets: [u8; 16] = c.data.get(..16)?.try_into().ok()?;
            Some(octets.into())
        }
        _ => None,
    }
}

fn traffic_class(c: Cmsg<'_>) -> Option<u8> {
    match (c.level, c.kind) {
        (libc::IPPROTO_IP, libc::IP_TOS) => c.data.first().copied(),
        (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => {
            let bytes: [u8; 4] = c.data.get(..4)?.try_into().ok()?;
            u8::try_from(i32::from_ne_bytes(bytes)).ok()
        }
        _ => None,
    }
}

fn extended_error(c: Cmsg<'_>) -> Option<(libc::sock_extended_err, Option<SocketAddr>)> {
    if !matches!(
        (c.level, c.kind),
        (libc::IPPROTO_IP, libc::IP_RECVERR) | (libc::IPPROTO_IPV6, libc::IPV6_RECVERR)
    ) {
        return None;
    }
    let len = size_of::<libc::sock_extended_err>();
    let (error, offender) = c.data.split_at_checked(len)?;
    // SAFETY: `error` has the structure's length, and any bytes are valid for its integers.
    let error = unsafe { error.as_ptr().cast::<libc::sock_extended_err>().read_unaligned() };
    let mut storage = MaybeUninit::<sockaddr_storage>::zeroed();
    let n = offender.len().min(size_of::<sockaddr_storage>());
    // SAFETY: `n` is at most the length of either side, which do not overlap.
    unsafe { storage.as_mut_ptr().cast::<u8>().copy_from_nonoverlapping(offender.as_ptr(), n) };
    // SAFETY: the storage was zeroed, so all of it is initialised.
    Some((error, from_sockaddr(unsafe { storage.assume_init_ref() })))
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::thread::sleep;
    use std::time::Duration;

    use super::*;

    /// Loopback is fast, but the error comes after the call.
    fn error_of(socket: &Dgram, payload: &mut [u8]) -> SocketError {
        for _ in 0..1000 {
            match socket.next_error(payload) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    sleep(Duration::from_millis(1));
                }
                other => return other.unwrap(),
            }
        }
        panic!("no error came");
    }

    #[test]
    fn a_refused_datagram_is_told_with_its_destination() {
        for loopback in ["127.0.0.1:0", "[::1]:0"] {
            let closed = UdpSocket::bind(loopback).unwrap().local_addr().unwrap();
            let socket = Dgram::udp(closed.into()).unwrap();
            socket.send(b"hello", &[], 0, closed, None).unwrap();
            let mut payload = [0; 64];
            let error = error_of(&socket, &mut payload);
            assert_eq!(error.to.map(|to| to.port()), Some(closed.port()));
            assert_eq!(error.offender, Some(closed.ip()));
            assert_eq!(error.errno, libc::ECONNREFUSED);
            let (kind, code) = if closed.is_ipv4() { (3, 3) } else { (1, 4) };
            assert_eq!(error.origin, Origin::Icmp(kind, code));
            assert_eq!(&payload[..error.len], b"hello");
        }
    }

    #[test]
    fn the_end_of_a_long_datagram_spills() {
        let socket = Dgram::listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let peer = UdpSocket::bind("127.0.0.1:0").unwrap();
        peer.send_to(b"abcdefgh", socket.local_addr().unwrap()).unwrap();
        let (mut room, mut spill) = ([0; 4], [0; 16]);
        let got = socket.recv(&[VolatileSlice::from(&mut room[..])], 1, 3, &mut spill).unwrap();
        assert_eq!((got.len, got.from), (8, peer.local_addr().unwrap()));
        assert_eq!(got.local, Some(Ipv4Addr::LOCALHOST.into()));
        assert_eq!((&room, &spill[..5]), (b"\0abc", &b"defgh"[..]));
    }

    #[test]
    fn a_datagrams_traffic_class_is_told() {
        for loopback in ["127.0.0.1:0", "[::1]:0"] {
            let socket = Dgram::listen(loopback.parse().unwrap()).unwrap();
            let mut peer = Dgram::udp(socket.family()).unwrap();
            for traffic_class in [0, 1, 0xb8 | 2] {
                peer.set_header(IpFields { hop_limit: 64, traffic_class, dont_fragment: false })
                    .unwrap();
                peer.send(b"x", &[], 0, socket.local_addr().unwrap(), None).unwrap();
                let got = socket.recv(&[], 0, 0, &mut [0; 8]).unwrap();
                assert_eq!((got.len, got.traffic_class), (1, traffic_class));
            }
        }
    }

    #[test]
    fn segments_arrive_as_datagrams_from_the_address_that_was_asked_for() {
        for (any, local) in [("0.0.0.0:0", "127.0.0.9"), ("[::]:0", "::1")] {
            let local: IpAddr = local.parse().unwrap();
            let socket = Dgram::listen(any.parse().unwrap()).unwrap();
            let port = socket.local_addr().unwrap().port();
            let peer = UdpSocket::bind((local, 0)).unwrap();
            let to = peer.local_addr().unwrap();
            assert_eq!(socket.send_segments(b"aabbc", 2, to, Some(local)).unwrap(), 5);
            for want in [&b"aa"[..], b"bb", b"c"] {
                let mut buffer = [0; 8];
                let (n, from) = peer.recv_from(&mut buffer).unwrap();
                assert_eq!((&buffer[..n], from), (want, (local, port).into()));
            }
            // All or none.
            let error = socket.send_segments(&[0; 65400], 1, to, None).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
        }
    }

    #[test]
    fn a_wildcard_socket_answers_from_the_address_it_was_asked_at() {
        let socket = Dgram::listen("0.0.0.0:0".parse().unwrap()).unwrap();
        let port = socket.local_addr().unwrap().port();
        let peer = UdpSocket::bind("127.0.0.1:0").unwrap();
        peer.send_to(b"?", ("127.0.0.9", port)).unwrap();
        let got = socket.recv(&[], 0, 0, &mut [0; 8]).unwrap();
        assert_eq!(got.local, Some("127.0.0.9".parse().unwrap()));
        socket.send(b"!", &[], 0, got.from, got.local).unwrap();
        let (_, from) = peer.recv_from(&mut [0; 8]).unwrap();
        assert_eq!(from, (Ipv4Addr::new(127, 0, 0, 9), port).into());
    }

    #[test]
    fn a_datagram_that_may_not_be_fragmented_names_the_mtu() {
        let mut socket = Dgram::udp(Family::V4).unwrap();
        let header = IpFields { hop_limit: 64, traffic_class: 0, dont_fragment: true };
        socket.set_header(header).unwrap();
        let to = "127.0.0.1:9".parse().unwrap();
        let error = socket.send(&[0; 65507 + 1], &[], 0, to, None).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EMSGSIZE));
        socket.set_header(IpFields { hop_limit: 3, ..header }).unwrap();
        assert_eq!(sockopt::ip_ttl(&socket).unwrap(), 3);
    }
}
