//! Published ports: connections from outside that lead to the guest.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::Tcp;
use super::flow::Flow;
use super::key::{Endpoint, Key};
use crate::gateway::config::{GatewayConfig, Publish, Transport};
use crate::gateway::context::{Core, Ctx};
use crate::gateway::error::GatewayError;
use crate::gateway::source;
use crate::gateway::target::is_forbidden;
use crate::poll::{Poller, Ready, Token};
use crate::stats::DropReason;
use crate::sys::{is_exhausted, stream};

/// Connections accepted before other events get their turn.
const ACCEPTS: usize = 16;

/// How long nothing is accepted when there are no descriptors left.
const PAUSE: Duration = Duration::from_secs(1);

/// The range that stands in for a client's port where that is taken (RFC 6335 §6).
const PORTS: std::ops::RangeInclusive<u16> = 49152..=65535;

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
    /// Where the search for a free port goes on.
    next_port: u16,
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
        Ok(Self { list, paused: None, next_port: *PORTS.start() })
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

    fn port(&mut self) -> u16 {
        let port = self.next_port;
        self.next_port = if port == *PORTS.end() { *PORTS.start() } else { port + 1 };
        port
    }
}

impl Tcp {
    /// Clients are at a published port.
    pub(super) fn accept(&mut self, ctx: &mut Ctx<'_, '_>, index: u32) {
        for _ in 0..ACCEPTS {
            let Some(listener) = self.listeners.list.get(index as usize) else { return };
            let guest_port = listener.guest_port;
            match stream::accept(&listener.socket) {
                Ok((socket, client)) => self.publish(ctx, socket, client, guest_port),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                Err(e) if is_exhausted(&e) => {
                    ctx.io.stats.dropped(DropReason::SocketFailed);
                    ctx.core.no_socket(&e);
                    if !self.evict(ctx, true) {
                        return self.listeners.pause(ctx.io.now, ctx.io.poll);
                    }
                }
                Err(e) if failed_before(&e) => {}
                // It would come again at once: of memory, or of a policy of the host.
                Err(e) => {
                    tracing::debug!("cannot accept a connection: {e}");
                    return self.listeners.pause(ctx.io.now, ctx.io.poll);
                }
            }
        }
    }

    /// Begins a flow to the guest for a client.
    fn publish(
        &mut self,
        ctx: &mut Ctx<'_, '_>,
        socket: OwnedFd,
        client: SocketAddr,
        guest_port: u16,
    ) {
        if let Err((socket, reason)) = self.try_publish(ctx, socket, client, guest_port) {
            ctx.io.stats.dropped(reason);
            stream::abort(socket);
        }
    }

    fn try_publish(
        &mut self,
        ctx: &mut Ctx<'_, '_>,
        socket: OwnedFd,
        client: SocketAddr,
        guest_port: u16,
    ) -> Result<(), (OwnedFd, DropReason)> {
        let (peer, guest) = seen_by_guest(ctx.core, client.ip());
        let mut key = Key {
            guest: Endpoint { ip: guest, port: guest_port },
            peer: Endpoint { ip: peer, port: client.port() },
        };
        let Some(mac) = ctx.core.link.neighbor(guest) else {
            return Err((socket, DropReason::NoNeighbor));
        };
        if !self.make_room(ctx) {
            return Err((socket, DropReason::FlowTableFull));
        }
        // Clients that share an address in the guest's eyes may share a port as well.
        let mut tries = PORTS.len();
        while self.table.contains(&key) {
            key.peer.port = self.listeners.port();
            tries -= 1;
            if tries == 0 {
                return Err((socket, DropReason::FlowTableFull));
            }
        }
        let seed = self.seed(ctx, key, mac, socket);
        let flow = Box::new(Flow::from_client(seed));
        if self.add(ctx, flow).is_none() {
            ctx.io.stats.dropped(DropReason::SocketFailed);
        }
        Ok(())
    }
}

/// It is a connection's own error, of one that failed before we took it (accept(2)).
fn failed_before(e: &io::Error) -> bool {
    let Some(e) = Errno::from_io_error(e) else { return false };
    matches!(e, Errno::CONNABORTED | Errno::INTR | Errno::PERM | Errno::PROTO | Errno::TIMEDOUT)
        || matches!(e, Errno::NETDOWN | Errno::NETUNREACH | Errno::NONET | Errno::NOPROTOOPT)
        || matches!(e, Errno::HOSTDOWN | Errno::HOSTUNREACH | Errno::OPNOTSUPP | Errno::CONNRESET)
}

/// A client's address as the guest sees it, and the guest's address of the same family. It is the
/// client's own, so that the guest can tell clients apart, except where the guest could not answer
/// it by way of the gateway; then it is the gateway's. A client over IPv6 of a guest without IPv6
/// becomes the gateway over IPv4.
fn seen_by_guest(core: &Core, client: IpAddr) -> (IpAddr, IpAddr) {
    let config = &core.config;
    match (client, core.guest6()) {
        (IpAddr::V6(_), Some(guest6)) => {
            let peer = if is_forbidden(config, client) { config.gateway6.into() } else { client };
            (peer, guest6.into())
        }
        (IpAddr::V6(_), None) => (config.gateway4.into(), core.guest4().into()),
        (IpAddr::V4(_), _) => {
            let peer = if is_forbidden(config, client) { config.gateway4.into() } else { client };
            (peer, core.guest4().into())
        }
    }
}
