//! Bytes in both directions, when all goes well and when it does not.

use super::*;
use crate::frame::{Offloads, SegmentKind};

#[test]
fn single_bytes_go_both_ways() {
    let (mut guest, mut server) = Guest::connected(0);
    for byte in 0..=255 {
        guest.send(ACK | PSH, &[byte]);
        assert_eq!(read_all(&server, 1), [byte]);
        server.write_all(&[byte]).unwrap();
        assert_eq!(guest.receive(1), [byte]);
    }
}

#[test]
fn a_batch_is_acknowledged_once() {
    let (mut guest, server) = Guest::connected(0);
    for chunk in pattern(14_000).chunks(1400) {
        let frame = frame(guest.local, guest.remote, guest.fields(ACK), &[], chunk);
        assert_eq!(guest.bed.send(&frame), TxOutcome::Sent);
        guest.seq += 1400;
    }
    guest.bed.run(|gateway, io| gateway.batch_end(io));
    assert_eq!(guest.next().h.fields.ack, guest.seq);
    guest.silence();
    assert_eq!(read_all(&server, 14_000), pattern(14_000));
}

#[test]
fn large_segments_of_the_guest_are_taken_whole() {
    for i in 0..2 {
        let (mut guest, server) = Guest::connected(i);
        let data = pattern(60_000);
        assert_eq!(guest.send(ACK | PSH, &data), TxOutcome::Sent);
        assert_eq!(read_all(&server, data.len()), data);
        assert_eq!(guest.next().h.fields.ack, guest.seq);
    }
}

#[test]
fn a_station_that_takes_large_segments_gets_them() {
    for i in 0..2 {
        let (mut guest, mut server) = Guest::connected(i);
        guest.bed.ring.offloads = TSO;
        let data = pattern(1_000_000);
        let copy = data.clone();
        let writer = std::thread::spawn(move || server.write_all(&copy).map(|()| server));
        let (mut got, mut large) = (Vec::new(), 0);
        while got.len() < data.len() {
            let segment = guest.next();
            if segment.payload.is_empty() {
                continue;
            }
            assert_eq!(segment.h.fields.seq, guest.ack);
            let mss = if i == 0 { 1460 } else { 1440 };
            match segment.offload.segmentation {
                Some(s) => {
                    large += 1;
                    assert_eq!(s.size, mss);
                    let headers = (14 + if i == 0 { 20 } else { 40 } + 20) as u16;
                    assert_eq!(s.header_len, headers);
                    let kind = if i == 0 { SegmentKind::Tcp4 } else { SegmentKind::Tcp6 };
                    assert_eq!(s.kind, kind);
                }
                None => assert!(segment.payload.len() <= mss.into()),
            }
            guest.ack += segment.payload.len() as u32;
            got.extend(segment.payload);
            guest.send(ACK, b"");
        }
        assert!(got == data && large > 5, "{large} large segments");
        writer.join().unwrap().unwrap();
    }
}

#[test]
fn a_plain_station_gets_segments_of_its_size() {
    for checksum in [false, true] {
        let (mut guest, mut server) = Guest::connected(0);
        guest.bed.ring.offloads.checksum = checksum;
        let data = pattern(500_000);
        let copy = data.clone();
        let writer = std::thread::spawn(move || server.write_all(&copy).map(|()| server));
        let mut got = Vec::new();
        while got.len() < data.len() {
            let segment = guest.next();
            assert!(segment.payload.len() <= 1460);
            assert_eq!(segment.offload.checksum.is_some(), checksum && !segment.payload.is_empty());
            assert_eq!(segment.offload.segmentation, None);
            guest.ack += segment.payload.len() as u32;
            got.extend(segment.payload);
            if guest.inbox.is_empty() {
                guest.send(ACK, b"");
            }
        }
        assert!(got == data);
        writer.join().unwrap().unwrap();
    }
}

#[test]
fn what_came_already_is_acknowledged_again() {
    let (mut guest, server) = Guest::connected(0);
    guest.send(ACK, b"abcdef");
    guest.next();
    let seq = guest.seq;
    // All of it again.
    guest.seq = seq - 6;
    guest.send(ACK, b"abcdef");
    assert_eq!(guest.next().h.fields.ack, seq);
    // Half of it, and something new.
    guest.seq = seq - 3;
    assert_eq!(guest.send(ACK, b"defghi"), TxOutcome::Sent);
    assert_eq!(guest.next().h.fields.ack, guest.seq);
    assert_eq!(read_all(&server, 9), b"abcdefghi");
}

#[test]
fn a_gap_is_told_at_once_and_nothing_behind_it_taken() {
    let (mut guest, server) = Guest::connected(0);
    let seq = guest.seq;
    guest.seq = seq + 3;
    for _ in 0..3 {
        let outcome = guest.send(ACK, b"def");
        assert_eq!(outcome, TxOutcome::Dropped(DropReason::OutOfOrder));
        assert_eq!(guest.next().h.fields.ack, seq);
    }
    guest.seq = seq;
    guest.send(ACK, b"abcdefghi");
    assert_eq!(read_all(&server, 9), b"abcdefghi");
}

#[test]
fn keepalives_are_answered() {
    let (mut guest, _server) = Guest::connected(0);
    let seq = guest.seq;
    for payload in [&b""[..], b"\0"] {
        guest.seq = seq - 1;
        assert_eq!(guest.send(ACK, payload), TxOutcome::Sent);
        assert_eq!(guest.next().h.fields.ack, seq);
    }
}

#[test]
fn an_acknowledgement_of_what_was_never_sent_is_refused() {
    let (mut guest, server) = Guest::connected(0);
    let ack = guest.ack;
    for wrong in [ack + 1, ack - 0x10_0000] {
        guest.ack = wrong;
        let fields = guest.fields(ACK);
        assert_eq!(guest.raw(fields, &[], b"x"), TxOutcome::Dropped(DropReason::OutOfWindow));
        assert_eq!(guest.next().h.fields.ack, guest.seq);
        guest.bed.advance(Duration::from_secs(1));
    }
    guest.ack = ack;
    guest.send(ACK, b"y");
    assert_eq!(read_all(&server, 1), b"y");
}

#[test]
fn without_receive_buffers_nothing_is_read_nor_lost() {
    let (mut guest, mut server) = Guest::connected(0);
    guest.bed.ring.full = true;
    guest.send(ACK, b"x");
    server.write_all(b"wait").unwrap();
    guest.silence();
    guest.bed.ring.full = false;
    guest.bed.run(|gateway, io| gateway.rx_available(io));
    assert_eq!(guest.receive(4), b"wait");
    assert_eq!(guest.next_ack(), guest.seq);
}

impl Guest {
    /// What the gateway has acknowledged, by the last that came or by asking it.
    fn next_ack(&mut self) -> Seq {
        let seq = self.seq;
        let fields = Fields { seq: seq - 1, ..self.fields(ACK) };
        self.raw(fields, &[], b"");
        self.next().h.fields.ack
    }
}

#[test]
fn without_receive_buffers_sockets_are_looked_after_all_the_same() {
    let (mut guest, listener) = Guest::with_server(0);
    guest.bed.ring.offloads = TSO;
    let mut ends = Vec::new();
    for port in [1001, 1002] {
        guest.local.set_port(port);
        guest.open();
        ends.push((listener.accept().unwrap().0, guest.seq, guest.ack));
    }
    ends[1].0.write_all(&pattern(1000)).unwrap();
    assert_eq!(guest.next_with(PSH).payload.len(), 1000);
    guest.bed.ring.full = true;
    // In one batch the first sends, which is to be acknowledged, and the second acknowledges.
    guest.local.set_port(1001);
    (guest.seq, guest.ack) = (ends[0].1, ends[0].2);
    guest.queue(ACK, b"up");
    guest.local.set_port(1002);
    (guest.seq, guest.ack) = (ends[1].1, ends[1].2 + 1000);
    guest.queue(ACK, b"");
    guest.batch_end();
    let flows = guest.bed.gateway.tcp.flows.table.iter();
    let kept: Vec<_> = flows.map(|(_, f)| f.to_guest.kept()).collect();
    assert_eq!(kept, [0, 0]);
}

/// Loses the first segment of many, with or without the kernel's help.
fn lose_one(peek_offset: bool, wait: impl Fn(&mut Guest, Seq)) {
    let (mut guest, mut server) = Guest::connected_with(0, peek_offset);
    server.write_all(&pattern(1000)).unwrap();
    let lost = guest.next();
    assert_eq!(lost.payload, pattern(1000));
    server.write_all(b"more").unwrap();
    let more = guest.next();
    assert_eq!(more.payload, b"more");
    let first = guest.ack;
    wait(&mut guest, first);
    let mut all = pattern(1000);
    all.extend(b"more");
    assert_eq!(guest.receive(1004), all);
    guest.silence();
}

#[test]
fn a_lost_segment_is_sent_again_when_its_time_is_up() {
    for peek_offset in [true, false] {
        lose_one(peek_offset, |guest, _| guest.bed.advance(Duration::from_secs(2)));
    }
}

#[test]
fn a_lost_segment_is_sent_again_when_three_say_so() {
    for peek_offset in [true, false] {
        lose_one(peek_offset, |guest, _| {
            for _ in 0..3 {
                guest.silence();
                guest.send(ACK, b"");
            }
        });
    }
}

#[test]
fn nobody_answers_and_the_flow_is_given_up() {
    let (mut guest, mut server) = Guest::connected(0);
    server.write_all(b"hello?").unwrap();
    guest.next();
    for _ in 0..11 {
        guest.bed.advance(Duration::from_secs(61));
    }
    assert_eq!(guest.flows(), 0);
    assert_eq!(server.read(&mut [0]).unwrap_err().kind(), io::ErrorKind::ConnectionReset);
}

#[test]
fn without_peek_offsets_bytes_are_the_same() {
    for (i, offloads) in [(0, TSO), (1, Offloads::default())] {
        let (mut guest, mut server) = Guest::connected_with(i, false);
        guest.bed.ring.offloads = offloads;
        let data = pattern(2_000_000);
        let copy = data.clone();
        let writer = std::thread::spawn(move || server.write_all(&copy).map(drop));
        assert!(guest.receive(data.len()) == data);
        writer.join().unwrap().unwrap();
        assert_eq!(guest.next_with(FIN).h.fields.seq, guest.ack);
    }
}

#[test]
fn flows_take_turns() {
    let (mut guest, listener) = Guest::with_server(0);
    guest.bed.ring.offloads = TSO;
    let mut servers = Vec::new();
    for port in [1001, 1002] {
        guest.local.set_port(port);
        guest.open();
        servers.push(listener.accept().unwrap().0);
    }
    guest.bed.ring.full = true;
    for server in &mut servers {
        server.write_all(&pattern(50_000)).unwrap();
    }
    guest.silence();
    guest.bed.ring.full = false;
    guest.bed.run(|gateway, io| gateway.rx_available(io));
    let ports: Vec<_> = std::iter::from_fn(|| guest.try_next(Duration::from_millis(20)))
        .filter(|got| !got.payload.is_empty())
        .map(|got| got.to.port())
        .collect();
    assert!(ports.starts_with(&[1001, 1002, 1001, 1002]), "{ports:?}");
}

#[test]
fn pieces_of_a_segment_may_lie_anywhere() {
    let (mut guest, server) = Guest::connected(0);
    let data = pattern(5000);
    let whole = frame(guest.local, guest.remote, guest.fields(ACK), &[], &data);
    let (head, rest) = whole.split_at(HEAD_MAX);
    let mut pieces: Vec<Vec<u8>> = rest.chunks(700).map(<[u8]>::to_vec).collect();
    let tail: Vec<_> = pieces.iter_mut().map(|p| VolatileSlice::from(&mut p[..])).collect();
    let frame = TxFrame { head, tail: &tail, len: whole.len(), offload: Offload::default() };
    assert!(whole.len() < FRAME_MAX);
    let outcome = guest.bed.run(|gateway, io| gateway.send(io, &frame));
    assert_eq!(outcome, TxOutcome::Sent);
    guest.bed.run(|gateway, io| gateway.batch_end(io));
    assert_eq!(read_all(&server, 5000), data);
}

#[test]
fn without_peek_offsets_less_is_under_way() {
    let (mut guest, server) = Guest::with_server(0);
    guest.bed.gateway.tcp.flows.set_peeking(false);
    guest.bed.ring.offloads = TSO;
    guest.raw(guest.fields(SYN), &[2, 4, 0x05, 0xb4, 1, 3, 3, 7], b"");
    guest.seq += 1;
    let syn = guest.next();
    guest.learn_syn(&syn);
    guest.send(ACK, b"");
    let data = pattern(600_000);
    let copy = data.clone();
    let writer = std::thread::spawn(move || server.accept().unwrap().0.write_all(&copy));
    let mut got = Vec::new();
    while got.len() < data.len() {
        let before = got.len();
        while let Some(segment) = guest.try_next(Duration::from_millis(50)) {
            assert_eq!(segment.h.fields.seq, guest.ack + (got.len() - before) as u32);
            got.extend(segment.payload);
        }
        let flight = got.len() - before;
        assert!(flight > 0 && flight <= UNACKED_MAX as usize, "{flight} bytes");
        guest.ack += flight as u32;
        guest.send(ACK, b"");
    }
    assert!(got == data);
    writer.join().unwrap().unwrap();
}
