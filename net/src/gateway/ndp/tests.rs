use std::net::IpAddr;

use proptest::prelude::*;

use super::*;
use crate::gateway::config::GatewayConfig;
use crate::gateway::testing::{Bed, GATEWAY_MAC, GUEST_MAC, config};
use crate::port::Backend;
use crate::wire::checksum::Sum;

const GUEST_LL: &str = "fe80::504d:ff:fe00:2";
const GATEWAY_LL: &str = "fe80::504d:ff:fe00:1";

fn ip(text: &str) -> Ipv6Addr {
    text.parse().unwrap()
}

/// A message from the guest in its frame, its checksum right.
fn frame(src: &str, dst: &str, message: &[u8]) -> Vec<u8> {
    let (src, dst) = (ip(src), ip(dst));
    let mac = if dst.is_multicast() { group_mac(dst) } else { GATEWAY_MAC };
    let envelope =
        Envelope { hop_limit: 255, ..Envelope::new(mac, src.into(), dst.into(), protocol::ICMPV6) };
    let mut frame = vec![0; envelope.header_len()];
    envelope.write(GUEST_MAC, message.len(), &mut frame);
    let mut message = message.to_vec();
    envelope.complete(&mut message);
    frame.extend(message);
    frame
}

fn solicit(src: &str, target: &str, with_source: bool) -> Vec<u8> {
    let mut message = vec![135, 0, 0, 0, 0, 0, 0, 0];
    message.extend(ip(target).octets());
    if with_source {
        message.extend([1, 1]);
        message.extend(GUEST_MAC.0);
    }
    frame(src, &solicited_node(ip(target)).to_string(), &message)
}

fn check_sum(frame: &[u8]) {
    let addr = |at: usize| IpAddr::from(<[u8; 16]>::try_from(&frame[at..at + 16]).unwrap());
    let mut sum = Sum::pseudo_header(addr(22), addr(38), 58, frame.len() - 54);
    sum.bytes(&frame[54..]);
    assert_eq!(sum.finish(), 0);
}

fn one(bed: &mut Bed) -> Vec<u8> {
    let mut frames = bed.received_all();
    assert_eq!(frames.len(), 1);
    check_sum(&frames[0]);
    assert_eq!(frames[0][21], 255);
    frames.remove(0)
}

#[test]
fn the_gateway_is_found_under_both_its_addresses() {
    let mut bed = Bed::new();
    for target in [GATEWAY_LL, "fd00:2::1"] {
        assert_eq!(bed.send(&solicit(GUEST_LL, target, true)), TxOutcome::Sent);
        let frame = one(&mut bed);
        let mut want = GUEST_MAC.0.to_vec();
        want.extend(GATEWAY_MAC.0);
        want.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 32, 58, 255]);
        want.extend(ip(target).octets());
        want.extend(ip(GUEST_LL).octets());
        want.extend([136, 0, frame[56], frame[57], 0xe0, 0, 0, 0]);
        want.extend(ip(target).octets());
        want.extend([2, 1]);
        want.extend(GATEWAY_MAC.0);
        assert_eq!(frame, want);
    }
    assert!(bed.shared().link.has_seen(ip(GUEST_LL).into()));
}

#[test]
fn what_comes_with_a_fragment_header_is_not_heard() {
    let mut bed = Bed::new();
    let mut f = solicit(GUEST_LL, GATEWAY_LL, true);
    // The whole message is the only piece (RFC 6946).
    f[18..20].copy_from_slice(&40u16.to_be_bytes());
    f[20] = 44;
    f.splice(54..54, [58, 0, 0, 0, 0, 0, 0, 1]);
    assert_eq!(bed.send(&f), TxOutcome::Dropped(DropReason::BadFragment));
    assert!(bed.received_all().is_empty());
}

#[test]
fn nobody_else_is_answered_for() {
    let mut bed = Bed::new();
    for target in ["fd00:2::2", "fe80::99", "2001:db8::1", "fd00:3::1"] {
        assert_eq!(bed.send(&solicit(GUEST_LL, target, true)), TxOutcome::Sent);
    }
    assert!(bed.received_all().is_empty());
}

#[test]
fn a_probe_of_the_gateways_address_is_answered_to_all() {
    let mut bed = Bed::new();
    assert_eq!(bed.send(&solicit("::", "fd00:2::1", false)), TxOutcome::Sent);
    let frame = one(&mut bed);
    assert_eq!(frame[..6], [0x33, 0x33, 0, 0, 0, 1]);
    assert_eq!(frame[38..54], ALL_NODES.octets());
    // Not solicited: the asker has no address to be answered at.
    assert_eq!(frame[58], 0xa0);
}

#[test]
fn a_probe_of_the_guests_own_address_announces_it() {
    let mut bed = Bed::new();
    assert_eq!(bed.send(&solicit("::", "fd00:2::55", false)), TxOutcome::Sent);
    assert!(bed.received_all().is_empty());
    assert_eq!(bed.shared().link.guest6(), Some(ip("fd00:2::55")));
    assert!(!bed.shared().link.has_seen(ip("::").into()));
}

#[test]
fn an_advertisement_moves_an_address() {
    let mut bed = Bed::new();
    let mut message = vec![136, 0, 0, 0, 0x20, 0, 0, 0];
    message.extend(ip("fd00:2::7").octets());
    message.extend([2, 1, 2, 0, 0, 0, 0, 9]);
    assert_eq!(bed.send(&frame("fd00:2::7", "ff02::1", &message)), TxOutcome::Sent);
    let moved = Some(MacAddr([2, 0, 0, 0, 0, 9]));
    assert_eq!(bed.shared().link.neighbor(ip("fd00:2::7").into()), moved);
    // The gateway's own can't be taken.
    message[8..24].copy_from_slice(&ip("fd00:2::1").octets());
    let got = bed.send(&frame("fd00:2::7", "ff02::1", &message));
    assert_eq!(got, TxOutcome::Dropped(DropReason::BadSource));
}

#[test]
fn an_open_checksum_is_the_messages_own_or_it_is_dropped() {
    let mut bed = Bed::new();
    let mut f = solicit(GUEST_LL, "fd00:2::1", true);
    f[56] ^= 1;
    for (start, offset) in [(54, 16), (54, 4), (56, 2), (14, 6)] {
        let dropped = TxOutcome::Dropped(DropReason::BadOffload);
        assert_eq!(bed.send_open(&f, start, offset), dropped, "{start} {offset}");
    }
    assert!(bed.received().is_empty());
    assert_eq!(bed.send_open(&f, 54, 2), TxOutcome::Sent);
    assert_eq!(bed.received().len(), 1);
}

#[test]
fn what_did_not_come_from_the_link_or_is_damaged_is_dropped() {
    let mut bed = Bed::new();
    let good = solicit(GUEST_LL, "fd00:2::1", true);
    let mut send = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut frame = good.clone();
        change(&mut frame);
        bed.send(&frame)
    };
    assert_eq!(send(&|f| f[21] = 254), TxOutcome::Dropped(DropReason::Malformed));
    assert_eq!(send(&|f| f[60] ^= 1), TxOutcome::Dropped(DropReason::BadChecksum));
    let forged = TxOutcome::Dropped(DropReason::BadSource);
    for source in ["fd00:2::1", GATEWAY_LL, "2001:db8::1", "::1"] {
        assert_eq!(bed.send(&solicit(source, "fd00:2::1", true)), forged, "{source}");
    }
    let malformed = TxOutcome::Dropped(DropReason::Malformed);
    // A probe with a link-layer address, and one to a single node.
    assert_eq!(bed.send(&solicit("::", "fd00:2::1", true)), malformed);
    let mut probe = vec![135, 0, 0, 0, 0, 0, 0, 0];
    probe.extend(ip("fd00:2::1").octets());
    assert_eq!(bed.send(&frame("::", "fd00:2::1", &probe)), malformed);
    // An option of length 0, and one longer than the message.
    for option in [[1, 0, 0, 0, 0, 0, 0, 0], [1, 2, 0, 0, 0, 0, 0, 0]] {
        let mut message = probe.clone();
        message.extend(option);
        assert_eq!(bed.send(&frame(GUEST_LL, "fd00:2::1", &message)), malformed);
    }
    // What only routers say.
    let mut advertisement = vec![134, 0, 0, 0, 64, 0, 7, 8];
    advertisement.extend([0; 8]);
    assert_eq!(bed.send(&frame(GUEST_LL, "ff02::1", &advertisement)), forged);
    assert!(bed.received_all().is_empty());
}

#[test]
fn a_router_advertisement_is_these_bytes() {
    let mut bed = Bed::with(GatewayConfig { mtu: 9000, ..config() });
    let mut message = vec![133, 0, 0, 0, 0, 0, 0, 0, 1, 1];
    message.extend(GUEST_MAC.0);
    assert_eq!(bed.send(&frame(GUEST_LL, "ff02::2", &message)), TxOutcome::Sent);
    let frame = one(&mut bed);
    assert_eq!(frame[..6], GUEST_MAC.0);
    assert_eq!(frame[22..54], [ip(GATEWAY_LL).octets(), ip(GUEST_LL).octets()].concat());
    let mut want = vec![134, 0, frame[56], frame[57], 64, 0x40, 0x07, 0x08, 0, 0, 0, 0, 0, 0, 0, 0];
    want.extend([1, 1]);
    want.extend(GATEWAY_MAC.0);
    want.extend([5, 1, 0, 0, 0, 0, 0x23, 0x28]);
    want.extend([3, 4, 64, 0xc0, 0, 0, 0x15, 0x18, 0, 0, 0x0a, 0x8c, 0, 0, 0, 0]);
    want.extend(ip("fd00:2::").octets());
    want.extend([25, 3, 0, 0, 0, 0, 0x07, 0x08]);
    want.extend(ip("fd00:2::1").octets());
    assert_eq!(frame[54..], want);
}

#[test]
fn search_domains_are_padded_to_whole_units() {
    let advertisement = RouterAdvertisement {
        mac: GATEWAY_MAC,
        mtu: 1500,
        prefix: ip("fd00:2::"),
        resolver: ip("fd00:2::1"),
        search: b"\x04corp\x04test\x00",
        router_lifetime: 1,
        prefix_lifetimes: (1, 1),
        resolver_lifetime: 7,
    };
    let bytes = advertisement.emit();
    let mut want = vec![31, 3, 0, 0, 0, 0, 0, 7];
    want.extend(b"\x04corp\x04test\x00\0\0\0\0\0");
    assert_eq!(bytes[bytes.len() - 24..], want);
    assert_eq!(bytes.len() % 8, 0);
}

#[test]
fn advertisements_come_unasked_and_not_too_often() {
    let mut bed = Bed::new();
    let mut times = Vec::new();
    for second in 0..1000 {
        if !bed.received_all().is_empty() {
            times.push(second);
        }
        bed.advance(Duration::from_secs(1));
    }
    assert_eq!(times, [16, 32, 48, 348, 648, 948]);
    // A solicitation from no address is answered to all, and a flood of them once in 3 s.
    bed.received_all();
    let solicitation = frame("::", "ff02::2", &[133, 0, 0, 0, 0, 0, 0, 0]);
    let mut answers = 0;
    for _ in 0..100 {
        bed.send(&solicitation);
        bed.advance(Duration::from_millis(100));
        answers += bed.received_all().len();
    }
    assert!((3..=4).contains(&answers), "{answers} in 10 s");
}

fn lifetimes(frame: &[u8]) -> (u16, u32, u32, u32) {
    let word = |at: usize| u32::from_be_bytes(frame[at..at + 4].try_into().unwrap());
    (u16::from_be_bytes([frame[60], frame[61]]), word(90), word(94), word(122))
}

#[test]
fn what_the_host_cannot_route_is_withdrawn_and_refused_at_once() {
    let mut bed = Bed::with(GatewayConfig { ipv6: Ipv6Mode::Auto, ..config() });
    bed.reach(true);
    bed.advance(Duration::from_secs(100));
    let offered = (1800, 5400, 2700, 1800);
    assert!(bed.received_all().iter().all(|f| lifetimes(f) == offered));
    bed.reach(true);
    bed.advance(Duration::from_secs(1));
    assert!(bed.received_all().is_empty());

    bed.reach(false);
    bed.advance(Duration::ZERO);
    assert_eq!(lifetimes(&one(&mut bed)), (0, 0, 0, 0));
    let udp = |bed: &mut Bed, dst: &str| {
        bed.send_udp("[fd00:2::2]:9".parse().unwrap(), dst.parse().unwrap(), b"x")
    };
    let no_route = TxOutcome::Dropped(DropReason::NoRoute);
    assert_eq!(udp(&mut bed, "[2001:db8::1]:53"), no_route);
    let frame = bed.received_all().remove(0);
    assert_eq!(frame[54..56], [1, 0], "destination unreachable, no route");
    assert_eq!(udp(&mut bed, "[ff02::1:2]:547"), no_route);
    assert!(bed.received_all().is_empty());
    // Twice more, then there is nothing to repeat.
    bed.advance(Duration::from_secs(1000));
    assert_eq!(bed.received_all().len(), 2);
    assert_eq!(bed.gateway.deadline(), None);

    bed.reach(true);
    bed.advance(Duration::from_secs(3));
    assert_eq!(lifetimes(&one(&mut bed)), offered);
}

#[test]
fn search_domains_are_those_of_now() {
    let path = std::env::temp_dir().join(format!("minivmm-search-{}", std::process::id()));
    std::fs::write(&path, "search corp.test").unwrap();
    let mut bed = Bed::with(GatewayConfig { resolv_conf: path.clone(), ..config() });
    let ask = frame(GUEST_LL, "ff02::2", &[133, 0, 0, 0, 0, 0, 0, 0]);
    let says = |bed: &mut Bed, domain: &[u8]| {
        assert_eq!(bed.send(&ask), TxOutcome::Sent);
        one(bed).windows(domain.len()).any(|w| w == domain)
    };
    assert!(says(&mut bed, b"\x04corp\x04test\0"), "the first has them");
    std::fs::write(&path, "search other.test").unwrap();
    bed.now += Duration::from_secs(2);
    assert!(says(&mut bed, b"\x05other\x04test\0"), "changes are seen");
    std::fs::remove_file(&path).unwrap();
}

#[test]
fn without_ipv6_there_is_no_router() {
    for config in [
        GatewayConfig { ipv6: Ipv6Mode::Off, ..config() },
        GatewayConfig { mtu: 1279, ipv6: Ipv6Mode::Off, ..config() },
    ] {
        let mut bed = Bed::with(config);
        bed.reach(true);
        let solicitation = frame(GUEST_LL, "ff02::2", &[133, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(bed.send(&solicitation), TxOutcome::Sent);
        bed.advance(Duration::from_secs(1000));
        assert!(bed.received_all().is_empty());
    }
}

#[test]
fn a_guest_that_is_gone_is_not_told() {
    let mut bed = Bed::new();
    bed.detach();
    assert_eq!(bed.gateway.deadline(), None);
    bed.reach(false);
    bed.advance(Duration::from_secs(1000));
    assert!(bed.received_all().is_empty());
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(kind in 133u8..138, rest: Vec<u8>, any_source: bool) {
        let mut message = vec![kind, 0, 0, 0, 0, 0, 0, 0];
        message.extend(rest);
        let _ = NdpMessage::parse(&message);
        let mut bed = Bed::new();
        bed.send(&frame(if any_source { "::" } else { GUEST_LL }, "ff02::1", &message));
        for frame in bed.received_all() {
            check_sum(&frame);
        }
    }
}
