//! What the gateway itself answers: addresses, leases, names, the way out.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use super::config::{Redirect, Transport};
use super::context::{Core, Ctx, Handled};
use super::datagram::Datagram;
use super::dhcp4::Dhcp4;
use super::dns::Dns;
use super::ndp::Ndp;
use super::packet::Packet;
use super::target::is_gateway;
use super::{dhcp6, source};
use crate::host::reach::{Reach, Watch};
use crate::poll::{Poller, Ready, Token};
use crate::stats::DropReason;
use crate::wire::{port, protocol, udp};

/// The longest request of any service: an EDNS query is never near it, DHCP ends at 1,472.
const REQUEST_MAX: usize = 4096;

/// All DHCPv6 servers on the link (RFC 8415 §7.1).
const ALL_DHCP6: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2);

/// How long the host's routes may settle before they are looked at: one change comes as many.
const SETTLE_TIME: Duration = Duration::from_millis(250);

/// All services of a gateway.
#[derive(Debug)]
pub struct Services {
    ndp: Ndp,
    dhcp4: Dhcp4,
    dns: Dns,
    /// There is a station.
    attached: bool,
    watch: Option<Watch>,
    /// When the host's routes are to be looked at again.
    look: Option<Instant>,
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
            watch: None,
            look: None,
            buffer: vec![0; REQUEST_MAX].into_boxed_slice(),
        }
    }

    /// Looks at the host as it is now, and watches it from here on.
    ///
    /// # Errors
    /// Those of `epoll_ctl(2)`.
    pub fn start(&mut self, core: &mut Core, poll: &Poller) -> io::Result<()> {
        // First watch, then look: no change is lost between.
        match Watch::new() {
            Ok(watch) => {
                poll.add(&watch, Token::new(source::ENVIRONMENT, 0), Ready::IN)?;
                self.watch = Some(watch);
            }
            Err(e) => tracing::warn!("changes of the host's routes go unnoticed: rtnetlink: {e}"),
        }
        core.reach = Reach::probe();
        Ok(())
    }

    /// A station has come.
    pub fn attached(&mut self, core: &Core, now: Instant) {
        self.attached = true;
        self.ndp.attached(core, now);
    }

    /// What a station speaks from no address, or from one that is no longer its own: DHCP and
    /// neighbour discovery, to be asked before sources are checked. `None`: the packet is for
    /// neither.
    pub fn link(&mut self, ctx: &mut Ctx<'_, '_>, packet: &Packet<'_>) -> Option<Handled> {
        if let Some(handled) = self.ndp.input(ctx, packet) {
            return Some(handled);
        }
        let config = &ctx.core.config;
        let IpAddr::V4(dst) = packet.dst else { return None };
        if udp_port(packet)? != port::DHCP_SERVER
            || !(dst == config.gateway4
                || dst == Ipv4Addr::BROADCAST
                || dst == config.subnet4.broadcast())
        {
            return None;
        }
        Some(
            Datagram::read(packet, &mut self.buffer)
                .and_then(|datagram| self.dhcp4.input(ctx, packet.src_mac, &datagram)),
        )
    }

    /// Everything else. `None`: the packet is for no service.
    pub fn input(&mut self, ctx: &mut Ctx<'_, '_>, packet: &Packet<'_>) -> Option<Handled> {
        if !is_gateway(&ctx.core.config, packet.dst) {
            return self.group(ctx, packet);
        }
        if packet.protocol == protocol::TCP {
            // For DNS over TCP, which goes to the host's resolver without us.
            ctx.core.resolvers.refresh(ctx.io.now);
            return None;
        }
        let redirected = |r: &Redirect| {
            r.transport == Transport::Udp && r.from == SocketAddr::new(packet.dst, port::DNS)
        };
        if udp_port(packet)? != port::DNS || ctx.core.config.redirects.iter().any(redirected) {
            return None;
        }
        Some(
            Datagram::read(packet, &mut self.buffer)
                .and_then(|datagram| self.dns.input(ctx, packet.src_mac, &datagram)),
        )
    }

    /// A packet that is not to the gateway: it may be to all servers on the link.
    fn group(&mut self, ctx: &mut Ctx<'_, '_>, packet: &Packet<'_>) -> Option<Handled> {
        if packet.dst != ALL_DHCP6 || udp_port(packet)? != port::DHCP6_SERVER {
            return None;
        }
        Some(if ctx.core.ipv6_offered() {
            Datagram::read(packet, &mut self.buffer)
                .and_then(|datagram| dhcp6::input(ctx, packet.src_mac, &datagram))
        } else {
            Err(DropReason::NoRoute)
        })
    }

    /// A source is ready.
    pub fn ready(&mut self, ctx: &mut Ctx<'_, '_>, token: Token, ready: Ready) {
        match token.source {
            source::DNS => self.dns.ready(ctx, token, ready),
            source::ENVIRONMENT => {
                let changed = self.watch.as_ref().is_some_and(Watch::drain);
                let due = ctx.io.now + SETTLE_TIME;
                self.look = self.look.or(changed.then_some(due));
            }
            _ => {}
        }
    }

    /// When [`expire`](Self::expire) is due.
    pub fn deadline(&self) -> Option<Instant> {
        [self.look, self.ndp.deadline(), self.dhcp4.deadline(), self.dns.deadline()]
            .into_iter()
            .flatten()
            .min()
    }

    /// Does what is due.
    pub fn expire(&mut self, ctx: &mut Ctx<'_, '_>) {
        if self.look.is_some_and(|due| due <= ctx.io.now) {
            self.look = None;
            self.host_changed(ctx, Reach::probe());
        }
        self.ndp.expire(ctx);
        self.dhcp4.expire(ctx);
        self.dns.expire(ctx);
    }

    /// The host has routes to `reach` now; the guest is told if that matters to it.
    pub fn host_changed(&mut self, ctx: &mut Ctx<'_, '_>, reach: Reach) {
        let before = ctx.core.ipv6_offered();
        if ctx.core.reach != reach {
            tracing::info!(ipv6 = reach.ipv6, "the host's routes have changed");
            ctx.core.reach = reach;
        }
        if ctx.core.ipv6_offered() != before && self.attached {
            self.ndp.announce(ctx.core, ctx.io.now);
        }
    }

    /// The station is gone.
    pub fn detached(&mut self) {
        self.attached = false;
        self.ndp.detached();
        self.dns.detached();
    }
}

/// The destination port of a whole UDP datagram.
fn udp_port(packet: &Packet<'_>) -> Option<u16> {
    if packet.protocol != protocol::UDP || packet.fragment.is_some() {
        return None;
    }
    udp::destination_port(packet.head)
}
