//! A scripted guest at a gateway whose redirects lead to sockets of the test's own.

mod begin;
mod bytes;
mod class;
mod end;
mod flood;
mod gathered;
mod lossy;
mod many;
mod published;
mod urgent;
mod windows;

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::time::Duration;

use vm_memory::VolatileSlice;

use super::flows::RESETS_MAX;
use super::to_guest::UNACKED_MAX;
use super::to_host::SCALE;
use super::*;
use crate::frame::{FRAME_MAX, HEAD_MAX, Offload, Offloads, PartialChecksum, TxFrame, TxOutcome};
use crate::gateway::config::{Redirect, Transport};
use crate::gateway::emit::Envelope;
use crate::gateway::testing::{Bed, GATEWAY_MAC, GUEST_MAC, config};
use crate::port::Backend;
use crate::sys::stream;
use crate::wire::checksum::{Sum, checksum};
use crate::wire::protocol;
use crate::wire::seq::Seq;
use crate::wire::tcp::{Fields, PSH};
use crate::wire::{TCP_LEN, u16_at};

const WAIT: Duration = Duration::from_secs(10);
const TSO: Offloads = Offloads { checksum: true, tso4: true, tso6: true };

fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// A segment that the guest got.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Got {
    from: SocketAddr,
    to: SocketAddr,
    h: Header,
    payload: Vec<u8>,
    offload: Offload,
}

impl Got {
    fn flags(&self) -> u8 {
        self.h.fields.flags
    }
}

fn parse(frame: &[u8], offload: Offload) -> Got {
    let (src, dst, at): (IpAddr, IpAddr, usize) = match u16_at(frame, 12) {
        0x0800 => {
            assert_eq!(checksum(&frame[14..34]), 0);
            assert_eq!(usize::from(u16_at(frame, 16)), frame.len() - 14);
            let ip = |at: usize| IpAddr::from(<[u8; 4]>::try_from(&frame[at..at + 4]).unwrap());
            (ip(26), ip(30), 34)
        }
        _ => {
            assert_eq!(usize::from(u16_at(frame, 18)), frame.len() - 54);
            let ip = |at: usize| IpAddr::from(<[u8; 16]>::try_from(&frame[at..at + 16]).unwrap());
            (ip(22), ip(38), 54)
        }
    };
    let mut sum = Sum::pseudo_header(src, dst, protocol::TCP, frame.len() - at);
    match offload.checksum {
        None => {
            sum.bytes(&frame[at..]);
            assert_eq!(sum.finish(), 0, "TCP checksum");
        }
        Some(open) => {
            assert_eq!(open, PartialChecksum { start: at as u16, offset: 16 });
            assert_eq!(u16_at(frame, at + 16), sum.folded());
        }
    }
    let h = Header::parse(&frame[at..], frame.len() - at).unwrap();
    Got {
        from: SocketAddr::new(src, h.fields.src_port),
        to: SocketAddr::new(dst, h.fields.dst_port),
        payload: frame[at + h.len..].to_vec(),
        h,
        offload,
    }
}

/// A frame of the guest's with a TCP segment.
fn frame(from: SocketAddr, to: SocketAddr, f: Fields, options: &[u8], payload: &[u8]) -> Vec<u8> {
    let envelope = Envelope::new(GATEWAY_MAC, from.ip(), to.ip(), protocol::TCP);
    let len = TCP_LEN + options.len() + payload.len();
    let mut frame = vec![0; envelope.header_len()];
    let at = envelope.write(GUEST_MAC, len, &mut frame);
    frame.extend(f.bytes());
    frame.extend(options);
    frame.extend(payload);
    frame[at + 12] = ((TCP_LEN + options.len()) as u8 / 4) << 4;
    envelope.complete(&mut frame[at..]);
    frame
}

/// The frame in that traffic class.
fn marked(mut frame: Vec<u8>, class: u8) -> Vec<u8> {
    if u16_at(&frame, 12) == 0x0800 {
        frame[15] = class;
        frame[24..26].fill(0);
        let sum = checksum(&frame[14..34]);
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
    } else {
        frame[14] = 0x60 | class >> 4;
        frame[15] = class << 4 | frame[15] & 0xf;
    }
    frame
}

/// The guest's end of one connection.
struct Guest {
    bed: Bed,
    inbox: VecDeque<Got>,
    local: SocketAddr,
    remote: SocketAddr,
    /// What it sends next, and what it expects.
    seq: Seq,
    ack: Seq,
    window: u16,
    /// The traffic class of what it sends.
    class: u8,
}

const SERVERS: [(&str, &str, &str); 2] = [
    ("10.0.2.2:1000", "198.51.100.1:80", "127.0.0.1:0"),
    ("[fd00:2::2]:1000", "[2001:db8::1]:80", "[::1]:0"),
];

/// A gateway at which `remote` leads to `to`.
fn redirected(remote: &str, to: SocketAddr) -> GatewayConfig {
    let from = addr(remote);
    GatewayConfig { redirects: vec![Redirect { transport: Transport::Tcp, from, to }], ..config() }
}

impl Guest {
    fn new(config: GatewayConfig, local: &str, remote: &str) -> Self {
        Self {
            bed: Bed::with(config),
            inbox: VecDeque::new(),
            local: addr(local),
            remote: addr(remote),
            seq: Seq::new(0xffff_ff00),
            ack: Seq::new(0),
            window: 0xffff,
            class: 0,
        }
    }

    /// A guest that may reach a listener of ours.
    fn with_server(i: usize) -> (Self, TcpListener) {
        let (local, remote, at) = SERVERS[i];
        let server = TcpListener::bind(at).unwrap();
        let config = redirected(remote, server.local_addr().unwrap());
        (Self::new(config, local, remote), server)
    }

    /// A connection, open, and the server's end of it.
    fn connected(i: usize) -> (Self, TcpStream) {
        Self::connected_with(i, true)
    }

    /// The same, maybe as with a kernel that does not know where it peeks.
    fn connected_with(i: usize, peeks: bool) -> (Self, TcpStream) {
        let (mut guest, server) = Self::with_server(i);
        guest.bed.gateway.tcp.flows.set_peeking(peeks);
        guest.open();
        let (stream, _) = server.accept().unwrap();
        stream.set_read_timeout(Some(WAIT)).unwrap();
        stream.set_nodelay(true).unwrap();
        (guest, stream)
    }

    fn open(&mut self) {
        // MSS 1460 and window scale 0.
        self.syn();
        let got = self.next();
        assert_eq!(got.flags(), SYN | ACK);
        self.learn_syn(&got);
        self.send(ACK, b"");
    }

    fn syn(&mut self) -> TxOutcome {
        let options = [2, 4, 0x05, 0xb4, 1, 3, 3, 0];
        let outcome = self.raw(self.fields(SYN), &options, b"");
        self.seq += 1;
        outcome
    }

    fn learn_syn(&mut self, got: &Got) {
        assert_eq!(got.h.options.scale, Some(SCALE));
        self.ack = got.h.fields.seq + 1;
    }

    fn fields(&self, flags: u8) -> Fields {
        Fields {
            src_port: self.local.port(),
            dst_port: self.remote.port(),
            seq: self.seq,
            ack: if flags & ACK != 0 { self.ack } else { Seq::new(0) },
            flags,
            window: self.window,
        }
    }

    /// Sends a segment as it is.
    fn raw(&mut self, fields: Fields, options: &[u8], payload: &[u8]) -> TxOutcome {
        let frame = frame(self.local, self.remote, fields, options, payload);
        let outcome = self.bed.send(&marked(frame, self.class));
        self.batch_end();
        outcome
    }

    /// Sends the next segment of a batch that goes on.
    fn queue(&mut self, flags: u8, payload: &[u8]) -> TxOutcome {
        let frame = frame(self.local, self.remote, self.fields(flags), &[], payload);
        let len = payload.len() as u32 + u32::from(flags & FIN != 0);
        self.seq += len;
        self.bed.send(&marked(frame, self.class))
    }

    fn batch_end(&mut self) {
        self.bed.run(|gateway, io| gateway.batch_end(io));
    }

    /// Sends the next segment.
    fn send(&mut self, flags: u8, payload: &[u8]) -> TxOutcome {
        let outcome = self.raw(self.fields(flags), &[], payload);
        let len = payload.len() as u32 + u32::from(flags & FIN != 0);
        self.seq += len;
        outcome
    }

    /// Handles what happens at the host's sockets.
    fn events(&mut self, wait: Duration) -> bool {
        let any = self.bed.events(wait);
        // As the worker does: what was put off is done in the same turn.
        while self.bed.gateway.tcp.deadline().is_some_and(|due| due <= self.bed.now) {
            self.bed.run(|gateway, io| gateway.expire(io));
        }
        any
    }

    fn poll(&mut self) {
        let frames = self.bed.ring.frames.drain(..);
        let tcp = |f: &[u8]| match u16_at(f, 12) {
            0x0800 => f[23] == protocol::TCP,
            0x86dd => f[20] == protocol::TCP,
            _ => false,
        };
        self.inbox.extend(frames.filter(|(f, _)| tcp(f)).map(|(f, o)| parse(&f, o)));
    }

    /// The next segment for the guest, if one comes within `wait`.
    fn try_next(&mut self, wait: Duration) -> Option<Got> {
        let end = Instant::now() + wait;
        loop {
            self.poll();
            if let Some(got) = self.inbox.pop_front() {
                return Some(got);
            }
            if Instant::now() >= end {
                return None;
            }
            self.events(Duration::from_millis(20));
        }
    }

    fn next(&mut self) -> Got {
        self.try_next(WAIT).expect("a segment for the guest")
    }

    /// Nothing comes.
    fn silence(&mut self) {
        assert_eq!(self.try_next(Duration::from_millis(50)), None);
    }

    /// Takes what comes in order and acknowledges it, until `len` bytes are there.
    fn receive(&mut self, len: usize) -> Vec<u8> {
        let mut data = Vec::new();
        while data.len() < len {
            let got = self.next();
            if got.h.fields.seq == self.ack && !got.payload.is_empty() {
                self.ack += got.payload.len() as u32;
                data.extend(got.payload);
                self.send(ACK, b"");
            }
        }
        data
    }

    /// The next segment that is not only an acknowledgement.
    fn next_with(&mut self, flags: u8) -> Got {
        loop {
            let got = self.next();
            if got.h.has(flags) {
                return got;
            }
            assert_eq!((got.flags() & !PSH, got.payload.len()), (ACK, 0), "{got:?}");
        }
    }

    fn flows(&self) -> usize {
        self.bed.gateway.tcp.flows()
    }

    fn drops(&self, reason: DropReason) -> u64 {
        self.bed.stats.drops(reason)
    }
}

/// What a server gets until the end.
fn read_all(mut stream: &TcpStream, len: usize) -> Vec<u8> {
    let mut data = vec![0; len];
    stream.read_exact(&mut data).unwrap();
    data
}

/// Bytes that tell where they belong.
fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i ^ i >> 8 ^ i >> 16) as u8).collect()
}
