//! A gateway with a station in memory and a clock that the test turns.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use vm_memory::VolatileSlice;

use super::Gateway;
use super::config::GatewayConfig;
use super::context::{Ctx, Shared};
use crate::addr::MacAddr;
use crate::frame::{FRAME_MAX, HEAD_MAX, Offload, Offloads, PartialChecksum, TxFrame, TxOutcome};
use crate::gateway::config::{FlowLimits, Ipv6Mode};
use crate::gateway::emit::Envelope;
use crate::host::reach::Reach;
use crate::poll::Poller;
use crate::port::{Backend, Io};
use crate::rx::RxRing;
use crate::stats::Stats;
use crate::wire::checksum::Sum;
use crate::wire::protocol;

pub const GATEWAY_MAC: MacAddr = MacAddr([0x52, 0x4d, 0, 0, 0, 1]);
pub const GUEST_MAC: MacAddr = MacAddr([0x52, 0x4d, 0, 0, 0, 2]);

/// 10.0.2.0/24 and fd00:2::/64, gateway 1, guest 2.
pub fn config() -> GatewayConfig {
    GatewayConfig {
        mac: GATEWAY_MAC,
        guest_mac: Some(GUEST_MAC),
        subnet4: "10.0.2.0/24".parse().unwrap(),
        gateway4: Ipv4Addr::new(10, 0, 2, 1),
        guest4: Ipv4Addr::new(10, 0, 2, 2),
        prefix6: "fd00:2::/64".parse().unwrap(),
        gateway6: "fd00:2::1".parse().unwrap(),
        ipv6: Ipv6Mode::On,
        mtu: 1500,
        hostname: "guest".into(),
        host_access: false,
        publish: Vec::new(),
        redirects: Vec::new(),
        resolv_conf: PathBuf::from("/nonexistent/resolv.conf"),
        limits: FlowLimits::default(),
    }
}

/// Frames that a [`MemoryRing`] has memory for.
const FRAMES: usize = 4;

/// A station's receive side: two pieces of memory for each of a few frames, in turn.
pub struct MemoryRing {
    slices: [[VolatileSlice<'static>; 2]; FRAMES],
    /// Whose turn it is.
    at: usize,
    /// What was delivered.
    pub frames: Vec<(Vec<u8>, Offload)>,
    /// It has no buffers.
    pub full: bool,
    /// Frames more until it is full.
    pub left: usize,
    /// Frames that it lets be filled beforehand, at most.
    pub ahead: usize,
    /// How many it let.
    pub looked: usize,
    /// What the station takes.
    pub offloads: Offloads,
}

impl MemoryRing {
    fn new() -> Self {
        let slices = || {
            // A slice must live as long as the ring that lends it; a test may leak that much.
            let memory = vec![0u8; FRAME_MAX + 1].leak();
            let (a, b) = memory.split_at_mut(100);
            [VolatileSlice::from(a), VolatileSlice::from(b)]
        };
        Self {
            slices: std::array::from_fn(|_| slices()),
            at: 0,
            frames: Vec::new(),
            full: false,
            left: usize::MAX,
            ahead: FRAMES - 1,
            looked: 0,
            offloads: Offloads::default(),
        }
    }
}

impl RxRing for MemoryRing {
    fn offloads(&self) -> Offloads {
        self.offloads
    }

    fn reserve(&mut self, most: usize, least: usize) -> Option<usize> {
        (!self.full && least <= FRAME_MAX).then_some(most.min(FRAME_MAX))
    }

    fn slices(&self) -> &[VolatileSlice<'_>] {
        &self.slices[self.at]
    }

    fn look_ahead(&mut self, _len: usize, most: usize) -> usize {
        let n = most.min(self.ahead);
        self.looked += n;
        n
    }

    fn ahead(&self, n: usize) -> (&[VolatileSlice<'_>], usize) {
        (&self.slices[(self.at + 1 + n) % FRAMES], 0)
    }

    fn commit(&mut self, len: usize, offload: Offload) {
        let mut frame = vec![0; FRAME_MAX + 1];
        let (a, b) = frame.split_at_mut(100);
        self.slices[self.at][0].copy_to(a);
        self.slices[self.at][1].copy_to(b);
        frame.truncate(len);
        self.frames.push((frame, offload));
        self.at = (self.at + 1) % FRAMES;
        self.left -= 1;
        self.full |= self.left == 0;
    }

    fn release(&mut self) {}
}

/// Runs the test `name` again in a process of its own, for one that changes what is the process's;
/// true there, and false when it has passed.
pub fn alone(name: &str) -> bool {
    const INSIDE: &str = "MINIVMM_NET_TEST_ALONE";
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env(INSIDE, "1")
        .output()
        .unwrap();
    let out = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && out.contains("1 passed"), "{output:?}");
    false
}

/// Leaves this process no descriptor beside those that it has; gives back what the limit was.
pub fn no_descriptors() -> Rlimit {
    let limit = getrlimit(Resource::Nofile);
    // The lowest free number is the first that the limit must refuse.
    let free = std::fs::File::open("/dev/null").unwrap().as_raw_fd();
    setrlimit(Resource::Nofile, Rlimit { current: Some(free as u64), ..limit }).unwrap();
    limit
}

pub struct Bed {
    pub gateway: Gateway,
    pub ring: MemoryRing,
    pub stats: Stats,
    pub now: Instant,
    poll: Poller,
}

impl Bed {
    pub fn new() -> Self {
        Self::with(config())
    }

    /// Started, a station attached.
    pub fn with(config: GatewayConfig) -> Self {
        let mut bed = Self {
            gateway: Gateway::new(config).unwrap(),
            ring: MemoryRing::new(),
            stats: Stats::default(),
            now: Instant::now(),
            poll: Poller::new().unwrap(),
        };
        bed.gateway.start(&bed.poll).unwrap();
        bed.run(|gateway, io| gateway.attached(io, Offloads::default())).unwrap();
        bed
    }

    pub fn shared(&self) -> &Shared {
        &self.gateway.shared
    }

    /// Gives the host these resolvers, instead of those of a file.
    pub fn resolvers(&mut self, servers: &[SocketAddr]) {
        self.gateway.shared.resolvers.set(servers);
    }

    /// The host's routes change.
    pub fn reach(&mut self, ipv6: bool) {
        let reach = Reach { ipv6 };
        self.run(|gateway, io| {
            let ctx = &mut Ctx { io, shared: &mut gateway.shared };
            if ctx.shared.set_reach(reach) {
                gateway.services.offer_changed(ctx);
            }
        });
    }

    /// The station goes.
    pub fn detach(&mut self) {
        self.gateway.detached(self.now, &self.poll);
    }

    pub fn run<R>(&mut self, f: impl FnOnce(&mut Gateway, &mut Io<'_>) -> R) -> R {
        let mut io = Io { now: self.now, rx: &mut self.ring, poll: &self.poll, stats: &self.stats };
        f(&mut self.gateway, &mut io)
    }

    /// The guest sends `frame`.
    pub fn send(&mut self, frame: &[u8]) -> TxOutcome {
        self.send_with(frame, Offload::default())
    }

    /// The guest sends `frame` and leaves its checksum to the link, `offset` bytes from `start`.
    pub fn send_open(&mut self, frame: &[u8], start: u16, offset: u16) -> TxOutcome {
        let checksum = Some(PartialChecksum { start, offset });
        self.send_with(frame, Offload { checksum, ..Offload::default() })
    }

    fn send_with(&mut self, frame: &[u8], offload: Offload) -> TxOutcome {
        let head = &frame[..frame.len().min(HEAD_MAX)];
        let mut rest = frame[head.len()..].to_vec();
        let tail = [VolatileSlice::from(&mut rest[..])];
        self.run(|gateway, io| {
            gateway.send(io, &TxFrame { head, tail: &tail, len: frame.len(), offload })
        })
    }

    /// The guest sends a UDP datagram.
    pub fn send_udp(&mut self, src: SocketAddr, dst: SocketAddr, payload: &[u8]) -> TxOutcome {
        let group = match dst.ip() {
            IpAddr::V4(ip) => ip.is_broadcast(),
            IpAddr::V6(ip) => ip.is_multicast(),
        };
        let mac = if group { MacAddr::BROADCAST } else { GATEWAY_MAC };
        let outcome = self.send(&udp_frame(mac, src, dst, payload));
        self.run(|gateway, io| gateway.batch_end(io));
        outcome
    }

    /// What the guest got since the last call, without the router's advertisements.
    pub fn received(&mut self) -> Vec<Vec<u8>> {
        let mut frames = self.received_all();
        frames.retain(|f| f[12..14] != [0x86, 0xdd] || f[20] != 58 || f[54] != 134);
        frames
    }

    /// All that the guest got since the last call.
    pub fn received_all(&mut self) -> Vec<Vec<u8>> {
        self.ring.frames.drain(..).map(|(frame, _)| frame).collect()
    }

    /// Lets time pass, all timers in their order.
    pub fn advance(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(due) = self.gateway.deadline().filter(|due| *due <= end) {
            self.now = due.max(self.now);
            self.run(|gateway, io| gateway.expire(io));
        }
        self.now = end;
    }

    /// Waits for events of the host's sockets, and handles them. False if there were none.
    pub fn events(&mut self, wait: Duration) -> bool {
        let n = self.poll.wait(Some(wait)).unwrap();
        for i in 0..n {
            let (token, ready) = self.poll.event(i);
            self.run(|gateway, io| gateway.ready(io, token, ready));
        }
        n > 0
    }
}

/// A datagram from the guest in its frame.
pub fn udp_frame(mac: MacAddr, src: SocketAddr, dst: SocketAddr, payload: &[u8]) -> Vec<u8> {
    let envelope = Envelope::new(mac, src.ip(), dst.ip(), protocol::UDP);
    let len = 8 + payload.len();
    let mut f = vec![0; envelope.header_len()];
    envelope.write(GUEST_MAC, len, &mut f);
    let at = f.len();
    f.extend(src.port().to_be_bytes());
    f.extend(dst.port().to_be_bytes());
    f.extend((len as u16).to_be_bytes());
    f.extend([0; 2]);
    f.extend(payload);
    let mut sum = Sum::pseudo_header(src.ip(), dst.ip(), protocol::UDP, len);
    sum.bytes(&f[at..]);
    f[at + 6..at + 8].copy_from_slice(&sum.finish_udp().to_be_bytes());
    f
}
