//! The DHCPv4 server (RFC 2131).
//!
//! It is the only one on its link and knows all of its addresses, so it is authoritative: a
//! client that asks for an address it can't have is told so, instead of waiting for its lease
//! from elsewhere to end.

mod leases;
mod message;

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use self::leases::Leases;
use self::message::{DhcpReply, DhcpRequest, Kind, option};
use super::context::{Ctx, Handled};
use super::datagram::Datagram;
use super::emit::Envelope;
use crate::addr::MacAddr;
use crate::frame::TxOutcome;
use crate::stats::DropReason;
use crate::wire::udp::UdpHeader;
use crate::wire::{names, port, protocol};

/// How long a lease lasts. A guest that has lost its network's changes finds them by half of it.
const LEASE_TIME: Duration = Duration::from_secs(3600);

/// What a message leads to.
enum Answer {
    Offer(Ipv4Addr),
    Ack(Ipv4Addr),
    /// Parameters without a lease.
    Inform(Ipv4Addr),
    Nak,
}

/// The server of one gateway.
#[derive(Debug)]
pub struct Dhcp4 {
    leases: Leases,
    /// Leases that ended until then have been seen to.
    seen: Option<Instant>,
}

impl Dhcp4 {
    /// No leases yet.
    pub fn new() -> Self {
        Self { leases: Leases::new(), seen: None }
    }

    /// When [`expire`](Self::expire) is due.
    pub fn deadline(&self) -> Option<Instant> {
        self.leases.next_end(self.seen?)
    }

    /// Published ports don't lead to an address whose lease has ended, unless it is still spoken
    /// from.
    pub fn expire(&mut self, ctx: &mut Ctx<'_, '_>) {
        let now = ctx.io.now;
        if self.deadline().is_some_and(|due| due <= now)
            && let Some(since) = self.seen.replace(now)
        {
            for address in self.leases.ended(since, now) {
                ctx.shared.link.forget_address(address.into());
            }
        }
    }

    /// A datagram to the server's port.
    pub fn input(
        &mut self,
        ctx: &mut Ctx<'_, '_>,
        src_mac: MacAddr,
        datagram: &Datagram<'_>,
    ) -> Handled {
        let request = DhcpRequest::parse(datagram.payload)?;
        // For its search domains.
        ctx.shared.resolvers.refresh(ctx.io.now);
        tracing::debug!(client = %request.chaddr, kind = ?request.kind, "dhcp");
        self.seen.get_or_insert(ctx.io.now);
        if let Some(answer) = self.decide(ctx, &request)? {
            reply(ctx, src_mac, &request, &answer)?;
        }
        Ok(TxOutcome::Sent)
    }

    /// RFC 2131 §4.3. `None`: nothing is to be said.
    fn decide(
        &mut self,
        ctx: &mut Ctx<'_, '_>,
        request: &DhcpRequest<'_>,
    ) -> Result<Option<Answer>, DropReason> {
        let (config, now, client) = (&ctx.shared.config, ctx.io.now, request.chaddr);
        let for_us = request.server.is_none_or(|server| server == config.gateway4);
        Ok(match request.kind {
            Kind::Discover => {
                self.leases.offer(config, client, request.requested, now).map(Answer::Offer)
            }
            Kind::Request if !for_us => {
                self.leases.forget_offer(client, now);
                None
            }
            Kind::Request => {
                // SELECTING and INIT-REBOOT name the address in option 50, RENEWING and REBINDING
                // have it (§4.3.2).
                let address = match request.requested {
                    Some(address) => address,
                    None if !request.ciaddr.is_unspecified() => request.ciaddr,
                    None => return Err(DropReason::Malformed),
                };
                let until = now + LEASE_TIME;
                let ok = self.leases.bind(config, client, address, now, until);
                Some(if ok { Answer::Ack(address) } else { Answer::Nak })
            }
            Kind::Decline if for_us => {
                let address = request.requested.ok_or(DropReason::Malformed)?;
                self.leases.decline(client, address, now);
                tracing::debug!(%address, %client, "the guest found its address in use");
                None
            }
            Kind::Release if for_us => {
                if self.leases.release(client, request.ciaddr, now) {
                    ctx.shared.link.forget_address(request.ciaddr.into());
                }
                None
            }
            Kind::Inform if config.is_guest4(request.ciaddr) => {
                Some(Answer::Inform(request.ciaddr))
            }
            Kind::Inform => return Err(DropReason::BadSource),
            _ => None,
        })
    }
}

fn reply(
    ctx: &mut Ctx<'_, '_>,
    src_mac: MacAddr,
    request: &DhcpRequest<'_>,
    answer: &Answer,
) -> Result<(), DropReason> {
    let gateway = ctx.shared.config.gateway4;
    let (kind, address) = match *answer {
        Answer::Offer(address) => (Kind::Offer, address),
        Answer::Ack(address) | Answer::Inform(address) => (Kind::Ack, address),
        Answer::Nak => (Kind::Nak, Ipv4Addr::UNSPECIFIED),
    };
    let mut reply = DhcpReply::new(kind, request);
    reply.put(option::SERVER_ID, &gateway.octets());
    match answer {
        Answer::Nak => {}
        Answer::Inform(_) => {
            reply.ciaddr(request.ciaddr);
            parameters(ctx, request, &mut reply);
        }
        Answer::Offer(_) | Answer::Ack(_) => {
            if matches!(answer, Answer::Ack(_)) {
                reply.ciaddr(request.ciaddr);
            }
            reply.yiaddr(address);
            let lease = LEASE_TIME.as_secs() as u32;
            for (code, seconds) in [
                (option::LEASE_TIME, lease),
                (option::T1, lease / 2),
                (option::T2, lease - lease / 8),
            ] {
                reply.put(code, &seconds.to_be_bytes());
            }
            parameters(ctx, request, &mut reply);
        }
    }
    if let Some(id) = request.client_id {
        reply.put(option::CLIENT_ID, id);
    }
    // §4.1: to where the client is, else to where it will be; a refusal and whatever the client
    // can't receive yet by unicast go to all.
    let (mac, dst) = match answer {
        Answer::Nak => (MacAddr::BROADCAST, Ipv4Addr::BROADCAST),
        Answer::Inform(_) => (src_mac, request.ciaddr),
        _ if !request.ciaddr.is_unspecified() => (src_mac, request.ciaddr),
        _ if request.broadcast => (MacAddr::BROADCAST, Ipv4Addr::BROADCAST),
        _ => (request.chaddr, address),
    };
    let payload = reply.finish();
    let envelope = Envelope::new(mac, gateway.into(), dst.into(), protocol::UDP);
    let header = UdpHeader {
        src_port: port::DHCP_SERVER,
        dst_port: port::DHCP_CLIENT,
        payload_len: payload.len(),
    }
    .emit();
    ctx.deliver_packet(&envelope, &header, payload)?;
    if matches!(answer, Answer::Ack(_)) {
        ctx.shared.link.learn(address.into(), request.chaddr);
    }
    Ok(())
}

/// The network's parameters, those that the client asked for (§4.3.1).
fn parameters(ctx: &Ctx<'_, '_>, request: &DhcpRequest<'_>, reply: &mut DhcpReply) {
    let config = &ctx.shared.config;
    let gateway = config.gateway4.octets();
    let resolvers = ctx.shared.resolvers.conf();
    let domain = resolvers.search.first().map_or("", String::as_str);
    // The mask goes before the router (RFC 2132 §3.3).
    for (code, value) in [
        (option::SUBNET_MASK, &config.subnet4.netmask().octets()[..]),
        (option::ROUTER, &gateway),
        (option::DNS, &gateway),
        (option::BROADCAST, &config.subnet4.broadcast().octets()),
        (option::MTU, &config.mtu.to_be_bytes()),
        (option::HOST_NAME, config.hostname.as_bytes()),
        (option::DOMAIN_NAME, domain.as_bytes()),
    ] {
        if request.wants(code) {
            reply.put(code, value);
        }
    }
    if request.wants(option::DOMAIN_SEARCH) {
        let id = request.client_id.map_or(0, |id| 2 + id.len());
        reply.put(
            option::DOMAIN_SEARCH,
            &names::emit_list(&resolvers.search, reply.room().saturating_sub(id)),
        );
    }
}

#[cfg(test)]
mod tests;
