use proptest::prelude::*;

use super::*;
use crate::frame::{TxFrame, TxOutcome};
use crate::gateway::emit::Envelope;
use crate::gateway::outgoing::Outgoing;
use crate::gateway::testing::{Bed, GATEWAY_MAC, GUEST_MAC};
use crate::wire::ethernet::EthernetHeader;
use crate::wire::u16_at;

/// A datagram of the guest's in frames of at most `mtu` bytes of IP.
fn cut(ipv4: bool, protocol: u8, id: u32, bytes: &[u8], piece: usize) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let n = piece.min(bytes.len() - at);
        frames.push(fragment(ipv4, protocol, id, at, &bytes[at..at + n], at + n < bytes.len()));
        at += n;
    }
    frames
}

fn fragment(ipv4: bool, protocol: u8, id: u32, at: usize, bytes: &[u8], more: bool) -> Vec<u8> {
    let (src, dst) = if ipv4 { ("10.0.2.2", "10.0.2.1") } else { ("fd00:2::2", "fd00:2::1") };
    let (src, dst) = (src.parse().unwrap(), dst.parse().unwrap());
    let envelope = Envelope::new(GATEWAY_MAC, src, dst, protocol);
    let len = if more { at + bytes.len() + 8 } else { at + bytes.len() };
    let outgoing = Outgoing::new(envelope, len, id);
    [outgoing.headers(GUEST_MAC, at, bytes.len()), bytes.to_vec()].concat()
}

/// An echo request to the gateway, whose reply proves that all of it arrived.
fn echo(ipv4: bool, len: usize) -> Vec<u8> {
    let mut message = vec![if ipv4 { 8 } else { 128 }, 0, 0, 0, 1, 2, 3, 4];
    message.extend((0..len).map(|i| (i * 7 % 251) as u8));
    let mut sum = if ipv4 {
        crate::wire::checksum::Sum::new()
    } else {
        let (src, dst) = ("fd00:2::2".parse().unwrap(), "fd00:2::1".parse().unwrap());
        crate::wire::checksum::Sum::pseudo_header(src, dst, 58, message.len())
    };
    sum.bytes(&message);
    message[2..4].copy_from_slice(&sum.finish().to_be_bytes());
    message
}

/// What the guest got, put together.
fn reply(bed: &mut Bed, ipv4: bool) -> Vec<u8> {
    let frames = bed.received();
    let lower = if ipv4 { 34 } else { 54 };
    if frames.len() == 1 {
        return frames[0][lower..].to_vec();
    }
    frames.iter().flat_map(|f| f[lower + if ipv4 { 0 } else { 8 }..].to_vec()).collect()
}

fn parts(bed: &Bed) -> usize {
    bed.gateway.fragments.slots.len()
}

proptest! {
    #[test]
    fn any_order_of_fragments_gives_the_datagram(
        ipv4: bool,
        len in 0usize..9000,
        units in 1usize..200,
        order in any::<u64>(),
        again: bool,
    ) {
        let message = echo(ipv4, len);
        let mut frames = cut(ipv4, if ipv4 { 1 } else { 58 }, 7, &message, units * 8);
        prop_assume!(frames.len() > 1);
        let mut seed = order;
        for i in (1..frames.len()).rev() {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            frames.swap(i, (seed >> 33) as usize % (i + 1));
        }
        if again {
            // The first to come comes twice.
            frames.insert(1, frames[0].clone());
        }
        let mut bed = Bed::new();
        for frame in &frames {
            prop_assert_eq!(bed.send(frame), TxOutcome::Sent);
        }
        let got = reply(&mut bed, ipv4);
        prop_assert_eq!(&got[4..], &message[4..]);
        prop_assert_eq!(got[0], if ipv4 { 0 } else { 129 });
        prop_assert_eq!(parts(&bed), 0);
    }

    #[test]
    fn no_fragments_make_it_panic_or_grow(
        pieces in prop::collection::vec(
            (any::<bool>(), 0u32..12, 0usize..8192, 0usize..1400, any::<bool>()), 0..80),
    ) {
        let mut bed = Bed::new();
        for (ipv4, id, unit, len, more) in pieces {
            let bytes = vec![unit as u8; len];
            let mut frame = fragment(ipv4, 17, id, unit * 8 % 65520, &bytes, more);
            if frame.len() < 60 {
                frame.resize(60, 0);
            }
            bed.send(&frame);
            prop_assert!(parts(&bed) <= SLOTS);
            prop_assert!(bed.gateway.fragments.spare.len() <= SLOTS);
        }
        bed.advance(TIMEOUT);
        prop_assert_eq!(parts(&bed), 0);
    }
}

#[test]
fn the_largest_datagrams_are_put_together() {
    for (ipv4, len) in [(true, 65507), (false, 65527)] {
        let message = echo(ipv4, len);
        let mut bed = Bed::new();
        for frame in cut(ipv4, if ipv4 { 1 } else { 58 }, 9, &message, 1400) {
            assert_eq!(bed.send(&frame), TxOutcome::Sent);
        }
        assert_eq!(reply(&mut bed, ipv4)[4..], message[4..]);
    }
}

#[test]
fn extension_headers_may_be_cut_with_the_rest() {
    // Destination options with padding, then the message.
    let mut bytes = vec![58, 1, 1, 12];
    bytes.resize(16, 0);
    let message = echo(false, 100);
    bytes.extend(&message);
    for piece in [8, 48] {
        let mut bed = Bed::new();
        for frame in cut(false, 60, 7, &bytes, piece) {
            assert_eq!(bed.send(&frame), TxOutcome::Sent);
        }
        assert_eq!(reply(&mut bed, false)[4..], message[4..]);
    }
    // A fragment header among them, one that goes beyond the end, and too many.
    for (header, len) in [([44, 0], 8), ([58, 30], 8), ([60, 0], 8 * 9)] {
        let mut bytes = vec![0; len];
        bytes.chunks_mut(8).for_each(|c| c[..2].copy_from_slice(&header));
        let mut bed = Bed::new();
        let sent: Vec<_> = cut(false, 60, 7, &[&bytes[..], &[0; 16]].concat(), 8)
            .iter()
            .map(|f| bed.send(f))
            .collect();
        assert!(matches!(sent.last(), Some(TxOutcome::Dropped(_))), "{sent:?}");
        assert_eq!((parts(&bed), bed.gateway.fragments.spare.len()), (0, 1));
    }
}

#[test]
fn what_overlaps_is_void_with_all_that_comes_later() {
    let message = echo(true, 100);
    let frames = cut(true, 1, 7, &message, 40);
    let mut bed = Bed::new();
    bed.send(&frames[0]);
    let bad = fragment(true, 1, 7, 32, &[9; 16], true);
    let refused = TxOutcome::Dropped(DropReason::BadFragment);
    assert_eq!(bed.send(&bad), refused);
    assert_eq!(bed.send(&frames[1]), refused);
    assert_eq!(bed.send(&frames[2]), refused);
    assert_eq!(bed.received().len(), 0);
    // It is forgotten in time, without a word.
    bed.advance(TIMEOUT);
    assert_eq!((parts(&bed), bed.received().len()), (0, 0));
}

#[test]
fn impossible_pieces_are_refused() {
    let mut bed = Bed::new();
    let refused = TxOutcome::Dropped(DropReason::BadFragment);
    // Not whole units, beyond 64 KiB, two different ends.
    assert_eq!(bed.send(&fragment(true, 17, 1, 0, &[0; 9], true)), refused);
    assert_eq!(bed.send(&fragment(true, 17, 1, 65512, &[0; 800], true)), refused);
    assert_eq!(bed.send(&fragment(false, 17, 1, 65528, &[0; 8], false)), refused);
    assert_eq!(bed.send(&fragment(true, 17, 2, 800, &[0; 80], false)), TxOutcome::Sent);
    assert_eq!(bed.send(&fragment(true, 17, 2, 1600, &[0; 80], false)), refused);
    assert_eq!(bed.send(&fragment(true, 17, 3, 1600, &[0; 80], true)), TxOutcome::Sent);
    assert_eq!(bed.send(&fragment(true, 17, 3, 800, &[0; 80], false)), refused);
}

#[test]
fn what_never_comes_whole_is_told_where_the_start_came() {
    let mut bed = Bed::new();
    let frames = cut(true, 17, 5, &[1; 2000], 1000);
    bed.send(&frames[0]);
    bed.send(&fragment(true, 17, 6, 1000, &[0; 80], true));
    bed.advance(TIMEOUT - Duration::from_secs(1));
    assert_eq!((parts(&bed), bed.received().len()), (2, 0));
    bed.advance(Duration::from_secs(1));
    assert_eq!(parts(&bed), 0);
    let frames = bed.received();
    assert_eq!(frames.len(), 1);
    // Time exceeded in reassembly, about identification 5.
    assert_eq!(frames[0][34..36], [11, 1]);
    assert_eq!(u16_at(&frames[0], 46), 5);
}

#[test]
fn the_oldest_makes_room() {
    let mut bed = Bed::new();
    for id in 0..2 * SLOTS as u32 {
        assert_eq!(bed.send(&fragment(true, 17, id, 0, &[0; 80], true)), TxOutcome::Sent);
    }
    assert_eq!(parts(&bed), SLOTS);
    assert_eq!(bed.stats.drops(DropReason::FragmentMemory), SLOTS as u64);
}

#[test]
fn repetitions_in_the_guests_memory_are_compared_too() {
    let mut bed = Bed::new();
    let mut frame = fragment(true, 17, 1, 0, &[3; 1200], true);
    assert_eq!(bed.send(&frame), TxOutcome::Sent);
    assert_eq!(bed.send(&frame), TxOutcome::Sent);
    frame[1000] ^= 1;
    assert_eq!(bed.send(&frame), TxOutcome::Dropped(DropReason::BadFragment));
    let whole = TxFrame { head: &frame, tail: &[], len: frame.len(), offload: Offload::default() };
    let link = EthernetHeader::parse(whole.head).unwrap();
    assert!(Packet::parse(&link, &whole).unwrap().fragment.is_some());
}
