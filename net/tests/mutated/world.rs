//! What is around the gateway: a host that can reach nothing but itself, with servers on it.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;

use minivmm_net::{FlowLimits, GatewayConfig, Ipv6Mode, MacAddr, Publish, Redirect, Transport};

pub const GUEST_MAC: MacAddr = MacAddr([0x52, 0x4d, 0, 0, 0, 2]);
pub const GATEWAY4: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 1);
pub const GUEST4: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
pub const GATEWAY6: Ipv6Addr = Ipv6Addr::new(0xfd00, 2, 0, 0, 0, 0, 0, 1);
pub const GUEST6: Ipv6Addr = Ipv6Addr::new(0xfd00, 2, 0, 0, 0, 0, 0, 2);
/// Where the servers seem to be.
pub const PEER4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
pub const PEER6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
/// The guest's port that the host publishes.
pub const PUBLISHED: u16 = 8080;
/// A question for `example.org`.
pub const DNS: &[u8] = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x07example\x03org\0\0\x01\0\x01";

const LIMITS: FlowLimits = FlowLimits { tcp: 64, udp: 32, ping: 8 };
/// Sockets of the world itself, of the gateway beside those of its flows, and of the process.
const DESCRIPTORS: usize = LIMITS.tcp + LIMITS.udp + LIMITS.ping + 200;

/// See the module's documentation. Servers are looked after in turns, so that nothing depends on
/// which thread comes first.
pub struct World {
    listeners: Vec<TcpListener>,
    datagrams: Vec<UdpSocket>,
    streams: Vec<TcpStream>,
    /// Clients of the published port.
    clients: Vec<TcpStream>,
    published: [SocketAddr; 2],
    turns: u64,
}

fn ip(args: &str) {
    let status = Command::new("ip").args(args.split(' ')).status();
    assert!(status.unwrap().success(), "ip {args}");
}

impl World {
    pub fn new() -> Self {
        ip("link set lo up");
        // Whatever else a frame leads to is lost there.
        ip("link add nowhere type veth peer name nobody");
        ip("link set nowhere up");
        ip("link set nobody up");
        ip("addr add 192.0.2.1/24 dev nowhere");
        ip("route add default dev nowhere");
        ip("addr add 2001:db8:1::1/64 dev nowhere nodad");
        ip("-6 route add default dev nowhere");
        let here = [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()];
        let listeners = here.map(|ip| TcpListener::bind((ip, 0)).unwrap()).into_iter();
        let datagrams = here.map(|ip| UdpSocket::bind((ip, 0)).unwrap()).into_iter();
        let listeners = listeners.inspect(|l| l.set_nonblocking(true).unwrap()).collect();
        let datagrams = datagrams.inspect(|d| d.set_nonblocking(true).unwrap()).collect();
        let published = here.map(|ip| SocketAddr::new(ip, PUBLISHED));
        Self { listeners, datagrams, streams: vec![], clients: vec![], published, turns: 0 }
    }

    /// A gateway that leads to the servers.
    pub fn config(&self) -> GatewayConfig {
        let mut redirects = Vec::new();
        for (i, ip) in [IpAddr::from(PEER4), PEER6.into()].into_iter().enumerate() {
            let tcp = self.listeners[i].local_addr().unwrap();
            let udp = self.datagrams[i].local_addr().unwrap();
            for (transport, port, to) in [(Transport::Tcp, 80, tcp), (Transport::Udp, 7, udp)] {
                redirects.push(Redirect { transport, from: SocketAddr::new(ip, port), to });
            }
        }
        let publish = self.published.iter().flat_map(|&listen| {
            [Transport::Tcp, Transport::Udp].map(|transport| Publish {
                transport,
                listen,
                guest_port: PUBLISHED,
            })
        });
        GatewayConfig {
            mac: MacAddr([0x52, 0x4d, 0, 0, 0, 1]),
            guest_mac: Some(GUEST_MAC),
            subnet4: "10.0.2.0/24".parse().unwrap(),
            gateway4: GATEWAY4,
            guest4: GUEST4,
            prefix6: "fd00:2::/64".parse().unwrap(),
            gateway6: GATEWAY6,
            ipv6: Ipv6Mode::On,
            mtu: 1500,
            hostname: "guest".into(),
            host_access: true,
            publish: publish.collect(),
            redirects,
            resolv_conf: "/nonexistent/resolv.conf".into(),
            limits: LIMITS,
        }
    }

    /// Whatever comes goes back; now and then somebody calls the guest.
    pub fn turn(&mut self) {
        self.turns += 1;
        for listener in &self.listeners {
            while let Ok((stream, _)) = listener.accept() {
                stream.set_nonblocking(true).unwrap();
                self.streams.push(stream);
            }
        }
        self.streams.retain_mut(echo);
        let mut bytes = vec![0; 65_536];
        for socket in &self.datagrams {
            while let Ok((n, from)) = socket.recv_from(&mut bytes) {
                let _ = socket.send_to(&bytes[..n], from);
            }
        }
        for client in &mut self.clients {
            let _ = client.read(&mut bytes);
        }
        if self.turns.is_multiple_of(100) {
            self.clients.clear();
            for to in self.published {
                self.call(to);
            }
        }
    }

    fn call(&mut self, to: SocketAddr) {
        if let Ok(mut client) = TcpStream::connect(to) {
            client.set_nonblocking(true).unwrap();
            let _ = client.write(&[5; 500]);
            self.clients.push(client);
        }
        let any: SocketAddr = if to.is_ipv4() { "127.0.0.1:0" } else { "[::1]:0" }.parse().unwrap();
        let _ = UdpSocket::bind(any).unwrap().send_to(&[6; 300], to);
    }

    /// What frames have opened is not more than may be.
    pub fn check_descriptors(&self) {
        let open = std::fs::read_dir("/proc/self/fd").unwrap().count();
        let own = self.streams.len() + self.clients.len();
        assert!(open <= DESCRIPTORS + own, "{open} descriptors, {own} of them the test's");
    }
}

/// False when it has ended.
fn echo(stream: &mut TcpStream) -> bool {
    let mut bytes = [0; 4096];
    match stream.read(&mut bytes) {
        Ok(0) => false,
        Ok(n) => stream.write(&bytes[..n]).is_ok(),
        Err(e) => e.kind() == ErrorKind::WouldBlock,
    }
}
