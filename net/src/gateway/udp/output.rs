//! Host to guest.

use std::io;
use std::net::{IpAddr, SocketAddr};

use super::sockets::Use;
use super::table::{Class, Flow, Table};
use super::{BUDGET, TURN, Udp, without_label};
use crate::frame::Offload;
use crate::gateway::emit::{Envelope, LOWER_MAX, open_checksum};
use crate::gateway::frag::Outgoing;
use crate::gateway::services::udp_header;
use crate::gateway::target::is_forbidden;
use crate::gateway::{Core, Ctx};
use crate::rx::RxSlot;
use crate::stats::DropReason;
use crate::sys::dgram::Datagram;
use crate::wire::{ETHERNET_LEN, IPV4_LEN, IPV6_LEN, UDP_LEN, protocol};

/// The longest UDP datagram, header on.
const DATAGRAM_MAX: usize = 65535;

/// Ports tried for a client of the host's own whose port is taken on the guest's side.
const PORTS_TRIED: u16 = 256;

/// A datagram that does not go straight to the guest's memory: larger than the link, mostly.
#[derive(Debug, Default)]
pub struct Large {
    /// UDP header and payload; empty until it is needed.
    buffer: Box<[u8]>,
    outgoing: Option<(Outgoing, usize)>,
    id: u32,
}

/// How an attempt to read a datagram went.
enum Pulled {
    Datagram,
    Empty,
    NoRoom,
}

impl Udp {
    /// Reads datagrams to the guest, socket by socket, until there are none, the guest has no
    /// room or the budget is used up.
    pub(super) fn pump(&mut self, ctx: &mut Ctx<'_, '_>) {
        self.again = None;
        if self.blocked || !self.finish_large(ctx) {
            return;
        }
        let mut budget = BUDGET;
        while budget > 0 {
            let Some(&index) = self.queue.front() else { return };
            let mut turn = TURN.min(budget);
            loop {
                if turn == 0 {
                    self.queue.rotate_left(1);
                    break;
                }
                match self.pull(ctx, index) {
                    Pulled::Datagram => {
                        turn -= 1;
                        budget -= 1;
                    }
                    Pulled::Empty => {
                        self.queue.pop_front();
                        if let Some(socket) = self.sockets.get(index) {
                            socket.queued = false;
                        }
                        break;
                    }
                    Pulled::NoRoom => {
                        self.blocked = true;
                        return;
                    }
                }
            }
        }
        // The sockets are watched by edges: nobody else comes back to them.
        self.again = (!self.queue.is_empty()).then_some(ctx.io.now);
    }

    fn pull(&mut self, ctx: &mut Ctx<'_, '_>, index: u32) -> Pulled {
        let Some(socket) = self.sockets.get(index) else { return Pulled::Empty };
        let guest_ip = match socket.owner {
            Use::Guest(guest) => guest.ip(),
            Use::Published { .. } => published_guest(ctx.core, socket.dgram.is_ipv4()),
        };
        let ipv4 = guest_ip.is_ipv4();
        let ip_len = if ipv4 { IPV4_LEN } else { IPV6_LEN };
        let at = ETHERNET_LEN + ip_len + UDP_LEN;
        let room = usize::from(ctx.core.config.mtu).saturating_sub(ip_len + UDP_LEN);
        if self.large.buffer.is_empty() {
            self.large.buffer = vec![0; DATAGRAM_MAX + 1].into_boxed_slice();
        }
        let offloaded = ctx.io.rx.offloads().checksum;
        let Some(slot) = RxSlot::reserve(ctx.io.rx, at + room) else { return Pulled::NoRoom };
        let spill = &mut self.large.buffer[UDP_LEN + room..];
        let got = match socket.dgram.recv(slot.slices(), at, room, spill) {
            Ok(got) => got,
            Err(error) => {
                drop(slot);
                // Errors of earlier datagrams are told here too; the error queue has the rest.
                if error.kind() == io::ErrorKind::WouldBlock {
                    return Pulled::Empty;
                }
                self.errors(ctx, index);
                return Pulled::Datagram;
            }
        };
        let owner = socket.owner;
        let to = accept(&self.table, ctx.core, owner, index, guest_ip, &got);
        let (guest, remote, known) = match to {
            Ok(to) => to,
            Err(reason) => {
                drop(slot);
                ctx.io.stats.dropped(reason);
                return Pulled::Datagram;
            }
        };
        let Some(mac) = ctx.core.link.neighbor(guest.ip()) else {
            drop(slot);
            ctx.io.stats.dropped(DropReason::NoNeighbor);
            return Pulled::Datagram;
        };
        let envelope = Envelope {
            traffic_class: got.traffic_class,
            ..Envelope::new(mac, remote.ip(), guest.ip(), protocol::UDP)
        };
        let len = UDP_LEN + got.len;
        let mut header = udp_header(remote.port(), guest.port(), got.len);
        let mut top = [0; LOWER_MAX + UDP_LEN];
        if got.len <= room && guest.is_ipv4() == ipv4 {
            let lower = envelope.write(ctx.core.link.mac, len, &mut top);
            let mut offload = Offload::default();
            if offloaded {
                header[6..8].copy_from_slice(&envelope.pseudo_header(len).folded().to_be_bytes());
                offload.checksum = open_checksum(lower, protocol::UDP);
            } else {
                let mut sum = envelope.pseudo_header(len);
                sum.bytes(&header);
                sum.volatile(slot.slices(), at, got.len);
                header[6..8].copy_from_slice(&sum.finish_udp().to_be_bytes());
            }
            top[lower..at].copy_from_slice(&header);
            slot.write_at(0, &top[..at]);
            slot.commit(at + got.len, offload);
        } else {
            // Cut it: the part that lies in the guest's memory goes before the rest. A flow that
            // the guest has in the other family (a client over IPv6 from before it had IPv6) takes
            // this way as well, for its headers have another length.
            let part = room.min(got.len);
            copy_out(&slot, at, &mut self.large.buffer[UDP_LEN..UDP_LEN + part]);
            drop(slot);
            self.large.buffer[..UDP_LEN].copy_from_slice(&header);
            let mut sum = envelope.pseudo_header(len);
            sum.bytes(&self.large.buffer[..len]);
            self.large.buffer[6..8].copy_from_slice(&sum.finish_udp().to_be_bytes());
            self.large.id = self.large.id.wrapping_add(1);
            self.large.outgoing = Some((Outgoing::new(envelope, len, self.large.id), len));
        }
        match known {
            Some(flow) => {
                self.table.received(flow, ctx.io.now);
                if matches!(owner, Use::Published { .. }) {
                    self.table.set_local(flow, got.local);
                }
            }
            None => {
                let host = without_label(got.from);
                let flow = Flow::new(index, guest, remote, host, Class::Inbound, ctx.io.now);
                let flow = self.open(flow, ctx.io.poll);
                if matches!(owner, Use::Published { .. }) {
                    self.table.set_local(flow, got.local);
                }
            }
        }
        if self.finish_large(ctx) { Pulled::Datagram } else { Pulled::NoRoom }
    }

    /// Delivers what is left of a datagram that is being cut. False when the guest has no room.
    fn finish_large(&mut self, ctx: &mut Ctx<'_, '_>) -> bool {
        if let Some((outgoing, len)) = &mut self.large.outgoing
            && outgoing.send(ctx, &self.large.buffer[..*len]).is_err()
        {
            self.blocked = true;
            return false;
        }
        self.large.outgoing = None;
        true
    }
}

fn copy_out(slot: &RxSlot<'_>, mut at: usize, mut to: &mut [u8]) {
    for slice in slot.slices() {
        if at >= slice.len() {
            at -= slice.len();
            continue;
        }
        let part = slice.offset(at).expect("the offset lies in the slice");
        let n = part.len().min(to.len());
        part.copy_to(&mut to[..n]);
        to = &mut to[n..];
        at = 0;
    }
}

/// Where a published port of that family leads: a guest without IPv6 is reached over IPv4.
pub(super) fn published_guest(core: &Core, ipv4: bool) -> IpAddr {
    match core.guest6() {
        Some(guest6) if !ipv4 => guest6.into(),
        _ => core.guest4().into(),
    }
}

/// The guest's endpoint and the remote one as the guest sees it, and the flow where there is one.
type Accepted = (SocketAddr, SocketAddr, Option<u32>);

/// Whom a datagram is for.
fn accept(
    table: &Table,
    core: &Core,
    owner: Use,
    socket: u32,
    guest_ip: IpAddr,
    got: &Datagram,
) -> Result<Accepted, DropReason> {
    let from = without_label(got.from);
    if let Some(i) = table.find_host(socket, from) {
        let flow = table.get(i);
        return Ok((flow.guest, flow.remote, Some(i)));
    }
    match owner {
        Use::Guest(guest) => {
            let solicited = table.knows_address(socket, from.ip())
                && from.is_ipv4() == guest.is_ipv4()
                && table.find(guest, from).is_none();
            if solicited { Ok((guest, from, None)) } else { Err(DropReason::Unsolicited) }
        }
        Use::Published { port, .. } => {
            let guest = SocketAddr::new(guest_ip, port);
            let remote = shown(table, core, guest, from).ok_or(DropReason::FlowTableFull)?;
            Ok((guest, remote, None))
        }
    }
}

/// A client of a published port as the guest is to see it: as what it is, or, where its address
/// means something else to the guest, as a port of the gateway's.
fn shown(table: &Table, core: &Core, guest: SocketAddr, from: SocketAddr) -> Option<SocketAddr> {
    let free = |remote: &SocketAddr| table.find(guest, *remote).is_none();
    let as_is = SocketAddr::new(from.ip(), from.port());
    let same_family = from.is_ipv4() == guest.is_ipv4();
    if same_family && !is_forbidden(&core.config, from.ip()) && free(&as_is) {
        return Some(as_is);
    }
    let gateway: IpAddr = match guest {
        SocketAddr::V4(_) => core.config.gateway4.into(),
        SocketAddr::V6(_) => core.config.gateway6.into(),
    };
    // Below 1024 the gateway has services of its own.
    let first = (from.port() >= 1024).then_some(from.port());
    let others = (0..PORTS_TRIED).map(|n| 49152 + from.port().wrapping_add(n) % 16384);
    first.into_iter().chain(others).map(|port| SocketAddr::new(gateway, port)).find(free)
}
