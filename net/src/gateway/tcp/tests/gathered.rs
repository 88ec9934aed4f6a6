//! Small segments of one batch, which go to the socket together.

use rustix::net::sockopt::{set_socket_recv_buffer_size, set_socket_send_buffer_size};

use super::*;

#[test]
fn a_batch_of_small_segments_arrives_in_order() {
    for i in 0..2 {
        let (mut guest, server) = Guest::connected(i);
        let data = pattern(200_000);
        for batch in data.chunks(30_000) {
            for segment in batch.chunks(1400) {
                assert_eq!(guest.queue(ACK, segment), TxOutcome::Sent);
            }
            guest.batch_end();
            let acks: Vec<_> = std::iter::from_fn(|| guest.try_next(Duration::ZERO)).collect();
            assert_eq!(acks.len(), 1);
            assert_eq!(acks[0].h.fields.ack, guest.seq);
        }
        assert!(read_all(&server, data.len()) == data);
    }
}

#[test]
fn flows_that_share_a_batch_keep_their_bytes() {
    let (mut guest, listener) = Guest::with_server(0);
    let mut ends = Vec::new();
    for port in [1001, 1002] {
        guest.local.set_port(port);
        guest.open();
        ends.push((port, guest.seq, guest.ack, listener.accept().unwrap().0));
    }
    for n in 0..20u8 {
        for (port, seq, ack, _) in &mut ends {
            guest.local.set_port(*port);
            (guest.seq, guest.ack) = (*seq, *ack);
            guest.queue(ACK, &[n ^ *port as u8; 100]);
            *seq = guest.seq;
        }
    }
    guest.batch_end();
    for (port, .., server) in &ends {
        let want: Vec<u8> = (0..20u8).flat_map(|n| [n ^ *port as u8; 100]).collect();
        assert_eq!(read_all(server, 2000), want);
    }
}

#[test]
fn a_large_segment_does_not_pass_small_ones() {
    let (mut guest, server) = Guest::connected(0);
    let data = pattern(120_000);
    let mut rest = &data[..];
    for len in [100, 40_000, 1, 16_000, 16_000, 16_000, 16_000, 15_000, 899] {
        let (segment, after) = rest.split_at(len);
        assert_eq!(guest.queue(ACK, segment), TxOutcome::Sent);
        rest = after;
    }
    assert!(rest.is_empty());
    guest.batch_end();
    assert!(read_all(&server, data.len()) == data);
}

/// A connection whose buffers take little, and a batch with a FIN at its end that is too much for
/// them. Returns what of it was taken.
fn overfilled(data: &[u8]) -> (Guest, TcpStream, usize) {
    let (mut guest, listener) = Guest::with_server(0);
    set_socket_recv_buffer_size(&listener, 4096).unwrap();
    guest.open();
    let server = listener.accept().unwrap().0;
    server.set_read_timeout(Some(WAIT)).unwrap();
    let start = guest.seq;
    let id = guest.bed.gateway.tcp.flows.table.ids().start;
    let flow = guest.bed.gateway.tcp.flows.table.get(id).unwrap();
    set_socket_send_buffer_size(&flow.socket.as_ref().unwrap().fd, 4096).unwrap();
    // A guest that looks at no window.
    flow.to_host.widen(start + (data.len() as u32 + 1));
    for segment in data.chunks(1400) {
        guest.queue(ACK, segment);
    }
    guest.queue(ACK | FIN, b"");
    guest.batch_end();
    let last = std::iter::from_fn(|| guest.try_next(Duration::ZERO)).last().unwrap();
    assert_eq!(last.h.fields.window, 0);
    let taken = (last.h.fields.ack - start) as usize;
    assert!(taken > 0 && taken < data.len(), "{taken}");
    guest.seq = last.h.fields.ack;
    (guest, server, taken)
}

#[test]
fn what_the_socket_refuses_of_a_batch_is_as_if_it_had_not_come() {
    let data = pattern(50_000);
    let (mut guest, server, taken) = overfilled(&data);
    assert!(guest.drops(DropReason::SendBufferFull) >= 1);
    assert_eq!(read_all(&server, taken), data[..taken]);
    // The FIN behind it was not taken either: the rest, and then the end, come after.
    let mut at = taken;
    while at < data.len() {
        while guest.try_next(Duration::from_millis(20)).is_some() {}
        let n = 1000.min(data.len() - at);
        if guest.send(ACK, &data[at..at + n]) != TxOutcome::Sent {
            guest.seq -= n as u32;
            continue;
        }
        assert_eq!(read_all(&server, n), data[at..at + n]);
        at += n;
    }
    guest.send(ACK | FIN, b"");
    assert_eq!((&server).read(&mut [0]).unwrap(), 0);
}

#[test]
fn a_socket_that_fails_with_gathered_bytes_resets_the_guest() {
    let (mut guest, server) = Guest::connected(0);
    guest.queue(ACK, &pattern(500));
    stream::abort(server.into());
    guest.queue(ACK | FIN, b"");
    guest.batch_end();
    guest.next_with(RST);
    assert_eq!(guest.flows(), 0);
    assert_eq!(guest.drops(DropReason::SendFailed), 1);
}

/// Bytes that the kernel has not sent yet (`SIOCOUTQNSD`, `tcp(7)`).
#[expect(unsafe_code, reason = "an ioctl without a wrapper")]
fn unsent(guest: &mut Guest) -> i32 {
    use std::os::fd::AsRawFd;
    let id = guest.bed.gateway.tcp.flows.table.ids().start;
    let flow = guest.bed.gateway.tcp.flows.table.get(id).unwrap();
    let mut bytes = 0;
    // SAFETY: it writes one int, which lives here.
    let done = unsafe {
        libc::ioctl(flow.socket.as_ref().unwrap().fd.as_raw_fd(), 0x894b, &raw mut bytes)
    };
    assert_eq!(done, 0);
    bytes
}

#[test]
fn less_than_a_segment_waits_for_the_rest_of_the_batch_and_no_longer() {
    for i in 0..2 {
        let (mut guest, server) = Guest::connected(i);
        let data = pattern(60_000);
        // Too large to be copied, and less than a segment of the loopback's 64 KiB.
        guest.queue(ACK, &data[..20_000]);
        assert_eq!(unsent(&mut guest), 20_000);
        // A push is not held back.
        guest.queue(ACK | PSH, &data[20_000..]);
        assert_eq!(unsent(&mut guest), 0);
        assert_eq!(read_all(&server, data.len()), data);

        guest.queue(ACK, &data[..20_000]);
        assert_eq!(unsent(&mut guest), 20_000);
        guest.batch_end();
        assert_eq!(unsent(&mut guest), 0);
        assert_eq!(read_all(&server, 20_000), data[..20_000]);

        // The end of the stream pushes too.
        guest.queue(ACK, &data[..20_000]);
        guest.queue(FIN | ACK, b"");
        assert_eq!(unsent(&mut guest), 0);
        assert_eq!(read_all(&server, 20_000), data[..20_000]);
    }
}
