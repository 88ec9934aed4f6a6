//! How connections end.

use std::net::Shutdown;

use super::*;

fn expect_reset(mut server: &TcpStream) {
    let kind = server.read(&mut [0]).unwrap_err().kind();
    assert_eq!(kind, io::ErrorKind::ConnectionReset);
}

fn expect_end(mut server: &TcpStream) {
    assert_eq!(server.read(&mut [0]).unwrap(), 0);
}

fn abort(server: TcpStream) {
    stream::abort(server.into());
}

/// The next FIN, acknowledged.
fn take_fin(guest: &mut Guest) {
    let got = guest.next_with(FIN);
    assert_eq!(got.h.fields.seq, guest.ack);
    guest.ack += 1;
    guest.send(ACK, b"");
}

#[test]
fn the_guest_ends_first() {
    for i in 0..2 {
        let (mut guest, mut server) = Guest::connected(i);
        // Bytes with the FIN.
        guest.send(ACK | FIN, b"bye");
        assert_eq!(read_all(&server, 3), b"bye");
        expect_end(&server);
        assert_eq!(guest.next().h.fields.ack, guest.seq);
        // The other direction goes on.
        let data = pattern(100_000);
        let copy = data.clone();
        let writer = std::thread::spawn(move || server.write_all(&copy).map(|()| server));
        assert_eq!(guest.receive(data.len()), data);
        drop(writer.join().unwrap().unwrap());
        take_fin(&mut guest);
        assert_eq!(guest.flows(), 0);
    }
}

#[test]
fn the_host_ends_first() {
    let (mut guest, mut server) = Guest::connected(0);
    server.write_all(b"bye").unwrap();
    server.shutdown(Shutdown::Write).unwrap();
    assert_eq!(guest.receive(3), b"bye");
    take_fin(&mut guest);
    for chunk in pattern(50_000).chunks(1400) {
        assert_eq!(guest.send(ACK, chunk), TxOutcome::Sent);
    }
    guest.send(ACK | FIN, b"");
    assert_eq!(read_all(&server, 50_000), pattern(50_000));
    expect_end(&server);
    let last = std::iter::from_fn(|| guest.try_next(Duration::ZERO)).last().unwrap();
    assert_eq!(last.h.fields.ack, guest.seq);
    // The last FIN may come again: TIME-WAIT.
    guest.seq -= 1;
    guest.send(ACK | FIN, b"");
    assert_eq!(guest.next().h.fields.ack, guest.seq);
    assert_eq!(guest.flows(), 1);
    guest.bed.advance(Duration::from_secs(11));
    assert_eq!(guest.flows(), 0);
}

#[test]
fn a_port_in_time_wait_may_be_used_again() {
    let (mut guest, listener) = Guest::with_server(0);
    for _ in 0..3 {
        guest.open();
        let (mut server, _) = listener.accept().unwrap();
        server.shutdown(Shutdown::Write).unwrap();
        take_fin(&mut guest);
        guest.send(ACK | FIN, b"x");
        assert_eq!(guest.next().h.fields.ack, guest.seq);
        assert_eq!(server.read(&mut [0; 8]).unwrap(), 1);
        assert_eq!(guest.flows(), 1);
        guest.seq += 1000;
    }
}

#[test]
fn both_end_at_once() {
    let (mut guest, server) = Guest::connected(0);
    server.shutdown(Shutdown::Write).unwrap();
    let fin = guest.next_with(FIN);
    // The guest's FIN crosses ours.
    guest.send(ACK | FIN, b"");
    expect_end(&server);
    assert_eq!(guest.next().h.fields.ack, guest.seq);
    assert_eq!(fin.h.fields.seq, guest.ack);
    guest.ack += 1;
    guest.send(ACK, b"");
    assert_eq!(guest.flows(), 1);
    guest.bed.advance(Duration::from_secs(11));
    assert_eq!(guest.flows(), 0);
}

#[test]
fn a_lost_fin_comes_again() {
    let (mut guest, server) = Guest::connected(0);
    server.shutdown(Shutdown::Write).unwrap();
    let fin = guest.next_with(FIN);
    for _ in 0..4 {
        guest.bed.advance(Duration::from_secs(20));
        assert_eq!(guest.next_with(FIN).h, fin.h);
    }
    take_later(&mut guest);
    guest.send(ACK | FIN, b"");
    expect_end(&server);
}

/// Takes a FIN that has come already.
fn take_later(guest: &mut Guest) {
    guest.inbox.clear();
    guest.bed.ring.frames.clear();
    guest.ack += 1;
    guest.send(ACK, b"");
}

#[test]
fn a_reset_of_the_guest_reaches_the_server() {
    for state in ["open", "half closed by it", "half closed by the server"] {
        let (mut guest, server) = Guest::connected(0);
        match state {
            "half closed by it" => drop(guest.send(ACK | FIN, b"")),
            "half closed by the server" => {
                server.shutdown(Shutdown::Write).unwrap();
                take_fin(&mut guest);
            }
            _ => {}
        }
        guest.send(RST, b"");
        assert_eq!(guest.flows(), 0, "{state}");
        if state == "half closed by it" {
            expect_end(&server);
            // The reset after the end shows when something is sent.
            let mut server = server;
            assert!(server.write_all(b"x").is_err());
        } else {
            expect_reset(&server);
        }
    }
}

#[test]
fn a_reset_of_the_server_reaches_the_guest() {
    for state in ["open", "half closed", "with bytes before it", "with a closed window"] {
        let (mut guest, mut server) = Guest::connected(1);
        match state {
            "half closed" => {
                server.shutdown(Shutdown::Write).unwrap();
                take_fin(&mut guest);
            }
            "with bytes before it" => {
                server.write_all(b"bytes").unwrap();
                assert_eq!(guest.receive(5), b"bytes");
            }
            "with a closed window" => {
                guest.window = 0;
                guest.send(ACK, b"");
                server.write_all(b"bytes").unwrap();
            }
            _ => {}
        }
        abort(server);
        let got = guest.next_with(RST);
        assert_eq!((got.flags(), got.h.fields.seq), (RST | ACK, guest.ack), "{state}");
        assert_eq!(guest.flows(), 0);
    }
}

#[test]
fn a_server_that_is_gone_resets_the_guests_bytes() {
    let (mut guest, server) = Guest::connected(0);
    drop(server);
    take_fin(&mut guest);
    while guest.flows() > 0 {
        guest.send(ACK, b"x");
        guest.events(Duration::from_millis(10));
    }
    assert!(std::iter::from_fn(|| guest.try_next(Duration::ZERO)).any(|got| got.h.has(RST)));
}

#[test]
fn silence_ends_a_flow_at_last() {
    let (mut guest, server) = Guest::connected(0);
    guest.bed.advance(Duration::from_secs(2 * 3600));
    assert_eq!(guest.flows(), 1);
    guest.send(ACK, b"x");
    guest.bed.advance(Duration::from_secs(2 * 3600));
    assert_eq!(guest.flows(), 1);
    guest.bed.advance(Duration::from_secs(5 * 60));
    assert_eq!(guest.flows(), 0);
    assert_eq!(guest.next_with(RST).h.fields.seq, guest.ack);
    read_all(&server, 1);
    expect_reset(&server);
}

#[test]
fn when_the_guest_goes_its_flows_go() {
    let (mut guest, server) = Guest::connected(0);
    guest.send(ACK, b"x");
    guest.bed.detach();
    assert_eq!(guest.flows(), 0);
    read_all(&server, 1);
    expect_reset(&server);
    // Events of the former flow are nobody's.
    while guest.events(Duration::from_millis(20)) {}
    assert_eq!(guest.bed.gateway.tcp.deadline(), None);
}

#[test]
fn only_the_right_reset_resets() {
    let (mut guest, _server) = Guest::connected(0);
    let seq = guest.seq;
    // In the window, but not what is expected: a challenge (RFC 5961 §3.2).
    guest.seq = seq + 5;
    assert_eq!(guest.send(RST, b""), TxOutcome::Dropped(DropReason::OutOfWindow));
    assert_eq!(guest.next().h.fields.ack, seq);
    // The next one is not answered so soon.
    assert_eq!(guest.send(RST, b""), TxOutcome::Dropped(DropReason::RateLimited));
    guest.seq = seq - 5;
    assert_eq!(guest.send(RST, b""), TxOutcome::Dropped(DropReason::OutOfWindow));
    guest.silence();
    // A SYN is no better (RFC 5961 §4).
    guest.bed.advance(Duration::from_secs(1));
    guest.seq = seq;
    assert_eq!(guest.syn(), TxOutcome::Dropped(DropReason::OutOfWindow));
    let got = guest.next();
    assert_eq!((got.flags(), got.h.fields.ack), (ACK, seq));
    // What the guest says to that, if it meant it, does reset.
    let fields = Fields { seq: got.h.fields.ack, ..guest.fields(RST) };
    assert_eq!(guest.raw(fields, &[], b""), TxOutcome::Sent);
    assert_eq!(guest.flows(), 0);
}
