//! The guest: smoltcp, which talks with all that a gateway has.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::Duration;

use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::socket::{dhcpv4, icmp, tcp, udp};
use smoltcp::time::Instant;
use smoltcp::wire::{
    EthernetAddress, HardwareAddress, Icmpv4Packet, Icmpv4Repr, IpAddress, IpCidr, IpEndpoint,
};

use super::wire::Wire;
use super::world::{DNS, GATEWAY4, GATEWAY6, GUEST_MAC, GUEST4, GUEST6, PEER4, PEER6, PUBLISHED};

/// Bytes of a conversation.
const TALK: usize = 3000;

/// A TCP connection to the peer, which echoes: one conversation after another.
struct Talk {
    socket: SocketHandle,
    peer: IpAddr,
    sent: usize,
    received: usize,
}

/// See the module's documentation.
pub struct Station {
    wire: Wire,
    iface: Interface,
    sockets: SocketSet<'static>,
    talks: Vec<Talk>,
    server: SocketHandle,
    udp: SocketHandle,
    ping: SocketHandle,
    port: u16,
    turns: u64,
    done: usize,
}

impl Station {
    pub fn new() -> Self {
        let mut wire = Wire::default();
        let config = Config::new(HardwareAddress::Ethernet(EthernetAddress(GUEST_MAC.0)));
        let mut iface = Interface::new(config, &mut wire, Instant::ZERO);
        iface.update_ip_addrs(|a| {
            a.push(IpCidr::new(GUEST4.into(), 24)).unwrap();
            a.push(IpCidr::new(GUEST6.into(), 64)).unwrap();
        });
        iface.routes_mut().add_default_ipv4_route(GATEWAY4).unwrap();
        iface.routes_mut().add_default_ipv6_route(GATEWAY6).unwrap();
        let stream = || {
            let buffer = || tcp::SocketBuffer::new(vec![0; 20_000]);
            tcp::Socket::new(buffer(), buffer())
        };
        let mut sockets = SocketSet::new(vec![]);
        let peers: [IpAddr; 2] = [PEER4.into(), PEER6.into()];
        let talks =
            peers.map(|peer| Talk { socket: sockets.add(stream()), peer, sent: 0, received: 0 });
        let server = sockets.add(stream());
        let meta = || vec![udp::PacketMetadata::EMPTY; 8];
        let packets = || udp::PacketBuffer::new(meta(), vec![0; 20_000]);
        let mut socket = udp::Socket::new(packets(), packets());
        socket.bind(PUBLISHED).unwrap();
        let udp = sockets.add(socket);
        let packets =
            || icmp::PacketBuffer::new(vec![icmp::PacketMetadata::EMPTY; 8], vec![0; 4000]);
        let mut socket = icmp::Socket::new(packets(), packets());
        socket.bind(icmp::Endpoint::Ident(0x1234)).unwrap();
        let ping = sockets.add(socket);
        sockets.add(dhcpv4::Socket::new());
        let talks = talks.into();
        Self { wire, iface, sockets, talks, server, udp, ping, port: 40_000, turns: 0, done: 0 }
    }

    /// How much was talked about to the end.
    pub fn done(&self) -> usize {
        self.done
    }

    /// What the guest gets.
    pub fn receive(&mut self, frames: impl Iterator<Item = Vec<u8>>) {
        self.wire.to_guest.extend(frames);
    }

    /// What the guest sends at that time.
    pub fn turn(&mut self, elapsed: Duration) -> VecDeque<Vec<u8>> {
        self.turns += 1;
        self.talk();
        self.serve();
        self.datagrams();
        self.echo();
        let now = Instant::from_micros(elapsed.as_micros() as i64);
        self.iface.poll(now, &mut self.wire, &mut self.sockets);
        std::mem::take(&mut self.wire.to_gateway)
    }

    fn talk(&mut self) {
        for talk in &mut self.talks {
            let socket = self.sockets.get_mut::<tcp::Socket<'_>>(talk.socket);
            if !socket.is_open() {
                self.done += usize::from(talk.received >= TALK);
                (talk.sent, talk.received) = (0, 0);
                self.port = self.port.checked_add(1).unwrap_or(40_000);
                let _ = socket.connect(self.iface.context(), (talk.peer, 80), self.port);
                continue;
            }
            if socket.can_send() && talk.sent < TALK {
                talk.sent += socket.send_slice(&[7; 700]).unwrap_or(0);
            }
            while socket.can_recv() {
                talk.received += socket.recv(|bytes| (bytes.len(), bytes.len())).unwrap_or(0);
            }
            if talk.received >= TALK {
                socket.close();
            }
        }
    }

    /// The published port: what comes goes back.
    fn serve(&mut self) {
        let socket = self.sockets.get_mut::<tcp::Socket<'_>>(self.server);
        if !socket.is_open() {
            socket.listen(PUBLISHED).unwrap();
        }
        let mut bytes = [0; 1000];
        if socket.can_recv()
            && socket.can_send()
            && let Ok(n) = socket.recv_slice(&mut bytes)
        {
            let _ = socket.send_slice(&bytes[..n]);
        }
        if socket.is_active() && !socket.may_recv() {
            socket.close();
        }
    }

    fn datagrams(&mut self) {
        let socket = self.sockets.get_mut::<udp::Socket<'_>>(self.udp);
        while let Ok((bytes, from)) = socket.recv() {
            self.done += usize::from(bytes.len() == 9);
            let bytes = bytes.to_vec();
            if from.endpoint.port != 7 && from.endpoint.port != 53 {
                let _ = socket.send_slice(&bytes, from);
            }
        }
        if !self.turns.is_multiple_of(5) {
            return;
        }
        let size = [9, 900, 4000][(self.turns / 5 % 3) as usize];
        for peer in [IpAddr::from(PEER4), PEER6.into()] {
            let _ = socket.send_slice(&vec![1; size], IpEndpoint::new(peer.into(), 7));
        }
        for gateway in [IpAddr::from(GATEWAY4), GATEWAY6.into()] {
            let _ = socket.send_slice(DNS, IpEndpoint::new(gateway.into(), 53));
        }
    }

    fn echo(&mut self) {
        let socket = self.sockets.get_mut::<icmp::Socket<'_>>(self.ping);
        while socket.recv().is_ok() {}
        if !self.turns.is_multiple_of(7) {
            return;
        }
        for peer in [GATEWAY4, PEER4] {
            let data = &[3; 40];
            let repr = Icmpv4Repr::EchoRequest { ident: 0x1234, seq_no: self.turns as u16, data };
            if let Ok(bytes) = socket.send(repr.buffer_len(), IpAddress::from(peer)) {
                let mut packet = Icmpv4Packet::new_unchecked(bytes);
                repr.emit(&mut packet, &Default::default());
            }
        }
    }
}
