//! Host to guest.

use std::io;
use std::net::SocketAddr;

use super::inbox::Inbox;
use super::sockets::{Owner, Socket};
use super::table::{Class, FlowTable, UdpFlow};
use super::{BUDGET, Udp, without_label};
use crate::gateway::client::{published_guest, seen_by_guest};
use crate::gateway::context::{Ctx, Shared};
use crate::gateway::emit::{Body, Envelope, LOWER_MAX};
use crate::rx::RxSlot;
use crate::stats::DropReason;
use crate::sys::dgram::Arrival;
use crate::wire::udp::UdpHeader;
use crate::wire::{ETHERNET_LEN, UDP_LEN, protocol};

/// The current datagram does not fit into the guest's receive buffers now.
struct NoRoom;

impl Udp {
    /// Reads datagrams to the guest, socket by socket, until there are none, the guest has no
    /// room or the budget is used up.
    pub(super) fn pump(&mut self, ctx: &mut Ctx<'_, '_>) {
        self.resume_at = None;
        let mut budget = BUDGET;
        while !self.blocked && budget > 0 {
            if self.inbox.is_empty() && !self.receive_batch(ctx) {
                return;
            }
            match self.deliver(ctx) {
                Ok(()) => self.inbox.batch.advance(),
                Err(NoRoom) => self.blocked = true,
            }
            budget -= 1;
        }
        // The sockets are watched by edges: nobody else comes back to them.
        let more = !self.blocked && (!self.to_deliver.is_empty() || !self.inbox.is_empty());
        self.resume_at = more.then_some(ctx.io.now);
    }

    /// Reads a batch of the socket whose turn it is. False if there is none to be had, or the guest
    /// has no room for the smallest frame.
    fn receive_batch(&mut self, ctx: &mut Ctx<'_, '_>) -> bool {
        while let Some(&index) = self.to_deliver.front() {
            match RxSlot::reserve(ctx.io.rx, LOWER_MAX + UDP_LEN) {
                Some(slot) => drop(slot),
                None => {
                    self.blocked = true;
                    return false;
                }
            }
            let Some(socket) = self.sockets.get(index) else {
                self.to_deliver.pop_front();
                continue;
            };
            self.inbox.socket = index;
            match self.inbox.batch.receive(&socket.dgram) {
                Ok(()) => {
                    // The next one's turn, before this one is asked for more.
                    self.to_deliver.rotate_left(1);
                    return true;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    socket.queued = false;
                    self.to_deliver.pop_front();
                }
                // Errors of earlier datagrams are told here too; the error queue has the rest.
                Err(_) => {
                    self.relay_errors(ctx, index);
                    self.to_deliver.rotate_left(1);
                    return true;
                }
            }
        }
        false
    }

    /// Delivers the current datagram, or drops it with a reason.
    fn deliver(&mut self, ctx: &mut Ctx<'_, '_>) -> Result<(), NoRoom> {
        if self.inbox.cut.is_some() {
            return self.deliver_pieces(ctx);
        }
        let Some(arrival) = self.inbox.batch.current() else { return Ok(()) };
        match self.address(ctx, &arrival) {
            Ok((to, envelope)) => self.deliver_to(ctx, to, &envelope, &arrival),
            Err(reason) => {
                ctx.io.stats.dropped(reason);
                Ok(())
            }
        }
    }

    /// Whom the current datagram is for, and the way there.
    fn address(
        &mut self,
        ctx: &mut Ctx<'_, '_>,
        arrival: &Arrival,
    ) -> Result<(Addressee, Envelope), DropReason> {
        let index = self.inbox.socket;
        let Some(socket) = self.sockets.get(index) else { return Err(DropReason::Unsolicited) };
        let to = addressee(&self.table, ctx.shared, index, socket, without_label(arrival.from))?;
        let (from, guest) = (to.remote.ip(), to.guest.ip());
        let mac = ctx.shared.link.neighbor(guest).ok_or(DropReason::NoNeighbor)?;
        let envelope = Envelope {
            traffic_class: arrival.traffic_class,
            ..Envelope::new(mac, from, guest, protocol::UDP)
        };
        Ok((to, envelope))
    }

    /// Delivers the current datagram in one frame or, where the link is too small, begins to cut it.
    fn deliver_to(
        &mut self,
        ctx: &mut Ctx<'_, '_>,
        to: Addressee,
        envelope: &Envelope,
        arrival: &Arrival,
    ) -> Result<(), NoRoom> {
        let (src_port, dst_port) = (to.remote.port(), to.guest.port());
        let header = UdpHeader { src_port, dst_port, payload_len: arrival.len }.emit();
        let len = envelope.header_len() - ETHERNET_LEN + UDP_LEN + arrival.len;
        if len <= ctx.shared.config.mtu.into() {
            self.deliver_whole(ctx, envelope, header)?;
            self.record(ctx, to, arrival);
            Ok(())
        } else {
            self.inbox.start_cutting(envelope, header);
            self.record(ctx, to, arrival);
            self.deliver_pieces(ctx)
        }
    }

    /// Delivers the current datagram as one frame.
    fn deliver_whole(
        &mut self,
        ctx: &mut Ctx<'_, '_>,
        envelope: &Envelope,
        header: [u8; UDP_LEN],
    ) -> Result<(), NoRoom> {
        let payload = self.inbox.batch.payload();
        let total = envelope.header_len() + UDP_LEN + payload.len();
        let slot = RxSlot::reserve(ctx.io.rx, total).ok_or(NoRoom)?;
        envelope.send(slot, ctx.shared.link.mac, &header, Body::Bytes(payload));
        Ok(())
    }

    /// Delivers what is left of the datagram that is being cut.
    fn deliver_pieces(&mut self, ctx: &mut Ctx<'_, '_>) -> Result<(), NoRoom> {
        let Inbox { batch, cut, .. } = &mut self.inbox;
        if let Some(outgoing) = cut {
            outgoing.send(ctx, batch.frame(UDP_LEN)).map_err(|_| NoRoom)?;
        }
        *cut = None;
        Ok(())
    }

    /// Notes in its flow that a datagram came; the first one from somebody begins one.
    fn record(&mut self, ctx: &mut Ctx<'_, '_>, to: Addressee, arrival: &Arrival) {
        let Addressee { guest, remote, flow, published } = to;
        let flow = match flow {
            Some(flow) => {
                self.table.received(flow, ctx.io.now);
                flow
            }
            None => {
                let host = without_label(arrival.from);
                let socket = self.inbox.socket;
                let flow = UdpFlow::new(socket, guest, remote, host, Class::Inbound, ctx.io.now);
                self.open(flow, ctx.io.poll)
            }
        };
        if published {
            self.table.set_local(flow, arrival.local);
        }
    }
}

/// Whom a datagram is for.
#[derive(Debug, Clone, Copy)]
struct Addressee {
    guest: SocketAddr,
    /// Who sent it, as the guest sees that one.
    remote: SocketAddr,
    /// The flow that it belongs to; none yet where it is the first.
    flow: Option<u32>,
    /// It came to a published port.
    published: bool,
}

/// Whom a datagram is for that came to `socket`, the one at `index`.
fn addressee(
    table: &FlowTable,
    shared: &mut Shared,
    index: u32,
    socket: &Socket,
    from: SocketAddr,
) -> Result<Addressee, DropReason> {
    let published = socket.is_published();
    if let Some(i) = table.find_host(index, from)
        && let Some(&UdpFlow { guest, remote, .. }) = table.get(i)
    {
        return Ok(Addressee { guest, remote, flow: Some(i), published });
    }
    let (guest, remote) = match socket.owner {
        Owner::Guest(guest) => {
            let solicited = table.knows_address(index, from.ip())
                && from.is_ipv4() == guest.is_ipv4()
                && table.find(guest, from).is_none();
            (guest, solicited.then_some(from).ok_or(DropReason::Unsolicited)?)
        }
        Owner::Published { port, .. } => {
            let guest = SocketAddr::new(published_guest(shared, socket.dgram.family()), port);
            let free = |remote| table.find(guest, remote).is_none();
            (guest, seen_by_guest(shared, guest, from, free).ok_or(DropReason::FlowTableFull)?)
        }
    };
    Ok(Addressee { guest, remote, flow: None, published })
}
