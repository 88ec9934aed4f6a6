//! Urgent bytes keep their place and their mark.

use rustix::net::{RecvFlags, SendFlags, recv, send};

use super::*;
use crate::sys::stream::{has_urgent, is_at_mark};
use crate::wire::tcp::URG;

impl Guest {
    /// Sends `payload`, before whose byte `pointer` its urgent data ends, and maybe goes on.
    fn send_urgent(&mut self, pointer: u16, payload: &[u8], goes_on: bool) {
        let fields = self.fields(ACK | URG);
        let mut frame = frame(self.local, self.remote, fields, &[], payload);
        let at = if self.local.is_ipv4() { 34 } else { 54 };
        frame[at + 16..at + 18].fill(0);
        frame[at + 18..at + 20].copy_from_slice(&pointer.to_be_bytes());
        let (from, to) = (self.local.ip(), self.remote.ip());
        let mut sum = Sum::pseudo_header(from, to, protocol::TCP, frame.len() - at);
        sum.bytes(&frame[at..]);
        frame[at + 16..at + 18].copy_from_slice(&sum.finish().to_be_bytes());
        self.seq += payload.len() as u32;
        assert_eq!(self.bed.send(&frame), TxOutcome::Sent);
        if !goes_on {
            self.batch_end();
        }
    }

    /// The next segment with payload, which is acknowledged.
    fn next_payload(&mut self) -> Got {
        let got = std::iter::repeat_with(|| self.next()).find(|got| !got.payload.is_empty());
        let got = got.unwrap();
        assert_eq!(got.h.fields.seq, self.ack);
        self.ack += got.payload.len() as u32;
        self.send(ACK, b"");
        got
    }
}

/// The urgent byte that a server was sent, once it is there.
fn out_of_band(server: &TcpStream) -> u8 {
    let end = Instant::now() + WAIT;
    while !has_urgent(server) {
        assert!(Instant::now() < end, "nothing urgent came");
        std::thread::sleep(Duration::from_millis(1));
    }
    let mut byte = [0];
    recv(server, &mut byte, RecvFlags::OOB).unwrap();
    byte[0]
}

#[test]
fn the_guests_urgent_byte_can_be_read_out_of_band() {
    for i in 0..2 {
        let (mut guest, server) = Guest::connected(i);
        guest.send_urgent(4, b"abc!def", false);
        assert_eq!(guest.next().h.fields.ack, guest.seq);
        assert_eq!(out_of_band(&server), b'!');
        assert_eq!(read_all(&server, 3), b"abc");
        assert!(is_at_mark(&server));
        assert_eq!(read_all(&server, 3), b"def");
        // Alone, and the last of a segment.
        guest.send_urgent(1, b"?", false);
        assert_eq!(out_of_band(&server), b'?');
        guest.send_urgent(3, b"gh#", true);
        guest.send(ACK, b"ij");
        assert_eq!(out_of_band(&server), b'#');
        assert_eq!(read_all(&server, 2), b"gh");
        assert_eq!(read_all(&server, 2), b"ij");
    }
}

#[test]
fn an_urgent_byte_may_be_ahead_of_what_has_come() {
    let (mut guest, server) = Guest::connected(0);
    guest.send_urgent(5, b"abc", true);
    guest.send(ACK, b"d!ef");
    assert_eq!(out_of_band(&server), b'!');
    assert_eq!(read_all(&server, 4), b"abcd");
    assert_eq!(read_all(&server, 2), b"ef");
    // One that was passed long ago marks nothing.
    guest.seq -= 7;
    guest.send_urgent(5, b"abcd!efg", false);
    assert_eq!(read_all(&server, 1), b"g");
    assert!(!has_urgent(&server));
}

#[test]
fn a_server_that_reads_in_line_finds_the_byte_in_its_place() {
    let (mut guest, server) = Guest::connected(0);
    rustix::net::sockopt::set_socket_oobinline(&server, true).unwrap();
    // Between bytes that are gathered.
    guest.queue(ACK, b"abc");
    guest.send_urgent(2, b"d!e", true);
    guest.send(ACK, b"fgh");
    assert_eq!(read_all(&server, 9), b"abcd!efgh");
}

#[test]
fn a_large_segment_may_have_an_urgent_byte() {
    for at in [1, 100, 300, 20_000, 40_000] {
        let (mut guest, server) = Guest::connected(0);
        let data = pattern(40_000);
        guest.send_urgent(at, &data, false);
        let at = usize::from(at) - 1;
        assert_eq!(out_of_band(&server), data[at]);
        let got = read_all(&server, data.len() - 1);
        assert!(got[..at] == data[..at] && got[at..] == data[at + 1..], "{at}");
    }
}

#[test]
fn the_hosts_urgent_byte_keeps_its_mark() {
    for (i, peeks) in [(0, true), (1, true), (0, false)] {
        let (mut guest, mut server) = Guest::connected_with(i, peeks);
        guest.bed.ring.offloads = TSO;
        for _ in 0..3 {
            send(&server, b"abc!", SendFlags::OOB).unwrap();
            server.write_all(b"more").unwrap();
            std::thread::sleep(Duration::from_millis(20));
            for (want, urgent) in [(&b"abc"[..], false), (b"!", true), (b"more", false)] {
                let got = guest.next_payload();
                assert_eq!(got.payload, want);
                assert_eq!(got.h.urgent, urgent.then_some(got.h.fields.seq));
            }
        }
        // There is nothing of it any more.
        let (_, flow) = guest.bed.gateway.tcp.flows.table.iter().next().unwrap();
        assert!(!flow.to_guest.has_urgent());
        drop(server);
        assert_eq!(guest.next_with(FIN).h.fields.seq, guest.ack);
    }
}

#[test]
fn an_urgent_byte_that_is_lost_comes_again_with_its_mark() {
    for peeks in [true, false] {
        let (mut guest, mut server) = Guest::connected_with(0, peeks);
        send(&server, b"!", SendFlags::OOB).unwrap();
        server.write_all(b"more").unwrap();
        let lost = std::iter::repeat_with(|| guest.next()).find(|got| !got.payload.is_empty());
        assert_eq!(lost.unwrap().h.urgent, Some(guest.ack));
        guest.silence();
        guest.bed.advance(Duration::from_secs(2));
        let got = guest.next_payload();
        assert_eq!((&got.payload[..], got.h.urgent), (&b"!"[..], Some(got.h.fields.seq)));
        assert_eq!(guest.receive(4), b"more");
    }
}

#[test]
fn many_bytes_around_urgent_ones_come_whole() {
    let (mut guest, server) = Guest::connected(0);
    guest.bed.ring.offloads = TSO;
    let data = pattern(2_000_000);
    let copy = data.clone();
    let writer = std::thread::spawn(move || {
        for (n, chunk) in copy.chunks(10_000).enumerate() {
            let flags = if n % 7 == 0 { SendFlags::OOB } else { SendFlags::empty() };
            assert_eq!(send(&server, chunk, flags).unwrap(), chunk.len());
        }
        server
    });
    assert!(guest.receive(data.len()) == data);
    writer.join().unwrap();
}
