use super::*;
use crate::gateway::testing::{Bed, GATEWAY_MAC, GUEST_MAC};
use crate::wire::checksum::checksum;
use crate::wire::u16_at;

/// A frame with an ICMP message of the guest's.
fn message(src: &str, dst: &str, bytes: &[u8]) -> Vec<u8> {
    let (src, dst): (IpAddr, IpAddr) = (src.parse().unwrap(), dst.parse().unwrap());
    let envelope = Envelope::new(GATEWAY_MAC, src, dst, icmp_protocol(src));
    let mut f = vec![0; envelope.header_len()];
    envelope.write(GUEST_MAC, bytes.len(), &mut f);
    let at = f.len();
    f.extend(bytes);
    envelope.complete(&mut f[at..]);
    f
}

#[test]
fn the_gateway_answers_echo() {
    for (guest, gateway, request, reply, at) in
        [("10.0.2.2", "10.0.2.1", 8, 0, 34), ("fd00:2::2", "fd00:2::1", 128, 129, 54)]
    {
        for len in [0, 3, 500, 1400] {
            let mut bytes = vec![request, 0, 0, 0, 0x12, 0x34, 0, 9];
            bytes.extend((0..len).map(|i| i as u8));
            let mut bed = Bed::new();
            assert_eq!(bed.send(&message(guest, gateway, &bytes)), TxOutcome::Sent);
            let frames = bed.received();
            bytes[0] = reply;
            assert_eq!(frames, [message_from(gateway, guest, &bytes)]);
            assert_eq!(frames[0].len(), at + 8 + len);
        }
    }
}

#[test]
fn the_gateway_answers_the_groups_it_is_in() {
    let mut bed = Bed::new();
    let mut bytes = vec![128, 0, 0, 0, 0x12, 0x34, 0, 9, 1, 2, 3];
    for (guest, gateway) in
        [("fe80::504d:ff:fe00:2", "fe80::504d:ff:fe00:1"), ("fd00:2::2", "fd00:2::1")]
    {
        for group in ["ff02::1", "ff02::2"] {
            bytes[0] = 128;
            assert_eq!(bed.send(&message(guest, group, &bytes)), TxOutcome::Sent);
            bytes[0] = 129;
            let want = message_from(gateway, guest, &bytes);
            assert_eq!(bed.received(), [want]);
        }
    }
    bytes[0] = 128;
    let other = bed.send(&message("fd00:2::2", "ff02::9", &bytes));
    assert_eq!(other, TxOutcome::Dropped(DropReason::DestinationForbidden));
    assert!(bed.received().is_empty());
}

#[test]
fn an_open_checksum_is_icmps_own_or_the_message_is_dropped() {
    let mut bed = Bed::new();
    for (guest, gateway, request, start) in
        [("10.0.2.2", "10.0.2.1", 8, 34), ("fd00:2::2", "fd00:2::1", 128, 54)]
    {
        let mut f = message(guest, gateway, &[request, 0, 0, 0, 0x12, 0x34, 0, 9]);
        f[usize::from(start) + 2] ^= 1;
        for (start, offset) in [(start, 6), (start, 3), (start + 2, 2), (start - 2, 2), (14, 10)] {
            let dropped = TxOutcome::Dropped(DropReason::BadOffload);
            assert_eq!(bed.send_open(&f, start, offset), dropped, "{start} {offset}");
        }
        assert!(bed.received().is_empty());
        assert_eq!(bed.send_open(&f, start, 2), TxOutcome::Sent);
        assert_eq!(bed.received().len(), 1);
    }
}

/// The same the other way.
fn message_from(src: &str, dst: &str, bytes: &[u8]) -> Vec<u8> {
    let mut f = message(src, dst, bytes);
    f[..6].copy_from_slice(&GUEST_MAC.0);
    f[6..12].copy_from_slice(&GATEWAY_MAC.0);
    f
}

#[test]
fn a_broken_request_is_not_answered() {
    let mut bed = Bed::new();
    let mut f = message("10.0.2.2", "10.0.2.1", &[8, 0, 0, 0, 0, 1, 0, 1, 77]);
    f[42] ^= 1;
    assert_eq!(bed.send(&f), TxOutcome::Dropped(DropReason::BadChecksum));
    for bytes in [&[8, 0, 0, 0][..], &[]] {
        let f = message("10.0.2.2", "10.0.2.1", &[bytes, &[0; 4]].concat()[..bytes.len().max(4)]);
        assert_eq!(bed.send(&f), TxOutcome::Dropped(DropReason::Truncated));
    }
    // Unreachable, redirect: what a guest has no business to say.
    for kind in [3, 5] {
        let f = message("10.0.2.2", "10.0.2.1", &[kind, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(bed.send(&f), TxOutcome::Dropped(DropReason::IcmpIgnored));
    }
    assert_eq!(bed.received().len(), 0);
}

#[test]
fn what_is_asked_beyond_the_gateway_and_not_carried_is_told() {
    let mut bed = Bed::new();
    for (from, to, beyond, kinds, at, said) in [
        ("10.0.2.2", "10.0.2.1", "192.0.2.1", &[13, 15, 17][..], 34, [3, 13]),
        ("fd00:2::2", "fd00:2::1", "2001:db8::1", &[139, 160], 54, [1, 1]),
    ] {
        for &kind in kinds {
            let bytes = [kind, 0, 0, 0, 0, 1, 0, 1, 0, 0, 0, 0];
            let ignored = TxOutcome::Dropped(DropReason::IcmpIgnored);
            assert_eq!(bed.send(&message(from, beyond, &bytes)), ignored);
            let got = bed.received();
            assert_eq!(got.iter().map(|f| [f[at], f[at + 1]]).collect::<Vec<_>>(), [said]);
            // The gateway itself need not know (RFC 1122 §3.2.2.8).
            assert_eq!(bed.send(&message(from, to, &bytes)), ignored);
            assert_eq!(bed.received().len(), 0);
        }
    }
    // Answers and errors are not answered.
    for kind in [0, 3, 5, 14] {
        bed.send(&message("10.0.2.2", "192.0.2.1", &[kind, 0, 0, 0, 0, 1, 0, 1]));
        assert_eq!(bed.received().len(), 0, "{kind}");
    }
}

#[test]
fn errors_quote_what_fits_and_never_answer_errors() {
    let mut bed = Bed::new();
    // An IP protocol that nobody carries.
    let envelope =
        Envelope::new(GATEWAY_MAC, "10.0.2.2".parse().unwrap(), "192.0.2.1".parse().unwrap(), 132);
    let mut f = vec![0; envelope.header_len()];
    envelope.write(GUEST_MAC, 1000, &mut f);
    f.extend((0..1000).map(|i| i as u8));
    assert_eq!(bed.send(&f), TxOutcome::Dropped(DropReason::UnknownProtocol));
    let frames = bed.received();
    assert_eq!(frames[0].len(), 14 + 576);
    assert_eq!(checksum(&frames[0][34..]), 0);
    assert_eq!(frames[0][34..36], [3, 2]);
    assert_eq!(frames[0][42..], f[14..14 + 576 - 28]);
    assert_eq!(frames[0][26..34], [10, 0, 2, 1, 10, 0, 2, 2]);

    // To a group, be it the packet or its frame, and about a later fragment: silence.
    for dst in ["224.0.0.9", "255.255.255.255", "10.0.2.255"] {
        let echo = message("10.0.2.2", dst, &[8, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(bed.send(&echo), TxOutcome::Dropped(DropReason::DestinationForbidden));
    }
    f[..6].fill(0xff);
    assert_eq!(bed.send(&f), TxOutcome::Dropped(DropReason::UnknownProtocol));
    assert_eq!(bed.received().len(), 0);
}

#[test]
fn a_parameter_problem_points_at_what_names_the_protocol() {
    let mut bed = Bed::new();
    let ip = |text: &str| text.parse().unwrap();
    let unknown = TxOutcome::Dropped(DropReason::UnknownProtocol);
    let mut send = |protocol, bytes: &[u8]| {
        let envelope = Envelope::new(GATEWAY_MAC, ip("fd00:2::2"), ip("2001:db8::1"), protocol);
        let mut f = vec![0; envelope.header_len()];
        envelope.write(GUEST_MAC, bytes.len(), &mut f);
        f.extend(bytes);
        assert_eq!(bed.send(&f), unknown);
        bed.received()
    };
    // SCTP, as it is and behind destination options; then one of those with nothing behind it.
    for (protocol, bytes, pointer) in
        [(132, &[9; 12][..], 6), (60, &[132, 0, 1, 4, 0, 0, 0, 0, 9, 9, 9, 9], 40)]
    {
        let frames = send(protocol, bytes);
        assert_eq!(frames.len(), 1);
        assert_eq!(frames[0][54..56], [4, 1]);
        assert_eq!(frames[0][58..62], [0, 0, 0, pointer]);
    }
    assert!(send(60, &[59, 0, 1, 4, 0, 0, 0, 0]).is_empty());
}

#[test]
fn mtus_stay_within_what_the_protocols_allow() {
    assert_eq!(Why::TooBig(1280).header(Family::V4), IcmpHeader { kind: 3, code: 4, rest: 1280 });
    assert_eq!(Why::TooBig(500).header(Family::V6), IcmpHeader { kind: 2, code: 0, rest: 1280 });
    assert_eq!(relayed(5, 0, 0, Family::V4), None);
    assert_eq!(relayed(137, 0, 0, Family::V6), None);
    let relayed = relayed(3, 4, 576, Family::V4);
    assert_eq!(relayed, Some(IcmpHeader { kind: 3, code: 4, rest: 576 }));
    assert_eq!(u16_at(&576u16.to_be_bytes(), 0), 576);
}
