//! The DNS forwarder: the guest's queries go to the host's resolvers, and their answers back.
//!
//! Datagrams are passed on as they are; only the id is another one, fresh for each query, and each
//! query has sockets of its own, connected and on ports that the kernel picks at random. An answer
//! counts when it comes from the resolver that was asked, under that id, with that question
//! (RFC 5452 §9). What does not fit the guest's link is cut (TC), and the guest asks again by TCP,
//! which [`target`](super::target) leads to a resolver. The one that has answered last is asked
//! first.

mod local;
mod message;
mod reason;

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, connect, recv, send, socket_with,
};

use self::message::{BadQuery, Query, Rcode, Reply, Response, TRUNCATED};
use self::reason::{Failure, Reason};
use super::context::{Ctx, Handled};
use super::datagram::Datagram;
use super::emit::Envelope;
use super::source;
use crate::addr::MacAddr;
use crate::frame::TxOutcome;
use crate::host::resolvers::RESOLVERS_MAX;
use crate::poll::{Ready, Token};
use crate::slab::Slab;
use crate::stats::DropReason;
use crate::wire::udp::UdpHeader;
use crate::wire::{IPV4_LEN, IPV6_LEN, UDP_LEN, protocol};

/// Queries that wait for an answer at once; past that the oldest goes.
const QUERIES_MAX: usize = 128;
/// How long one resolver has before the next is asked as well.
const TRY_TIME: Duration = Duration::from_millis(1500);
/// How long all of them have. The C library's own patience is 5 s a try.
const QUERY_TIME: Duration = Duration::from_secs(6);
/// The longest answer; EDNS clients ask for up to this (RFC 6891 §6.2.5).
const ANSWER_MAX: usize = 4096;
/// Datagrams read from a socket in one event: answers that don't count must not hold us up.
const READS_MAX: usize = 8;

/// A query on its way.
#[derive(Debug)]
struct Pending {
    mac: MacAddr,
    src: SocketAddr,
    dst: SocketAddr,
    guest_id: u16,
    id: u16,
    /// What the resolvers get, `id` in it.
    message: Vec<u8>,
    servers: Vec<SocketAddr>,
    /// One for each server that was asked.
    sockets: [Option<OwnedFd>; RESOLVERS_MAX],
    /// Why servers can't help.
    failed: [Option<Failure>; RESOLVERS_MAX],
    /// The server to be asked next.
    next: usize,
    started: Instant,
    retry: Instant,
}

impl Pending {
    fn query(&self) -> Query<'_> {
        let query = Query::parse(&self.message).expect("it was parsed before it was kept");
        Query { id: self.guest_id, ..query }
    }

    fn exhausted(&self) -> bool {
        self.failures() >= self.servers.len()
    }

    /// How many servers can't help.
    fn failures(&self) -> usize {
        self.failed.iter().flatten().count()
    }
}

/// The forwarder of one gateway.
#[derive(Debug)]
pub struct Dns {
    queries: Slab<Pending>,
    answer: Box<[u8]>,
    /// Not later than the first retry.
    due: Option<Instant>,
}

impl Dns {
    /// No queries yet.
    pub fn new() -> Self {
        Self {
            queries: Slab::new(source::DNS),
            answer: vec![0; ANSWER_MAX].into_boxed_slice(),
            due: None,
        }
    }

    /// A datagram from the guest to the resolver.
    pub fn input(
        &mut self,
        ctx: &mut Ctx<'_, '_>,
        mac: MacAddr,
        datagram: &Datagram<'_>,
    ) -> Handled {
        let (src, dst) = (datagram.src, datagram.dst);
        let query = match Query::parse(datagram.payload) {
            Ok(query) => query,
            Err(BadQuery::Ignore) => return Err(DropReason::Malformed),
            Err(BadQuery::Answer(rcode)) => {
                let response = message::bare_response(datagram.payload, rcode);
                respond(ctx, mac, dst, src, &response)?;
                return Ok(TxOutcome::Sent);
            }
        };
        if let Some(response) = local::answer(ctx.shared, &query) {
            respond(ctx, mac, dst, src, &response)?;
            return Ok(TxOutcome::Sent);
        }
        ctx.shared.resolvers.refresh(ctx.io.now);
        if ctx.shared.resolvers.conf().servers.is_empty() {
            let mut response = Response::new(&query, Rcode::ServFail);
            let Reason { code, text } = Reason::none_named(ctx.shared.resolvers.path());
            response.explain(code, text);
            respond(ctx, mac, dst, src, &response.finish())?;
            return Ok(TxOutcome::Sent);
        }
        // A client that grows impatient asks the same again; we ask again ourselves.
        let same = |p: &Pending| {
            p.src == src && p.guest_id == query.id && p.query().question == query.question
        };
        if self.queries.iter().any(|(_, pending)| same(pending)) {
            return Ok(TxOutcome::Sent);
        }
        let mut message = datagram.payload.to_vec();
        let id = random_id();
        message[..2].copy_from_slice(&id.to_be_bytes());
        let now = ctx.io.now;
        let pending = Pending {
            mac,
            src,
            dst,
            guest_id: query.id,
            id,
            message,
            servers: ctx.shared.resolvers.conf().servers.clone(),
            sockets: [const { None }; RESOLVERS_MAX],
            failed: [None; RESOLVERS_MAX],
            next: ctx.shared.resolvers.preferred(),
            started: now,
            retry: now,
        };
        self.make_room(ctx);
        let i = self.queries.insert(pending);
        self.ask(ctx, i);
        Ok(TxOutcome::Sent)
    }

    /// A socket is ready.
    pub fn ready(&mut self, ctx: &mut Ctx<'_, '_>, token: Token, _ready: Ready) {
        let (token, server) = unjoin(token);
        let i = token.id;
        for _ in 0..READS_MAX {
            let Some(pending) = self.queries.named(token) else { return };
            let Some(socket) = &pending.sockets[server] else { return };
            let flags = RecvFlags::DONTWAIT | RecvFlags::TRUNC;
            let verdict = match recv(socket, &mut self.answer[..], flags) {
                Ok((_, len)) => {
                    let room = usize::from(ctx.shared.config.mtu) - lower_len(pending.src);
                    judge(pending, &mut self.answer, len, room)
                }
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => return,
                // Nobody listens there, or there is no way to it.
                Err(e) => Verdict::NextServer(Failure::of(&e.into())),
            };
            if matches!(verdict, Verdict::PassOn(_) | Verdict::Truncated)
                && let Some(server) = pending.servers.get(server)
                && !is_failure(self.answer[3] & 0xf)
            {
                ctx.shared.resolvers.answered(*server);
            }
            match verdict {
                Verdict::Ignore => {}
                Verdict::NextServer(why) => return self.server_failed(ctx, i, server, why),
                Verdict::PassOn(len) => {
                    if let Some(pending) = self.queries.remove(i) {
                        pending.respond(ctx, &self.answer[..len]);
                    }
                    return;
                }
                Verdict::Truncated => {
                    let mut response = Response::new(&pending.query(), Rcode::NoError);
                    response.flag(TRUNCATED);
                    let response = response.finish();
                    return self.finish(ctx, i, &response);
                }
                Verdict::Respond(response) => return self.finish(ctx, i, &response),
            }
        }
    }

    /// When [`expire`](Self::expire) is due.
    pub fn deadline(&self) -> Option<Instant> {
        self.due
    }

    /// Asks the next resolvers, and gives up on queries that have waited long enough.
    pub fn expire(&mut self, ctx: &mut Ctx<'_, '_>) {
        let now = ctx.io.now;
        if self.due.is_none_or(|due| due > now) {
            return;
        }
        self.due = None;
        for i in self.queries.ids() {
            let Some(pending) = self.queries.get(i) else { continue };
            if pending.retry > now {
                self.due = earlier(self.due, pending.retry);
            } else if now.saturating_duration_since(pending.started) >= QUERY_TIME {
                self.give_up(ctx, i);
            } else {
                self.ask(ctx, i);
            }
        }
    }

    /// The guest is gone, and its queries with it.
    pub fn detached(&mut self) {
        for i in self.queries.ids() {
            self.queries.remove(i);
        }
        self.due = None;
    }

    /// Makes room for a query, that of the oldest if there is no other.
    fn make_room(&mut self, ctx: &Ctx<'_, '_>) {
        if self.queries.len() >= QUERIES_MAX
            && let Some((oldest, _)) = self.queries.iter().min_by_key(|(_, p)| p.started)
        {
            self.queries.remove(oldest);
            ctx.io.stats.dropped(DropReason::FlowTableFull);
        }
    }

    /// Sends query `i` to its next resolver that can still help; answers it where there is none.
    fn ask(&mut self, ctx: &mut Ctx<'_, '_>, i: u32) {
        let Some(name) = self.queries.token(i) else { return };
        let Some(pending) = self.queries.get_mut(i) else { return };
        let servers = pending.servers.len();
        while !pending.exhausted() {
            let server = pending.next % servers;
            pending.next = (server + 1) % servers;
            if pending.failed[server].is_some() {
                continue;
            }
            if let Err(e) = pending.ask(ctx, server, join(name, server)) {
                ctx.shared.no_socket(&e);
                tracing::debug!(server = %pending.servers[server], "cannot ask a resolver: {e}");
                pending.failed[server] = Some(Failure::of(&e));
                continue;
            }
            pending.retry = (ctx.io.now + TRY_TIME).min(pending.started + QUERY_TIME);
            self.due = earlier(self.due, pending.retry);
            return;
        }
        self.give_up(ctx, i);
    }

    /// `server` can't answer query `i`; the next may.
    fn server_failed(&mut self, ctx: &mut Ctx<'_, '_>, i: u32, server: usize, why: Failure) {
        let Some(pending) = self.queries.get_mut(i) else { return };
        pending.failed[server] = Some(why);
        pending.sockets[server] = None;
        // Another that was asked already may still answer.
        if pending.exhausted() || pending.sockets.iter().all(Option::is_none) {
            self.ask(ctx, i);
        }
    }

    fn give_up(&mut self, ctx: &mut Ctx<'_, '_>, i: u32) {
        let Some(pending) = self.queries.get(i) else { return };
        let refused = Some(Failure::Code(Rcode::Refused as u8));
        let all_refuse = pending.failed.iter().take(pending.servers.len()).all(|f| *f == refused);
        let code = if all_refuse { Rcode::Refused } else { Rcode::ServFail };
        let mut response = Response::new(&pending.query(), code);
        let Reason { code, text } = Reason::of_all(&pending.servers, &pending.failed);
        response.explain(code, text);
        let response = response.finish();
        self.finish(ctx, i, &response);
    }

    fn finish(&mut self, ctx: &mut Ctx<'_, '_>, i: u32, response: &[u8]) {
        if let Some(pending) = self.queries.remove(i) {
            pending.respond(ctx, response);
        }
    }
}

impl Pending {
    /// Sends the query to `server`, once more or for the first time.
    fn ask(&mut self, ctx: &Ctx<'_, '_>, server: usize, token: Token) -> std::io::Result<()> {
        let socket = match &mut self.sockets[server] {
            Some(socket) => socket,
            place @ None => {
                let to = self.servers[server];
                let family = match to {
                    SocketAddr::V4(_) => AddressFamily::INET,
                    SocketAddr::V6(_) => AddressFamily::INET6,
                };
                let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
                let socket = socket_with(family, SocketType::DGRAM, flags, None)?;
                connect(&socket, &to)?;
                ctx.io.poll.add(&socket, token, Ready::IN)?;
                place.insert(socket)
            }
        };
        match send(&*socket, &self.message, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
            // A full socket buffer is a lost datagram: the next try is due soon.
            Ok(_) | Err(Errno::AGAIN) => Ok(()),
            Err(e) => {
                self.sockets[server] = None;
                Err(e.into())
            }
        }
    }

    /// Answers the guest. Where it has no buffers the answer is lost: the client asks again.
    fn respond(&self, ctx: &mut Ctx<'_, '_>, response: &[u8]) {
        if let Err(reason) = respond(ctx, self.mac, self.dst, self.src, response) {
            ctx.io.stats.dropped(reason);
        }
    }
}

/// The name of the socket to `server` of the query that is named `query`.
fn join(query: Token, server: usize) -> Token {
    Token { id: query.id * RESOLVERS_MAX as u32 + server as u32, ..query }
}

/// The query's name and the server, of a socket's name.
fn unjoin(socket: Token) -> (Token, usize) {
    let servers = RESOLVERS_MAX as u32;
    (Token { id: socket.id / servers, ..socket }, (socket.id % servers) as usize)
}

/// What a resolver's datagram leads to.
enum Verdict {
    Ignore,
    NextServer(Failure),
    /// This much of the buffer is for the guest.
    PassOn(usize),
    /// It is an answer, but too long.
    Truncated,
    Respond(Vec<u8>),
}

/// `len` may be more than `answer` holds: the datagram was longer. `room` is what the guest's
/// link takes.
fn judge(pending: &Pending, answer: &mut [u8], len: usize, room: usize) -> Verdict {
    let query = pending.query();
    let kept = len.min(answer.len());
    let last = pending.failures() + 1 >= pending.servers.len();
    match message::judge(&answer[..kept], pending.id, query.question) {
        Reply::Foreign => Verdict::Ignore,
        // The last one's failure is the answer. A client that can be told why gets one of ours,
        // if the resolver has not said it itself.
        Reply::Answer(rcode)
            if is_failure(rcode)
                && (!last || query.edns && !message::is_explained(&answer[..kept])) =>
        {
            Verdict::NextServer(Failure::Code(rcode))
        }
        Reply::Bare(rcode) if rcode == Rcode::FormErr as u8 => {
            Verdict::Respond(Response::new(&query, Rcode::FormErr).finish())
        }
        Reply::Bare(rcode) => Verdict::NextServer(Failure::Code(rcode)),
        Reply::Answer(_) if kept < len || len > room => Verdict::Truncated,
        Reply::Answer(_) => {
            answer[..2].copy_from_slice(&pending.guest_id.to_be_bytes());
            answer[message::HEADER_LEN..][..query.question.len()].copy_from_slice(query.question);
            Verdict::PassOn(len)
        }
    }
}

/// True for what says more about the resolver than about the name.
fn is_failure(rcode: u8) -> bool {
    rcode == Rcode::ServFail as u8 || rcode == Rcode::Refused as u8
}

fn earlier(a: Option<Instant>, b: Instant) -> Option<Instant> {
    Some(a.map_or(b, |a| a.min(b)))
}

/// Bytes of the IP and UDP headers towards `guest`.
fn lower_len(guest: SocketAddr) -> usize {
    UDP_LEN + if guest.is_ipv4() { IPV4_LEN } else { IPV6_LEN }
}

fn respond(
    ctx: &mut Ctx<'_, '_>,
    mac: MacAddr,
    from: SocketAddr,
    to: SocketAddr,
    payload: &[u8],
) -> Result<(), DropReason> {
    let envelope = Envelope::new(mac, from.ip(), to.ip(), protocol::UDP);
    ctx.deliver_packet(
        &envelope,
        &UdpHeader { src_port: from.port(), dst_port: to.port(), payload_len: payload.len() }
            .emit(),
        payload,
    )
}

/// An id that nobody can guess.
fn random_id() -> u16 {
    let mut bytes = [0; 2];
    // Fails only before the system has gathered entropy; the random port then stands alone.
    let _ = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
    u16::from_ne_bytes(bytes)
}

#[cfg(test)]
mod tests;
