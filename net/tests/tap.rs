//! TAPs on the machine's own kernel, in network namespaces of the test's own. No privilege is
//! needed, but user namespaces are: without them the test fails.
//!
//! Not libtest: the user namespace must be entered before there is a second thread.
#![expect(unsafe_code, reason = "unshare and interface ioctls")]
#![expect(clippy::unwrap_used, reason = "a test, though not one that clippy knows")]

mod common;

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, OnceLock, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use minivmm_net::nic::{
    Drained, FRAME_MAX, FrameSink, HEAD_MAX, HostBuffer, Offload, Offloads, PartialChecksum,
    Poller, Port, PortReady, Ready, RxRing, SegmentKind, Segmentation, Source, Token, TxFrame,
    TxOutcome,
};
use minivmm_net::testing::TapPort;
use minivmm_net::{Backend, DropReason, Segment, Stats, Tap, TapBackend, TapError};
use rustix::event::{EventfdFlags, eventfd};
use vm_memory::VolatileSlice;

const ALL: Offloads = Offloads { checksum: true, tso4: true, tso6: true };
const MTU: usize = 1500;

fn main() -> ExitCode {
    // SAFETY: no other thread exists yet, and no memory is involved.
    let entered = unsafe { libc::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNET) };
    if entered != 0 {
        eprintln!("cannot enter a user and network namespace: {}", io::Error::last_os_error());
        return ExitCode::FAILURE;
    }
    let tests: [(&str, fn()); 9] = [
        ("opening_says_what_is_wrong", opening_says_what_is_wrong),
        ("large_segments_cross_whole_in_both_directions", large_segments_cross_whole),
        ("without_offloads_the_host_cuts_and_sums", without_offloads_the_host_cuts_and_sums),
        ("frames_wait_for_room_and_none_is_lost", frames_wait_for_room),
        ("a_frame_too_large_for_a_station_holds_up_nothing", a_frame_too_large),
        ("tcp_runs_between_two_stacks", tcp_runs_between_two_stacks),
        ("a_station_may_go_and_come_back", a_station_may_go_and_come_back),
        ("an_interface_that_is_down_only_drops", an_interface_that_is_down_only_drops),
        ("an_interface_that_vanishes_ends_quietly", an_interface_that_vanishes_ends_quietly),
    ];
    common::run(&tests, || ())
}

#[track_caller]
fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < end, "never: {what}");
        thread::sleep(Duration::from_millis(1));
    }
}

// ---- Namespaces and interfaces ----

/// A thread in a network namespace of its own.
struct Netns {
    jobs: mpsc::Sender<Box<dyn FnOnce() + Send>>,
}

impl Netns {
    fn new() -> Self {
        let (jobs, queue) = mpsc::channel::<Box<dyn FnOnce() + Send>>();
        let (ready, wait) = mpsc::channel();
        thread::spawn(move || {
            // SAFETY: moves only this thread, and no memory is involved.
            assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNET) }, 0);
            ready.send(()).unwrap();
            for job in queue {
                job();
            }
        });
        wait.recv().unwrap();
        Self { jobs }
    }

    fn run<R: Send + 'static>(&self, f: impl FnOnce() -> R + Send + 'static) -> R {
        let (reply, answer) = mpsc::channel();
        self.jobs.send(Box::new(move || reply.send(f()).unwrap())).unwrap();
        answer.recv().expect("the job panicked")
    }

    /// A TAP of this namespace, up, with an address of a /24.
    fn tap(&self, name: &'static str, address: Ipv4Addr) -> Tap {
        self.run(move || {
            let tap = Tap::open(name).unwrap();
            configure(name, address);
            tap
        })
    }
}

fn interface_ioctl(name: &str, request: libc::Ioctl, fill: impl FnOnce(&mut libc::ifreq)) {
    // SAFETY: all-zero bytes are a valid ifreq.
    let mut ifr: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in ifr.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    fill(&mut ifr);
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    // SAFETY: the requests used here read one ifreq.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), request, &raw const ifr) };
    assert_eq!(result, 0, "{}", io::Error::last_os_error());
}

fn set_address(ifr: &mut libc::ifreq, address: Ipv4Addr) {
    let mut data = [0; 14];
    for (to, from) in data[2..6].iter_mut().zip(address.octets()) {
        *to = from.cast_signed();
    }
    ifr.ifr_ifru.ifru_addr = libc::sockaddr { sa_family: libc::AF_INET as u16, sa_data: data };
}

fn set_up(name: &str, up: bool) {
    let flags = if up { libc::IFF_UP } else { 0 };
    interface_ioctl(name, libc::SIOCSIFFLAGS, |i| i.ifr_ifru.ifru_flags = flags as i16);
}

fn configure(name: &str, address: Ipv4Addr) {
    interface_ioctl(name, libc::SIOCSIFADDR, |i| set_address(i, address));
    let mask = Ipv4Addr::new(255, 255, 255, 0);
    interface_ioctl(name, libc::SIOCSIFNETMASK, |i| set_address(i, mask));
    set_up(name, true);
}

fn index(name: &str) -> u32 {
    let name = std::ffi::CString::new(name).unwrap();
    // SAFETY: reads a string that ends with NUL.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    assert_ne!(index, 0);
    index
}

/// Deletes an interface of the calling thread's namespace by a handmade `RTM_DELLINK`.
fn delete(name: &str) {
    use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
    let netlink = rustix::net::socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        None,
    )
    .unwrap();
    let mut message = [0u8; 32];
    message[..4].copy_from_slice(&32u32.to_ne_bytes());
    message[4..6].copy_from_slice(&libc::RTM_DELLINK.to_ne_bytes());
    let flags = (libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16;
    message[6..8].copy_from_slice(&flags.to_ne_bytes());
    message[20..24].copy_from_slice(&index(name).to_ne_bytes());
    rustix::net::send(&netlink, &message, SendFlags::empty()).unwrap();
    let mut answer = [0u8; 256];
    rustix::net::recv(&netlink, &mut answer, RecvFlags::empty()).unwrap();
    assert_eq!(answer[16..20], [0; 4], "the kernel refused");
}

/// A packet socket on an interface of the calling thread's namespace; each frame has a 10-byte
/// virtio-net header (`PACKET_VNET_HDR`).
fn packet_socket(name: &str) -> OwnedFd {
    let protocol = (libc::ETH_P_ALL as u16).to_be();
    // SAFETY: makes a descriptor, checked below.
    let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW, i32::from(protocol)) };
    assert!(fd >= 0, "{}", io::Error::last_os_error());
    // SAFETY: it is new and ours.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    let on = 1i32;
    // SAFETY: reads one int.
    let set = unsafe {
        libc::setsockopt(fd, libc::SOL_PACKET, 15, (&raw const on).cast(), size_of::<i32>() as u32)
    };
    assert_eq!(set, 0, "{}", io::Error::last_os_error());
    let timeout = libc::timeval { tv_sec: 10, tv_usec: 0 };
    // SAFETY: reads one timeval.
    let set = unsafe {
        let len = size_of::<libc::timeval>() as u32;
        libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_RCVTIMEO, (&raw const timeout).cast(), len)
    };
    assert_eq!(set, 0);
    // SAFETY: all-zero bytes are a valid sockaddr_ll.
    let mut to: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    to.sll_family = libc::AF_PACKET as u16;
    to.sll_protocol = protocol;
    to.sll_ifindex = index(name).cast_signed();
    // SAFETY: reads one sockaddr_ll.
    let bound =
        unsafe { libc::bind(fd, (&raw const to).cast(), size_of::<libc::sockaddr_ll>() as u32) };
    assert_eq!(bound, 0, "{}", io::Error::last_os_error());
    socket
}

// ---- Frames ----

/// Nobody: neither stack answers.
const TO: [u8; 6] = [0x52, 0x4d, 0, 0, 0, 9];

fn sum(bytes: &[u8]) -> u32 {
    bytes.chunks(2).map(|c| u32::from(c[0]) << 8 | u32::from(*c.get(1).unwrap_or(&0))).sum()
}

fn fold(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

fn pseudo(frame: &[u8]) -> u32 {
    sum(&frame[26..34]) + 6 + (frame.len() as u32 - 34)
}

/// A TCP segment with `payload` bytes of payload, the checksum open.
fn segment_frame(payload: usize) -> Vec<u8> {
    let total = (40 + payload) as u16;
    let mut frame = vec![0; 54 + payload];
    frame[..6].copy_from_slice(&TO);
    frame[6..12].copy_from_slice(&[0x52, 0x4d, 0, 0, 0, 8]);
    frame[12..14].copy_from_slice(&[8, 0]);
    frame[14] = 0x45;
    frame[16..18].copy_from_slice(&total.to_be_bytes());
    frame[22..24].copy_from_slice(&[64, 6]);
    frame[26..34].copy_from_slice(&[192, 0, 2, 1, 192, 0, 2, 2]);
    let ip = !fold(sum(&frame[14..34]));
    frame[24..26].copy_from_slice(&ip.to_be_bytes());
    frame[34..38].copy_from_slice(&[0x12, 0x34, 0x56, 0x78]);
    frame[46..48].copy_from_slice(&[0x50, 0x10]);
    for (i, byte) in frame[54..].iter_mut().enumerate() {
        *byte = (i % 251) as u8;
    }
    let open = fold(pseudo(&frame));
    frame[50..52].copy_from_slice(&open.to_be_bytes());
    frame
}

fn tso() -> Offload {
    Offload {
        checksum: Some(PartialChecksum { start: 34, offset: 16 }),
        segmentation: Some(Segmentation {
            kind: SegmentKind::Tcp4,
            size: 1448,
            header_len: 54,
            ecn: false,
        }),
        validated: false,
    }
}

// ---- A station whose room is what the test says ----

#[derive(Default)]
struct Desk {
    /// Largest reservation that succeeds.
    room: usize,
    /// Frames until reservations fail.
    places: usize,
    got: Vec<(Vec<u8>, Offload)>,
    to_send: VecDeque<(Vec<u8>, Offload)>,
}

struct Station {
    desk: Arc<Mutex<Desk>>,
    kick: Arc<OwnedFd>,
}

struct StationPort {
    kick: Arc<OwnedFd>,
    ring: StationRing,
}

struct StationRing {
    desk: Arc<Mutex<Desk>>,
    buffer: HostBuffer,
    reserved: usize,
    offloads: Offloads,
}

impl Station {
    fn new(room: usize) -> Self {
        let kick = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC).unwrap();
        let desk = Desk { room, places: usize::MAX, ..Desk::default() };
        Self { desk: Arc::new(Mutex::new(desk)), kick: Arc::new(kick) }
    }

    fn port(&self, offloads: Offloads) -> Box<dyn Port> {
        let ring = StationRing {
            desk: Arc::clone(&self.desk),
            buffer: HostBuffer::new(FRAME_MAX),
            reserved: 0,
            offloads,
        };
        Box::new(StationPort { kick: Arc::clone(&self.kick), ring })
    }

    fn kick(&self) {
        rustix::io::write(&*self.kick, &1u64.to_ne_bytes()).unwrap();
    }

    fn send(&self, frame: Vec<u8>, offload: Offload) {
        self.desk.lock().unwrap().to_send.push_back((frame, offload));
        self.kick();
    }

    fn got(&self) -> usize {
        self.desk.lock().unwrap().got.len()
    }

    fn take(&self) -> Vec<(Vec<u8>, Offload)> {
        std::mem::take(&mut self.desk.lock().unwrap().got)
    }
}

impl Port for StationPort {
    fn attach(&mut self, poll: &Poller) -> io::Result<()> {
        poll.add(&*self.kick, Token::new(Source::Port, 0), Ready::IN | Ready::ET)
    }

    fn detach(&mut self, poll: &Poller) {
        poll.remove(&*self.kick).unwrap();
    }

    fn ready(&mut self, _id: u32, _ready: Ready) -> PortReady {
        PortReady { tx: true, rx: true }
    }

    fn drain(&mut self, budget: usize, _: &Stats, sink: &mut FrameSink<'_>) -> Drained {
        for _ in 0..budget {
            let next = self.ring.desk.lock().unwrap().to_send.pop_front();
            let Some((mut frame, offload)) = next else { return Drained::Empty };
            let len = frame.len();
            let (head, tail) = frame.split_at_mut(len.min(HEAD_MAX));
            // In two pieces, as a guest may have it.
            let (a, b) = tail.split_at_mut(tail.len() / 3);
            let tail = [VolatileSlice::from(a), VolatileSlice::from(b)];
            let frame = TxFrame { head, tail: &tail, len, offload };
            assert_ne!(sink(&frame, &mut self.ring), TxOutcome::Busy);
        }
        Drained::More
    }

    fn rx(&mut self) -> &mut dyn RxRing {
        &mut self.ring
    }

    fn flush(&mut self, _stats: &Stats) {}
}

impl RxRing for StationRing {
    fn offloads(&self) -> Offloads {
        self.offloads
    }

    fn reserve(&mut self, most: usize, least: usize) -> Option<usize> {
        let desk = self.desk.lock().unwrap();
        self.reserved = most.min(desk.room);
        (least <= desk.room && desk.places > 0).then_some(self.reserved)
    }

    fn slices(&self) -> &[VolatileSlice<'_>] {
        self.buffer.slices()
    }

    fn commit(&mut self, len: usize, offload: Offload) {
        assert!(len <= self.reserved);
        let mut frame = vec![0; len];
        self.buffer.slices()[0].copy_to(&mut frame);
        // Not what the host's stack says by itself (RFC 4861, MLD).
        if frame[..6] != TO {
            return;
        }
        let mut desk = self.desk.lock().unwrap();
        desk.places -= 1;
        desk.got.push((frame, offload));
    }

    fn release(&mut self) {}
}

fn bridge(tap: Tap) -> Segment {
    bridge_at(tap, Instant::now)
}

fn bridge_at(tap: Tap, clock: fn() -> Instant) -> Segment {
    let backend: Box<dyn Backend> = Box::new(TapBackend::new(tap, MTU as u16));
    Segment::spawn("tap-test", backend, clock).unwrap()
}

/// A clock that stands.
fn noon() -> Instant {
    static NOON: OnceLock<Instant> = OnceLock::new();
    *NOON.get_or_init(Instant::now)
}

/// Drops, but for what the host's stack had to say before there was a station.
fn drops(stats: &Stats) -> u64 {
    stats.total_drops() - stats.drops(DropReason::Detached)
}

// ---- The tests ----

/// A descriptor of another make, as another program might hand it to us.
fn foreign(flags: libc::c_int) -> OwnedFd {
    let tun = std::fs::File::options().read(true).write(true).open("/dev/net/tun").unwrap();
    // SAFETY: all-zero bytes are a valid ifreq.
    let mut ifr: libc::ifreq = unsafe { std::mem::zeroed() };
    ifr.ifr_ifru.ifru_flags = flags as i16;
    // SAFETY: reads and writes one ifreq.
    let made = unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNSETIFF, &raw mut ifr) };
    assert_eq!(made, 0);
    tun.into()
}

fn opening_says_what_is_wrong() {
    let tap = Tap::open("once0").unwrap();
    assert_eq!((tap.name(), tap.mtu().unwrap()), ("once0", 1500));
    assert!(!tap.mac().unwrap().is_multicast());
    assert!(matches!(Tap::open("once0"), Err(TapError::Busy(_))));
    assert!(matches!(Tap::open("lo"), Err(TapError::NotTap(_))));

    let again = Tap::from_fd(tap.as_fd().try_clone_to_owned().unwrap()).unwrap();
    assert_eq!(again.name(), "once0");

    let tun = std::fs::File::options().read(true).write(true).open("/dev/net/tun").unwrap();
    assert!(matches!(Tap::from_fd(tun.into()), Err(TapError::NotTapFd(_))));
    let ours = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    for (flags, of) in [
        (libc::IFF_TUN | libc::IFF_NO_PI, "tun0"),
        (libc::IFF_TAP | libc::IFF_NO_PI, "tap0"),
        (ours | libc::IFF_MULTI_QUEUE, "tap0"),
    ] {
        let error = Tap::from_fd(foreign(flags)).unwrap_err();
        assert!(matches!(&error, TapError::WrongFlags { name, .. } if name == of), "{error}");
    }
}

fn large_segments_cross_whole() {
    let ns = Netns::new();
    let tap = ns.tap("big0", Ipv4Addr::new(10, 9, 0, 1));
    let socket = ns.run(|| packet_socket("big0"));
    let segment = bridge(tap);
    let station = Station::new(FRAME_MAX);
    segment.handle().attach(station.port(ALL), ALL).unwrap();
    let frame = segment_frame(40_000);

    // Host to station.
    let vnet = tso().encode(0);
    let mut bytes = vnet[..10].to_vec();
    bytes.extend_from_slice(&frame);
    rustix::io::write(&socket, &bytes).unwrap();
    eventually("the segment", || station.got() > 0);
    let got = station.take();
    assert_eq!(got.len(), 1);
    assert!(got[0].0 == frame, "{} of {} bytes", got[0].0.len(), frame.len());
    let segmentation = got[0].1.segmentation.unwrap();
    assert_eq!((segmentation.kind, segmentation.size), (SegmentKind::Tcp4, 1448));
    assert_eq!(got[0].1.checksum, tso().checksum);

    // Station to host.
    station.send(frame.clone(), tso());
    let mut bytes = vec![0; 70_000];
    loop {
        let n = rustix::io::read(&socket, &mut bytes).expect("the segment, on the host's side");
        if bytes[10 + 12..10 + 14] == [8, 0] && n > 2000 {
            assert!(bytes[10..n] == frame, "{n} bytes");
            assert_eq!(bytes[..2], vnet[..2]);
            assert_eq!(bytes[4..10], vnet[4..10]);
            break;
        }
    }
    assert_eq!(drops(&segment.stats()), 0);
}

fn without_offloads_the_host_cuts_and_sums() {
    let ns = Netns::new();
    let tap = ns.tap("cut0", Ipv4Addr::new(10, 9, 0, 1));
    let socket = ns.run(|| packet_socket("cut0"));
    let segment = bridge(tap);
    let station = Station::new(FRAME_MAX);
    segment.handle().attach(station.port(Offloads::default()), Offloads::default()).unwrap();
    let frame = segment_frame(14_480);
    let mut bytes = tso().encode(0)[..10].to_vec();
    bytes.extend_from_slice(&frame);
    rustix::io::write(&socket, &bytes).unwrap();
    eventually("all pieces", || station.got() >= 10);
    let mut payload = Vec::new();
    for (piece, offload) in station.take() {
        assert_eq!((offload.checksum, offload.segmentation), (None, None));
        assert!(piece.len() <= MTU + 14);
        assert_eq!(fold(pseudo(&piece) + sum(&piece[34..])), 0xffff, "TCP checksum");
        payload.extend_from_slice(&piece[54..]);
    }
    assert!(payload == frame[54..]);
}

fn frames_wait_for_room() {
    let ns = Netns::new();
    let tap = ns.tap("room0", Ipv4Addr::new(10, 9, 0, 1));
    let socket = ns.run(|| packet_socket("room0"));
    let segment = bridge_at(tap, noon);
    let stats = segment.stats();
    let station = Station::new(0);
    station.desk.lock().unwrap().places = 0;
    segment.handle().attach(station.port(ALL), ALL).unwrap();
    let send = |frame: &[u8], offload: Offload| {
        let mut bytes = offload.encode(0)[..10].to_vec();
        bytes.extend_from_slice(frame);
        rustix::io::write(&socket, &bytes).unwrap();
    };
    let small: Vec<Vec<u8>> = (0..20).map(|n| segment_frame(100 + n)).collect();
    let large = segment_frame(30_000);
    for frame in &small {
        send(frame, Offload::default());
    }
    send(&large, tso());
    send(&small[0], Offload::default());

    // Without room nothing is read, and nobody spins.
    thread::sleep(Duration::from_millis(50));
    assert_eq!(station.got(), 0);
    assert!(stats.wakeups.get() < 20, "{}", stats.wakeups.get());

    // Room for a few short frames.
    {
        let mut desk = station.desk.lock().unwrap();
        (desk.room, desk.places) = (1514, 5);
    }
    station.kick();
    eventually("five frames", || station.got() == 5);
    // For the rest of the short ones, not for the large one, which holds the last one back.
    station.desk.lock().unwrap().places = 100;
    station.kick();
    eventually("the short frames", || station.got() == 20);
    thread::sleep(Duration::from_millis(30));
    assert_eq!(station.got(), 20);
    station.desk.lock().unwrap().room = FRAME_MAX;
    station.kick();
    eventually("all frames", || station.got() == 22);
    let got = station.take();
    for (sent, got) in small.iter().chain([&large, &small[0]]).zip(&got) {
        assert!(*sent == got.0, "{} and {} bytes", sent.len(), got.0.len());
    }
    assert_eq!(got[20].1.segmentation, tso().segmentation);
    assert_eq!(drops(&stats), 0);
}

/// A station that never has room for it, and never kicks.
fn a_frame_too_large() {
    let ns = Netns::new();
    let tap = ns.tap("large0", Ipv4Addr::new(10, 9, 0, 1));
    let socket = ns.run(|| packet_socket("large0"));
    let segment = bridge(tap);
    let stats = segment.stats();
    let station = Station::new(20_000);
    segment.handle().attach(station.port(ALL), ALL).unwrap();
    let small = segment_frame(100);
    for (frame, offload) in [(&segment_frame(40_000), tso()), (&small, Offload::default())] {
        let mut bytes = offload.encode(0)[..10].to_vec();
        bytes.extend_from_slice(frame);
        rustix::io::write(&socket, &bytes).unwrap();
    }
    eventually("the small frame", || station.got() == 1);
    assert!(station.take()[0].0 == small);
    assert_eq!((drops(&stats), stats.drops(DropReason::RxBufferTooSmall)), (1, 1));
    assert!(stats.wakeups.get() < 20, "{}", stats.wakeups.get());
}

/// Two stacks, the first a station, the second behind what it is wired to.
fn two_stacks(offloads: Offloads) -> (Netns, Netns, Segment) {
    let (left, right) = (Netns::new(), Netns::new());
    let a = left.tap("left0", Ipv4Addr::new(10, 9, 0, 1));
    let b = right.tap("right0", Ipv4Addr::new(10, 9, 0, 2));
    let segment = bridge(b);
    let handle = segment.handle();
    let port = TapPort::new(a, handle.tx_offloads()).unwrap();
    handle.attach(Box::new(port), offloads).unwrap();
    (left, right, segment)
}

/// Moves `len` bytes from one namespace to another and returns how long it took.
fn transfer(from: &Netns, to: &Netns, address: Ipv4Addr, len: usize) -> Duration {
    let (ready, bound) = mpsc::channel();
    let (done, received) = mpsc::channel();
    let listener = to.run(move || TcpListener::bind(SocketAddr::from((address, 0))).unwrap());
    let to = listener.local_addr().unwrap();
    thread::spawn(move || {
        ready.send(()).unwrap();
        let (mut stream, _) = listener.accept().unwrap();
        let mut buffer = vec![0; 1 << 18];
        let mut at = 0usize;
        loop {
            match stream.read(&mut buffer).unwrap() {
                0 => break,
                n => {
                    let ok = buffer[..n].iter().enumerate().all(|(i, b)| *b == (at + i) as u8);
                    assert!(ok, "wrong bytes after {at}");
                    at += n;
                }
            }
        }
        done.send(at).unwrap();
    });
    bound.recv().unwrap();
    let mut stream =
        from.run(move || TcpStream::connect_timeout(&to, Duration::from_secs(10)).unwrap());
    stream.set_write_timeout(Some(Duration::from_secs(30))).unwrap();
    let start = Instant::now();
    let chunk: Vec<u8> = (0..1 << 18).map(|i| i as u8).collect();
    let mut left = len;
    while left > 0 {
        let n = left.min(chunk.len());
        stream.write_all(&chunk[..n]).expect("the other side reads");
        left -= n;
    }
    drop(stream);
    let arrived = received.recv_timeout(Duration::from_secs(60)).expect("the end of the stream");
    assert_eq!(arrived, len);
    start.elapsed()
}

fn tcp_runs_between_two_stacks() {
    const LEN: usize = 64 << 20;
    for (offloads, large) in [(ALL, true), (Offloads::default(), false)] {
        let (left, right, segment) = two_stacks(offloads);
        let stats = segment.stats();
        let up = transfer(&left, &right, Ipv4Addr::new(10, 9, 0, 2), LEN);
        let tx = stats.tx_bytes.get() / stats.tx_frames.get();
        assert!(tx > 2 * MTU as u64, "{tx} bytes a frame");
        let before = (stats.rx_bytes.get(), stats.rx_frames.get());
        let down = transfer(&right, &left, Ipv4Addr::new(10, 9, 0, 1), LEN);
        let rx = (stats.rx_bytes.get() - before.0) / (stats.rx_frames.get() - before.1);
        assert_eq!(rx > 2 * MTU as u64, large, "{rx} bytes a frame");
        let rate = |time: Duration| LEN as f64 * 8e-9 / time.as_secs_f64();
        println!(
            "    offloads {large}: up {:.1} Gbit/s ({tx} B a frame), down {:.1} Gbit/s ({rx})",
            rate(up),
            rate(down)
        );
        assert_eq!(stats.drops(DropReason::TapFailed), 0);
    }
}

fn a_station_may_go_and_come_back() {
    let (left, right, segment) = two_stacks(ALL);
    let handle = segment.handle();
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let flag = Arc::clone(&stop);
    let toggler = thread::spawn(move || {
        let mut rounds = 0;
        while !flag.load(std::sync::atomic::Ordering::SeqCst) {
            let port = handle.detach().expect("it is attached");
            thread::sleep(Duration::from_millis(1));
            handle.attach(port, ALL).unwrap();
            thread::sleep(Duration::from_millis(20));
            rounds += 1;
        }
        rounds
    });
    transfer(&left, &right, Ipv4Addr::new(10, 9, 0, 2), 32 << 20);
    transfer(&right, &left, Ipv4Addr::new(10, 9, 0, 1), 32 << 20);
    stop.store(true, std::sync::atomic::Ordering::SeqCst);
    assert!(toggler.join().unwrap() > 1);
}

fn an_interface_that_is_down_only_drops() {
    let ns = Netns::new();
    let tap = ns.tap("down0", Ipv4Addr::new(10, 9, 0, 1));
    ns.run(|| set_up("down0", false));
    let segment = bridge(tap);
    let stats = segment.stats();
    let station = Station::new(FRAME_MAX);
    segment.handle().attach(station.port(ALL), ALL).unwrap();
    for _ in 0..10 {
        station.send(segment_frame(100), Offload::default());
    }
    eventually("drops", || stats.drops(DropReason::TapFailed) == 10);
    ns.run(|| set_up("down0", true));
    let socket = ns.run(|| packet_socket("down0"));
    let frame = segment_frame(777);
    station.send(frame.clone(), Offload::default());
    let mut bytes = vec![0; 70_000];
    let mut read = || rustix::io::read(&socket, &mut bytes).expect("the frame, once it is up");
    while read() != 10 + frame.len() {}
    assert!(bytes[10..10 + frame.len()] == frame);
}

fn an_interface_that_vanishes_ends_quietly() {
    let ns = Netns::new();
    let tap = ns.tap("gone0", Ipv4Addr::new(10, 9, 0, 1));
    let segment = bridge(tap);
    let stats = segment.stats();
    let station = Station::new(FRAME_MAX);
    let handle = segment.handle();
    handle.attach(station.port(ALL), ALL).unwrap();
    ns.run(|| delete("gone0"));
    thread::sleep(Duration::from_millis(50));
    let before = stats.wakeups.get();
    station.send(segment_frame(100), Offload::default());
    eventually("a counted drop", || stats.drops(DropReason::TapFailed) == 1);
    thread::sleep(Duration::from_millis(50));
    assert!(stats.wakeups.get() - before < 10, "it spins");
    assert!(handle.detach().is_some());
}
