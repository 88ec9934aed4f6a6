//! Guest to host.

use std::io;
use std::net::{IpAddr, SocketAddr};

use super::sockets::Owner;
use super::table::{Class, UdpFlow};
use super::{Udp, without_label};
use crate::addr::Family;
use crate::frame::TxOutcome;
use crate::gateway::client::published_guest;
use crate::gateway::config::Transport;
use crate::gateway::context::{Ctx, Handled};
use crate::gateway::emit::Envelope;
use crate::gateway::icmp;
use crate::gateway::packet::{Packet, Payload};
use crate::gateway::refusal::{Refusal, is_pending};
use crate::gateway::target::{self, Destination};
use crate::stats::DropReason;
use crate::sys::dgram::{Dgram, IpFields, Origin, SocketError};
use crate::sys::is_exhausted;
use crate::wire::udp::UdpHeader;
use crate::wire::{port, protocol};

/// Entries taken from an error queue at a time: it is watched by edges, so mostly all there are.
const ERRORS_MAX: usize = 256;

/// The payload of a datagram's first bytes that an ICMP error brings back.
const QUOTE_MAX: usize = 512;

impl Udp {
    /// A datagram from the guest.
    pub fn input(
        &mut self,
        ctx: &mut Ctx<'_, '_>,
        packet: &Packet<'_>,
        to: Destination,
    ) -> Handled {
        let (header, payload) = packet.udp()?;
        let link_local = match packet.src {
            IpAddr::V4(_) => false,
            IpAddr::V6(src) => src.is_unicast_link_local(),
        };
        if packet.src.is_unspecified() || link_local {
            return Err(DropReason::BadSource);
        }
        let guest = SocketAddr::new(packet.src, header.src_port);
        let remote = SocketAddr::new(packet.dst, header.dst_port);
        let here = to == Destination::Gateway;
        if packet.hop_limit <= 1 && !here {
            icmp::unreachable(ctx, packet, icmp::Why::HopLimit);
            return Err(DropReason::HopLimit);
        }
        let i = match self.table.find(guest, remote) {
            Some(i) => i,
            None => {
                self.flush_gathered(ctx);
                self.open_for_guest(ctx, packet, to, guest, remote)?
            }
        };
        let Some(flow) = self.table.get(i) else { return Err(DropReason::SocketFailed) };
        let socket = flow.socket;
        let published = self.sockets.get(socket).is_some_and(|s| s.is_published());
        self.table.sent(i, published, ctx.io.now);
        let header = IpFields {
            hop_limit: if here { packet.hop_limit.max(1) } else { packet.hop_limit - 1 },
            traffic_class: packet.traffic_class,
            dont_fragment: packet.dont_fragment,
        };
        if self.bundle.push(i, header, &payload) {
            return Ok(TxOutcome::Sent);
        }
        self.flush_gathered(ctx);
        if self.bundle.push(i, header, &payload) {
            return Ok(TxOutcome::Sent);
        }
        let Some(flow) = self.table.get(i).cloned() else { return Err(DropReason::SocketFailed) };
        match self.send(ctx, &flow, header, &payload) {
            Ok(()) => Ok(TxOutcome::Sent),
            Err(refusal) => Err(refusal.tell(ctx, packet)),
        }
    }

    /// Sends one datagram of `flow`, or says why it did not go: to the guest, and to us.
    pub(super) fn send(
        &mut self,
        ctx: &mut Ctx<'_, '_>,
        flow: &UdpFlow,
        header: IpFields,
        payload: &Payload<'_>,
    ) -> Result<(), Refusal> {
        let mut again = true;
        loop {
            let Some(socket) = self.sockets.get(flow.socket) else {
                return Err(Refusal { why: None, reason: DropReason::SocketFailed });
            };
            let sent = socket.dgram.set_header(header).and_then(|()| {
                let (tail, len) = (payload.tail, payload.tail_len());
                socket.dgram.send(payload.head, tail, len, flow.host, flow.local)
            });
            let Err(error) = sent else { return Ok(()) };
            let mtu = self.relay_errors(ctx, flow.socket);
            // An error of an earlier datagram is told by the next call, whatever that sends.
            if again && is_pending(&error, mtu) {
                again = false;
            } else {
                return Err(Refusal::of(&error, mtu.unwrap_or(ctx.shared.config.mtu.into())));
            }
        }
    }

    fn open_for_guest(
        &mut self,
        ctx: &mut Ctx<'_, '_>,
        packet: &Packet<'_>,
        to: Destination,
        guest: SocketAddr,
        remote: SocketAddr,
    ) -> Result<u32, DropReason> {
        let host = target::resolve(ctx, Transport::Udp, remote, to)
            .map_err(|reason| Refusal::of_target(reason, to).tell(ctx, packet))?;
        let family = host.into();
        // What the guest sends from a published port leaves from there, whoever it goes to: it is
        // one endpoint, with one port of the host (RFC 4787 §4.1).
        let published = (guest.ip() == published_guest(ctx.shared, family))
            .then(|| self.sockets.find_published(guest.port(), host))
            .flatten();
        let socket = match published.or_else(|| self.sockets.find(guest, family)) {
            Some(socket) => socket,
            None => match self.open_socket(ctx, guest, family) {
                Ok(socket) => socket,
                Err(error) => {
                    tracing::debug!("no socket for UDP flow of {guest}: {error}");
                    ctx.shared.no_socket(&error);
                    return Err(Refusal::of_socket(&error).tell(ctx, packet));
                }
            },
        };
        let class = if remote.port() == port::DNS { Class::Dns } else { Class::OneWay };
        let flow = UdpFlow::new(socket, guest, remote, host, class, ctx.io.now);
        Ok(self.open(flow, ctx.io.poll))
    }

    fn open_socket(
        &mut self,
        ctx: &mut Ctx<'_, '_>,
        guest: SocketAddr,
        family: Family,
    ) -> io::Result<u32> {
        let dgram = match Dgram::udp(family) {
            Err(error) if is_exhausted(&error) => {
                ctx.shared.no_socket(&error);
                if !self.free_socket(ctx.io.poll) {
                    return Err(error);
                }
                Dgram::udp(family)?
            }
            dgram => dgram?,
        };
        let socket = self.sockets.insert(dgram, Owner::Guest(guest));
        if let Err(error) = self.sockets.watch(socket, ctx.io.poll) {
            self.sockets.remove(socket, ctx.io.poll);
            return Err(error);
        }
        Ok(socket)
    }

    /// Hands the guest what the network says about its datagrams, and returns the MTU where the
    /// host itself found one too big.
    pub(super) fn relay_errors(&mut self, ctx: &mut Ctx<'_, '_>, index: u32) -> Option<u32> {
        let mut mtu = None;
        let mut payload = [0; QUOTE_MAX];
        for _ in 0..ERRORS_MAX {
            let Some(socket) = self.sockets.get(index) else { break };
            let Ok(error) = socket.dgram.next_error(&mut payload) else { break };
            if error.errno == libc::EMSGSIZE && error.origin == Origin::Local {
                mtu = Some(error.mtu);
            } else {
                self.relay(ctx, index, &error, &payload);
            }
        }
        mtu
    }

    fn relay(
        &mut self,
        ctx: &mut Ctx<'_, '_>,
        index: u32,
        error: &SocketError,
        payload: &[u8; QUOTE_MAX],
    ) {
        let Origin::Icmp(kind, code) = error.origin else { return };
        let to = error.to.map(without_label);
        let flow = to.and_then(|to| self.table.find_host(index, to));
        let Some(flow) = flow.and_then(|i| self.table.get(i)) else { return };
        let UdpFlow { guest, remote, host, .. } = *flow;
        // What is said in one family means nothing in the other.
        if guest.is_ipv4() != host.is_ipv4() {
            return;
        }
        let Some(message) = icmp::relayed(kind, code, error.mtu, guest.into()) else {
            return;
        };
        // Behind a redirect, or the gateway's address, lies what the guest must not see.
        let from = match error.offender {
            Some(ip) if remote == host && !ip.is_loopback() && !ip.is_unspecified() => ip,
            _ => remote.ip(),
        };
        let data = &payload[..error.len.min(QUOTE_MAX)];
        let header =
            UdpHeader { src_port: guest.port(), dst_port: remote.port(), payload_len: data.len() }
                .emit();
        let (guest, remote) = (guest.ip(), remote.ip());
        let envelope = Envelope::new(ctx.shared.link.mac, guest, remote, protocol::UDP);
        icmp::relay_sent(ctx, from, &envelope, message, &header, data);
    }
}
