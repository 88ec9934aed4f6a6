//! Windows: the guest's, and those that it is offered.

use super::*;

#[test]
fn the_guests_window_is_kept_to() {
    let (mut guest, mut server) = Guest::connected(0);
    guest.window = 1000;
    guest.send(ACK, b"");
    server.write_all(&pattern(10_000)).unwrap();
    let mut got = Vec::new();
    while got.len() < 10_000 {
        let mut window = Vec::new();
        while let Some(segment) = guest.try_next(Duration::from_millis(20)) {
            assert_eq!(segment.h.fields.seq, guest.ack + window.len() as u32);
            window.extend(segment.payload);
        }
        assert!(!window.is_empty() && window.len() <= 1000, "{}", window.len());
        guest.ack += window.len() as u32;
        got.extend(window);
        guest.send(ACK, b"");
    }
    assert_eq!(got, pattern(10_000));
}

#[test]
fn a_closed_window_is_probed_and_opened() {
    let (mut guest, mut server) = Guest::connected(0);
    guest.window = 0;
    guest.send(ACK, b"");
    server.write_all(b"wait").unwrap();
    guest.silence();
    for _ in 0..5 {
        guest.bed.advance(Duration::from_secs(60));
        let probe = guest.next();
        assert_eq!((probe.h.fields.seq, probe.payload.len()), (guest.ack - 1, 0));
        guest.inbox.clear();
        guest.bed.ring.frames.clear();
        guest.send(ACK, b"");
    }
    guest.window = 100;
    guest.send(ACK, b"");
    assert_eq!(guest.receive(4), b"wait");
}

#[test]
fn a_server_that_does_not_read_closes_the_window() {
    let (mut guest, server) = Guest::connected(0);
    let data = pattern(64 << 20);
    guest.send(ACK, &data[..1]);
    let (mut sent, mut edge) = (1, guest.seq);
    // As a guest would: never beyond the window.
    loop {
        guest.poll();
        for got in guest.inbox.drain(..) {
            edge = got.h.fields.ack + (u32::from(got.h.fields.window) << SCALE);
        }
        let room = (edge - guest.seq) as usize;
        if room < 1460 && !guest.events(Duration::from_millis(100)) {
            break;
        }
        let n = room.min(60_000);
        assert_eq!(guest.send(ACK, &data[sent..sent + n]), TxOutcome::Sent);
        sent += n;
    }
    assert!(sent > 10_000 && sent < 32 << 20, "{sent}");
    assert_eq!(guest.drops(DropReason::SendBufferFull), 0);
    // Nothing more is said until the server reads.
    guest.silence();
    assert_eq!(read_all(&server, sent), data[..sent]);
    let got = guest.next();
    assert_eq!(got.h.fields.ack, guest.seq);
    assert!(u32::from(got.h.fields.window) << SCALE >= 1460);
}

#[test]
fn what_the_socket_refuses_is_asked_for_again() {
    let (mut guest, server) = Guest::connected(0);
    // The kernel may take back room that it had (tcp_mem).
    let data = pattern(32 << 20);
    let start = guest.seq;
    let id = guest.bed.gateway.tcp.flows.table.ids().start;
    let flow = guest.bed.gateway.tcp.flows.table.get(id).unwrap();
    flow.to_host.widen(start + data.len() as u32);
    let mut refused = false;
    for chunk in data.chunks(60_000) {
        match guest.send(ACK, chunk) {
            TxOutcome::Sent => {}
            TxOutcome::Dropped(DropReason::SendBufferFull) => refused = true,
            other => panic!("{other:?}"),
        }
        if refused {
            break;
        }
    }
    assert!(refused);
    let last = std::iter::from_fn(|| guest.try_next(Duration::ZERO)).last().unwrap();
    assert_eq!(last.h.fields.window, 0);
    let taken = (last.h.fields.ack - start) as usize;
    assert_eq!(read_all(&server, taken), data[..taken]);
    // The window opens, with three more that say the same: resend at once.
    let acks: Vec<_> = (0..4).map(|_| guest.next()).collect();
    assert!(acks.iter().all(|a| a.h == acks[0].h && a.h.fields.window > 0));
    guest.seq = last.h.fields.ack;
    guest.send(ACK, &data[taken..taken + 1000]);
    assert_eq!(read_all(&server, 1000), data[taken..taken + 1000]);
}

#[test]
fn a_window_may_stay_closed_while_the_guest_answers() {
    let (mut guest, mut server) = Guest::connected(0);
    server.write_all(&pattern(1000)).unwrap();
    assert_eq!(guest.next().payload.len(), 1000);
    // No memory for it: not taken, and no more wanted.
    guest.window = 0;
    guest.send(ACK, b"");
    let mut probes = 0;
    for _ in 0..40 {
        guest.bed.advance(Duration::from_secs(30));
        while guest.try_next(Duration::ZERO).is_some() {
            probes += 1;
            guest.send(ACK, b"");
        }
    }
    // At least one a minute.
    assert!(probes >= 20, "{probes} probes in 20 minutes");
    assert_eq!(guest.flows(), 1);
    guest.window = 0xffff;
    guest.send(ACK, b"");
    guest.bed.advance(Duration::from_secs(2));
    assert_eq!(guest.receive(1000), pattern(1000));
}

#[test]
fn a_window_that_opens_late_is_used_with_patience() {
    let (mut guest, mut server) = Guest::connected(0);
    guest.window = 0;
    guest.send(ACK, b"");
    server.write_all(b"wait").unwrap();
    guest.silence();
    for _ in 0..20 {
        guest.bed.advance(Duration::from_secs(60));
        while guest.try_next(Duration::ZERO).is_some() {}
        guest.send(ACK, b"");
    }
    // Just before the next probe.
    let due = guest.bed.gateway.tcp.deadline().unwrap();
    let left = due.saturating_duration_since(guest.bed.now);
    guest.bed.advance(left - Duration::from_millis(5));
    guest.window = 1000;
    guest.send(ACK, b"");
    assert_eq!(guest.next().payload, b"wait");
    // The guest takes its time to answer.
    guest.bed.advance(Duration::from_millis(20));
    assert_eq!(guest.flows(), 1);
    guest.silence();
}

#[test]
fn bytes_beyond_the_window_do_not_turn_it_over() {
    let (mut guest, server) = Guest::connected(0);
    guest.send(ACK, b"x");
    let id = guest.bed.gateway.tcp.flows.table.ids().start;
    // As if all had been used.
    guest.bed.gateway.tcp.flows.table.get(id).unwrap().to_host.widen(guest.seq);
    guest.poll();
    guest.inbox.clear();
    // A probe of one byte, as some systems send.
    guest.send(ACK, b"p");
    let window = u32::from(guest.next().h.fields.window) << SCALE;
    let size = stream::send_memory(&server).unwrap().size.max(4 * 1024 * 1024);
    assert!(window <= size, "{window} of {size}");
    assert_eq!(read_all(&server, 2), b"xp");
}
