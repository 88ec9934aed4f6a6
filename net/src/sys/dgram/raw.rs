//! Echo through raw sockets (`raw(7)`), which CAP_NET_RAW opens where there are no ICMP sockets.
//!
//! Unlike those they leave the identifier as it is, over IPv4 the checksum too, and get each ICMP
//! message that comes to the host. A filter keeps all but the replies with one identifier away.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use libc::{
    BPF_B, BPF_H, BPF_IMM, BPF_IND, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_LDX, BPF_MSH, BPF_RET,
    sock_filter, sock_fprog,
};
use rustix::net::SocketType;

use super::{Dgram, icmp};
use crate::addr::Family;
use crate::sys::result;
use crate::wire::icmp::{kind4, kind6};

impl Dgram {
    /// A raw socket that gets the echo replies with identifier `id`. What it receives over IPv4
    /// begins with the IP header.
    ///
    /// # Errors
    /// `EPERM` without CAP_NET_RAW.
    pub fn raw_ping(family: Family, id: u16) -> io::Result<Self> {
        let socket = Self::open(family, SocketType::RAW, icmp(family))?;
        attach(&socket.fd, &mut replies(family, id))?;
        Ok(socket)
    }
}

/// A program that passes echo replies with identifier `id`.
fn replies(family: Family, id: u16) -> [sock_filter; 7] {
    let op = |code: u32, k: u32, jf: u8| sock_filter { code: code as u16, jt: 0, jf, k };
    // Over IPv4 a filter sees the IP header, whose length goes to the index register.
    let (skip, reply) = match family {
        Family::V4 => (BPF_LDX | BPF_B | BPF_MSH, kind4::ECHO_REPLY),
        Family::V6 => (BPF_LDX | BPF_IMM, kind6::ECHO_REPLY),
    };
    [
        op(skip, 0, 0),
        op(BPF_LD | BPF_B | BPF_IND, 0, 0),
        op(BPF_JMP | BPF_JEQ | BPF_K, reply.into(), 3),
        op(BPF_LD | BPF_H | BPF_IND, 4, 0),
        op(BPF_JMP | BPF_JEQ | BPF_K, id.into(), 1),
        op(BPF_RET | BPF_K, u32::MAX, 0),
        op(BPF_RET | BPF_K, 0, 0),
    ]
}

fn attach(fd: &OwnedFd, program: &mut [sock_filter]) -> io::Result<()> {
    let program = sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: setsockopt reads the structure and the instructions it points to; both live here.
    let n = unsafe {
        let (socket, attach) = (libc::SOL_SOCKET, libc::SO_ATTACH_FILTER);
        let len = size_of::<sock_fprog>() as u32;
        libc::setsockopt(fd.as_raw_fd(), socket, attach, (&raw const program).cast(), len)
    };
    result(n as isize).map(drop)
}
