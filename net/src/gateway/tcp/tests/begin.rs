//! How connections begin, or do not.

use rustix::net::{AddressFamily, SocketType, bind, listen, socket};

use rustix::process::{Resource, setrlimit};

use super::*;
use crate::gateway::config::Ipv6Mode;
use crate::gateway::testing::{alone, no_descriptors};

#[test]
fn a_connection_carries_bytes_both_ways_over_both_families() {
    for i in 0..2 {
        let (mut guest, mut server) = Guest::connected(i);
        assert_eq!(guest.send(ACK | PSH, b"question"), TxOutcome::Sent);
        assert_eq!(read_all(&server, 8), b"question");
        let got = guest.next();
        assert_eq!((got.flags(), got.h.fields.ack), (ACK, guest.seq));
        assert!(got.h.fields.window > 0);
        assert_eq!((got.from, got.to), (guest.remote, guest.local));
        server.write_all(b"answer").unwrap();
        assert_eq!(guest.receive(6), b"answer");
        guest.silence();
    }
}

#[test]
fn a_server_may_speak_or_end_before_its_connection_is_noticed() {
    for i in 0..2 {
        let (mut guest, listener) = Guest::with_server(i);
        guest.syn();
        let (mut server, _) = listener.accept().unwrap();
        server.write_all(b"220 hello").unwrap();
        drop(server);
        // One edge tells all of it: connected, readable, ended.
        let got = guest.next();
        guest.learn_syn(&got);
        guest.send(ACK, b"");
        assert_eq!(guest.receive(9), b"220 hello");
        assert_eq!(guest.next_with(FIN).h.fields.seq, guest.ack);
    }
}

#[test]
fn the_syn_ack_says_what_is_taken() {
    let (mut guest, _server) = Guest::with_server(0);
    guest.syn();
    let got = guest.next();
    assert_eq!(got.h.options.mss, Some(1460));
    assert_eq!(got.h.fields.ack, guest.seq);
    assert!(got.h.fields.window > 10_000);
    // A guest without window scaling is not scaled for.
    let (mut guest, _server) = Guest::with_server(1);
    guest.raw(guest.fields(SYN), &[2, 4, 0x05, 0xb4], b"");
    let got = guest.next();
    assert_eq!((got.h.options.mss, got.h.options.scale), (Some(1440), None));
}

#[test]
fn a_closed_port_refuses() {
    for (i, (local, remote, at)) in SERVERS.into_iter().enumerate() {
        let closed = TcpListener::bind(at).unwrap().local_addr().unwrap();
        let mut guest = Guest::new(redirected(remote, closed), local, remote);
        guest.syn();
        let got = guest.next();
        assert_eq!((got.flags(), got.h.fields.seq), (RST | ACK, Seq::new(0)), "{i}");
        assert_eq!(got.h.fields.ack, guest.seq);
        assert_eq!(guest.flows(), 0);
    }
}

#[test]
fn a_forbidden_destination_refuses() {
    let mut guest = Guest::new(config(), "10.0.2.2:1000", "169.254.169.254:80");
    assert_eq!(guest.syn(), TxOutcome::Dropped(DropReason::DestinationForbidden));
    assert_eq!(guest.next().flags(), RST | ACK);
    // A group is never answered (RFC 9293 §3.9.2.3).
    let mut guest = Guest::new(config(), "10.0.2.2:1000", "224.0.0.1:80");
    assert_eq!(guest.syn(), TxOutcome::Dropped(DropReason::DestinationForbidden));
    guest.silence();
}

#[test]
fn no_route_is_told_by_icmp() {
    // Without a scope a link-local address can't be connected to: EINVAL, as by a blackhole route.
    let remote = "[100::1]:80";
    let to = addr("[fe80::1]:80");
    let mut guest = Guest::new(redirected(remote, to), "[fd00:2::2]:1000", remote);
    guest.syn();
    let frames = guest.bed.received();
    // Destination unreachable, no route, about the SYN.
    assert_eq!((frames.len(), &frames[0][54..56]), (1, &[1, 0][..]));
    assert_eq!(frames[0][62 + 40..62 + 44], [0x03, 0xe8, 0, 80]);
}

#[test]
fn ipv6_that_is_not_offered_is_told_by_icmp() {
    let auto = GatewayConfig { ipv6: Ipv6Mode::Auto, ..config() };
    let mut guest = Guest::new(auto, "[fd00:2::2]:1000", "[2001:db8::1]:80");
    guest.bed.reach(false);
    assert_eq!(guest.syn(), TxOutcome::Dropped(DropReason::NoRoute));
    let frames = guest.bed.received();
    // Destination unreachable, no route, about the SYN.
    assert_eq!((frames.len(), &frames[0][54..56]), (1, &[1, 0][..]));
    assert_eq!(frames[0][62 + 40..62 + 44], [0x03, 0xe8, 0, 80]);
}

#[test]
fn a_guest_is_told_that_there_are_no_descriptors() {
    if !alone("gateway::tcp::tests::begin::a_guest_is_told_that_there_are_no_descriptors") {
        return;
    }
    let (mut guest, _server) = Guest::with_server(0);
    let limit = no_descriptors();
    assert_eq!(guest.syn(), TxOutcome::Dropped(DropReason::SocketFailed));
    let told = guest.bed.received();
    // As for UDP and echo: administratively prohibited. A reset would be the server's word.
    assert_eq!(told.iter().map(|f| [f[23], f[34], f[35]]).collect::<Vec<_>>(), [[1, 3, 13]]);
    setrlimit(Resource::Nofile, limit).unwrap();
    guest.syn();
    assert_eq!(guest.next().flags(), SYN | ACK);
}

#[test]
fn a_lost_syn_ack_comes_again() {
    let (mut guest, _server) = Guest::with_server(0);
    guest.syn();
    let first = guest.next();
    // The guest asks again.
    guest.seq -= 1;
    guest.syn();
    let second = guest.next();
    assert_eq!(first.h, second.h);
    // And if it does not, time passes.
    guest.bed.advance(Duration::from_millis(1100));
    assert_eq!(guest.next().h, first.h);
    // But not for ever.
    guest.bed.advance(Duration::from_secs(300));
    let last = std::iter::from_fn(|| guest.try_next(Duration::ZERO)).last().unwrap();
    assert_eq!(last.flags(), RST | ACK);
    assert_eq!(guest.flows(), 0);
}

#[test]
fn without_receive_buffers_the_syn_ack_waits() {
    let (mut guest, _server) = Guest::with_server(0);
    guest.bed.ring.full = true;
    guest.syn();
    guest.silence();
    guest.bed.ring.full = false;
    guest.bed.run(|gateway, io| gateway.rx_available(io));
    assert_eq!(guest.next().flags(), SYN | ACK);
}

/// A listener whose queue is full: connecting to it takes for ever.
fn busy_listener() -> (SocketAddr, Vec<TcpStream>, OwnedFd) {
    let fd = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    bind(&fd, &addr("127.0.0.1:0")).unwrap();
    listen(&fd, 0).unwrap();
    let at = SocketAddr::try_from(rustix::net::getsockname(&fd).unwrap()).unwrap();
    let mut filled = Vec::new();
    while let Ok(stream) = TcpStream::connect_timeout(&at, Duration::from_millis(300)) {
        filled.push(stream);
    }
    (at, filled, fd)
}

#[test]
fn while_the_host_connects_the_guest_waits() {
    let (at, filled, _fd) = busy_listener();
    assert!(!filled.is_empty());
    let remote = "198.51.100.1:80";
    let mut guest = Guest::new(redirected(remote, at), "10.0.2.2:1000", remote);
    for _ in 0..3 {
        assert_eq!(guest.syn(), TxOutcome::Sent);
        guest.seq -= 1;
        guest.silence();
    }
    assert_eq!(guest.flows(), 1);
    // Another SYN from the same port is another connection.
    guest.seq += 100_000;
    assert_eq!(guest.syn(), TxOutcome::Sent);
    assert_eq!((guest.flows(), guest.bed.gateway.tcp.flows.pending().connecting), (1, 1));
    // The guest gives up.
    guest.raw(guest.fields(RST), &[], b"");
    assert_eq!((guest.flows(), guest.bed.gateway.tcp.flows.pending().connecting), (0, 0));
}

#[test]
fn connections_that_nobody_answers_are_limited() {
    let (at, _filled, _fd) = busy_listener();
    let remote = "198.51.100.1:80";
    let mut guest = Guest::new(redirected(remote, at), "10.0.2.2:1000", remote);
    guest.bed.gateway.tcp.flows = Flows::new(64);
    for port in 1000..1100 {
        guest.local.set_port(port);
        assert_eq!(guest.syn(), TxOutcome::Sent);
    }
    assert_eq!(guest.flows(), 16);
}

#[test]
fn what_belongs_to_no_connection_is_reset() {
    let mut guest = Guest::new(config(), "10.0.2.2:1000", "198.51.100.1:80");
    guest.ack = Seq::new(77);
    assert_eq!(guest.send(ACK, b"abc"), TxOutcome::Dropped(DropReason::NoConnection));
    let got = guest.next();
    assert_eq!((got.flags(), got.h.fields.seq), (RST, Seq::new(77)));
    let (seq, fin) = (guest.seq, guest.fields(FIN));
    guest.raw(fin, &[], b"abc");
    let got = guest.next();
    assert_eq!((got.flags(), got.h.fields.seq), (RST | ACK, Seq::new(0)));
    assert_eq!(got.h.fields.ack, seq + 4);
    assert_eq!(guest.send(RST, b""), TxOutcome::Dropped(DropReason::NoConnection));
    guest.silence();
}

#[test]
fn what_is_for_many_is_answered_by_nobody() {
    for to in ["10.0.2.255:80", "255.255.255.255:80", "224.0.0.1:80"] {
        let mut guest = Guest::new(config(), "10.0.2.2:1000", to);
        for flags in [SYN, ACK] {
            assert_ne!(guest.send(flags, b""), TxOutcome::Sent, "{to}");
        }
        guest.silence();
    }
    // One node's address, in a frame to all.
    let mut guest = Guest::new(config(), "10.0.2.2:1000", "198.51.100.1:80");
    let mut all = frame(guest.local, guest.remote, guest.fields(ACK), &[], b"");
    all[..6].fill(0xff);
    assert_ne!(guest.bed.send(&all), TxOutcome::Sent);
    guest.silence();
}

#[test]
fn resets_wait_for_receive_buffers() {
    let mut guest = Guest::new(config(), "10.0.2.2:1000", "198.51.100.1:80");
    guest.bed.ring.full = true;
    for port in 0..300 {
        guest.local.set_port(1000 + port);
        guest.send(ACK, b"");
    }
    assert_eq!(guest.drops(DropReason::NoRxBuffers), 300 - RESETS_MAX as u64);
    guest.bed.ring.full = false;
    guest.bed.run(|gateway, io| gateway.rx_available(io));
    let got = std::iter::from_fn(|| guest.try_next(Duration::ZERO)).count();
    assert_eq!(got, RESETS_MAX);
}

#[test]
fn a_wrong_checksum_is_dropped() {
    let (mut guest, _server) = Guest::with_server(0);
    let mut frame = frame(guest.local, guest.remote, guest.fields(SYN), &[], b"");
    frame[50] ^= 1;
    assert_eq!(guest.bed.send(&frame), TxOutcome::Dropped(DropReason::BadChecksum));
    // One that was left open is right by definition, if it is where TCP's is.
    let mut send = |start, offset| {
        let offload =
            Offload { checksum: Some(PartialChecksum { start, offset }), ..Offload::default() };
        let frame = TxFrame { head: &frame, tail: &[], len: frame.len(), offload };
        guest.bed.run(|gateway, io| gateway.send(io, &frame))
    };
    assert_eq!(send(34, 6), TxOutcome::Dropped(DropReason::BadOffload));
    assert_eq!(send(34, 16), TxOutcome::Sent);
    assert_eq!(guest.next().flags(), SYN | ACK);
}

#[test]
fn a_full_table_lets_the_idlest_go() {
    let (mut guest, server) = Guest::with_server(0);
    guest.bed.gateway.tcp.flows = Flows::new(2);
    let mut streams = Vec::new();
    for port in [1001, 1002] {
        guest.local.set_port(port);
        guest.open();
        streams.push(server.accept().unwrap().0);
        guest.bed.advance(Duration::from_secs(1));
    }
    guest.local.set_port(1003);
    assert_eq!(guest.syn(), TxOutcome::Dropped(DropReason::FlowTableFull));
    guest.silence();
    guest.bed.advance(Duration::from_secs(10));
    guest.syn();
    let (reset, syn) = (guest.next(), guest.next());
    assert_eq!((reset.flags(), reset.to.port()), (RST | ACK, 1001));
    assert_eq!((syn.flags(), syn.to.port()), (SYN | ACK, 1003));
    assert_eq!(guest.flows(), 2);
    let kind = streams[0].read(&mut [0]).unwrap_err().kind();
    assert_eq!(kind, io::ErrorKind::ConnectionReset);
}
