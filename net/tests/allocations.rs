//! The data path of the NAT allocates nothing: a flow that exists is served from what exists.
#![expect(unsafe_code, reason = "a global allocator is unsafe by its trait")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::time::{Duration, Instant};

use minivmm_net::nic::{
    FRAME_MAX, HEAD_MAX, Io, Offload, Offloads, Poller, RxRing, TxFrame, TxOutcome,
};
use minivmm_net::{
    Backend, FlowLimits, Gateway, GatewayConfig, Ipv6Mode, MacAddr, Redirect, Stats, Transport,
};
use vm_memory::VolatileSlice;

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: every call is passed on to the system's allocator as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|n| n.set(n.get() + 1));
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const GATEWAY: MacAddr = MacAddr([0x52, 0x4d, 0, 0, 0, 1]);
const GUEST: MacAddr = MacAddr([0x52, 0x4d, 0, 0, 0, 2]);

/// Keeps the start of the last frame only.
struct Ring {
    slices: [VolatileSlice<'static>; 1],
    last: [u8; 54],
    /// Payload bytes that came.
    payload: u32,
    frames: u32,
    datagrams: u32,
}

impl RxRing for Ring {
    fn offloads(&self) -> Offloads {
        Offloads { checksum: true, tso4: true, tso6: true }
    }

    fn reserve(&mut self, most: usize, least: usize) -> Option<usize> {
        (least <= FRAME_MAX).then_some(most.min(FRAME_MAX))
    }

    fn slices(&self) -> &[VolatileSlice<'_>] {
        &self.slices
    }

    fn commit(&mut self, len: usize, _: Offload) {
        self.slices[0].copy_to(&mut self.last);
        let ipv4 = self.last[12..14] == [8, 0];
        self.datagrams += u32::from(ipv4 && self.last[23] == 17);
        if ipv4 && self.last[23] == 6 && len >= 54 {
            let header = usize::from(self.last[46] >> 4) * 4;
            self.payload = self.payload.wrapping_add((len - 34 - header) as u32);
            self.frames += 1;
        }
    }

    fn release(&mut self) {}
}

fn sum(bytes: &[u8]) -> u32 {
    bytes.chunks(2).map(|p| u32::from(p[0]) << 8 | u32::from(*p.get(1).unwrap_or(&0))).sum()
}

fn finish(mut sum: u32) -> [u8; 2] {
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!(sum as u16)).to_be_bytes()
}

/// No wait is longer.
const PATIENCE: Duration = Duration::from_secs(20);

struct Guest {
    gateway: Gateway,
    ring: Ring,
    poll: Poller,
    stats: Stats,
    frame: [u8; 54 + 1400],
    seq: u32,
    iss: u32,
}

impl Guest {
    fn with<R>(&mut self, f: impl FnOnce(&mut Gateway, &mut Io<'_>) -> R) -> R {
        let (rx, poll, stats) = (&mut self.ring, &self.poll, &self.stats);
        f(&mut self.gateway, &mut Io { now: Instant::now(), rx, poll, stats })
    }

    fn send(&mut self, flags: u8, len: usize) {
        let ack = self.iss.wrapping_add(1).wrapping_add(self.ring.payload);
        let f = &mut self.frame[..54 + len];
        f[..6].copy_from_slice(&GATEWAY.0);
        f[6..12].copy_from_slice(&GUEST.0);
        f[12..24].copy_from_slice(&[8, 0, 0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 6]);
        f[16..18].copy_from_slice(&(40 + len as u16).to_be_bytes());
        f[24..26].fill(0);
        f[26..34].copy_from_slice(&[10, 0, 2, 2, 198, 51, 100, 1]);
        let checksum = finish(sum(&f[14..34]));
        f[24..26].copy_from_slice(&checksum);
        f[34..38].copy_from_slice(&[4, 0, 0, 80]);
        f[38..42].copy_from_slice(&self.seq.to_be_bytes());
        f[42..46].copy_from_slice(&if flags & 16 != 0 { ack } else { 0 }.to_be_bytes());
        f[46..54].copy_from_slice(&[0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
        let checksum = finish(sum(&f[26..]) + 6 + 20 + len as u32);
        f[50..52].copy_from_slice(&checksum);
        self.seq = self.seq.wrapping_add(len as u32 + u32::from(flags & 2 != 0));

        self.give(54 + len);
        self.with(|gateway, io| gateway.batch_end(io));
    }

    /// A datagram, of a batch that goes on.
    fn queue_datagram(&mut self, len: usize) {
        let f = &mut self.frame[..42 + len];
        f[..6].copy_from_slice(&GATEWAY.0);
        f[6..12].copy_from_slice(&GUEST.0);
        f[12..24].copy_from_slice(&[8, 0, 0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 17]);
        f[16..18].copy_from_slice(&(28 + len as u16).to_be_bytes());
        f[24..26].fill(0);
        f[26..34].copy_from_slice(&[10, 0, 2, 2, 198, 51, 100, 1]);
        let checksum = finish(sum(&f[14..34]));
        f[24..26].copy_from_slice(&checksum);
        f[34..38].copy_from_slice(&[4, 0, 0, 80]);
        f[38..40].copy_from_slice(&(8 + len as u16).to_be_bytes());
        // None (RFC 768).
        f[40..42].fill(0);
        self.give(42 + len);
    }

    /// Sends the first bytes of `frame`.
    fn give(&mut self, len: usize) {
        let mut frame = self.frame;
        let (head, tail) = frame[..len].split_at_mut(len.min(HEAD_MAX));
        let tail = [VolatileSlice::from(tail)];
        let frame = TxFrame { head, tail: &tail, len, offload: Offload::default() };
        assert_eq!(self.with(|gateway, io| gateway.send(io, &frame)), TxOutcome::Sent);
    }

    /// Handles events until `done`.
    fn until(&mut self, what: &str, done: impl Fn(&Ring) -> bool) {
        let end = Instant::now() + PATIENCE;
        while !done(&self.ring) {
            assert!(Instant::now() < end, "not in {PATIENCE:?}: {what}");
            let n = self.poll.wait(Some(PATIENCE)).expect("epoll works");
            for i in 0..n {
                let (token, ready) = self.poll.event(i);
                self.with(|gateway, io| gateway.ready(io, token, ready));
            }
        }
    }
}

/// A guest whose 198.51.100.1:80 is `to`.
fn guest(transport: Transport, to: SocketAddr) -> Guest {
    let from: SocketAddr = "198.51.100.1:80".parse().expect("an address");
    let gateway = Gateway::new(GatewayConfig {
        mac: GATEWAY,
        guest_mac: Some(GUEST),
        subnet4: "10.0.2.0/24".parse().expect("a network"),
        gateway4: Ipv4Addr::new(10, 0, 2, 1),
        guest4: Ipv4Addr::new(10, 0, 2, 2),
        prefix6: "fd00:2::/64".parse().expect("a network"),
        gateway6: "fd00:2::1".parse().expect("an address"),
        ipv6: Ipv6Mode::Off,
        mtu: 1500,
        hostname: "guest".into(),
        host_access: false,
        publish: Vec::new(),
        redirects: vec![Redirect { transport, from, to }],
        resolv_conf: "/nonexistent".into(),
        limits: FlowLimits::default(),
    });
    let memory = vec![0u8; FRAME_MAX + 1].leak();
    let slices = [VolatileSlice::from(memory)];
    let mut guest = Guest {
        gateway: gateway.expect("a gateway"),
        ring: Ring { slices, last: [0; 54], payload: 0, frames: 0, datagrams: 0 },
        poll: Poller::new().expect("epoll"),
        stats: Stats::default(),
        frame: [0x5a; 54 + 1400],
        seq: 7,
        iss: 0,
    };
    guest.gateway.start(&guest.poll).expect("started");
    guest
}

#[test]
fn an_open_tcp_flow_allocates_nothing() {
    let server = TcpListener::bind("127.0.0.1:0").expect("a port");
    let mut guest = guest(Transport::Tcp, server.local_addr().expect("its address"));
    guest.send(2, 0);
    guest.until("the answer to the SYN", |ring| ring.frames > 0);
    assert_eq!(guest.ring.last[47], 0x12, "SYN-ACK");
    guest.iss = u32::from_be_bytes(guest.ring.last[38..42].try_into().expect("four bytes"));
    guest.send(16, 0);
    let (mut stream, _) = server.accept().expect("a connection");
    stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    let mut buffer = [0; 1400];

    let mut round = |guest: &mut Guest| {
        guest.send(16, 1400);
        stream.read_exact(&mut buffer).expect("what the guest sent");
        let before = guest.ring.payload;
        stream.write_all(&buffer).expect("room");
        guest.until("the echo", |ring| ring.payload.wrapping_sub(before) >= 1400);
        guest.send(16, 0);
    };
    for _ in 0..100 {
        round(&mut guest);
    }
    let before = ALLOCATIONS.get();
    for _ in 0..2000 {
        round(&mut guest);
    }
    assert_eq!(ALLOCATIONS.get() - before, 0);
}

#[test]
fn a_udp_flow_allocates_nothing() {
    let server = UdpSocket::bind("127.0.0.1:0").expect("a port");
    server.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    let mut guest = guest(Transport::Udp, server.local_addr().expect("its address"));
    let mut buffer = [0; 2000];

    let mut round = |guest: &mut Guest| {
        // Some that go together, and one of another size that does not.
        for len in [1200, 1200, 1200, 1400] {
            guest.queue_datagram(len);
        }
        guest.with(|gateway, io| gateway.batch_end(io));
        let before = guest.ring.datagrams;
        for len in [1200, 1200, 1200, 1400] {
            let (n, from) = server.recv_from(&mut buffer).expect("what the guest sent");
            assert_eq!(n, len);
            server.send_to(&buffer[..n], from).expect("sent");
        }
        guest.until("the echoes", |ring| ring.datagrams - before >= 4);
    };
    for _ in 0..100 {
        round(&mut guest);
    }
    let before = ALLOCATIONS.get();
    for _ in 0..2000 {
        round(&mut guest);
    }
    assert_eq!(ALLOCATIONS.get() - before, 0);
}
