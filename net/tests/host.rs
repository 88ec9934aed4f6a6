//! What the engine knows of the host, checked in a network namespace whose routes the test makes.
//!
//! No privilege is needed, but `unshare`, `ip` and user namespaces are: without them the test
//! fails. Not libtest: the program runs itself again in the namespace.
#![expect(clippy::unwrap_used, reason = "a test, though not one that clippy knows")]

mod common;
#[path = "common/namespace.rs"]
mod namespace;

use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use minivmm_net::nic::{
    FRAME_MAX, HostBuffer, Io, Offload, Offloads, Poller, Ready, RxRing, Source, Token,
};
use minivmm_net::testing::{Reach, Watch, check_subnet, choose_subnet};
use minivmm_net::{
    Backend, Gateway, GatewayConfig, HostNetwork, Ipv6Mode, MacAddr, PlanError, PlanRequest, Stats,
};
use vm_memory::VolatileSlice;

fn main() -> ExitCode {
    if let Some(ended) = namespace::outside_namespace() {
        return ended;
    }
    let tests: [(&str, fn()); 7] = [
        ("a_host_without_network_is_no_error", a_host_without_network_is_no_error),
        ("routes_and_addresses_are_found", routes_and_addresses_are_found),
        ("many_routes_are_listed_whole", many_routes_are_listed_whole),
        ("a_way_out_is_what_the_kernel_would_take", a_way_out_is_what_the_kernel_would_take),
        ("changes_are_told", changes_are_told),
        ("a_flood_of_changes_is_survived", a_flood_of_changes_is_survived),
        ("the_guest_learns_what_the_host_can_route", the_guest_learns_what_the_host_can_route),
    ];
    common::run(&tests, clean)
}

fn ip(arguments: &str) {
    let done = Command::new("ip").args(arguments.split(' ')).output().unwrap();
    assert!(done.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&done.stderr));
}

/// Many commands at once.
fn ip_batch(commands: &str) {
    let path = std::env::temp_dir().join(format!("minivmm-ip-{}", std::process::id()));
    std::fs::write(&path, commands).unwrap();
    let done = Command::new("ip").arg("-batch").arg(&path).output().unwrap();
    std::fs::remove_file(&path).unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

/// An uplink that leads nowhere: a TAP, which every kernel with this project's use has.
fn uplink() {
    ip("tuntap add up0 mode tap");
    // No duplicate address detection of link-local addresses: nobody answers, but it takes a
    // second. Others are added with `nodad`, which is without it from the start.
    std::fs::write("/proc/sys/net/ipv6/conf/up0/accept_dad", "0").unwrap();
    ip("link set up0 up");
}

fn clean() {
    let _ = Command::new("ip").args(["link", "del", "up0"]).output();
    let _ = Command::new("ip").args(["rule", "flush"]).output();
    let _ = Command::new("ip").args(["-6", "rule", "del", "table", "77"]).output();
    for family in ["-4", "-6"] {
        let _ = Command::new("ip").args([family, "route", "flush", "table", "main"]).output();
    }
    for table in ["main", "default"] {
        let _ = Command::new("ip").args(["rule", "add", "table", table]).output();
    }
}

fn nets(host: &HostNetwork) -> Vec<String> {
    let mut nets: Vec<_> = host.known.iter().map(|known| known.net.to_string()).collect();
    nets.sort();
    nets.dedup();
    nets
}

fn a_host_without_network_is_no_error() {
    let host = HostNetwork::read().unwrap();
    assert_eq!(nets(&host), Vec::<String>::new());
    assert_eq!(Reach::probe(), Reach { ipv6: false });
    let config = GatewayConfig::plan(&PlanRequest::default(), &host).unwrap();
    assert_eq!(config.subnet4.to_string(), "10.77.0.0/24");
    assert_eq!(config.prefix6.network().octets()[0], 0xfd);
    let again = GatewayConfig::plan(&PlanRequest::default(), &host).unwrap();
    assert_ne!(config.prefix6, again.prefix6, "each instance has its own");
}

fn routes_and_addresses_are_found() {
    uplink();
    ip("addr add 10.77.0.9/23 dev up0");
    ip("addr add 192.0.2.1 peer 192.0.2.77/32 dev up0");
    ip("addr add fd00:77::9/64 dev up0 nodad");
    ip("route add 172.27.64.0/20 via 10.77.0.1");
    ip("route add blackhole 10.77.2.0/24 table 77");
    ip("route add default via 10.77.0.1");
    ip("route add 0.0.0.0/1 via 10.77.0.1");
    ip("route add 128.0.0.0/1 via 10.77.0.1");
    let host = HostNetwork::read().unwrap();
    let got = nets(&host);
    for want in [
        "10.77.0.0/23",
        "10.77.2.0/24",
        "172.27.64.0/20",
        "192.0.2.77/32",
        "192.0.2.1/32",
        "fd00:77::/64",
    ] {
        assert!(got.iter().any(|net| net == want), "{want} is not in {got:?}");
    }
    assert!(got.iter().all(|net| !net.ends_with("/0") && !net.ends_with("/1")), "{got:?}");
    assert_eq!(choose_subnet(&host).to_string(), "10.77.3.0/24");

    let e = check_subnet("172.27.70.0/24".parse().unwrap(), &host).unwrap_err();
    let want = "172.27.70.0/24 overlaps 172.27.64.0/20, which the host reaches by up0 ";
    assert!(e.to_string().starts_with(want), "{e}");
    let request =
        PlanRequest { subnet: Some("10.77.1.0/24".parse().unwrap()), ..PlanRequest::default() };
    let Err(PlanError::Overlap(e)) = GatewayConfig::plan(&request, &host) else {
        panic!("an overlap was not seen")
    };
    assert_eq!((e.net.to_string(), e.interface), ("10.77.0.0/23".into(), "up0".into()));
}

fn many_routes_are_listed_whole() {
    uplink();
    ip("addr add 192.0.2.1/24 dev up0");
    let commands: String = (0..6000u32)
        .map(|i| format!("route add 20.{}.{}.0/24 via 192.0.2.9\n", i >> 8, i & 0xff))
        .collect();
    ip_batch(&commands);
    let host = HostNetwork::read().unwrap();
    assert_eq!(nets(&host).iter().filter(|net| net.starts_with("20.")).count(), 6000);
}

fn a_way_out_is_what_the_kernel_would_take() {
    let reach = |ipv6| assert_eq!(Reach::probe(), Reach { ipv6 });
    uplink();
    ip("addr add 192.0.2.1/24 dev up0");
    ip("route add default via 192.0.2.9");
    reach(false);
    // A way out through link-local addresses alone is none.
    ip("-6 addr add fe80::5/64 dev up0 nodad");
    ip("-6 route add default via fe80::1 dev up0");
    reach(false);
    ip("-6 addr add 2001:db8::5/64 dev up0 nodad");
    reach(true);
    ip("-6 route add blackhole default metric 1");
    reach(false);
    ip("-6 route del blackhole default metric 1");
    // In a table of its own, as VPN clients have it.
    ip("-6 route del default");
    reach(false);
    ip("-6 route add default via fe80::1 dev up0 table 77");
    ip("-6 rule add table 77");
    reach(true);
}

fn changes_are_told() {
    uplink();
    let watch = Watch::new().unwrap();
    let mut poll = Poller::new().unwrap();
    let token = Token::new(Source::Backend(0), 0);
    poll.add(&watch, token, Ready::IN).unwrap();
    assert!(!watch.drain());
    for change in [
        "addr add 192.0.2.1/24 dev up0",
        "route add 198.51.100.0/24 via 192.0.2.9",
        "rule add table 77",
        "-6 addr add 2001:db8::5/64 dev up0 nodad",
        "-6 route add 2001:db8:9::/48 via 2001:db8::1",
        "-6 rule add table 77",
    ] {
        ip(change);
        assert_eq!(poll.wait(Some(Duration::from_secs(5))).unwrap(), 1, "{change}");
        assert!(watch.drain(), "{change}");
        // What comes in the wake of a change, such as routes to an address, comes with it.
        while poll.wait(Some(Duration::from_millis(50))).unwrap() > 0 {
            watch.drain();
        }
    }
}

fn a_flood_of_changes_is_survived() {
    uplink();
    ip("addr add 192.0.2.1/24 dev up0");
    let watch = Watch::new().unwrap();
    for verb in ["add", "del"] {
        let commands: String = (0..6000u32)
            .map(|i| format!("route {verb} 20.{}.{}.0/24 via 192.0.2.9\n", i >> 8, i & 0xff))
            .collect();
        ip_batch(&commands);
    }
    // More than the socket holds, so the kernel has dropped some and says so once.
    let mut drains = 0;
    while watch.drain() {
        drains += 1;
        assert!(drains < 10_000);
    }
    assert!(drains > 0);
    ip("route add 203.0.113.0/24 via 192.0.2.9");
    assert!(watch.drain(), "deaf after an overrun");
}

/// A guest that only listens.
struct Ring {
    buffer: HostBuffer,
    frames: Vec<Vec<u8>>,
}

impl RxRing for Ring {
    fn offloads(&self) -> Offloads {
        Offloads::default()
    }

    fn reserve(&mut self, most: usize, least: usize) -> Option<usize> {
        (least <= FRAME_MAX).then_some(most.min(FRAME_MAX))
    }

    fn slices(&self) -> &[VolatileSlice<'_>] {
        self.buffer.slices()
    }

    fn commit(&mut self, len: usize, _: Offload) {
        let mut frame = vec![0; len];
        self.buffer.slices()[0].copy_to(&mut frame);
        self.frames.push(frame);
    }

    fn release(&mut self) {}
}

fn the_guest_learns_what_the_host_can_route() {
    uplink();
    ip("-6 addr add 2001:db8::5/64 dev up0 nodad");
    let request = PlanRequest {
        ipv6: Ipv6Mode::Auto,
        guest_mac: Some(MacAddr::local(2)),
        ..PlanRequest::default()
    };
    let config = GatewayConfig::plan(&request, &HostNetwork::read().unwrap()).unwrap();
    let mut gateway = Gateway::new(config).unwrap();
    let mut ring = Ring { buffer: HostBuffer::new(FRAME_MAX), frames: Vec::new() };
    let (mut poll, stats) = (Poller::new().unwrap(), Stats::default());
    gateway.start(&poll).unwrap();
    let start = Instant::now();
    let mut io = Io { now: start, rx: &mut ring, poll: &poll, stats: &stats };
    gateway.attached(&mut io, Offloads::default()).unwrap();

    // Each change is told within the time in which the routes settle and no two advertisements
    // may follow each other.
    let changes = ["-6 route add default via 2001:db8::1", "-6 route del default"];
    for (change, want) in changes.into_iter().zip([1800u16, 0]) {
        ip(change);
        let end = Instant::now() + Duration::from_secs(10);
        let told = loop {
            let due = gateway.deadline().map_or(end, |due| due.min(end));
            let wait = due.saturating_duration_since(Instant::now());
            let events = poll.wait(Some(wait)).unwrap();
            let now = Instant::now();
            for i in 0..events {
                let (token, ready) = poll.event(i);
                let mut io = Io { now, rx: &mut ring, poll: &poll, stats: &stats };
                gateway.ready(&mut io, token, ready);
            }
            let mut io = Io { now, rx: &mut ring, poll: &poll, stats: &stats };
            gateway.expire(&mut io);
            let advertisement = ring.frames.drain(..).find(|f| f[20] == 58 && f[54] == 134);
            if let Some(frame) = advertisement {
                break u16::from_be_bytes([frame[60], frame[61]]);
            }
            assert!(now < end, "not told of: ip {change}");
        };
        assert_eq!(told, want, "{change}");
    }
}
