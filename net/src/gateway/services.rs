//! What the gateway itself answers: addresses, leases, names, the way out.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Instant;

use super::config::{GatewayConfig, Transport};
use super::context::{Ctx, Handled, Shared};
use super::datagram::Datagram;
use super::dhcp4::Dhcp4;
use super::dhcp6;
use super::dns::Dns;
use super::ndp::Ndp;
use super::packet::Packet;
use super::target::Destination;
use crate::poll::{Ready, Token};
use crate::stats::DropReason;
use crate::wire::{port, protocol, udp};

/// The longest request of any service: an EDNS query is never near it, DHCP ends at 1,472.
const REQUEST_MAX: usize = 4096;

/// All DHCPv6 servers on the link (RFC 8415 §7.1).
const ALL_DHCP6: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2);

/// All services of a gateway.
#[derive(Debug)]
pub struct Services {
    ndp: Ndp,
    dhcp4: Dhcp4,
    dns: Dns,
    /// There is a station.
    attached: bool,
    buffer: Box<[u8]>,
}

impl Services {
    /// Services that nobody has asked yet.
    pub fn new() -> Self {
        Self {
            ndp: Ndp::new(),
            dhcp4: Dhcp4::new(),
            dns: Dns::new(),
            attached: false,
            buffer: vec![0; REQUEST_MAX].into_boxed_slice(),
        }
    }

    /// A station has come.
    pub fn attached(&mut self, shared: &Shared, now: Instant) {
        self.attached = true;
        self.ndp.attached(shared, now);
    }

    /// A packet that may be for one of them. `None`: it is not.
    ///
    /// Neighbour discovery and DHCP are spoken from no address, or from one that is no longer the
    /// station's own; what others are told comes from an address of the link.
    pub fn dispatch(
        &mut self,
        ctx: &mut Ctx<'_, '_>,
        packet: &Packet<'_>,
        to: Destination,
    ) -> Option<Handled> {
        // None of them is spoken in fragments, until these are one datagram again.
        if packet.fragment.is_some() {
            return None;
        }
        match packet.protocol {
            protocol::ICMPV6 => self.ndp.input(ctx, packet),
            protocol::UDP => match (udp::destination_port(packet.head)?, to) {
                (port::DHCP_SERVER, _) if is_dhcp4(packet.dst, to) => Some(self.dhcp4(ctx, packet)),
                (port::DHCP6_SERVER, Destination::Group) if packet.dst == ALL_DHCP6 => {
                    Some(self.dhcp6(ctx, packet))
                }
                (port::DNS, Destination::Gateway) if !is_redirected(&ctx.shared.config, packet) => {
                    Some(self.dns(ctx, packet))
                }
                _ => None,
            },
            _ => None,
        }
    }

    fn dhcp4(&mut self, ctx: &mut Ctx<'_, '_>, packet: &Packet<'_>) -> Handled {
        let datagram = Datagram::read(packet, &mut self.buffer)?;
        self.dhcp4.input(ctx, packet.src_mac, &datagram)
    }

    fn dhcp6(&mut self, ctx: &mut Ctx<'_, '_>, packet: &Packet<'_>) -> Handled {
        ctx.admit(packet)?;
        if !ctx.shared.ipv6_offered() {
            return Err(DropReason::NoRoute);
        }
        let datagram = Datagram::read(packet, &mut self.buffer)?;
        dhcp6::input(ctx, packet.src_mac, &datagram)
    }

    fn dns(&mut self, ctx: &mut Ctx<'_, '_>, packet: &Packet<'_>) -> Handled {
        ctx.admit(packet)?;
        let datagram = Datagram::read(packet, &mut self.buffer)?;
        self.dns.input(ctx, packet.src_mac, &datagram)
    }

    /// A socket of theirs is ready.
    pub fn ready(&mut self, ctx: &mut Ctx<'_, '_>, token: Token, ready: Ready) {
        self.dns.ready(ctx, token, ready);
    }

    /// When [`expire`](Self::expire) is due.
    pub fn deadline(&self) -> Option<Instant> {
        [self.ndp.deadline(), self.dhcp4.deadline(), self.dns.deadline()]
            .into_iter()
            .flatten()
            .min()
    }

    /// Does what is due.
    pub fn expire(&mut self, ctx: &mut Ctx<'_, '_>) {
        self.ndp.expire(ctx);
        self.dhcp4.expire(ctx);
        self.dns.expire(ctx);
    }

    /// The guest is offered something else now, and told.
    pub fn offer_changed(&mut self, ctx: &mut Ctx<'_, '_>) {
        if self.attached {
            self.ndp.announce(ctx.shared, ctx.io.now);
        }
    }

    /// The station is gone.
    pub fn detached(&mut self) {
        self.attached = false;
        self.ndp.detached();
        self.dns.detached();
    }
}

/// True where a DHCP client looks for its server: at the gateway, or everywhere (RFC 2131 §4.1).
fn is_dhcp4(dst: IpAddr, to: Destination) -> bool {
    match to {
        Destination::Gateway => dst.is_ipv4(),
        Destination::Group => dst.is_ipv4() && !dst.is_multicast(),
        Destination::Guest | Destination::Beyond => false,
    }
}

/// True where the gateway's resolver is another one by configuration.
fn is_redirected(config: &GatewayConfig, packet: &Packet<'_>) -> bool {
    let dst = SocketAddr::new(packet.dst, port::DNS);
    config.redirects.iter().any(|r| r.transport == Transport::Udp && r.from == dst)
}
