//! Datagrams by the batch: one system call for up to [`BATCH`].
#![expect(unsafe_code, reason = "recvmmsg(2) and sendmmsg(2) have no safe wrapper")]

use std::io;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;

use libc::{c_int, c_uint, iovec, mmsghdr};

/// Datagrams in a batch: as many as the gateway takes from a socket with one call.
pub const BATCH: usize = 16;

/// Room for each datagram, in bytes.
const ROOM: usize = 2048;

/// A buffer for [`BATCH`] datagrams.
#[derive(Debug)]
pub struct Batch {
    bytes: Box<[u8]>,
    lens: [usize; BATCH],
    count: usize,
}

impl Batch {
    /// Nothing yet.
    pub fn new() -> Self {
        Self { bytes: vec![0; BATCH * ROOM].into(), lens: [0; BATCH], count: 0 }
    }

    /// A full batch of datagrams of `len` bytes.
    pub fn of(len: usize) -> Self {
        Self { lens: [len.min(ROOM); BATCH], count: BATCH, ..Self::new() }
    }

    /// How many bytes they have together.
    pub fn bytes(&self) -> usize {
        self.lens[..self.count].iter().sum()
    }

    /// Receives what there is on `socket`, one datagram at least where that blocks.
    ///
    /// # Errors
    /// Those of `recvmmsg(2)`.
    pub fn receive(&mut self, socket: &UdpSocket) -> io::Result<()> {
        self.count = 0;
        let lens = [ROOM; BATCH];
        let n = self.call(&lens, |headers, n| {
            // SAFETY: each header has one iovec of writable memory that outlives the call.
            unsafe {
                let flags = libc::MSG_WAITFORONE;
                libc::recvmmsg(socket.as_raw_fd(), headers, n, flags, std::ptr::null_mut())
            }
        })?;
        self.count = n;
        Ok(())
    }

    /// Sends all of it to whom `socket` is connected to. What its buffer does not take is lost, as
    /// a router would lose it.
    ///
    /// # Errors
    /// Those of `sendmmsg(2)`.
    pub fn send(&mut self, socket: &UdpSocket) -> io::Result<()> {
        let lens = self.lens;
        // SAFETY: each header has one iovec of memory that outlives the call, and is only read.
        self.call(&lens[..self.count], |headers, n| unsafe {
            libc::sendmmsg(socket.as_raw_fd(), headers, n, 0)
        })
        .map(drop)
    }

    /// Calls `f` with a header for each of `lens`, and notes how long each datagram is then.
    fn call(
        &mut self,
        lens: &[usize],
        f: impl FnOnce(*mut mmsghdr, c_uint) -> c_int,
    ) -> io::Result<usize> {
        let rooms = self.bytes.chunks_exact_mut(ROOM).zip(lens);
        let mut iovecs: Vec<iovec> = rooms
            .map(|(room, len)| iovec { iov_base: room.as_mut_ptr().cast(), iov_len: *len })
            .collect();
        let mut headers: Vec<mmsghdr> = iovecs
            .iter_mut()
            .map(|iov| {
                // SAFETY: an all-zero mmsghdr is valid: no name, no data, no control message.
                let mut header: mmsghdr = unsafe { std::mem::zeroed() };
                (header.msg_hdr.msg_iov, header.msg_hdr.msg_iovlen) = (iov, 1);
                header
            })
            .collect();
        let done = f(headers.as_mut_ptr(), headers.len() as c_uint);
        let done = usize::try_from(done).map_err(|_| io::Error::last_os_error())?;
        for (len, header) in self.lens.iter_mut().zip(&headers[..done]) {
            *len = header.msg_len as usize;
        }
        Ok(done)
    }
}
