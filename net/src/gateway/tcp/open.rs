//! How flows begin, and which ones go to make room for them.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use rustix::net::sockopt::socket_error;

use super::due::End;
use super::flow::{DSCP, Flow};
use super::flows::Flows;
use super::key::Key;
use super::reset::Reset;
use crate::addr::{Family, MacAddr};
use crate::frame::TxOutcome;
use crate::gateway::config::Transport;
use crate::gateway::context::{Ctx, Handled};
use crate::gateway::emit::{Envelope, LOWER_MAX};
use crate::gateway::icmp::{self, Why};
use crate::gateway::packet::Packet;
use crate::gateway::refusal::Refusal;
use crate::gateway::target::{Destination, resolve};
use crate::stats::DropReason;
use crate::sys::{is_exhausted, stream};
use crate::wire::seq::Seq;
use crate::wire::tcp::{ACK, Fields, Header, RST, SYN};
use crate::wire::{ETHERNET_LEN, TCP_LEN, protocol};

impl Flows {
    /// The guest's SYN begins a flow.
    pub(super) fn open(
        &mut self,
        ctx: &mut Ctx<'_, '_>,
        packet: &Packet<'_>,
        to: Destination,
        syn: &Header,
        key: Key,
    ) -> Handled {
        let target = match resolve(ctx, Transport::Tcp, key.peer.into(), to) {
            Ok(target) => target,
            Err(reason) => {
                // A route that is missing is told as a router would; the gateway itself is there.
                if reason == DropReason::NoRoute && to != Destination::Gateway {
                    icmp::unreachable(ctx, packet, Why::Network);
                } else {
                    self.answer_stray(ctx, packet, syn);
                }
                return Err(reason);
            }
        };
        if !self.make_room_to_connect(ctx) {
            // The guest tries again.
            return Err(DropReason::FlowTableFull);
        }
        let class = packet.traffic_class & DSCP;
        let (socket, connected) = match self.connect(ctx, target, class) {
            Ok(connection) => connection,
            Err(e) => {
                let reason = self.refuse(ctx, key, packet.src_mac, syn.fields.seq, &e);
                // By a peer on this host, which is an answer like any other.
                let answered = e.kind() == io::ErrorKind::ConnectionRefused;
                return if answered { Ok(TxOutcome::Sent) } else { Err(reason) };
            }
        };
        let seed = self.seed(ctx, key, packet.src_mac, socket);
        let flow = Box::new(Flow::from_guest(seed, syn, class));
        let Some(id) = self.add(ctx, flow) else {
            self.answer_stray(ctx, packet, syn);
            return Err(DropReason::SocketFailed);
        };
        if connected {
            self.connected(ctx, id);
        }
        Ok(TxOutcome::Sent)
    }

    /// Connects; where there are no descriptors left, the idlest flow gives its own.
    pub(super) fn connect(
        &mut self,
        ctx: &mut Ctx<'_, '_>,
        to: SocketAddr,
        class: u8,
    ) -> io::Result<(OwnedFd, bool)> {
        let result = stream::connect(to, class);
        if let Err(e) = &result
            && is_exhausted(e)
        {
            ctx.shared.no_socket(e);
            if self.evict(ctx, true) {
                return stream::connect(to, class);
            }
        }
        result
    }

    /// The host's peer has answered a flow's connection, one way or the other.
    pub(super) fn answered(&mut self, ctx: &mut Ctx<'_, '_>, id: u32) {
        let Some(flow) = self.table.get(id) else { return };
        let Some(socket) = &flow.socket else { return };
        let error = match socket_error(&socket.fd) {
            Ok(Ok(())) => return self.connected(ctx, id),
            Ok(Err(e)) | Err(e) => e,
        };
        let (key, mac, irs) = (flow.key, flow.mac, flow.to_host.irs());
        self.end(ctx, id, End::Closed);
        self.refuse(ctx, key, mac, irs, &error.into());
    }

    /// The host's side of a flow, which the guest's SYN with sequence number `irs` began, can't be
    /// connected: the guest learns why, as it would from a router or from the host that refuses.
    fn refuse(
        &mut self,
        ctx: &mut Ctx<'_, '_>,
        key: Key,
        mac: MacAddr,
        irs: Seq,
        error: &io::Error,
    ) -> DropReason {
        let refusal = Refusal::of(error, ctx.shared.config.mtu.into());
        if refusal.is_passing() {
            // The guest tries again.
            return refusal.reason;
        }
        let Some(why) = refusal.why else {
            let ack = irs + 1;
            let (src_port, dst_port) = (key.peer.port, key.guest.port);
            let fields =
                Fields { src_port, dst_port, seq: Seq::new(0), ack, flags: RST | ACK, window: 0 };
            let envelope = Envelope::new(mac, key.peer.ip, key.guest.ip, protocol::TCP);
            self.reset_guest(ctx, Reset { envelope, fields });
            return refusal.reason;
        };
        // The guest's SYN, as far as anyone looks at it.
        let (src_port, dst_port) = (key.guest.port, key.peer.port);
        let syn = Fields { src_port, dst_port, seq: irs, ack: Seq::new(0), flags: SYN, window: 0 };
        let mut quote = [0; LOWER_MAX + TCP_LEN];
        let envelope = Envelope::new(mac, key.guest.ip, key.peer.ip, protocol::TCP);
        let lower = envelope.write(mac, TCP_LEN, &mut quote);
        quote[lower..lower + TCP_LEN].copy_from_slice(&syn.bytes());
        let quote = &quote[ETHERNET_LEN..lower + TCP_LEN];
        let family = Family::from(key.guest.ip);
        let from = ctx.shared.config.gateway(family);
        icmp::relay(ctx, from, key.guest.ip, why.header(family), quote);
        refusal.reason
    }
}
