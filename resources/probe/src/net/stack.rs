//! The IP stack and the loop that drives it: poll, spin a little, sleep.

use minivmm_probe::cmdline::Options;
use minivmm_probe::icmp::Told;
use minivmm_probe::options::LeaseOptions;
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet, SocketStorage};
use smoltcp::socket::{dhcpv4, icmp, tcp, udp};
use smoltcp::time::{Duration, Instant};
use smoltcp::wire::{
    EthernetAddress, IpAddress, IpCidr, Ipv4Address, Ipv4Cidr, Ipv6Address, Ipv6Cidr,
};

use crate::apic::Apic;
use crate::clock::Clock;
use crate::mem::Arena;
use crate::virtio::net::{MIN_MTU, Nic};

const SOCKETS: usize = 24;
/// The least that IPv6 allows (RFC 8200 §5).
pub const IPV6_MIN_MTU: u16 = 1280;
/// How long a sleep may last without device interrupts, nanoseconds.
const NO_IRQ_SLEEP: u64 = 200_000;
const SLEEP: u64 = 4_000_000_000;
const REQUESTED: [u8; 7] = [1, 3, 6, 12, 15, 26, 51];

/// A DHCP lease.
#[derive(Clone, Copy, Debug)]
pub struct Lease {
    /// Our address and prefix.
    pub address: Ipv4Cidr,
    /// Default router.
    pub router: Option<Ipv4Address>,
    /// Resolver.
    pub dns: Option<Ipv4Address>,
    /// The server.
    pub server: Ipv4Address,
    /// What else it carried.
    pub options: LeaseOptions,
    /// When it came, microseconds since the first instruction.
    pub at: u64,
}

/// Everything that moves packets.
pub struct Stack {
    /// The NIC.
    pub nic: Nic,
    /// The IP stack's interface.
    pub iface: Interface,
    /// Its sockets.
    pub sockets: SocketSet<'static>,
    /// The clock.
    pub clock: Clock,
    /// The lease, if there is one.
    pub lease: Option<Lease>,
    dhcp: Option<SocketHandle>,
    apic: Apic,
    spin_us: u64,
    irq: bool,
    slaac: bool,
    next_port: u16,
}

impl Stack {
    /// The stack on a NIC, unconfigured; DHCP and SLAAC start with the first poll. `None` if memory is short.
    pub fn new(
        mut nic: Nic,
        clock: Clock,
        apic: Apic,
        options: &Options<'_>,
        arena: &mut Arena,
    ) -> Option<Self> {
        let mut sockets = SocketSet::new(arena.array(SOCKETS, || SocketStorage::EMPTY)?);
        let dhcp = if options.without.dhcp {
            None
        } else {
            let mut socket = dhcpv4::Socket::new();
            let mut retry = dhcpv4::RetryConfig::default();
            retry.discover_timeout = Duration::from_millis(500);
            retry.initial_request_timeout = Duration::from_millis(500);
            socket.set_retry_config(retry);
            socket.set_parameter_request_list(&REQUESTED);
            socket.set_receive_packet_buffer(arena.take(1500, 8)?);
            Some(sockets.add(socket))
        };
        let slaac = !options.without.ipv6 && nic.mtu >= IPV6_MIN_MTU;
        let iface = interface(&mut nic, &clock, slaac);
        let next_port = 49_152 + (clock.seed() >> 20) as u16 % 8192;
        Some(Self {
            nic,
            iface,
            sockets,
            clock,
            lease: None,
            dhcp,
            apic,
            spin_us: options.spin_us.into(),
            irq: !options.without.irq,
            slaac,
            next_port,
        })
    }

    fn now(&self) -> Instant {
        Instant::from_micros(i64::try_from(self.clock.micros()).unwrap_or(i64::MAX))
    }

    /// Moves packets and follows the lease.
    pub fn poll(&mut self) {
        let now = self.now();
        self.iface.poll(now, &mut self.nic, &mut self.sockets);
        self.nic.flush();
        self.follow_lease();
    }

    /// Waits for a frame, a timer of the stack, or `until` (microseconds since the first instruction).
    pub fn wait(&mut self, until: u64) {
        let start = self.clock.micros();
        let spin_until = until.min(start + self.spin_us);
        let mut now = start;
        while now < spin_until {
            if self.nic.pending() {
                return;
            }
            core::hint::spin_loop();
            now = self.clock.micros();
        }
        let instant = self.now();
        let own = self.iface.poll_delay(instant, &self.sockets).map(|delay| delay.total_micros());
        let nanos = until.saturating_sub(now).min(own.unwrap_or(u64::MAX)).saturating_mul(1000);
        if nanos == 0 || self.nic.arm() {
            self.nic.disarm(false);
            return;
        }
        self.apic.sleep(nanos.min(if self.irq { SLEEP } else { NO_IRQ_SLEEP }));
        self.nic.disarm(true);
    }

    /// Drives the stack until `f` returns a value or the time is over. `f` runs after each round of packets.
    pub fn run<T>(&mut self, micros: u64, mut f: impl FnMut(&mut Self) -> Option<T>) -> Option<T> {
        let until = self.clock.micros().saturating_add(micros);
        loop {
            self.poll();
            if let Some(value) = f(self) {
                return Some(value);
            }
            if self.clock.micros() >= until {
                return None;
            }
            // What `f` wrote goes out before we wait.
            let now = self.now();
            self.iface.poll_egress(now, &mut self.nic, &mut self.sockets);
            self.wait(until);
        }
    }

    /// A TCP socket with its buffers.
    pub fn add_tcp(
        &mut self,
        arena: &mut Arena,
        receive: usize,
        send: usize,
    ) -> Option<SocketHandle> {
        let receive = tcp::SocketBuffer::new(arena.take(receive, 64)?);
        let send = tcp::SocketBuffer::new(arena.take(send, 64)?);
        let mut socket = tcp::Socket::new(receive, send);
        socket.set_nagle_enabled(false);
        Some(self.sockets.add(socket))
    }

    /// A UDP socket for datagrams of up to `size` bytes.
    pub fn add_udp(&mut self, arena: &mut Arena, size: usize) -> Option<SocketHandle> {
        let mut buffer = || {
            let meta = arena.array(16, || udp::PacketMetadata::EMPTY)?;
            Some(udp::PacketBuffer::new(meta, arena.take(size, 64)?))
        };
        let socket = udp::Socket::new(buffer()?, buffer()?);
        Some(self.sockets.add(socket))
    }

    /// An ICMP socket for messages of up to `size` bytes.
    pub fn add_icmp(&mut self, arena: &mut Arena, size: usize) -> Option<SocketHandle> {
        let mut buffer = || {
            let meta = arena.array(4, || icmp::PacketMetadata::EMPTY)?;
            Some(icmp::PacketBuffer::new(meta, arena.take(size, 64)?))
        };
        let socket = icmp::Socket::new(buffer()?, buffer()?);
        Some(self.sockets.add(socket))
    }

    /// A local port that was not used before.
    pub fn port(&mut self) -> u16 {
        self.next_port += 1;
        self.next_port
    }

    /// The ICMP error about what our `port` has sent by `protocol` since `start` (microseconds).
    pub fn told(&self, protocol: u8, port: u16, start: u64) -> Option<Told> {
        let refusal = self.nic.refusal(protocol, port)?;
        let advertised = self.nic.advertisement();
        let gateway = [
            self.lease.and_then(|lease| lease.router).map(IpAddress::Ipv4),
            advertised.map(|ra| IpAddress::Ipv6(ra.router)),
            advertised.and_then(|ra| ra.dns).map(IpAddress::Ipv6),
        ]
        .contains(&Some(refusal.from.into()));
        Some(Told { refusal, gateway, after: self.clock.micros().saturating_sub(start) })
    }

    /// Our IPv4 address.
    pub fn ipv4(&self) -> Option<Ipv4Cidr> {
        self.iface.ip_addrs().iter().find_map(|cidr| match cidr {
            IpCidr::Ipv4(cidr) => Some(*cidr),
            IpCidr::Ipv6(_) => None,
        })
    }

    /// Our IPv6 address that is not link-local.
    pub fn ipv6(&self) -> Option<Ipv6Cidr> {
        self.iface.ip_addrs().iter().find_map(|cidr| match cidr {
            IpCidr::Ipv6(cidr) if !link_local(cidr.address()) => Some(*cidr),
            _ => None,
        })
    }

    /// Sets the IPv4 address and default router.
    pub fn set_ipv4(&mut self, address: Option<Ipv4Cidr>, router: Option<Ipv4Address>) {
        self.iface.update_ip_addrs(|list| {
            list.retain(|cidr| matches!(cidr, IpCidr::Ipv6(_)));
            if let Some(address) = address {
                // IPv4 first; there is room for four.
                let _ = list.insert(0, IpCidr::Ipv4(address));
            }
        });
        match router {
            Some(router) => {
                let _ = self.iface.routes_mut().add_default_ipv4_route(router);
            }
            None => {
                self.iface.routes_mut().remove_default_ipv4_route();
            }
        }
    }

    fn follow_lease(&mut self) {
        let Some(handle) = self.dhcp else { return };
        let lease = match self.sockets.get_mut::<dhcpv4::Socket<'_>>(handle).poll() {
            None => return,
            Some(dhcpv4::Event::Deconfigured) => None,
            Some(dhcpv4::Event::Configured(config)) => {
                let mut options = LeaseOptions::default();
                if let Some(packet) = &config.packet {
                    packet.options().for_each(|option| options.add(option.kind, option.data));
                }
                Some(Lease {
                    address: config.address,
                    router: config.router,
                    dns: config.dns_servers.first().copied(),
                    server: config.server.address,
                    options,
                    at: self.clock.micros(),
                })
            }
        };
        if let Some(mtu) = lease.and_then(|lease| lease.options.mtu) {
            self.set_mtu(mtu);
        }
        match lease {
            Some(lease) => self.set_ipv4(Some(lease.address), lease.router),
            // The first event of a new socket says that there is no lease: nothing to take away then.
            None if self.lease.is_some() => self.set_ipv4(None, None),
            None => {}
        }
        self.lease = lease;
    }

    /// The stack reads the MTU when an interface is made, so a new one replaces it.
    fn set_mtu(&mut self, mtu: u16) {
        let mtu = mtu.min(self.nic.max_mtu).max(MIN_MTU);
        if mtu != self.nic.mtu {
            self.nic.mtu = mtu;
            self.iface = interface(&mut self.nic, &self.clock, self.slaac && mtu >= IPV6_MIN_MTU);
        }
    }
}

fn interface(nic: &mut Nic, clock: &Clock, slaac: bool) -> Interface {
    let hardware = EthernetAddress(nic.mac);
    let mut config = Config::new(hardware.into());
    config.random_seed = clock.seed();
    config.slaac = slaac;
    let now = Instant::from_micros(i64::try_from(clock.micros()).unwrap_or(i64::MAX));
    let mut iface = Interface::new(config, nic, now);
    if slaac {
        let [a, b, c, d, e, f] = nic.mac;
        let half = |high, low| u16::from_be_bytes([high, low]);
        let id = [half(a ^ 2, b), half(c, 0xff), half(0xfe, d), half(e, f)];
        let address = Ipv6Address::new(0xfe80, 0, 0, 0, id[0], id[1], id[2], id[3]);
        iface.update_ip_addrs(|list| {
            let _ = list.push(IpCidr::new(IpAddress::Ipv6(address), 64));
        });
    }
    iface
}

/// Whether an address is in fe80::/10.
pub fn link_local(address: Ipv6Address) -> bool {
    address.segments()[0] & 0xffc0 == 0xfe80
}
