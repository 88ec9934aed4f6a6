//! Datagrams received by the batch: one system call for up to [`MESSAGES`] messages, each of
//! which may be several datagrams that the host's kernel put together (`UDP_GRO`, `udp(7)`).

use std::io;
use std::mem::{MaybeUninit, zeroed};
use std::os::fd::AsRawFd;
use std::ptr::null_mut;

use libc::{c_uint, iovec, mmsghdr, sockaddr_storage};

use super::{
    Arrival, CONTROL_LEN, Cmsg, ControlBuffer, Dgram, destination, each_control, traffic_class,
};
use crate::sys::{from_sockaddr, result};

/// Messages taken with one call.
const MESSAGES: usize = 16;

/// Room in front of each datagram for the headers of a frame: Ethernet, IPv6 and UDP have 62.
pub const HEADROOM: usize = 64;

/// What a message has: the headroom, and the longest payload there is.
const STRIDE: usize = HEADROOM + 65536;

/// A message of the kernel's: datagrams of one sender, one behind the other.
#[derive(Debug, Clone, Copy)]
struct Message {
    /// What all its datagrams share; the length is that of all.
    all: Arrival,
    /// Bytes of each datagram but the last, which may have fewer.
    size: usize,
}

/// Datagrams that were received and are looked at one after the other.
#[derive(Default)]
pub struct Batch {
    /// A stride for each message; empty until something is received.
    memory: Box<[u8]>,
    names: Box<[MaybeUninit<sockaddr_storage>]>,
    controls: Box<[ControlBuffer]>,
    /// What came and is not over yet, the next one last.
    messages: Vec<(usize, Message)>,
    /// Where the current datagram begins in its message.
    at: usize,
}

impl std::fmt::Debug for Batch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Batch").field("messages", &self.messages).finish_non_exhaustive()
    }
}

impl Batch {
    /// Receives what waits at `socket`. What was there before is forgotten.
    ///
    /// # Errors
    /// Those of `recvmmsg(2)`: `WouldBlock` where nothing waits, and errors of earlier datagrams.
    pub fn receive(&mut self, socket: &Dgram) -> io::Result<()> {
        self.clear();
        if self.memory.is_empty() {
            // Zero pages cost nothing until the kernel writes to them.
            self.memory = vec![0; MESSAGES * STRIDE].into();
            self.names = (0..MESSAGES).map(|_| MaybeUninit::zeroed()).collect();
            self.controls = (0..MESSAGES).map(|_| ControlBuffer([0; CONTROL_LEN])).collect();
            self.messages = Vec::with_capacity(MESSAGES);
        }
        // SAFETY: all-zero headers and iovecs are valid: no name, no data, no control message.
        let (mut headers, mut iovecs): ([mmsghdr; MESSAGES], [iovec; MESSAGES]) =
            unsafe { (zeroed(), zeroed()) };
        let rooms = self.memory.chunks_exact_mut(STRIDE).map(|room| &mut room[HEADROOM..]);
        let parts = rooms.zip(&mut self.names).zip(&mut self.controls);
        for ((header, iov), ((room, name), control)) in
            headers.iter_mut().zip(&mut iovecs).zip(parts)
        {
            *iov = iovec { iov_base: room.as_mut_ptr().cast(), iov_len: room.len() };
            let header = &mut header.msg_hdr;
            header.msg_name = name.as_mut_ptr().cast();
            header.msg_namelen = size_of::<sockaddr_storage>() as u32;
            header.msg_iov = iov;
            header.msg_iovlen = 1;
            header.msg_control = std::ptr::from_mut(control).cast();
            header.msg_controllen = CONTROL_LEN;
        }
        // SAFETY: names, iovecs and control buffers point to live, writable memory of the lengths
        // given; nobody holds a reference into it during the call.
        let count = result(unsafe {
            let (fd, count) = (socket.fd.as_raw_fd(), MESSAGES as c_uint);
            libc::recvmmsg(fd, headers.as_mut_ptr(), count, libc::MSG_DONTWAIT, null_mut()) as isize
        })?;
        for (i, header) in headers[..count].iter().enumerate().rev() {
            // SAFETY: the kernel has filled the header and what it points to.
            if let Some(message) = unsafe { read(header, &self.names[i]) } {
                self.messages.push((i, message));
            }
        }
        Ok(())
    }

    /// The current datagram; `None` when all have been looked at.
    pub fn current(&self) -> Option<Arrival> {
        let (_, message) = self.messages.last()?;
        Some(Arrival { len: message.size.min(message.all.len - self.at), ..message.all })
    }

    /// The current datagram's payload behind `headers` bytes of room, at most [`HEADROOM`].
    pub fn frame(&mut self, headers: usize) -> &mut [u8] {
        let Some(Arrival { len, .. }) = self.current() else { return &mut [] };
        let Some((i, _)) = self.messages.last() else { return &mut [] };
        let payload = i * STRIDE + HEADROOM + self.at;
        // Where it isn't the first of its message, the room is what one before it has left.
        &mut self.memory[payload - headers.min(HEADROOM)..payload + len]
    }

    /// The current datagram's payload.
    pub fn payload(&self) -> &[u8] {
        let Some(Arrival { len, .. }) = self.current() else { return &[] };
        let Some((i, _)) = self.messages.last() else { return &[] };
        let at = i * STRIDE + HEADROOM + self.at;
        &self.memory[at..at + len]
    }

    /// Goes on to the next datagram.
    pub fn advance(&mut self) {
        let Some((_, message)) = self.messages.last() else { return };
        self.at += message.size;
        // An empty datagram is one too.
        if self.at >= message.all.len {
            self.messages.pop();
            self.at = 0;
        }
    }

    /// Forgets what is left.
    pub fn clear(&mut self) {
        self.messages.clear();
        self.at = 0;
    }
}

/// What the kernel says of a message; `None` where it does not say who sent it.
///
/// # Safety
/// `header` was filled by `recvmmsg`, `name` is its name, and its control buffer lives.
unsafe fn read(header: &mmsghdr, name: &MaybeUninit<sockaddr_storage>) -> Option<Message> {
    let (mut local, mut class, mut size) = (None, None, None);
    let each = |c: Cmsg<'_>| {
        local = local.or_else(|| destination(c));
        class = class.or_else(|| traffic_class(c));
        size = size.or_else(|| segment_size(c));
    };
    // SAFETY: the caller's promise about the control buffer.
    unsafe { each_control(&header.msg_hdr, each) };
    // SAFETY: the storage was zeroed when it was made, so all of it is initialised.
    let from = from_sockaddr(unsafe { name.assume_init_ref() })?;
    let len = header.msg_len as usize;
    let all = Arrival { len, from, local, traffic_class: class.unwrap_or(0) };
    Some(Message { all, size: size.filter(|size| *size > 0).unwrap_or(len) })
}

/// The size of the datagrams that the kernel put together.
fn segment_size(c: Cmsg<'_>) -> Option<usize> {
    if (c.level, c.kind) != (libc::SOL_UDP, libc::UDP_GRO) {
        return None;
    }
    let bytes: [u8; 4] = c.data.get(..4)?.try_into().ok()?;
    usize::try_from(i32::from_ne_bytes(bytes)).ok()
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    /// All that waits at `socket`, in its order.
    fn drain(socket: &Dgram, batch: &mut Batch) -> Vec<(Arrival, Vec<u8>)> {
        let mut got = Vec::new();
        while batch.receive(socket).is_ok() {
            while let Some(datagram) = batch.current() {
                let frame = batch.frame(10);
                assert_eq!(frame.len(), 10 + datagram.len);
                // Whoever writes headers must not harm the datagram that follows.
                frame[..10].fill(0xff);
                got.push((datagram, frame[10..].to_vec()));
                batch.advance();
            }
        }
        got
    }

    fn pair(at: &str) -> (Dgram, UdpSocket) {
        let socket = Dgram::listen(at.parse().unwrap()).unwrap();
        let sender = UdpSocket::bind(at).unwrap();
        sender.connect(socket.local_addr().unwrap()).unwrap();
        (socket, sender)
    }

    #[test]
    fn datagrams_come_in_their_order_with_who_sent_them() {
        for at in ["127.0.0.1:0", "[::1]:0"] {
            let (socket, sender) = pair(at);
            let mut batch = Batch::default();
            assert_eq!(batch.receive(&socket).unwrap_err().kind(), io::ErrorKind::WouldBlock);
            // More than one call takes; empty and large ones among them.
            let lens = [0, 1, 1400, 6000, 0, 7].iter().cycle().take(2 * MESSAGES + 3);
            let sent: Vec<Vec<u8>> = lens.enumerate().map(|(i, len)| vec![i as u8; *len]).collect();
            for datagram in &sent {
                sender.send(datagram).unwrap();
            }
            let got = drain(&socket, &mut batch);
            assert!(got.iter().map(|(_, bytes)| bytes).eq(&sent), "{} came", got.len());
            let from = sender.local_addr().unwrap();
            let here = socket.local_addr().unwrap().ip();
            assert!(got.iter().all(|(d, _)| d.from == from && d.local == Some(here)));
            assert_eq!(batch.current(), None);
        }
    }

    #[test]
    fn what_the_kernel_put_together_is_taken_apart() {
        for at in ["127.0.0.1:0", "[::1]:0"] {
            let (socket, sender) = pair(at);
            let bytes: Vec<u8> = (0..10_000u32).map(|i| (i % 251) as u8).collect();
            let from = Dgram::udp(socket.family()).unwrap();
            from.send_segments(&bytes, 1400, socket.local_addr().unwrap(), None).unwrap();
            sender.send(b"another").unwrap();
            let mut batch = Batch::default();
            batch.receive(&socket).unwrap();
            // One message, or the kernel (before 5.0) has no such thing.
            let together = batch.messages.last().is_some_and(|(_, m)| m.all.len == bytes.len());
            assert!(together, "{batch:?}");
            let mut got = Vec::new();
            while let Some(datagram) = batch.current() {
                got.push(batch.frame(0).to_vec());
                assert_eq!(datagram.len, got[got.len() - 1].len());
                batch.advance();
            }
            let want = bytes.chunks(1400).chain([&b"another"[..]]).collect::<Vec<_>>();
            assert_eq!(got, want);
        }
    }

    #[test]
    fn what_is_forgotten_does_not_come_back() {
        let (socket, sender) = pair("127.0.0.1:0");
        let mut batch = Batch::default();
        sender.send(b"one").unwrap();
        sender.send(b"two").unwrap();
        batch.receive(&socket).unwrap();
        batch.clear();
        assert_eq!((batch.current(), batch.frame(4).len()), (None, 0));
        sender.send(b"three").unwrap();
        assert_eq!(drain(&socket, &mut batch)[0].1, b"three");
    }
}
