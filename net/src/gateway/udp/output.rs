//! Host to guest.

use std::io;
use std::net::SocketAddr;

use super::sockets::Use;
use super::table::{Class, Flow, Table};
use super::{BUDGET, Udp, without_label};
use crate::gateway::client::{published_guest, seen_by_guest};
use crate::gateway::context::{Core, Ctx};
use crate::gateway::emit::{Body, Envelope, LOWER_MAX};
use crate::gateway::outgoing::Outgoing;
use crate::rx::RxSlot;
use crate::stats::DropReason;
use crate::sys::dgram::{Batch, Datagram, HEADROOM};
use crate::wire::udp::UdpHeader;
use crate::wire::{ETHERNET_LEN, UDP_LEN, protocol};

// A datagram that is to be cut is made where its payload was received.
const _: () = assert!(UDP_LEN <= HEADROOM);

/// Datagrams of one socket that are on their way to the guest.
#[derive(Debug, Default)]
pub struct Inbox {
    batch: Batch,
    /// The index of the socket that they came from.
    socket: u32,
    /// What is left of the current one, which is larger than the link.
    cut: Option<Outgoing>,
    /// Identifies the last one that was cut.
    id: u32,
}

impl Inbox {
    /// True when there is nothing left.
    fn is_empty(&self) -> bool {
        self.batch.current().is_none()
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.batch.clear();
        self.cut = None;
    }

    /// Forgets those of a socket that is closed.
    pub fn forget(&mut self, socket: u32) {
        if self.socket == socket {
            self.clear();
        }
    }
}

/// The current datagram does not fit into the guest's receive buffers now.
struct NoRoom;

impl Udp {
    /// Reads datagrams to the guest, socket by socket, until there are none, the guest has no
    /// room or the budget is used up.
    pub(super) fn pump(&mut self, ctx: &mut Ctx<'_, '_>) {
        self.again = None;
        let mut budget = BUDGET;
        while !self.blocked && budget > 0 {
            if self.inbox.is_empty() && !self.refill(ctx) {
                return;
            }
            match self.deliver(ctx) {
                Ok(()) => self.inbox.batch.advance(),
                Err(NoRoom) => self.blocked = true,
            }
            budget -= 1;
        }
        // The sockets are watched by edges: nobody else comes back to them.
        let more = !self.blocked && (!self.queue.is_empty() || !self.inbox.is_empty());
        self.again = more.then_some(ctx.io.now);
    }

    /// Reads a batch of the socket whose turn it is. False if there is none to be had, or the guest
    /// has no room for the smallest frame.
    fn refill(&mut self, ctx: &mut Ctx<'_, '_>) -> bool {
        while let Some(&index) = self.queue.front() {
            match RxSlot::reserve(ctx.io.rx, LOWER_MAX + UDP_LEN) {
                Some(slot) => drop(slot),
                None => {
                    self.blocked = true;
                    return false;
                }
            }
            let Some(socket) = self.sockets.get(index) else {
                self.queue.pop_front();
                continue;
            };
            self.inbox.socket = index;
            match self.inbox.batch.receive(&socket.dgram) {
                Ok(()) => {
                    // The next one's turn, before this one is asked for more.
                    self.queue.rotate_left(1);
                    return true;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    socket.queued = false;
                    self.queue.pop_front();
                }
                // Errors of earlier datagrams are told here too; the error queue has the rest.
                Err(_) => {
                    self.errors(ctx, index);
                    self.queue.rotate_left(1);
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
        let Some(got) = self.inbox.batch.current() else { return Ok(()) };
        let index = self.inbox.socket;
        let Some(socket) = self.sockets.get(index) else { return Ok(()) };
        let (owner, ipv4) = (socket.owner, socket.dgram.is_ipv4());
        let to = match accept(&self.table, ctx.core, owner, ipv4, index, &got) {
            Ok(to) => to,
            Err(reason) => {
                ctx.io.stats.dropped(reason);
                return Ok(());
            }
        };
        let Accepted { guest, remote, .. } = to;
        let Some(mac) = ctx.core.link.neighbor(guest.ip()) else {
            ctx.io.stats.dropped(DropReason::NoNeighbor);
            return Ok(());
        };
        let envelope = Envelope {
            traffic_class: got.traffic_class,
            ..Envelope::new(mac, remote.ip(), guest.ip(), protocol::UDP)
        };
        let header =
            UdpHeader { src_port: remote.port(), dst_port: guest.port(), payload_len: got.len }
                .emit();
        let len = UDP_LEN + got.len;
        if envelope.header_len() - ETHERNET_LEN + len <= ctx.core.config.mtu.into() {
            self.deliver_whole(ctx, &envelope, header)?;
        } else {
            self.cut(&envelope, header);
        }
        self.book(ctx, owner, to, &got);
        if self.inbox.cut.is_some() { self.deliver_pieces(ctx) } else { Ok(()) }
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
        envelope.send(slot, ctx.core.link.mac, &header, Body::Bytes(payload));
        Ok(())
    }

    /// Makes the current datagram ready to be cut.
    fn cut(&mut self, envelope: &Envelope, header: [u8; UDP_LEN]) {
        let inbox = &mut self.inbox;
        let datagram = inbox.batch.frame(UDP_LEN);
        datagram[..UDP_LEN].copy_from_slice(&header);
        envelope.complete(datagram);
        inbox.id = inbox.id.wrapping_add(1);
        inbox.cut = Some(Outgoing::new(*envelope, datagram.len(), inbox.id));
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
    fn book(&mut self, ctx: &mut Ctx<'_, '_>, owner: Use, to: Accepted, got: &Datagram) {
        let Accepted { guest, remote, flow } = to;
        let flow = match flow {
            Some(flow) => {
                self.table.received(flow, ctx.io.now);
                flow
            }
            None => {
                let host = without_label(got.from);
                let socket = self.inbox.socket;
                let flow = Flow::new(socket, guest, remote, host, Class::Inbound, ctx.io.now);
                self.open(flow, ctx.io.poll)
            }
        };
        if matches!(owner, Use::Published { .. }) {
            self.table.set_local(flow, got.local);
        }
    }
}

/// Whom a datagram is for.
#[derive(Debug, Clone, Copy)]
struct Accepted {
    guest: SocketAddr,
    /// Who sent it, as the guest sees that one.
    remote: SocketAddr,
    /// The flow that it belongs to; none yet where it is the first.
    flow: Option<u32>,
}

fn accept(
    table: &Table,
    core: &mut Core,
    owner: Use,
    ipv4: bool,
    socket: u32,
    got: &Datagram,
) -> Result<Accepted, DropReason> {
    let from = without_label(got.from);
    if let Some(i) = table.find_host(socket, from)
        && let Some(flow) = table.get(i)
    {
        return Ok(Accepted { guest: flow.guest, remote: flow.remote, flow: Some(i) });
    }
    match owner {
        Use::Guest(guest) => {
            let solicited = table.knows_address(socket, from.ip())
                && from.is_ipv4() == guest.is_ipv4()
                && table.find(guest, from).is_none();
            let accepted = Accepted { guest, remote: from, flow: None };
            solicited.then_some(accepted).ok_or(DropReason::Unsolicited)
        }
        Use::Published { port, .. } => {
            let guest = SocketAddr::new(published_guest(core, ipv4), port);
            let free = |remote| table.find(guest, remote).is_none();
            let remote = seen_by_guest(core, guest, from, free).ok_or(DropReason::FlowTableFull)?;
            Ok(Accepted { guest, remote, flow: None })
        }
    }
}
