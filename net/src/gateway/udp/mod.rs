//! The guest's UDP flows and the host's sockets for them (RFC 4787).
//!
//! Each endpoint of the guest's has one unconnected socket, whatever it speaks with, and hears
//! from the addresses that it has sent to. A published port is a socket too; who speaks to it is
//! a flow like any other, that the remote side has begun. Large datagrams go from the guest's
//! memory to the socket with nothing in between, small ones of a batch together ([`gather`]). On the
//! way back a system call takes many at once, and each is copied to the guest from there.

mod bundle;
mod gather;
mod inbox;
mod sockets;
mod table;
mod to_guest;
mod to_host;

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::time::Instant;

use self::bundle::Bundle;
use self::inbox::Inbox;
use self::sockets::{Owner, Sockets};
use self::table::{FlowTable, UdpFlow};
use super::config::{GatewayConfig, Transport};
use super::context::Ctx;
use super::error::GatewayError;
use crate::poll::{Poller, Ready, Token};
use crate::sys::dgram::Dgram;

/// Datagrams delivered to the guest before others get their turn.
const BUDGET: usize = 64;

/// All UDP flows of a gateway.
#[derive(Debug)]
pub struct Udp {
    sockets: Sockets,
    table: FlowTable,
    /// Sockets that may have datagrams.
    to_deliver: VecDeque<u32>,
    /// The guest has no receive buffers: reading goes on when it has.
    blocked: bool,
    /// When delivery goes on that only paused for others.
    resume_at: Option<Instant>,
    inbox: Inbox,
    bundle: Bundle,
}

impl Udp {
    /// No flows yet; published ports are bound here, so that one that is taken is known before
    /// the machine starts.
    ///
    /// # Errors
    /// [`GatewayError::Publish`]
    pub fn bind(config: &GatewayConfig) -> Result<Self, GatewayError> {
        let mut sockets = Sockets::new();
        for publish in config.publish.iter().filter(|p| p.transport == Transport::Udp) {
            let dgram = Dgram::listen(publish.listen)
                .map_err(|source| GatewayError::Publish { publish: *publish, source })?;
            let (port, listen) = (publish.guest_port, publish.listen.ip());
            sockets.insert(dgram, Owner::Published { port, listen });
        }
        Ok(Self {
            sockets,
            table: FlowTable::new(config.limits.udp),
            to_deliver: VecDeque::new(),
            blocked: false,
            resume_at: None,
            inbox: Inbox::default(),
            bundle: Bundle::new(),
        })
    }

    /// Listens at the published ports.
    ///
    /// # Errors
    /// Those of `epoll_ctl(2)`.
    pub fn start(&mut self, poll: &Poller) -> io::Result<()> {
        self.sockets.indices().try_for_each(|i| self.sockets.watch(i, poll))
    }

    /// The batch of packets from the guest is over.
    pub fn batch_end(&mut self, ctx: &mut Ctx<'_, '_>) {
        self.flush_gathered(ctx);
    }

    /// A socket is ready.
    pub fn ready(&mut self, ctx: &mut Ctx<'_, '_>, token: Token, ready: Ready) {
        let Some(socket) = self.sockets.of_token(token) else { return };
        if ready.intersects(Ready::IN) && !socket.queued {
            socket.queued = true;
            self.to_deliver.push_back(token.id);
        }
        if ready.intersects(Ready::ERR) {
            self.relay_errors(ctx, token.id);
        }
        self.pump(ctx);
    }

    /// The guest has receive buffers again.
    pub fn rx_available(&mut self, ctx: &mut Ctx<'_, '_>) {
        self.blocked = false;
        self.pump(ctx);
    }

    /// When [`expire`](Self::expire) is due.
    pub fn deadline(&self) -> Option<Instant> {
        self.resume_at.into_iter().chain(self.table.deadline()).min()
    }

    /// Does what is due.
    pub fn expire(&mut self, ctx: &mut Ctx<'_, '_>) {
        while let Some(i) = self.table.expired(ctx.io.now) {
            self.close(i, ctx.io.poll);
        }
        self.pump(ctx);
    }

    /// The guest is gone, and its flows with it.
    pub fn detached(&mut self, poll: &Poller) {
        self.bundle.clear();
        while let Some(i) = self.table.any() {
            self.close(i, poll);
        }
        self.inbox.clear();
        self.blocked = false;
        self.resume_at = None;
    }

    /// Adds a flow; the oldest one goes where there is no room.
    fn open(&mut self, flow: UdpFlow, poll: &Poller) -> u32 {
        if let Some(socket) = self.sockets.get(flow.socket) {
            // Before the victim goes: it may be the last of the same socket.
            socket.flows += 1;
        }
        while self.table.is_full()
            && let Some(victim) = self.table.victim()
        {
            self.close(victim, poll);
        }
        self.table.insert(flow)
    }

    /// Gives a descriptor back: that of the guest's endpoint that is missed the least, whose flows
    /// go with it. Those of published ports have none of their own. False where there is no such.
    fn free_socket(&mut self, poll: &Poller) -> bool {
        let sockets = &mut self.sockets;
        let own = |i: u32| sockets.get(i).is_some_and(|socket| !socket.is_published());
        let Some(socket) = self.table.idlest(own) else { return false };
        for i in self.table.of_socket(socket) {
            self.close(i, poll);
        }
        true
    }

    /// Ends a flow, and its socket's use where it was the last one.
    fn close(&mut self, i: u32, poll: &Poller) {
        let Some(UdpFlow { socket: index, .. }) = self.table.remove(i) else { return };
        if let Some(socket) = self.sockets.get(index) {
            socket.flows = socket.flows.saturating_sub(1);
            if socket.flows == 0 && !socket.is_published() {
                if socket.queued {
                    self.to_deliver.retain(|i| *i != index);
                }
                self.inbox.forget(index);
                self.sockets.remove(index, poll);
            }
        }
    }

    /// How many flows there are.
    pub fn flows(&self) -> usize {
        self.table.len()
    }
}

/// An endpoint as flows are found by: IPv6's flow label is no part of it.
fn without_label(mut addr: SocketAddr) -> SocketAddr {
    if let SocketAddr::V6(v6) = &mut addr {
        v6.set_flowinfo(0);
    }
    addr
}

#[cfg(test)]
mod tests;
