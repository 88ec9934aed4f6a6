//! Many bytes for a guest with a wide window: a few frames are read at once.

use std::thread::{self, JoinHandle};

use rustix::io::ioctl_fionread;
use rustix::net::sockopt::set_socket_recv_buffer_size;

use super::super::flow::Flow;
use super::*;
use crate::wire::IPV6_LEN;

/// The payload of the largest frame.
const FULL: usize = u16::MAX as usize - IPV6_LEN - TCP_LEN;
/// Three frames, the last of them small.
const THREE: usize = 2 * FULL + 10_000;

impl Guest {
    /// A connection with a window of 8 MiB, and the server's end of it.
    fn wide() -> (Self, TcpStream) {
        let (mut guest, server) = Self::with_server(0);
        guest.bed.ring.offloads = TSO;
        guest.raw(guest.fields(SYN), &[2, 4, 0x05, 0xb4, 1, 3, 3, 7], b"");
        guest.seq += 1;
        let syn = guest.next();
        guest.learn_syn(&syn);
        guest.send(ACK, b"");
        let flow = guest.flow();
        flow.to_guest.expect_much();
        set_socket_recv_buffer_size(&flow.socket.as_ref().unwrap().fd, 1 << 20).unwrap();
        (guest, server.accept().unwrap().0)
    }

    fn flow(&mut self) -> &mut Flow {
        let flows = &mut self.bed.gateway.tcp.flows.table;
        flows.get(flows.ids().start).unwrap()
    }

    /// Has the server send `data` and end, and waits until there are three frames of it.
    fn offer(&mut self, mut server: TcpStream, data: &[u8]) -> JoinHandle<()> {
        self.bed.ring.full = true;
        let copy = data.to_vec();
        let writer = thread::spawn(move || server.write_all(&copy).unwrap());
        let end = Instant::now() + WAIT;
        loop {
            // The flow hears of it, too.
            self.silence();
            let socket = self.flow().socket.as_ref().unwrap();
            if ioctl_fionread(&socket.fd).unwrap() >= THREE as u64 {
                return writer;
            }
            assert!(Instant::now() < end, "not so much fits");
        }
    }

    /// Receive buffers for `frames` come.
    fn make_room(&mut self, frames: usize) {
        self.bed.ring.full = false;
        self.bed.ring.left = frames;
        self.bed.run(|gateway, io| gateway.rx_available(io));
    }

    /// What was delivered and comes within a moment, all of it in order.
    fn take(&mut self) -> Vec<Vec<u8>> {
        let mut end = self.ack;
        let mut payloads = Vec::new();
        while let Some(got) = self.try_next(Duration::from_millis(20)) {
            if got.h.has(FIN) {
                // One that came before what was lost comes again.
                if got.h.fields.seq == end {
                    self.inbox.push_front(got);
                    break;
                }
            } else if !got.payload.is_empty() {
                assert_eq!(got.h.fields.seq, end);
                end += got.payload.len() as u32;
                payloads.push(got.payload);
            }
        }
        payloads
    }

    /// Takes the rest of `data`, of which it has had `got`, and its end.
    fn finish(&mut self, data: &[u8], mut got: Vec<u8>, writer: JoinHandle<()>) {
        let end = Instant::now() + WAIT;
        while got.len() < data.len() {
            assert!(Instant::now() < end, "{} of {} bytes", got.len(), data.len());
            let payloads = self.take().concat();
            self.ack += payloads.len() as u32;
            got.extend(payloads);
            self.send(ACK, b"");
        }
        assert!(got == data);
        assert_eq!(self.next_with(FIN).h.fields.seq, self.ack);
        writer.join().unwrap();
    }
}

#[test]
fn frames_are_full_however_many_are_read_at_once() {
    for ahead in 0..=3 {
        let (mut guest, server) = Guest::wide();
        guest.bed.ring.ahead = ahead;
        let data = pattern(3_000_000);
        let writer = guest.offer(server, &data);
        guest.make_room(usize::MAX);
        guest.poll();
        let first: Vec<_> = guest.inbox.iter().take(3).map(|got| got.payload.len()).collect();
        assert_eq!(first[..2], [FULL; 2]);
        let looked = guest.bed.ring.looked;
        assert_eq!(looked > 0, ahead > 0, "{looked} frames of {ahead} at a time");
        guest.finish(&data, Vec::new(), writer);
    }
}

#[test]
fn where_buffers_end_among_them_the_rest_is_read_again() {
    for frames in 1..=2 {
        let (mut guest, server) = Guest::wide();
        let data = pattern(THREE);
        // Nothing more happens at the socket.
        let writer = guest.offer(server.try_clone().unwrap(), &data);
        guest.make_room(frames);
        let mut got = guest.take();
        assert_eq!(got.len(), frames);
        guest.ack += got.concat().len() as u32;
        guest.make_room(usize::MAX);
        got.extend(guest.take());
        assert!(got.concat() == data);
        guest.ack += (data.len() - frames * FULL) as u32;
        guest.send(ACK, b"");
        drop(server);
        guest.finish(&data, got.concat(), writer);
    }
}

#[test]
fn what_is_lost_of_them_is_sent_again() {
    // Of the first frame all is there, or a part.
    for kept in [FULL, 1000] {
        let (mut guest, server) = Guest::wide();
        let data = pattern(1_000_000);
        let writer = guest.offer(server, &data);
        guest.make_room(usize::MAX);
        assert!(guest.take().len() >= 3);
        guest.ack += kept as u32;
        for _ in 0..4 {
            guest.send(ACK, b"");
        }
        guest.finish(&data, data[..kept].to_vec(), writer);
    }
}

#[test]
fn an_end_behind_them_is_told() {
    let (mut guest, server) = Guest::wide();
    let data = pattern(THREE);
    let writer = guest.offer(server, &data);
    while !writer.is_finished() {
        guest.silence();
    }
    guest.silence();
    guest.make_room(usize::MAX);
    let got = guest.take();
    assert_eq!(got.iter().map(Vec::len).collect::<Vec<_>>(), [FULL, FULL, THREE - 2 * FULL]);
    guest.ack += THREE as u32;
    guest.send(ACK, b"");
    guest.finish(&data, got.concat(), writer);
}

#[test]
fn the_window_ends_them() {
    let (mut guest, server) = Guest::wide();
    guest.window = 0;
    guest.send(ACK, b"");
    let data = pattern(400_000);
    let writer = guest.offer(server, &data);
    guest.make_room(usize::MAX);
    assert!(guest.take().is_empty());
    // A frame and a half.
    guest.window = ((FULL + FULL / 2) >> 7) as u16;
    let window = usize::from(guest.window) << 7;
    guest.send(ACK, b"");
    let got = guest.take();
    let lens: Vec<_> = got.iter().map(Vec::len).collect();
    assert_eq!(lens, [FULL, window - FULL]);
    guest.ack += window as u32;
    guest.send(ACK, b"");
    guest.finish(&data, got.concat(), writer);
}

#[test]
fn acknowledged_bytes_do_not_pile_up_within_a_batch() {
    let (mut guest, server) = Guest::wide();
    let data = pattern(2_000_000);
    let writer = guest.offer(server, &data);
    guest.make_room(usize::MAX);
    let mut got = Vec::new();
    let mut most = 0;
    while got.len() < data.len() {
        // They are acknowledged in one batch.
        for payload in guest.take() {
            guest.ack += payload.len() as u32;
            got.extend(payload);
            guest.queue(ACK, b"");
            most = most.max(guest.flow().to_guest.kept());
            assert!(most < 256 * 1024, "{most} bytes");
        }
        guest.batch_end();
        assert_eq!(guest.flow().to_guest.kept(), 0);
    }
    assert!(got == data && most > 0);
    writer.join().unwrap();
}
