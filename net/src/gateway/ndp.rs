//! Neighbour discovery (RFC 4861): where the gateway is, and what network it is the router of.
//!
//! IPv6 is offered while the host can route it. When that ends, the guest is told at once: the
//! router's lifetime becomes 0 and the prefix deprecated, so new flows use IPv4.

use std::net::Ipv6Addr;
use std::time::{Duration, Instant};

use super::config::Ipv6Mode;
use super::context::{Ctx, Handled, Shared};
use super::emit::Envelope;
use super::packet::Packet;
use crate::addr::MacAddr;
use crate::frame::TxOutcome;
use crate::stats::DropReason;
use crate::wire::icmp::ICMP_LEN;
use crate::wire::ndp::{NdpMessage, RouterAdvertisement, SEARCH_MAX, kind, neighbor_advertisement};
use crate::wire::{names, protocol};

const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
/// All of these messages come from the link itself (RFC 4861 §6.1, §7.1).
const HOP_LIMIT: u8 = 255;
/// The longest message that is read; the guest's own have one or two options.
const MESSAGE_MAX: usize = 512;

/// Between advertisements that nobody asked for (MaxRtrAdvInterval).
const INTERVAL: Duration = Duration::from_secs(300);
/// Between the first ones, and those after a change (RFC 4861 §10).
const INITIAL_INTERVAL: Duration = Duration::from_secs(16);
/// How many of those there are.
const INITIAL_COUNT: u8 = 3;
/// Between two to all nodes (MIN_DELAY_BETWEEN_RAS).
const MIN_DELAY: Duration = Duration::from_secs(3);

const ROUTER_LIFETIME: u16 = 1800;
const RESOLVER_LIFETIME: u32 = 1800;
/// Valid and preferred (RFC 9096 §3.4's limits for a prefix that may change).
const PREFIX_LIFETIMES: (u32, u32) = (5400, 2700);

/// The router's state.
#[derive(Debug)]
pub struct Ndp {
    /// When the next advertisement to all is due; `None` without a guest, or where there never
    /// is one.
    next: Option<Instant>,
    /// How many more come at the short interval.
    initial: u8,
    /// When the last one to all was sent.
    last: Option<Instant>,
}

impl Ndp {
    /// A router without a guest.
    pub fn new() -> Self {
        Self { next: None, initial: 0, last: None }
    }

    /// A guest has come. Its system is yet to start and will ask then; who does not ask is told.
    pub fn attached(&mut self, shared: &Shared, now: Instant) {
        if shared.config.ipv6 != Ipv6Mode::Off {
            self.initial = INITIAL_COUNT;
            self.next = Some(now + INITIAL_INTERVAL);
        }
    }

    /// What the guest is offered has changed: it is told soon, and again.
    pub fn announce(&mut self, shared: &Shared, now: Instant) {
        if shared.config.ipv6 != Ipv6Mode::Off {
            self.initial = INITIAL_COUNT;
            self.next = Some(self.last.map_or(now, |last| now.max(last + MIN_DELAY)));
        }
    }

    /// The guest is gone.
    pub fn detached(&mut self) {
        *self = Self::new();
    }

    /// When [`expire`](Self::expire) is due.
    pub fn deadline(&self) -> Option<Instant> {
        self.next
    }

    /// Advertises what is due.
    pub fn expire(&mut self, ctx: &mut Ctx<'_, '_>) {
        if self.next.is_some_and(|next| next <= ctx.io.now) {
            // Without buffers in the guest this one is lost; it will ask, or hear the next.
            let _ = self.advertise_to_all(ctx);
        }
    }

    /// An ICMPv6 packet that is no fragment. `None`: it is none of these messages.
    pub fn input(&mut self, ctx: &mut Ctx<'_, '_>, packet: &Packet<'_>) -> Option<Handled> {
        let first = packet.head.first()?;
        if !(kind::ROUTER_SOLICITATION..=kind::REDIRECT).contains(first) {
            return None;
        }
        // Never in fragments, not even in one (RFC 6980 §5).
        Some(if packet.fragmented {
            Err(DropReason::BadFragment)
        } else {
            self.message(ctx, packet)
        })
    }

    fn message(&mut self, ctx: &mut Ctx<'_, '_>, packet: &Packet<'_>) -> Handled {
        let (std::net::IpAddr::V6(src), std::net::IpAddr::V6(dst)) = (packet.src, packet.dst)
        else {
            return Err(DropReason::Malformed);
        };
        let mut buffer = [0; MESSAGE_MAX];
        let payload = packet.payload(0)?;
        let bytes = buffer.get_mut(..payload.len).ok_or(DropReason::TooBig)?;
        payload.copy_to(bytes);
        if packet.hop_limit != HOP_LIMIT {
            return Err(DropReason::Malformed);
        }
        packet.verify(packet.len)?;
        if !src.is_unspecified() && !ctx.shared.config.is_guest6(src) {
            return Err(DropReason::BadSource);
        }
        match NdpMessage::parse(bytes)? {
            NdpMessage::RouterSolicitation { source } => {
                self.router_solicitation(ctx, packet.src_mac, src, source)
            }
            NdpMessage::NeighborSolicitation { target, source } => {
                neighbor_solicitation(ctx, packet.src_mac, src, dst, target, source)
            }
            NdpMessage::NeighborAdvertisement { target, link } => {
                if !ctx.shared.config.is_guest6(target) {
                    return Err(DropReason::BadSource);
                }
                ctx.shared.link.learn(target.into(), link.unwrap_or(packet.src_mac));
                Ok(TxOutcome::Sent)
            }
        }
    }

    fn router_solicitation(
        &mut self,
        ctx: &mut Ctx<'_, '_>,
        src_mac: MacAddr,
        src: Ipv6Addr,
        source: Option<MacAddr>,
    ) -> Handled {
        if ctx.shared.config.ipv6 == Ipv6Mode::Off {
            return Ok(TxOutcome::Sent);
        }
        if src.is_unspecified() {
            if source.is_some() {
                return Err(DropReason::Malformed);
            }
            if self.last.is_some_and(|last| ctx.io.now < last + MIN_DELAY) {
                self.announce(ctx.shared, ctx.io.now);
            } else {
                self.advertise_to_all(ctx)?;
            }
            return Ok(TxOutcome::Sent);
        }
        let mac = source.unwrap_or(src_mac);
        ctx.shared.link.learn(src.into(), mac);
        advertise(ctx, mac, src)?;
        Ok(TxOutcome::Sent)
    }

    fn advertise_to_all(&mut self, ctx: &mut Ctx<'_, '_>) -> Result<(), DropReason> {
        let now = ctx.io.now;
        self.last = Some(now);
        self.initial = self.initial.saturating_sub(1);
        self.next = match self.initial {
            // What is not offered needs no reminder.
            0 => ctx.shared.ipv6_offered().then(|| now + INTERVAL),
            _ => Some(now + INITIAL_INTERVAL),
        };
        advertise(ctx, group_mac(ALL_NODES), ALL_NODES)
    }
}

/// Sends a router advertisement that says what the guest is offered now.
fn advertise(ctx: &mut Ctx<'_, '_>, mac: MacAddr, dst: Ipv6Addr) -> Result<(), DropReason> {
    let offered = ctx.shared.ipv6_offered();
    // For its search domains.
    ctx.shared.resolvers.refresh(ctx.io.now);
    let config = &ctx.shared.config;
    let src = config.link_local6();
    let search = names::emit_list(&ctx.shared.resolvers.conf().search, SEARCH_MAX);
    let message = RouterAdvertisement {
        mac: config.mac,
        mtu: config.mtu,
        prefix: config.prefix6.network(),
        resolver: config.gateway6,
        search: &search,
        router_lifetime: if offered { ROUTER_LIFETIME } else { 0 },
        prefix_lifetimes: if offered { PREFIX_LIFETIMES } else { (0, 0) },
        resolver_lifetime: if offered { RESOLVER_LIFETIME } else { 0 },
    }
    .emit();
    send(ctx, mac, src, dst, &message)
}

/// RFC 4861 §7.2.3 and §7.2.4; duplicate address detection RFC 4862 §5.4.3.
fn neighbor_solicitation(
    ctx: &mut Ctx<'_, '_>,
    src_mac: MacAddr,
    src: Ipv6Addr,
    dst: Ipv6Addr,
    target: Ipv6Addr,
    source: Option<MacAddr>,
) -> Handled {
    let config = &ctx.shared.config;
    let ours = target == config.gateway6 || target == config.link_local6();
    let guests = config.is_guest6(target);
    let probe = src.is_unspecified();
    if probe && (source.is_some() || dst != solicited_node(target)) {
        return Err(DropReason::Malformed);
    }
    if !probe {
        ctx.shared.link.learn(src.into(), source.unwrap_or(src_mac));
    } else if guests {
        // Nobody else is on the link to object: in a second the address is the guest's, which
        // may then wait for others to speak to it.
        ctx.shared.link.learn(target.into(), src_mac);
    }
    if ours {
        // An asker without an address, whose own probe this is, is told with all others.
        let (mac, to) = if probe {
            (group_mac(ALL_NODES), ALL_NODES)
        } else {
            (source.unwrap_or(src_mac), src)
        };
        let message = neighbor_advertisement(target, ctx.shared.link.mac, !probe);
        send(ctx, mac, target, to, &message)?;
    }
    Ok(TxOutcome::Sent)
}

fn send(
    ctx: &mut Ctx<'_, '_>,
    mac: MacAddr,
    src: Ipv6Addr,
    dst: Ipv6Addr,
    message: &[u8],
) -> Result<(), DropReason> {
    let envelope = Envelope {
        hop_limit: HOP_LIMIT,
        ..Envelope::new(mac, src.into(), dst.into(), protocol::ICMPV6)
    };
    let (header, rest) = message.split_at(ICMP_LEN);
    ctx.deliver_packet(&envelope, header, rest)
}

/// RFC 4291 §2.7.1.
fn solicited_node(ip: Ipv6Addr) -> Ipv6Addr {
    let s = ip.segments();
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | s[6] & 0xff, s[7])
}

/// RFC 2464 §7.
fn group_mac(group: Ipv6Addr) -> MacAddr {
    let o = group.octets();
    MacAddr([0x33, 0x33, o[12], o[13], o[14], o[15]])
}

#[cfg(test)]
mod tests;
