//! A whole TCP stack as the guest, on a link that loses frames.

#[path = "../../../../tests/common/wire.rs"]
mod wire;

use std::net::Ipv4Addr;

use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::socket::tcp::{Socket, SocketBuffer};
use smoltcp::time::Instant as SmolInstant;
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpCidr};

use self::wire::Wire;
use super::*;

/// A guest with smoltcp, and what is lost on its link.
struct Station {
    guest: Guest,
    wire: Wire,
    iface: Interface,
    sockets: SocketSet<'static>,
    handle: SocketHandle,
    random: u64,
    percent: u64,
}

impl Station {
    fn new(percent: u64, seed: u64) -> (Self, TcpListener) {
        let (guest, listener) = Guest::with_server(0);
        let mut wire = Wire::default();
        let mut config = Config::new(HardwareAddress::Ethernet(EthernetAddress(GUEST_MAC.0)));
        config.random_seed = seed;
        let mut iface = Interface::new(config, &mut wire, SmolInstant::ZERO);
        iface.update_ip_addrs(|a| {
            a.push(IpCidr::new(Ipv4Addr::new(10, 0, 2, 2).into(), 24)).unwrap();
        });
        iface.routes_mut().add_default_ipv4_route(Ipv4Addr::new(10, 0, 2, 1)).unwrap();
        let buffer = || SocketBuffer::new(vec![0; 100_000]);
        let mut socket = Socket::new(buffer(), buffer());
        socket.connect(iface.context(), (IpAddr::from([198, 51, 100, 1]), 80), 49152).unwrap();
        let mut sockets = SocketSet::new(vec![]);
        let handle = sockets.add(socket);
        let random = seed * 2 + 1;
        (Self { guest, wire, iface, sockets, handle, random, percent }, listener)
    }

    fn lost(&mut self) -> bool {
        // xorshift64
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % 100 < self.percent
    }

    fn socket(&mut self) -> &mut Socket<'static> {
        self.sockets.get_mut::<Socket<'_>>(self.handle)
    }

    /// One round: what the guest sends, what the host's sockets have, what time brings.
    fn turn(&mut self, elapsed: &mut Duration) {
        let now = SmolInstant::from_micros(elapsed.as_micros() as i64);
        self.iface.poll(now, &mut self.wire, &mut self.sockets);
        let mut moved = false;
        while let Some(frame) = self.wire.to_gateway.pop_front() {
            moved = true;
            if frame[12..14] == [8, 6] || !self.lost() {
                self.guest.bed.send(&frame);
            }
        }
        self.guest.bed.run(|gateway, io| gateway.batch_end(io));
        moved |= self.guest.events(Duration::ZERO);
        for frame in self.guest.bed.received() {
            moved = true;
            if frame[12..14] == [8, 6] || !self.lost() {
                self.wire.to_guest.push_back(frame);
            }
        }
        // While something happens time hardly passes.
        let step = if moved { Duration::from_micros(100) } else { Duration::from_millis(10) };
        self.guest.bed.advance(step);
        *elapsed += step;
    }
}

/// Sends `len` bytes each way and compares them.
fn exchange(len: usize, percent: u64, seed: u64) {
    let (mut station, listener) = Station::new(percent, seed);
    let data = pattern(len);
    let copy = data.clone();
    let host = std::thread::spawn(move || {
        let (mut server, _) = listener.accept().unwrap();
        let mut writer = server.try_clone().unwrap();
        let up = copy.clone();
        let sender = std::thread::spawn(move || {
            writer.write_all(&up).unwrap();
            writer.shutdown(std::net::Shutdown::Write).unwrap();
        });
        let mut got = Vec::new();
        server.read_to_end(&mut got).unwrap();
        sender.join().unwrap();
        got == copy
    });
    let (mut elapsed, end) = (Duration::ZERO, Instant::now() + Duration::from_secs(60));
    let (mut sent, mut got) = (0, Vec::new());
    loop {
        assert!(Instant::now() < end, "{sent} sent, {} came in {elapsed:?}", got.len());
        station.turn(&mut elapsed);
        let socket = station.socket();
        if socket.can_send() && sent < data.len() {
            sent += socket.send_slice(&data[sent..]).unwrap();
            if sent == data.len() {
                socket.close();
            }
        }
        if socket.can_recv() {
            socket.recv(|bytes| (bytes.len(), got.extend_from_slice(bytes))).unwrap();
        }
        if sent == data.len() && !socket.may_recv() && !socket.can_recv() && host.is_finished() {
            break;
        }
    }
    assert!(got == data, "other bytes came down");
    assert!(host.join().unwrap(), "other bytes came up");
    for _ in 0..20 {
        station.turn(&mut elapsed);
    }
    station.guest.bed.advance(Duration::from_secs(600));
    assert_eq!(station.guest.flows(), 0);
}

#[test]
fn nothing_is_lost() {
    exchange(4_000_000, 0, 1);
}

#[test]
fn one_frame_in_a_hundred_is_lost() {
    for seed in 1..4 {
        exchange(1_000_000, 1, seed);
    }
}

#[test]
fn one_frame_in_ten_is_lost() {
    for seed in 1..8 {
        exchange(100_000, 10, seed);
    }
}
