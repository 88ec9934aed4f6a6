//! The guest's TCP flows and the host's sockets for them.
//!
//! Not a second TCP stack with buffers of its own, but a translator between the guest's segments
//! and one socket for each flow: see [`flow`]. Nothing here is done for each byte, and nothing is
//! allocated once a flow exists.

mod due;
mod flow;
mod flows;
mod gather;
mod input;
mod key;
mod lineup;
mod listen;
mod open;
mod reset;
mod rto;
mod socket;
mod table;
mod template;
mod timers;
mod to_guest;
mod to_host;

use std::io;
use std::time::Instant;

use self::due::End;
use self::flow::{DSCP, State};
use self::flows::Flows;
use self::input::Taken;
use self::key::{Endpoint, Key};
use self::listen::Listeners;
use self::to_host::Segment;
use super::config::GatewayConfig;
use super::context::{Ctx, Handled};
use super::error::GatewayError;
use super::packet::Packet;
use super::source;
use super::target::Destination;
use crate::poll::{Poller, Ready, Token};
use crate::stats::DropReason;
use crate::wire::tcp::{ACK, FIN, Header, RST, SYN};

/// All TCP flows of a gateway.
#[derive(Debug)]
pub struct Tcp {
    flows: Flows,
    listeners: Listeners,
}

impl Tcp {
    /// No flows yet; published ports are bound here, so that one that is taken is known before
    /// the machine starts.
    ///
    /// # Errors
    /// [`GatewayError::Publish`]
    pub fn bind(config: &GatewayConfig) -> Result<Self, GatewayError> {
        let listeners = Listeners::bind(config)?;
        Ok(Self { flows: Flows::new(config.limits.tcp), listeners })
    }

    /// Listens at the published ports.
    ///
    /// # Errors
    /// Those of `epoll_ctl(2)`.
    pub fn start(&mut self, poll: &Poller) -> io::Result<()> {
        self.listeners.start(poll)
    }

    /// How many flows there are.
    pub fn flows(&self) -> usize {
        self.flows.table.len()
    }

    /// A segment from the guest.
    pub fn input(
        &mut self,
        ctx: &mut Ctx<'_, '_>,
        packet: &Packet<'_>,
        to: Destination,
    ) -> Handled {
        let header = Header::parse(packet.head, packet.len)?;
        let payload = packet.payload(header.len)?;
        packet.verify(packet.len)?;
        let key = Key {
            guest: Endpoint { ip: packet.src, port: header.fields.src_port },
            peer: Endpoint { ip: packet.dst, port: header.fields.dst_port },
        };
        let flows = &mut self.flows;
        let found = flows.table.find(&key);
        if flows.gather.flow().is_some() && flows.gather.flow() != found {
            flows.flush_gathered(ctx);
        }
        if let Some(id) = found
            && let Some(flow) = flows.table.get(id)
        {
            flow.mac = packet.src_mac;
            flow.follow_class(ctx, packet.traffic_class & DSCP, &mut flows.gather);
            let segment = Segment { header: &header, payload: &payload };
            match flow.input(ctx, segment, &mut flows.gather) {
                Taken::Done(handled) => {
                    flows.settle(ctx, id);
                    return handled;
                }
                Taken::Stray => {
                    flows.answer_stray(ctx, packet, &header);
                    return Err(DropReason::NoConnection);
                }
                // Its endpoints are needed: whatever it was is over for the guest.
                Taken::Anew => flows.end(ctx, id, End::ByGuest),
            }
        }
        if header.has(SYN) && !header.has(ACK | RST | FIN) {
            return flows.open(ctx, packet, to, &header, key);
        }
        flows.answer_stray(ctx, packet, &header);
        Err(DropReason::NoConnection)
    }

    /// A socket is ready.
    pub fn ready(&mut self, ctx: &mut Ctx<'_, '_>, token: Token, ready: Ready) {
        if token.source == source::TCP_LISTENER {
            self.listeners.accept(ctx, &mut self.flows, token.id);
        } else {
            self.flow_ready(ctx, token, ready);
        }
        self.flows.deliver(ctx);
        self.flows.flush(ctx);
    }

    fn flow_ready(&mut self, ctx: &mut Ctx<'_, '_>, token: Token, ready: Ready) {
        let Some(flow) = self.flows.table.of_token(token) else { return };
        flow.to_guest.note_event(ready);
        let hup = ready.intersects(Ready::ERR | Ready::HUP | Ready::RDHUP);
        if flow.state == State::Connecting {
            if hup || ready.intersects(Ready::OUT) {
                self.flows.answered(ctx, token.id);
            }
            return;
        }
        flow.active = ctx.io.now;
        if ready.intersects(Ready::OUT) {
            flow.on_writable(ctx);
        }
        if hup || ready.intersects(Ready::IN) {
            flow.on_readable(ready);
        }
        self.flows.settle(ctx, token.id);
    }

    /// The guest has receive buffers again.
    pub fn rx_available(&mut self, ctx: &mut Ctx<'_, '_>) {
        self.flows.unblock();
        self.flows.flush(ctx);
        self.flows.deliver(ctx);
        self.flows.flush(ctx);
    }

    /// The batch of packets from the guest is over.
    pub fn batch_end(&mut self, ctx: &mut Ctx<'_, '_>) {
        self.flows.flush_gathered(ctx);
        self.flows.deliver(ctx);
        self.flows.flush(ctx);
    }

    /// When [`expire`](Self::expire) is due.
    pub fn deadline(&self) -> Option<Instant> {
        [self.flows.deadline(), self.listeners.resume_at()].into_iter().flatten().min()
    }

    /// Does what is due.
    pub fn expire(&mut self, ctx: &mut Ctx<'_, '_>) {
        self.listeners.resume(ctx.io.now, ctx.io.poll);
        self.flows.alarms(ctx);
        self.flows.deliver(ctx);
        self.flows.flush(ctx);
    }

    /// The guest is gone, and its flows with it.
    pub fn detached(&mut self) {
        self.flows.clear();
    }
}

#[cfg(test)]
mod tests;
