use std::net::{IpAddr, UdpSocket};
use std::time::Duration;

use rustix::process::{Resource, setrlimit};

use super::table::Class;
use super::*;
use crate::frame::TxOutcome;
use crate::gateway::config::{Ipv6Mode, Publish, Redirect};
use crate::gateway::testing::{Bed, GATEWAY_MAC, alone, config, no_descriptors, udp_frame};
use crate::port::Backend;
use crate::stats::DropReason;
use crate::sys::dgram::batch::Batch;
use crate::wire::checksum::{Sum, checksum};
use crate::wire::{protocol, u16_at};

const WAIT: Duration = Duration::from_secs(5);

fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn peer(at: &str) -> UdpSocket {
    let socket = UdpSocket::bind(at).unwrap();
    socket.set_read_timeout(Some(WAIT)).unwrap();
    socket
}

/// A gateway at which `from` leads to `to`.
fn redirected(pairs: &[(&str, &UdpSocket)]) -> Bed {
    let mut config = config();
    for (from, to) in pairs {
        let (from, to) = (addr(from), to.local_addr().unwrap());
        config.redirects.push(Redirect { transport: Transport::Udp, from, to });
    }
    Bed::with(config)
}

/// A datagram that the guest got: from, to, payload; its checksums are right.
fn parse(frame: &[u8]) -> (SocketAddr, SocketAddr, Vec<u8>) {
    let (src, dst, at): (IpAddr, IpAddr, usize) = match u16_at(frame, 12) {
        0x0800 => {
            assert_eq!(checksum(&frame[14..34]), 0);
            let ip = |at: usize| IpAddr::from(<[u8; 4]>::try_from(&frame[at..at + 4]).unwrap());
            (ip(26), ip(30), 34)
        }
        _ => {
            let ip = |at: usize| IpAddr::from(<[u8; 16]>::try_from(&frame[at..at + 16]).unwrap());
            (ip(22), ip(38), 54)
        }
    };
    let mut sum = Sum::pseudo_header(src, dst, protocol::UDP, frame.len() - at);
    sum.bytes(&frame[at..]);
    assert_eq!(sum.finish(), 0, "UDP checksum");
    assert_eq!(usize::from(u16_at(frame, at + 4)), frame.len() - at);
    let (from, to) = (u16_at(frame, at), u16_at(frame, at + 2));
    (SocketAddr::new(src, from), SocketAddr::new(dst, to), frame[at + 8..].to_vec())
}

/// The next datagram for the guest.
fn next(bed: &mut Bed) -> (SocketAddr, SocketAddr, Vec<u8>) {
    for _ in 0..10 {
        let frames = bed.received();
        if let Some(frame) = frames.first() {
            assert_eq!(frames.len(), 1);
            return parse(frame);
        }
        bed.events(WAIT);
    }
    panic!("nothing came");
}

fn nothing_comes(bed: &mut Bed) {
    while bed.events(Duration::from_millis(20)) {}
    assert_eq!(bed.received().len(), 0);
}

#[test]
fn a_datagram_goes_out_and_its_answer_comes_back() {
    for (guest, remote, loopback) in [
        ("10.0.2.2:4000", "192.0.2.1:7", "127.0.0.1:0"),
        ("[fd00:2::2]:4000", "[2001:db8::1]:7", "[::1]:0"),
        // The families need not be the same.
        ("10.0.2.2:4000", "192.0.2.1:7", "[::1]:0"),
    ] {
        let host = peer(loopback);
        let mut bed = redirected(&[(remote, &host)]);
        for len in [0, 1, 5, 200, 1400] {
            let payload: Vec<u8> = (0..len).map(|i| i as u8).collect();
            assert_eq!(bed.send_udp(addr(guest), addr(remote), &payload), TxOutcome::Sent);
            let mut buffer = [0; 2000];
            let (n, from) = host.recv_from(&mut buffer).unwrap();
            assert_eq!(buffer[..n], payload);
            host.send_to(&payload, from).unwrap();
            assert_eq!(next(&mut bed), (addr(remote), addr(guest), payload));
        }
        assert_eq!(bed.gateway.udp.flows(), 1);
    }
}

#[test]
fn the_networks_congestion_marks_reach_the_guest() {
    let host = peer("127.0.0.1:0");
    let mut bed = redirected(&[("192.0.2.1:7", &host)]);
    bed.send_udp(addr("10.0.2.2:4000"), addr("192.0.2.1:7"), b"x");
    let (_, back) = host.recv_from(&mut [0; 8]).unwrap();
    rustix::net::sockopt::set_ip_tos(&host, 0xb8 | 1).unwrap();
    host.send_to(b"y", back).unwrap();
    bed.events(WAIT);
    assert_eq!(bed.received()[0][15], 0xb8 | 1);
}

#[test]
fn one_endpoint_has_one_port_whatever_it_speaks_with() {
    let (a, b) = (peer("127.0.0.1:0"), peer("127.0.0.1:0"));
    let mut bed = redirected(&[("192.0.2.1:7", &a), ("192.0.2.2:7", &b)]);
    bed.send_udp(addr("10.0.2.2:4000"), addr("192.0.2.1:7"), b"x");
    bed.send_udp(addr("10.0.2.2:4000"), addr("192.0.2.2:7"), b"x");
    bed.send_udp(addr("10.0.2.2:4001"), addr("192.0.2.2:7"), b"x");
    let port = |s: &UdpSocket| s.recv_from(&mut [0; 8]).unwrap().1.port();
    let (first, second, third) = (port(&a), port(&b), port(&b));
    assert_eq!(first, second);
    assert_ne!(first, third);
    assert_eq!((bed.gateway.udp.flows(), bed.gateway.udp.sockets.len()), (3, 2));
}

#[test]
fn strangers_are_not_heard() {
    let (known, stranger) = (peer("127.0.0.1:0"), peer("127.0.0.2:0"));
    let mut bed = redirected(&[("192.0.2.1:7", &known)]);
    bed.send_udp(addr("10.0.2.2:4000"), addr("192.0.2.1:7"), b"x");
    let (_, port) = known.recv_from(&mut [0; 8]).unwrap();
    stranger.send_to(b"boo", port).unwrap();
    nothing_comes(&mut bed);
    assert_eq!(bed.stats.drops(DropReason::Unsolicited), 1);
}

#[test]
fn flows_end_when_their_time_is_over() {
    let host = peer("127.0.0.1:0");
    let mut bed = redirected(&[("192.0.2.1:7", &host), ("192.0.2.1:53", &host)]);
    bed.send_udp(addr("10.0.2.2:4000"), addr("192.0.2.1:7"), b"x");
    let (_, back) = host.recv_from(&mut [0; 8]).unwrap();
    bed.advance(Duration::from_secs(119));
    assert_eq!(bed.gateway.udp.flows(), 1);
    // An answer makes it a conversation.
    host.send_to(b"y", back).unwrap();
    next(&mut bed);
    bed.advance(Duration::from_secs(179));
    assert_eq!(bed.gateway.udp.flows(), 1);
    bed.advance(Duration::from_secs(2));
    assert_eq!((bed.gateway.udp.flows(), bed.gateway.udp.sockets.len()), (0, 0));

    bed.send_udp(addr("10.0.2.2:4000"), addr("192.0.2.1:7"), b"x");
    bed.send_udp(addr("10.0.2.2:4001"), addr("192.0.2.1:53"), b"x");
    bed.advance(Duration::from_secs(16));
    assert_eq!(bed.gateway.udp.flows(), 1);
    bed.advance(Duration::from_secs(105));
    assert_eq!(bed.gateway.udp.sockets.len(), 0);
}

#[test]
fn the_table_is_bounded_and_the_oldest_goes() {
    let host = peer("127.0.0.1:0");
    let mut config = config();
    config.limits.udp = 4;
    let to = host.local_addr().unwrap();
    let from = addr("192.0.2.1:7");
    config.redirects.push(Redirect { transport: Transport::Udp, from, to });
    let mut bed = Bed::with(config);
    for port in 0..100 {
        bed.advance(Duration::from_millis(1));
        bed.send_udp(SocketAddr::new([10, 0, 2, 2].into(), 4000 + port), from, b"x");
        assert!(bed.gateway.udp.flows() <= 4 && bed.gateway.udp.sockets.len() <= 4);
    }
    let first = addr("10.0.2.2:4096");
    assert!(bed.gateway.udp.table.find(first, from).is_some());
    bed.run(|gateway, io| gateway.detached(io.now, io.poll));
    assert_eq!((bed.gateway.udp.flows(), bed.gateway.udp.sockets.len()), (0, 0));
}

#[test]
fn without_buffers_the_socket_is_not_read() {
    let host = peer("127.0.0.1:0");
    let mut bed = redirected(&[("192.0.2.1:7", &host)]);
    bed.send_udp(addr("10.0.2.2:4000"), addr("192.0.2.1:7"), b"x");
    let (_, back) = host.recv_from(&mut [0; 8]).unwrap();
    bed.ring.full = true;
    for n in 0..100u8 {
        host.send_to(&[n], back).unwrap();
    }
    nothing_comes(&mut bed);
    assert_eq!(bed.gateway.deadline().map(|due| due > bed.now), Some(true), "nothing spins");
    bed.ring.full = false;
    bed.run(|gateway, io| gateway.rx_available(io));
    // The budget's end is no end: the rest comes at once, without another event.
    while bed.gateway.deadline().is_some_and(|due| due <= bed.now) {
        bed.run(|gateway, io| gateway.expire(io));
    }
    let got: Vec<u8> = bed.received().iter().map(|f| parse(f).2[0]).collect();
    assert_eq!(got, (0..100).collect::<Vec<u8>>());
    assert_eq!(bed.stats.total_drops(), 0);
}

#[test]
fn a_datagram_larger_than_the_link_comes_in_fragments() {
    let host = peer("127.0.0.1:0");
    let mut bed = redirected(&[("192.0.2.1:7", &host)]);
    bed.send_udp(addr("10.0.2.2:4000"), addr("192.0.2.1:7"), b"x");
    let (_, back) = host.recv_from(&mut [0; 8]).unwrap();
    let payload: Vec<u8> = (0..4000u32).map(|i| (i % 251) as u8).collect();
    host.send_to(&payload, back).unwrap();
    bed.events(WAIT);
    let frames = bed.received();
    assert_eq!(frames.len(), 3);
    let mut whole = Vec::new();
    for (i, frame) in frames.iter().enumerate() {
        assert!(frame.len() <= 1514);
        assert_eq!(checksum(&frame[14..34]), 0);
        let field = u16_at(frame, 20);
        assert_eq!(usize::from(field & 0x1fff) * 8, whole.len());
        assert_eq!(field & 0xe000, if i < 2 { 0x2000 } else { 0 });
        assert_eq!(u16_at(frame, 18), u16_at(&frames[0], 18));
        whole.extend(&frame[34..]);
    }
    assert_eq!(whole[8..], payload);
    let mut sum = Sum::pseudo_header(
        "192.0.2.1".parse().unwrap(),
        "10.0.2.2".parse().unwrap(),
        protocol::UDP,
        whole.len(),
    );
    sum.bytes(&whole);
    assert_eq!(sum.finish(), 0);
}

#[test]
fn a_batch_arrives_as_it_was_sent() {
    for (guest, remotes, loopback) in [
        ("10.0.2.2:4000", ["192.0.2.1:7", "192.0.2.2:7"], "127.0.0.1:0"),
        ("[fd00:2::2]:4000", ["[2001:db8::1]:7", "[2001:db8::2]:7"], "[::1]:0"),
    ] {
        let host = peer(loopback);
        let mut bed = redirected(&[(remotes[0], &host), (remotes[1], &host)]);
        // Equal ones, a shorter and a longer one, an empty one, one that is too large to be copied;
        // then more than one call takes. Every third is another flow's of the same socket.
        let mixed = [100, 100, 100, 100, 40, 100, 0, 101, 20000, 5, 5, 4, 4].to_vec();
        for (sizes, flows) in
            [(mixed.clone(), 1), (mixed, 3), (vec![300; 100], 1), (vec![1; 70], 3)]
        {
            for (n, size) in sizes.iter().enumerate() {
                let remote = addr(remotes[usize::from(n % flows == 1)]);
                let f = udp_frame(GATEWAY_MAC, addr(guest), remote, &vec![n as u8; *size]);
                assert_eq!(bed.send(&f), TxOutcome::Sent);
            }
            bed.run(|gateway, io| gateway.batch_end(io));
            for (n, size) in sizes.iter().enumerate() {
                let mut buffer = [0; 30000];
                let (len, _) = host.recv_from(&mut buffer).unwrap();
                assert_eq!(buffer[..len], vec![n as u8; *size], "datagram {n}");
            }
        }
        assert_eq!(bed.stats.total_drops(), 0);
    }
}

#[test]
fn what_the_hosts_kernel_put_together_comes_apart() {
    for (guest, remote, loopback) in [
        ("10.0.2.2:4000", "192.0.2.1:7", "127.0.0.1:0"),
        ("[fd00:2::2]:4000", "[2001:db8::1]:7", "[::1]:0"),
    ] {
        for offloads in [false, true] {
            let host = Dgram::listen(addr(loopback)).unwrap();
            let mut config = config();
            let (from, to) = (addr(remote), host.local_addr().unwrap());
            config.redirects.push(Redirect { transport: Transport::Udp, from, to });
            let mut bed = Bed::with(config);
            bed.ring.offloads.checksum = offloads;
            bed.send_udp(addr(guest), addr(remote), b"x");
            let mut batch = Batch::default();
            batch.receive(&host).unwrap();
            let back = batch.current().unwrap().from;
            // More than one message holds, and than the budget of a turn.
            let bytes: Vec<u8> = (0..60_000u32).map(|i| (i % 251) as u8).collect();
            for _ in 0..2 {
                host.send_segments(&bytes, 1000, back, None).unwrap();
            }
            bed.events(WAIT);
            while bed.gateway.deadline().is_some_and(|due| due <= bed.now) {
                bed.run(|gateway, io| gateway.expire(io));
            }
            let frames: Vec<_> = bed.ring.frames.drain(..).collect();
            let at = if addr(guest).is_ipv4() { 34 } else { 54 };
            let mut got: Vec<u8> = Vec::new();
            for (frame, offload) in frames.iter().filter(|(f, _)| f[at - 11] == 17 || f[20] == 17) {
                assert_eq!(frame.len(), at + 8 + 1000);
                assert_eq!(offload.checksum.is_some(), offloads);
                if !offloads {
                    assert_eq!(parse(frame).0, addr(remote));
                }
                got.extend(&frame[at + 8..]);
            }
            assert!(got == [&bytes[..], &bytes[..]].concat());
            assert_eq!(bed.gateway.udp.flows(), 1);
        }
    }
}

#[test]
fn headers_are_not_mixed() {
    let host = Dgram::listen(addr("127.0.0.1:0")).unwrap();
    let mut config = config();
    let (from, to) = (addr("192.0.2.1:7"), host.local_addr().unwrap());
    config.redirects.push(Redirect { transport: Transport::Udp, from, to });
    let mut bed = Bed::with(config);
    let classes = [0, 0, 0xb8, 0xb8, 0];
    for class in classes {
        let mut f = udp_frame(GATEWAY_MAC, addr("10.0.2.2:4000"), addr("192.0.2.1:7"), b"same");
        f[15] = class;
        f[24..26].fill(0);
        let sum = checksum(&f[14..34]);
        f[24..26].copy_from_slice(&sum.to_be_bytes());
        assert_eq!(bed.send(&f), TxOutcome::Sent);
    }
    bed.run(|gateway, io| gateway.batch_end(io));
    let mut batch = Batch::default();
    for class in classes {
        if batch.current().is_none() {
            batch.receive(&host).unwrap();
        }
        let got = batch.current().unwrap();
        assert_eq!((got.len, got.traffic_class), (4, class));
        batch.advance();
    }
}

#[test]
fn each_datagram_of_a_batch_has_its_own_error() {
    // The loopback takes 64 KiB, but no datagram for a broadcast address.
    let mut config = config();
    let (from, to) = (addr("192.0.2.1:7"), addr("255.255.255.255:9"));
    config.redirects.push(Redirect { transport: Transport::Udp, from, to });
    let mut bed = Bed::with(config);
    for n in 0..3u8 {
        let f = udp_frame(GATEWAY_MAC, addr("10.0.2.2:4000"), from, &[n; 40]);
        assert_eq!(bed.send(&f), TxOutcome::Sent);
    }
    bed.run(|gateway, io| gateway.batch_end(io));
    assert_eq!(bed.stats.drops(DropReason::DestinationForbidden), 3);
    let frames = bed.received();
    assert_eq!(frames.len(), 3);
    for (n, frame) in frames.iter().enumerate() {
        // Prohibited, by the gateway, about that datagram.
        assert_eq!((&frame[26..30], &frame[34..36]), (&[10, 0, 2, 1][..], &[3, 13][..]));
        assert_eq!(frame[54..62], [10, 0, 2, 2, 192, 0, 2, 1]);
        assert_eq!((u16_at(frame, 62), u16_at(frame, 64)), (4000, 7));
        assert_eq!(frame[70..], [n as u8; 40]);
    }
}

#[test]
fn a_closed_port_is_told() {
    let closed = peer("127.0.0.1:0");
    let mut bed = redirected(&[("192.0.2.1:7", &closed)]);
    drop(closed);
    bed.send_udp(addr("10.0.2.2:4000"), addr("192.0.2.1:7"), b"hello");
    bed.events(WAIT);
    let frames = bed.received();
    assert_eq!(frames.len(), 1);
    let icmp = &frames[0][34..];
    // Port unreachable from the remote host, about a datagram of the guest's to port 7.
    assert_eq!(frames[0][26..30], [192, 0, 2, 1]);
    assert_eq!((frames[0][23], icmp[0], icmp[1]), (1, 3, 3));
    assert_eq!(checksum(icmp), 0);
    assert_eq!(icmp[20..28], [10, 0, 2, 2, 192, 0, 2, 1]);
    assert_eq!((u16_at(icmp, 28), u16_at(icmp, 30)), (4000, 7));
    assert_eq!(&icmp[36..], b"hello");
}

#[test]
fn what_policy_forbids_is_told() {
    let mut bed = Bed::new();
    for to in ["127.0.0.1:7", "169.254.169.254:80", "10.0.2.9:7", "0.0.0.0:7"] {
        let outcome = bed.send_udp(addr("10.0.2.2:4000"), addr(to), b"x");
        assert_eq!(outcome, TxOutcome::Dropped(DropReason::DestinationForbidden), "{to}");
    }
    let outcome = bed.send_udp(addr("[fd00:2::2]:4000"), addr("[::1]:7"), b"x");
    assert_eq!(outcome, TxOutcome::Dropped(DropReason::DestinationForbidden));
    let frames = bed.received();
    // Not about 0.0.0.0: that is no host to speak of.
    assert_eq!(frames.len(), 4);
    assert_eq!(frames[0][34..36], [3, 13]);
    assert_eq!(frames[3][54..56], [1, 1]);
    assert_eq!(bed.gateway.udp.flows(), 0);
    assert_eq!(bed.gateway.udp.sockets.len(), 0);
}

#[test]
fn a_wrong_checksum_or_length_is_dropped() {
    let host = peer("127.0.0.1:0");
    let mut bed = redirected(&[("192.0.2.1:7", &host)]);
    let (guest, remote) = (addr("10.0.2.2:4000"), addr("192.0.2.1:7"));
    let mut long = udp_frame(GATEWAY_MAC, guest, remote, &[1; 600]);
    long[500] ^= 1;
    assert_eq!(bed.send(&long), TxOutcome::Dropped(DropReason::BadChecksum));
    let mut f = udp_frame(GATEWAY_MAC, guest, remote, b"hello");
    f[40..42].fill(0);
    assert_eq!(bed.send(&f), TxOutcome::Sent, "none at all is allowed");
    f[38..40].copy_from_slice(&14u16.to_be_bytes());
    assert_eq!(bed.send(&f), TxOutcome::Dropped(DropReason::Malformed));
    f[38..40].copy_from_slice(&7u16.to_be_bytes());
    assert_eq!(bed.send(&f), TxOutcome::Dropped(DropReason::Malformed));
    bed.run(|gateway, io| gateway.batch_end(io));
    let (n, _) = host.recv_from(&mut [0; 16]).unwrap();
    assert_eq!(n, 5);
}

#[test]
fn an_open_checksum_is_udps_own_or_the_datagram_is_dropped() {
    let host = peer("127.0.0.1:0");
    let host6 = peer("[::1]:0");
    let mut bed = redirected(&[("192.0.2.1:7", &host), ("[2001:db8::1]:7", &host6)]);
    for (guest, remote, host, start) in [
        ("10.0.2.2:4000", "192.0.2.1:7", &host, 34),
        ("[fd00:2::2]:4000", "[2001:db8::1]:7", &host6, 54),
    ] {
        let mut f = udp_frame(GATEWAY_MAC, addr(guest), addr(remote), b"hello");
        // Only the pseudo-header's sum stands there.
        f[usize::from(start) + 6] ^= 1;
        for (start, offset) in [(start, 16), (start, 7), (start + 2, 6), (start - 6, 6), (14, 10)] {
            let dropped = TxOutcome::Dropped(DropReason::BadOffload);
            assert_eq!(bed.send_open(&f, start, offset), dropped, "{start} {offset}");
        }
        assert_eq!(bed.send_open(&f, start, 6), TxOutcome::Sent);
        bed.run(|gateway, io| gateway.batch_end(io));
        let (n, _) = host.recv_from(&mut [0; 16]).unwrap();
        assert_eq!(n, 5);
    }
}

#[test]
fn over_ipv6_no_checksum_is_a_wrong_one() {
    let host = peer("[::1]:0");
    let mut bed = redirected(&[("[2001:db8::1]:7", &host)]);
    let (guest, remote) = (addr("[fd00:2::2]:4000"), addr("[2001:db8::1]:7"));
    // The payload makes the sum 0, which is sent as its complement.
    let mut f = udp_frame(GATEWAY_MAC, guest, remote, &[0, 0]);
    let sum = [f[60], f[61]];
    let f2 = udp_frame(GATEWAY_MAC, guest, remote, &sum);
    assert_eq!(f2[60..62], [0xff, 0xff]);
    assert_eq!(bed.send(&f2), TxOutcome::Sent);
    f = f2;
    f[60..62].fill(0);
    assert_eq!(bed.send(&f), TxOutcome::Dropped(DropReason::BadChecksum));
}

/// A gateway that publishes UDP port 80 of the guest's, and where.
fn published(listen: &str) -> (Bed, SocketAddr) {
    let mut config = config();
    config.publish.push(Publish {
        transport: Transport::Udp,
        listen: addr(listen),
        guest_port: 80,
    });
    let mut bed = Bed::with(config);
    let socket = bed.gateway.udp.sockets.get(0).unwrap();
    let at = socket.dgram.local_addr().unwrap();
    (bed, at)
}

#[test]
fn a_published_port_leads_to_the_guest_and_back() {
    let (mut bed, at) = published("0.0.0.0:0");
    let (a, b) = (peer("127.0.0.1:0"), peer("127.0.0.1:0"));
    let mut seen = Vec::new();
    for (client, to) in [(&a, "127.0.0.1"), (&b, "127.0.0.5")] {
        client.send_to(b"ping", (to, at.port())).unwrap();
        let (from, guest, payload) = next(&mut bed);
        // The host's own clients are shown as the gateway's.
        assert_eq!(from.ip(), IpAddr::from([10, 0, 2, 1]));
        assert_eq!((guest, payload), (addr("10.0.2.2:80"), b"ping".to_vec()));
        seen.push(from);
    }
    assert_ne!(seen[0], seen[1]);
    for (client, from, to) in [(&a, seen[0], "127.0.0.1"), (&b, seen[1], "127.0.0.5")] {
        assert_eq!(bed.send_udp(addr("10.0.2.2:80"), from, b"pong"), TxOutcome::Sent);
        let (n, answerer) = client.recv_from(&mut [0; 8]).unwrap();
        assert_eq!(n, 4);
        assert_eq!(answerer, SocketAddr::new(to.parse().unwrap(), at.port()));
    }
}

/// A gateway for four flows, at which 192.0.2.1:7 leads to the socket and the guest's port 80 is
/// published at the address.
fn small() -> (Bed, UdpSocket, SocketAddr) {
    small_for(4)
}

fn small_for(flows: usize) -> (Bed, UdpSocket, SocketAddr) {
    let host = peer("127.0.0.1:0");
    let mut config = config();
    config.limits.udp = flows;
    let (from, to) = (addr("192.0.2.1:7"), host.local_addr().unwrap());
    config.redirects.push(Redirect { transport: Transport::Udp, from, to });
    let listen = addr("127.0.0.1:0");
    config.publish.push(Publish { transport: Transport::Udp, listen, guest_port: 80 });
    let mut bed = Bed::with(config);
    let at = bed.gateway.udp.sockets.get(0).unwrap().dgram.local_addr().unwrap();
    (bed, host, at)
}

/// A client whose question at a published port the guest has answered.
fn answered_client(bed: &mut Bed, at: SocketAddr) -> UdpSocket {
    let client = peer("127.0.0.1:0");
    client.send_to(b"ping", at).unwrap();
    let (who, guest, _) = next(bed);
    assert_eq!(bed.send_udp(guest, who, b"pong"), TxOutcome::Sent);
    assert_eq!(client.recv_from(&mut [0; 8]).unwrap(), (4, at));
    client
}

#[test]
fn strangers_cannot_push_the_guests_flows_out() {
    let (guest, remote) = (addr("10.0.2.2:4000"), addr("192.0.2.1:7"));
    let (mut bed, _host, at) = small();
    bed.send_udp(guest, remote, b"x");
    for _ in 0..20 {
        peer("127.0.0.1:0").send_to(b"x", at).unwrap();
    }
    while bed.events(Duration::from_millis(20)) {}
    assert_eq!(bed.gateway.udp.flows(), 4);
    assert!(bed.gateway.udp.table.find(guest, remote).is_some());

    // Nor by being answered.
    let (mut bed, _host, at) = small();
    bed.send_udp(guest, remote, b"x");
    let clients: Vec<_> = (0..8).map(|_| answered_client(&mut bed, at)).collect();
    assert_eq!((clients.len(), bed.gateway.udp.flows()), (8, 4));
    assert!(bed.gateway.udp.table.find(guest, remote).is_some());
}

/// The flow that goes first where the table is full may be one of a published port, which has no
/// descriptor of its own, or one of several of its endpoint.
#[test]
fn out_of_descriptors_the_idlest_endpoint_gives_its_own() {
    if !alone("gateway::udp::tests::out_of_descriptors_the_idlest_endpoint_gives_its_own") {
        return;
    }
    let (mut bed, host, at) = small_for(64);
    let (remote, other) = (addr("192.0.2.1:7"), addr("192.0.2.2:7"));
    let second = peer("127.0.0.1:0");
    let to = second.local_addr().unwrap();
    let redirects = &mut bed.gateway.shared.config.redirects;
    redirects.push(Redirect { transport: Transport::Udp, from: other, to });
    let (idle, busy, new) = (addr("10.0.2.2:4000"), addr("10.0.2.2:4001"), addr("10.0.2.2:4002"));
    for (guest, to) in [(busy, remote), (idle, remote), (idle, other), (busy, other)] {
        bed.send_udp(guest, to, b"x");
        bed.advance(Duration::from_secs(1));
    }
    bed.send_udp(busy, remote, b"x");
    let _client = answered_client(&mut bed, at);
    let flows = bed.gateway.udp.flows();
    no_descriptors();
    assert_eq!(bed.send_udp(new, remote, b"new"), TxOutcome::Sent);
    let mut buffer = [0; 8];
    while host.recv_from(&mut buffer).unwrap().0 != 3 {}
    assert_eq!(&buffer[..3], b"new");
    // Two went.
    assert_eq!(bed.gateway.udp.flows(), flows - 1);
    let table = &bed.gateway.udp.table;
    assert!(table.find(busy, remote).is_some() && table.find(idle, remote).is_none());
    assert!(bed.gateway.udp.sockets.get(0).is_some_and(|published| published.flows == 1));
}

#[test]
fn a_guest_is_told_that_there_are_no_descriptors() {
    if !alone("gateway::udp::tests::a_guest_is_told_that_there_are_no_descriptors") {
        return;
    }
    let (mut bed, host, at) = small_for(64);
    let _client = answered_client(&mut bed, at);
    bed.received();
    let limit = no_descriptors();
    let (guest, remote) = (addr("10.0.2.2:4000"), addr("192.0.2.1:7"));
    let outcome = bed.send_udp(guest, remote, b"x");
    assert_eq!(outcome, TxOutcome::Dropped(DropReason::SocketFailed));
    let told = bed.received();
    // ICMP: destination unreachable, administratively prohibited (RFC 1812 §5.2.7.1).
    assert_eq!(told.iter().map(|f| [f[23], f[34], f[35]]).collect::<Vec<_>>(), [[1, 3, 13]]);
    setrlimit(Resource::Nofile, limit).unwrap();
    bed.send_udp(guest, remote, b"x");
    assert_eq!(host.recv_from(&mut [0; 8]).unwrap().0, 1);
}

#[test]
fn a_client_is_served_on_in_the_family_that_it_began_in() {
    let ask = |bed: &mut Bed, client: &UdpSocket, at: SocketAddr| {
        client.send_to(&[7; 100], at).unwrap();
        let (from, guest, payload) = next(bed);
        assert_eq!(payload, [7; 100]);
        assert_eq!(bed.send_udp(guest, from, b"pong"), TxOutcome::Sent);
        assert_eq!(client.recv_from(&mut [0; 8]).unwrap(), (4, at));
        guest
    };
    let (mut bed, at) = published("[::1]:0");
    let (early, late) = (peer("[::1]:0"), peer("[::1]:0"));
    assert_eq!(ask(&mut bed, &early, at), addr("10.0.2.2:80"));
    let v6 = "fd00:2::2".parse().unwrap();
    bed.gateway.shared.link.learn(v6, crate::gateway::testing::GUEST_MAC);
    assert_eq!(ask(&mut bed, &late, at), SocketAddr::new(v6, 80));
    assert_eq!(ask(&mut bed, &early, at), addr("10.0.2.2:80"));
    bed.detach();
    assert_eq!(ask(&mut bed, &late, at), addr("10.0.2.2:80"));
}

/// A gateway that offers IPv6 while the host has it.
fn auto(config: GatewayConfig) -> Bed {
    let mut bed = Bed::with(GatewayConfig { ipv6: Ipv6Mode::Auto, ..config });
    bed.reach(true);
    bed
}

#[test]
fn flows_live_on_when_ipv6_goes() {
    let host = peer("[::1]:0");
    let (from, to) = (addr("[2001:db8::1]:7"), host.local_addr().unwrap());
    let redirects = vec![Redirect { transport: Transport::Udp, from, to }];
    let publish =
        vec![Publish { transport: Transport::Udp, listen: addr("[::1]:0"), guest_port: 80 }];
    let mut bed = auto(GatewayConfig { redirects, publish, ..config() });
    let at = bed.gateway.udp.sockets.get(0).unwrap().dgram.local_addr().unwrap();
    let guest = addr("[fd00:2::2]:4000");
    bed.send_udp(guest, from, b"x");
    let (_, back) = host.recv_from(&mut [0; 8]).unwrap();
    let (early, late) = (peer("[::1]:0"), peer("[::1]:0"));
    early.send_to(b"ping", at).unwrap();
    assert_eq!(next(&mut bed).1, addr("[fd00:2::2]:80"));

    bed.reach(false);
    bed.advance(Duration::ZERO);
    bed.received();
    assert_eq!(bed.send_udp(guest, from, b"x"), TxOutcome::Sent);
    host.send_to(b"y", back).unwrap();
    assert_eq!(next(&mut bed), (from, guest, b"y".to_vec()));
    // A client that was there before, and one that comes now.
    for (client, to) in [(&early, "[fd00:2::2]:80"), (&late, "10.0.2.2:80")] {
        client.send_to(b"ping", at).unwrap();
        let (who, guest, _) = next(&mut bed);
        assert_eq!(guest, addr(to));
        assert_eq!(bed.send_udp(guest, who, b"pong"), TxOutcome::Sent);
        assert_eq!(client.recv_from(&mut [0; 8]).unwrap(), (4, at));
    }
}

#[test]
fn a_published_port_is_the_source_whoever_the_guest_speaks_with() {
    let (mut bed, host, at) = small();
    let (server, remote) = (addr("10.0.2.2:80"), addr("192.0.2.1:7"));
    assert_eq!(bed.send_udp(server, remote, b"x"), TxOutcome::Sent);
    assert_eq!(host.recv_from(&mut [0; 8]).unwrap(), (1, at));
    host.send_to(b"y", at).unwrap();
    assert_eq!(next(&mut bed), (remote, server, b"y".to_vec()));
    // Another port, and another station behind the guest, are other endpoints.
    for other in ["10.0.2.2:81", "10.0.2.9:80"] {
        assert_eq!(bed.send_udp(addr(other), remote, b"x"), TxOutcome::Sent);
        assert_ne!(host.recv_from(&mut [0; 8]).unwrap().1, at, "{other}");
    }
}

#[test]
fn a_published_port_is_no_source_where_it_does_not_lead() {
    let sockets = |listen: &str| {
        let mut sockets = Sockets::new();
        let owner = Owner::Published { port: 80, listen: addr(listen).ip() };
        sockets.insert(Dgram::listen(addr(listen)).unwrap(), owner);
        sockets
    };
    for (listen, host, fits) in [
        ("0.0.0.0:0", "192.0.2.1:7", true),
        ("0.0.0.0:0", "127.0.0.1:7", true),
        ("0.0.0.0:0", "[2001:db8::1]:7", false),
        ("[::]:0", "[2001:db8::1]:7", true),
        ("[::]:0", "192.0.2.1:7", false),
        ("127.0.0.1:0", "192.0.2.1:7", false),
        ("127.0.0.1:0", "127.0.0.5:7", true),
        ("[::1]:0", "[2001:db8::1]:7", false),
    ] {
        let found = sockets(listen).find_published(80, addr(host));
        assert_eq!(found.is_some(), fits, "{listen} {host}");
        assert_eq!(sockets(listen).find_published(81, addr(host)), None);
    }
}

#[test]
fn clients_that_ask_at_once_are_all_answered() {
    let (mut bed, _host, at) = small();
    let _before: Vec<_> = (0..4).map(|_| answered_client(&mut bed, at)).collect();
    let clients = [peer("127.0.0.1:0"), peer("127.0.0.1:0")];
    for client in &clients {
        client.send_to(b"ping", at).unwrap();
    }
    while bed.events(Duration::from_millis(20)) {}
    let questions: Vec<_> = bed.received().iter().map(|f| parse(f)).collect();
    assert_eq!(questions.len(), 2);
    for (who, guest, _) in questions {
        assert_eq!(bed.send_udp(guest, who, b"pong"), TxOutcome::Sent);
    }
    for client in &clients {
        assert_eq!(client.recv_from(&mut [0; 8]).unwrap(), (4, at));
    }
}

#[test]
fn an_answer_from_another_port_of_a_known_host_is_the_guests_own_conversation() {
    // As TFTP has it (RFC 1350 §4): the address is known, the port is new.
    let (known, other) = (peer("127.0.0.1:0"), peer("127.0.0.1:0"));
    let mut bed = Bed::new();
    let guest = addr("10.0.2.2:4000");
    // A plain flow, whatever policy says about the loopback.
    let dgram = Dgram::udp(crate::addr::Family::V4).unwrap();
    let port = dgram.local_addr().unwrap().port();
    let index = bed.gateway.udp.sockets.insert(dgram, Owner::Guest(guest));
    let to = known.local_addr().unwrap();
    let now = bed.now;
    bed.run(|gateway, io| {
        gateway.udp.sockets.watch(index, io.poll).unwrap();
        let flow = UdpFlow::new(index, guest, to, to, Class::OneWay, now);
        gateway.udp.open(flow, io.poll)
    });
    other.send_to(b"data", ("127.0.0.1", port)).unwrap();
    let (from, _, _) = next(&mut bed);
    assert_eq!(from, other.local_addr().unwrap());
    assert_eq!(bed.send_udp(guest, from, b"ack"), TxOutcome::Sent);
    bed.advance(Duration::from_secs(179));
    assert!(bed.gateway.udp.table.find(guest, from).is_some());
}

#[test]
fn a_port_that_is_taken_is_known_at_once() {
    let taken = peer("127.0.0.1:0");
    let mut config = config();
    let listen = taken.local_addr().unwrap();
    config.publish.push(Publish { transport: Transport::Udp, listen, guest_port: 80 });
    let error = crate::gateway::Gateway::new(config).unwrap_err().to_string();
    assert!(error.starts_with(&format!("cannot publish UDP port {listen}: ")), "{error}");
    assert!(error.contains("another program"), "{error}");
}
