//! Published ports: connections from outside that lead to the guest.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::flow::Flow;
use super::flows::Flows;
use super::key::Key;
use crate::gateway::client::{published_guest, seen_by_guest};
use crate::gateway::config::{GatewayConfig, Publish, Transport};
use crate::gateway::context::Ctx;
use crate::gateway::error::GatewayError;
use crate::gateway::source;
use crate::poll::{Poller, Ready, Token};
use crate::stats::DropReason;
use crate::sys::{is_exhausted, stream};

/// Connections accepted before other events get their turn.
const ACCEPTS: usize = 16;

/// How long nothing is accepted when there are no descriptors left.
const PAUSE: Duration = Duration::from_secs(1);

#[derive(Debug)]
struct Listener {
    socket: OwnedFd,
    guest_port: u16,
}

/// All published ports.
#[derive(Debug)]
pub struct Listeners {
    list: Vec<Listener>,
    paused: Option<Instant>,
}

impl Listeners {
    /// Binds the ports.
    ///
    /// # Errors
    /// [`GatewayError::Publish`]
    pub fn bind(config: &GatewayConfig) -> Result<Self, GatewayError> {
        let bind = |publish: &Publish| match stream::listen(publish.listen) {
            Ok(socket) => Ok(Listener { socket, guest_port: publish.guest_port }),
            Err(source) => Err(GatewayError::Publish { publish: *publish, source }),
        };
        let ours = config.publish.iter().filter(|p| p.transport == Transport::Tcp);
        let list = ours.map(bind).collect::<Result<_, _>>()?;
        Ok(Self { list, paused: None })
    }

    /// Watches them.
    pub fn start(&self, poll: &Poller) -> io::Result<()> {
        self.each(|socket, token| poll.add(socket, token, Ready::IN))
    }

    fn each(&self, f: impl Fn(&OwnedFd, Token) -> io::Result<()>) -> io::Result<()> {
        let mut list = self.list.iter().enumerate();
        list.try_for_each(|(i, l)| f(&l.socket, Token::new(source::TCP_LISTENER, i as u32)))
    }

    /// Accepts nothing for a while.
    fn pause(&mut self, now: Instant, poll: &Poller) {
        self.paused = Some(now + PAUSE);
        let _ = self.each(|socket, token| poll.modify(socket, token, Ready::empty()));
    }

    /// When to accept again.
    pub fn resume_at(&self) -> Option<Instant> {
        self.paused
    }

    /// Accepts again, if it is time to.
    pub fn resume(&mut self, now: Instant, poll: &Poller) {
        if self.paused.is_some_and(|at| at <= now) {
            self.paused = None;
            let _ = self.each(|socket, token| poll.modify(socket, token, Ready::IN));
        }
    }
}

impl Listeners {
    /// Clients are at a published port.
    pub fn accept(&mut self, ctx: &mut Ctx<'_, '_>, flows: &mut Flows, index: u32) {
        for _ in 0..ACCEPTS {
            let Some(listener) = self.list.get(index as usize) else { return };
            let guest_port = listener.guest_port;
            match stream::accept(&listener.socket) {
                Ok((socket, client)) => publish(ctx, flows, socket, client, guest_port),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                Err(e) if is_exhausted(&e) => {
                    ctx.io.stats.dropped(DropReason::SocketFailed);
                    ctx.shared.no_socket(&e);
                    if !flows.evict(ctx, true) {
                        return self.pause(ctx.io.now, ctx.io.poll);
                    }
                }
                Err(e) if failed_before(&e) => {}
                // It would come again at once: of memory, or of a policy of the host.
                Err(e) => {
                    tracing::debug!("cannot accept a connection: {e}");
                    return self.pause(ctx.io.now, ctx.io.poll);
                }
            }
        }
    }
}

/// Begins a flow to the guest for a client.
fn publish(
    ctx: &mut Ctx<'_, '_>,
    flows: &mut Flows,
    socket: OwnedFd,
    client: SocketAddr,
    guest_port: u16,
) {
    if let Err((socket, reason)) = try_publish(ctx, flows, socket, client, guest_port) {
        ctx.io.stats.dropped(reason);
        stream::abort(socket);
    }
}

fn try_publish(
    ctx: &mut Ctx<'_, '_>,
    flows: &mut Flows,
    socket: OwnedFd,
    client: SocketAddr,
    guest_port: u16,
) -> Result<(), (OwnedFd, DropReason)> {
    let guest = SocketAddr::new(published_guest(ctx.shared, client.into()), guest_port);
    let Some(mac) = ctx.shared.link.neighbor(guest.ip()) else {
        return Err((socket, DropReason::NoNeighbor));
    };
    if !flows.make_room(ctx) {
        return Err((socket, DropReason::FlowTableFull));
    }
    let key = |peer: SocketAddr| Key { guest: guest.into(), peer: peer.into() };
    let free = |peer| !flows.table.contains(&key(peer));
    let Some(peer) = seen_by_guest(ctx.shared, guest, client, free) else {
        return Err((socket, DropReason::FlowTableFull));
    };
    let key = key(peer);
    let seed = flows.seed(ctx, key, mac, socket);
    let flow = Box::new(Flow::from_client(seed));
    if flows.add(ctx, flow).is_none() {
        ctx.io.stats.dropped(DropReason::SocketFailed);
    }
    Ok(())
}

/// It is a connection's own error, of one that failed before we took it (accept(2)).
fn failed_before(e: &io::Error) -> bool {
    let Some(e) = Errno::from_io_error(e) else { return false };
    matches!(e, Errno::CONNABORTED | Errno::INTR | Errno::PERM | Errno::PROTO | Errno::TIMEDOUT)
        || matches!(e, Errno::NETDOWN | Errno::NETUNREACH | Errno::NONET | Errno::NOPROTOOPT)
        || matches!(e, Errno::HOSTDOWN | Errno::HOSTUNREACH | Errno::OPNOTSUPP | Errno::CONNRESET)
}
