//! Each test is in a network namespace of its own. Its loopback has the remote addresses, so the
//! host's kernel answers for them.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::net::{AddressFamily, SendFlags, SocketType, bind, ipproto, sendto, socket};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

use super::*;
use crate::gateway::testing::{Bed, GATEWAY_MAC, GUEST_MAC, config};
use crate::stats::DropReason;
use crate::wire::ETHERNET_LEN;
use crate::wire::checksum::{Sum, checksum};

const INSIDE: &str = "MINIVMM_PING_INSIDE";
const WAIT: Duration = Duration::from_secs(5);
const FAMILIES: [(&str, &str); 2] = [("10.0.2.2", "192.0.2.1"), ("fd00:2::2", "2001:db8::1")];

/// Runs `body`, which is that of the test `name`, in user and network namespaces of its own. They
/// take a new process: this one has threads.
fn isolated(name: &str, body: impl FnOnce()) {
    if std::env::var_os(INSIDE).is_some() {
        return body();
    }
    let prepare = "set -e
        ip link set lo up mtu 1400
        ip addr add 192.0.2.1 dev lo
        ip addr add 192.0.2.2 dev lo
        ip addr add 2001:db8::1 dev lo nodad
        ip route add unreachable 198.51.100.1
        ip route add prohibit 198.51.100.2
        exec \"$@\"";
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user", "--net", "sh", "-c", prepare, "sh"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", &format!("gateway::ping::tests::{name}"), "--nocapture"])
        .env(INSIDE, "1")
        .output()
        .expect("unshare is there");
    let said = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "in its namespace: {said}\n{errors}");
    assert!(said.contains("1 passed"), "there is no test {name}: {said}");
}

/// The same where the host lets this user have ICMP sockets, as it does not by default.
fn with_sockets(name: &str, body: impl FnOnce()) {
    isolated(name, || {
        std::fs::write("/proc/sys/net/ipv4/ping_group_range", "0 0").unwrap();
        body();
    });
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// An echo message of the guest's, in its frame.
fn request(guest: IpAddr, remote: IpAddr, id: u16, data: &[u8]) -> Vec<u8> {
    let kind = if guest.is_ipv4() { kind4::ECHO_REQUEST } else { kind6::ECHO_REQUEST };
    let envelope = Envelope::new(GATEWAY_MAC, guest, remote, icmp_protocol(guest));
    let mut f = vec![0; envelope.header_len()];
    let len = ICMP_LEN + data.len();
    envelope.write(GUEST_MAC, len, &mut f);
    let at = f.len();
    f.extend([kind, 0, 0, 0]);
    f.extend(id.to_be_bytes());
    f.extend([0, 9]);
    f.extend(data);
    let mut sum = match guest {
        IpAddr::V4(_) => Sum::default(),
        IpAddr::V6(_) => Sum::pseudo_header(guest, remote, icmp_protocol(guest), len),
    };
    sum.bytes(&f[at..]);
    f[at + 2..at + 4].copy_from_slice(&sum.finish().to_be_bytes());
    f
}

/// Puts the frame into that traffic class.
fn set_class(frame: &mut [u8], class: u8) {
    if frame[12..14] == [8, 0] {
        frame[15] = class;
        frame[24..26].fill(0);
        let sum = checksum(&frame[14..34]);
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
    } else {
        (frame[14], frame[15]) = (0x60 | class >> 4, class << 4);
    }
}

fn ping(bed: &mut Bed, remote: &str, id: u16) -> TxOutcome {
    let remote = ip(remote);
    let guest = if remote.is_ipv4() { "10.0.2.2" } else { "fd00:2::2" };
    bed.send(&request(ip(guest), remote, id, b"hello"))
}

/// Handles events until something has come for the guest.
fn frames(bed: &mut Bed) -> Vec<Vec<u8>> {
    for _ in 0..10 {
        let frames = bed.received();
        if !frames.is_empty() {
            return frames;
        }
        bed.events(WAIT);
    }
    panic!("nothing came");
}

/// Handles the events there are, and takes what has come.
fn settle(bed: &mut Bed) -> Vec<Vec<u8>> {
    while bed.events(Duration::from_millis(50)) {}
    bed.received()
}

/// The identifiers that have a flow, in their order.
fn ids(bed: &Bed) -> Vec<u16> {
    let mut ids: Vec<u16> = bed.gateway.ping.flows.iter().map(|(_, f)| f.id).collect();
    ids.sort_unstable();
    ids
}

/// The identifier that the host's kernel gave a flow's socket.
fn host_id(bed: &Bed, i: u32) -> u16 {
    bed.gateway.ping.flows.get(i).unwrap().socket.local_addr().unwrap().port()
}

/// An echo reply from `from` to a socket with this identifier, as nobody asked for.
fn stray_reply(from: Ipv4Addr, id: u16) {
    stray(from, 0, id, 0);
}

/// Any ICMP message with an identifier, its checksum off by `wrong`.
fn stray(from: Ipv4Addr, kind: u8, id: u16, wrong: u16) {
    let mut bytes = [&[kind, 0, 0, 0][..], &id.to_be_bytes(), &[0, 1], b"stray"].concat();
    send_icmp(from, &mut bytes, wrong);
}

fn send_icmp(from: Ipv4Addr, bytes: &mut [u8], wrong: u16) {
    let socket = socket(AddressFamily::INET, SocketType::RAW, Some(ipproto::ICMP)).unwrap();
    bind(&socket, &SocketAddr::from((from, 0))).unwrap();
    let sum = checksum(bytes).wrapping_add(wrong);
    bytes[2..4].copy_from_slice(&sum.to_be_bytes());
    let to = SocketAddr::from((Ipv4Addr::new(192, 0, 2, 1), 0));
    sendto(&socket, bytes, SendFlags::empty(), &to).unwrap();
}

#[test]
fn a_request_goes_out_and_its_reply_comes_back() {
    with_sockets("a_request_goes_out_and_its_reply_comes_back", || round_trips(false));
}

#[test]
fn raw_sockets_stand_in_for_icmp_sockets() {
    isolated("raw_sockets_stand_in_for_icmp_sockets", || round_trips(true));
}

fn round_trips(raw: bool) {
    for (guest, remote) in FAMILIES {
        let mut bed = Bed::new();
        for len in [0, 1, 56, 1300] {
            let data: Vec<u8> = (0..len).map(|i| i as u8).collect();
            let mut sent = request(ip(guest), ip(remote), 0x1234, &data);
            set_class(&mut sent, 0x48);
            assert_eq!(bed.send(&sent), TxOutcome::Sent);
            let got = settle(&mut bed);
            let [got] = &got[..] else { panic!("not one frame: {}", got.len()) };
            let at = if ip(guest).is_ipv4() { 34 } else { 54 };
            assert_eq!(got.len(), sent.len());
            let (source, destination) =
                if ip(guest).is_ipv4() { (26..30, 30..34) } else { (22..38, 38..54) };
            assert_eq!(got[source.clone()], sent[destination.clone()]);
            assert_eq!(got[destination], sent[source]);
            assert_eq!(got[at], if ip(guest).is_ipv4() { 0 } else { 129 });
            // The guest's own identifier, sequence number and data.
            assert_eq!(got[at + 4..], sent[at + 4..]);
            // Linux answers in the class that it was asked in.
            let class = if ip(guest).is_ipv4() { got[15] } else { got[14] << 4 | got[15] >> 4 };
            assert_eq!(class, 0x48);
        }
        assert_eq!(ids(&bed), [0x1234]);
        assert_eq!(bed.gateway.ping.flows.get(0).unwrap().raw.is_some(), raw);
        assert_eq!(bed.stats.total_drops(), 0);
    }
}

#[test]
fn identifiers_are_bounded_and_the_least_recent_goes() {
    with_sockets("identifiers_are_bounded_and_the_least_recent_goes", || {
        let mut bed = Bed::new();
        for id in 0..64 {
            bed.advance(Duration::from_millis(1));
            assert_eq!(ping(&mut bed, "192.0.2.1", id), TxOutcome::Sent);
        }
        assert_eq!(ids(&bed), (0..64).collect::<Vec<_>>());
        assert_eq!(settle(&mut bed).len(), 64);
        // The oldest is used once more: now the second is.
        bed.advance(Duration::from_millis(1));
        ping(&mut bed, "192.0.2.1", 0);
        settle(&mut bed);
        bed.advance(Duration::from_millis(1));
        ping(&mut bed, "192.0.2.1", 64);
        assert_eq!(bed.gateway.ping.flows(), 64);
        assert!(ids(&bed).contains(&0) && ids(&bed).contains(&64) && !ids(&bed).contains(&1));
        assert_eq!(settle(&mut bed).len(), 1);
        // Another destination is another flow.
        ping(&mut bed, "192.0.2.2", 64);
        assert_eq!(bed.gateway.ping.flows(), 64);
        bed.detach();
        assert_eq!(bed.gateway.ping.flows(), 0);
    });
}

#[test]
fn an_identifier_lives_for_a_minute() {
    with_sockets("an_identifier_lives_for_a_minute", || {
        let mut bed = Bed::new();
        ping(&mut bed, "192.0.2.1", 1);
        frames(&mut bed);
        bed.advance(Duration::from_secs(40));
        ping(&mut bed, "192.0.2.1", 2);
        // A reply is a use too, at the time it comes.
        bed.advance(Duration::from_secs(10));
        frames(&mut bed);
        bed.advance(Duration::from_secs(9));
        assert_eq!(ids(&bed), [1, 2]);
        bed.advance(Duration::from_secs(1));
        assert_eq!(ids(&bed), [2]);
        bed.advance(Duration::from_secs(49));
        assert_eq!(ids(&bed), [2]);
        bed.advance(Duration::from_secs(1));
        assert_eq!(bed.gateway.ping.flows(), 0);
        assert_eq!(bed.gateway.ping.deadline(), None);
    });
}

#[test]
fn an_event_of_a_closed_flow_is_not_the_next_ones() {
    with_sockets("an_event_of_a_closed_flow_is_not_the_next_ones", || {
        let mut config = config();
        config.limits.ping = 1;
        let mut bed = Bed::with(config);
        ping(&mut bed, "192.0.2.1", 1);
        let old = bed.gateway.ping.flows.token(0).unwrap();
        ping(&mut bed, "192.0.2.1", 2);
        assert_eq!(ids(&bed), [2]);
        let new = bed.gateway.ping.flows.token(0).unwrap();
        // The reply to the second waits in its socket.
        let event = |bed: &mut Bed, token| {
            bed.run(|gateway, io| {
                let ctx = &mut Ctx { io, shared: &mut gateway.shared };
                gateway.ping.ready(ctx, token, Ready::IN);
            });
            bed.received().len()
        };
        assert_eq!(event(&mut bed, old), 0);
        // Nor is that of one that never was.
        assert_eq!(event(&mut bed, Token::new(source::PING, 9)), 0);
        assert_eq!(event(&mut bed, new), 1);
    });
}

#[test]
fn a_reply_of_another_host_is_unsolicited() {
    with_sockets("a_reply_of_another_host_is_unsolicited", || {
        let mut bed = Bed::new();
        ping(&mut bed, "192.0.2.1", 1);
        frames(&mut bed);
        let id = host_id(&bed, 0);
        stray_reply(Ipv4Addr::new(192, 0, 2, 2), id);
        assert_eq!(settle(&mut bed).len(), 0);
        assert_eq!(bed.stats.drops(DropReason::Unsolicited), 1);
        // From the host that was asked, it is a reply like any other.
        stray_reply(Ipv4Addr::new(192, 0, 2, 1), id);
        assert_eq!(settle(&mut bed).len(), 1);
        assert_eq!(bed.stats.drops(DropReason::Unsolicited), 1);
    });
}

#[test]
fn what_is_too_big_is_told_with_the_mtu() {
    with_sockets("what_is_too_big_is_told_with_the_mtu", too_big);
}

#[test]
fn what_is_too_big_for_a_raw_socket_is_told_too() {
    isolated("what_is_too_big_for_a_raw_socket_is_told_too", too_big);
}

fn too_big() {
    for (guest, remote) in FAMILIES {
        let mut bed = Bed::new();
        // The guest's IPv4 packets have DF set here; the way out takes 1400 bytes.
        let (headers, icmp) = if ip(guest).is_ipv4() { (20, [3, 4]) } else { (40, [2, 0]) };
        let sent = request(ip(guest), ip(remote), 7, &vec![1; 1401 - headers - ICMP_LEN]);
        assert_eq!(bed.send(&sent), TxOutcome::Dropped(DropReason::TooBig));
        let [got] = &settle(&mut bed)[..] else { panic!("not one frame") };
        let at = ETHERNET_LEN + headers;
        assert_eq!(got[at..at + 2], icmp);
        let mtu = u32::from_be_bytes(got[at + 4..at + 8].try_into().unwrap());
        assert_eq!(mtu, 1400, "{remote}");
        // It quotes the request, and nothing of the error stays behind.
        assert_eq!(got[at + 8..at + 28], sent[ETHERNET_LEN..ETHERNET_LEN + 20]);
        let sent = request(ip(guest), ip(remote), 7, &vec![1; 1400 - headers - ICMP_LEN]);
        assert_eq!(bed.send(&sent), TxOutcome::Sent);
        assert_eq!(frames(&mut bed).len(), 1);
    }
}

#[test]
fn what_the_host_cannot_reach_is_told() {
    with_sockets("what_the_host_cannot_reach_is_told", unreachable);
}

#[test]
fn what_a_raw_socket_cannot_reach_is_told_too() {
    isolated("what_a_raw_socket_cannot_reach_is_told_too", unreachable);
}

fn unreachable() {
    let mut bed = Bed::new();
    for (remote, code, reason) in [
        ("203.0.113.1", 0, DropReason::NoRoute),
        ("198.51.100.1", 1, DropReason::NoRoute),
        ("198.51.100.2", 13, DropReason::DestinationForbidden),
        ("127.0.0.1", 13, DropReason::DestinationForbidden),
        ("169.254.169.254", 13, DropReason::DestinationForbidden),
    ] {
        assert_eq!(ping(&mut bed, remote, 1), TxOutcome::Dropped(reason), "{remote}");
        let [got] = &settle(&mut bed)[..] else { panic!("{remote}: not one frame") };
        assert_eq!(got[34..36], [3, code], "{remote}");
    }
    let remote = Ipv6Addr::LOCALHOST.to_string();
    let outcome = TxOutcome::Dropped(DropReason::DestinationForbidden);
    assert_eq!(ping(&mut bed, &remote, 1), outcome);
    assert_eq!(settle(&mut bed)[0][54..56], [1, 1]);
}

#[test]
fn raw_sockets_hear_what_is_theirs() {
    isolated("raw_sockets_hear_what_is_theirs", || {
        let mut bed = Bed::new();
        for id in [1, 2] {
            ping(&mut bed, "192.0.2.1", id);
        }
        let raw: Vec<u16> = bed.gateway.ping.flows.iter().map(|(_, f)| f.raw.unwrap()).collect();
        assert_ne!(raw[0], raw[1]);
        assert_eq!(settle(&mut bed).len(), 2);
        let (remote, other) = (Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(192, 0, 2, 2));
        // Other programs' replies and other messages are not even seen; nor were the requests, which
        // came to this very host.
        let free = raw[0].wrapping_add(1).max(1);
        assert_ne!(free, raw[1]);
        for (kind, id) in [(0, free), (13, raw[0]), (3, raw[0])] {
            stray(remote, kind, id, 0);
            assert_eq!(settle(&mut bed).len(), 0, "{kind} {id}");
        }
        assert_eq!(bed.stats.total_drops(), 0);
        stray(other, 0, raw[0], 0);
        assert_eq!(settle(&mut bed).len(), 0);
        assert_eq!(bed.stats.drops(DropReason::Unsolicited), 1);
        stray(remote, 0, raw[0], 1);
        assert_eq!(settle(&mut bed).len(), 0);
        assert_eq!(bed.stats.drops(DropReason::BadChecksum), 1);
        stray(remote, 0, raw[0], 0);
        assert_eq!(settle(&mut bed)[0][38..40], [0, 1]);
    });
}

#[test]
fn raw_sockets_pass_on_errors_that_are_theirs() {
    isolated("raw_sockets_pass_on_errors_that_are_theirs", || {
        let mut bed = Bed::new();
        ping(&mut bed, "192.0.2.1", 0x1234);
        assert_eq!(settle(&mut bed).len(), 1);
        let raw = bed.gateway.ping.flows.get(0).unwrap().raw.unwrap();
        let (remote, other) = ([192, 0, 2, 1], [192, 0, 2, 2]);
        for (to, id, ours) in
            [(remote, raw.wrapping_add(1), false), (other, raw, false), (remote, raw, true)]
        {
            // Host unreachable, as a router says it of an echo request.
            let ip = [&[0x45, 0, 0, 28, 0, 0, 0, 0, 64, 1, 0, 0][..], &remote, &to].concat();
            let echo = [&[8, 0, 0, 0][..], &id.to_be_bytes(), &[0, 9]].concat();
            let mut error = [&[3, 1, 0, 0, 0, 0, 0, 0], &ip[..], &echo].concat();
            send_icmp(other.into(), &mut error, 0);
            let got = settle(&mut bed);
            assert_eq!(got.len(), usize::from(ours), "{to:?} {id}");
            if let Some(got) = got.first() {
                assert_eq!((&got[26..30], &got[34..36]), (&other[..], &[3, 1][..]));
                assert_eq!(got[42 + 24..42 + 26], [0x12, 0x34]);
            }
        }
    });
}

/// Counts what is said with `-v`.
#[derive(Default)]
struct Heard(AtomicU32);

impl Subscriber for Heard {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::INFO
    }

    fn event(&self, _: &Event<'_>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

/// This thread can't open raw sockets any more.
fn give_up_raw_sockets() {
    use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
    let mut sets = capabilities(None).unwrap();
    sets.effective.remove(CapabilitySet::NET_RAW);
    set_capabilities(None, sets).unwrap();
}

#[test]
fn without_the_right_to_sockets_it_is_prohibited() {
    isolated("without_the_right_to_sockets_it_is_prohibited", || {
        give_up_raw_sockets();
        let said_once = Arc::new(Heard::default());
        let _guard = tracing::subscriber::set_default(said_once.clone());
        let mut bed = Bed::new();
        for (remote, at, said) in [("192.0.2.1", 34, [3, 13]), ("2001:db8::1", 54, [1, 1])] {
            for id in [1, 2] {
                let outcome = ping(&mut bed, remote, id);
                assert_eq!(outcome, TxOutcome::Dropped(DropReason::SocketFailed));
                assert_eq!(settle(&mut bed)[0][at..at + 2], said);
            }
        }
        assert_eq!(bed.gateway.ping.flows(), 0);
        assert_eq!(said_once.0.load(Ordering::Relaxed), 1);
    });
}
