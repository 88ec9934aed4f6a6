//! The user-space NAT gateway: what a guest's NIC is joined to with `--net nat`.
//!
//! To the guest it is the router of a small network of its own: it answers ARP and NDP, gives
//! leases, advertises an IPv6 prefix and resolves names. Beyond the link it is not a router but a
//! translator: each of the guest's flows becomes a socket of the host, so that the host needs no
//! privilege, no forwarding and no firewall rule.
//!
//! A packet's way: [`Gateway::send`] parses the frame once ([`packet`]), drops what has no
//! business here, and hands the rest to the protocol's module. Those modules own their sockets;
//! what they share is in [`context`].

mod arp;
mod client;
pub mod config;
mod context;
mod datagram;
mod dhcp4;
mod dhcp6;
mod dns;
pub mod emit;
mod environment;
pub mod error;
mod icmp;
mod limiter;
mod link;
mod ndp;
mod outgoing;
pub mod packet;
mod ping;
pub mod plan;
mod reassembly;
mod refusal;
mod services;
mod source;
mod stand_ins;
mod target;
mod tcp;
#[cfg(test)]
mod testing;
mod udp;

use std::io;
use std::time::Instant;

pub use self::config::GatewayConfig;
use self::context::{Ctx, Handled, Shared};
use self::environment::Environment;
pub use self::error::GatewayError;
use self::icmp::Why;
use self::packet::Packet;
use self::ping::Ping;
use self::reassembly::Reassembly;
use self::services::Services;
use self::target::Destination;
use self::tcp::Tcp;
use self::udp::Udp;
use crate::frame::{Offloads, TxFrame, TxOutcome};
use crate::poll::{Poller, Ready, Token};
use crate::port::{Backend, Io};
use crate::stats::{DropReason, Stats};
use crate::wire::ethernet::{EthernetHeader, ethertype};
use crate::wire::protocol;

/// The router, translator and name server of a guest's own network, without any privilege.
#[derive(Debug)]
pub struct Gateway {
    shared: Shared,
    environment: Environment,
    services: Services,
    tcp: Tcp,
    udp: Udp,
    ping: Ping,
    fragments: Reassembly,
}

impl Gateway {
    /// A gateway. Published ports are bound here, all else when its segment starts it.
    ///
    /// # Errors
    /// [`GatewayError`]
    pub fn new(config: GatewayConfig) -> Result<Self, GatewayError> {
        Ok(Self {
            environment: Environment::default(),
            services: Services::new(),
            tcp: Tcp::bind(&config)?,
            udp: Udp::bind(&config)?,
            ping: Ping::new(&config),
            fragments: Reassembly::new(),
            shared: Shared::new(config),
        })
    }

    fn frame(&mut self, io: &mut Io<'_>, frame: &TxFrame<'_>) -> Handled {
        let link = EthernetHeader::parse(frame.head)?;
        if !link.dst.is_multicast() && link.dst != self.shared.link.mac {
            return Err(DropReason::NotForUs);
        }
        match link.ethertype {
            ethertype::ARP => arp::input(&mut Ctx { io, shared: &mut self.shared }, frame),
            ethertype::IPV4 | ethertype::IPV6 => {
                let packet = Packet::parse(&link, frame)?;
                self.packet(io, &packet)
            }
            _ => Err(DropReason::UnknownEtherType),
        }
    }

    /// A packet, or one that was reassembled.
    fn packet(&mut self, io: &mut Io<'_>, packet: &Packet<'_>) -> Handled {
        let ctx = &mut Ctx { io, shared: &mut self.shared };
        let to = Destination::of(&ctx.shared.config, packet.dst);
        if packet.protocol != protocol::TCP
            && let Some(handled) = self.services.dispatch(ctx, packet, to)
        {
            return handled;
        }
        ctx.admit(packet)?;
        if packet.fragment.is_some() {
            return self.fragment(io, packet);
        }
        match packet.protocol {
            protocol::TCP => self.tcp.input(ctx, packet, to),
            protocol::UDP => self.udp.input(ctx, packet, to),
            protocol::ICMP if packet.src.is_ipv4() => self.ping.input(ctx, packet, to),
            protocol::ICMPV6 if packet.src.is_ipv6() => self.ping.input(ctx, packet, to),
            // Nothing follows, and nobody is told (RFC 8200 §4.7).
            protocol::NO_NEXT_HEADER if packet.src.is_ipv6() => Err(DropReason::UnknownProtocol),
            _ => {
                icmp::unreachable(ctx, packet, Why::Protocol(packet.protocol_at));
                Err(DropReason::UnknownProtocol)
            }
        }
    }

    /// A piece of a datagram.
    fn fragment(&mut self, io: &mut Io<'_>, packet: &Packet<'_>) -> Handled {
        let ctx = &mut Ctx { io, shared: &mut self.shared };
        let Some(whole) = self.fragments.input(ctx, packet)? else { return Ok(TxOutcome::Sent) };
        let handled = self.packet(io, &whole.packet());
        self.fragments.recycle(whole);
        match handled {
            // The pieces before this one can't be offered again.
            Ok(TxOutcome::Busy) => Err(DropReason::SendBufferFull),
            handled => handled,
        }
    }

    /// Publishes how many flows there are.
    fn levels(&self, stats: &Stats) {
        stats.tcp_flows.set(self.tcp.flows());
        stats.udp_flows.set(self.udp.flows());
        stats.ping_flows.set(self.ping.flows());
    }
}

impl Backend for Gateway {
    fn tx_offloads(&self) -> Offloads {
        Offloads { checksum: true, tso4: true, tso6: true }
    }

    fn mtu(&self) -> u16 {
        self.shared.config.mtu
    }

    fn start(&mut self, poll: &Poller) -> io::Result<()> {
        self.environment.start(&mut self.shared, poll)?;
        self.tcp.start(poll)?;
        self.udp.start(poll)
    }

    fn attached(&mut self, io: &mut Io<'_>, _offloads: Offloads) -> io::Result<()> {
        self.services.attached(&self.shared, io.now);
        Ok(())
    }

    fn detached(&mut self, _now: Instant, poll: &Poller) {
        self.services.detached();
        self.tcp.detached();
        self.udp.detached(poll);
        self.ping.detached(poll);
        self.fragments.detached();
        self.shared.link.forget();
    }

    fn send(&mut self, io: &mut Io<'_>, frame: &TxFrame<'_>) -> TxOutcome {
        self.frame(io, frame).unwrap_or_else(TxOutcome::Dropped)
    }

    fn batch_end(&mut self, io: &mut Io<'_>) {
        let ctx = &mut Ctx { io, shared: &mut self.shared };
        self.tcp.batch_end(ctx);
        self.udp.batch_end(ctx);
        self.levels(io.stats);
    }

    fn ready(&mut self, io: &mut Io<'_>, token: Token, ready: Ready) -> bool {
        let ctx = &mut Ctx { io, shared: &mut self.shared };
        match token.source {
            source::TCP | source::TCP_LISTENER => self.tcp.ready(ctx, token, ready),
            source::UDP => self.udp.ready(ctx, token, ready),
            source::PING => self.ping.ready(ctx, token, ready),
            source::DNS => self.services.ready(ctx, token, ready),
            source::ENVIRONMENT => self.environment.ready(io.now),
            _ => {}
        }
        self.levels(io.stats);
        false
    }

    fn rx_available(&mut self, io: &mut Io<'_>) {
        let ctx = &mut Ctx { io, shared: &mut self.shared };
        self.udp.rx_available(ctx);
        self.tcp.rx_available(ctx);
    }

    fn deadline(&self) -> Option<Instant> {
        [
            self.environment.deadline(),
            self.services.deadline(),
            self.tcp.deadline(),
            self.udp.deadline(),
            self.ping.deadline(),
            self.fragments.deadline(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    fn expire(&mut self, io: &mut Io<'_>) {
        let ctx = &mut Ctx { io, shared: &mut self.shared };
        if self.environment.expire(ctx) {
            self.services.offer_changed(ctx);
        }
        self.services.expire(ctx);
        self.tcp.expire(ctx);
        self.udp.expire(ctx);
        self.ping.expire(ctx);
        self.fragments.expire(ctx);
        self.levels(io.stats);
    }
}
