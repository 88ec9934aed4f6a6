//! One flow: the guest's TCP connection on one side, a socket of the host's on the other.
//!
//! Sequence numbers mirror the socket's byte streams. What the guest sends is acknowledged when
//! the socket has taken it, and the window offered is the room that the socket has. What the host
//! sends stays in the socket's receive buffer until the guest has acknowledged it.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use super::due::{Due, End};
use super::gather::Gather;
use super::key::Key;
use super::socket::Socket;
use super::template::Template;
use super::to_guest::{Awaits, Outward, Scratch, ToGuest, Turn};
use super::to_host::{Outlet, ToHost};
use crate::addr::MacAddr;
use crate::gateway::context::Ctx;
use crate::gateway::emit::Envelope;
use crate::poll::{Poller, Ready, Token};
use crate::stats::DropReason;
use crate::sys::stream;
use crate::wire::seq::Seq;
use crate::wire::tcp::{ACK, Fields, Header, Options, RST, SYN};
use crate::wire::{IPV4_LEN, IPV6_LEN, TCP_LEN, protocol};

/// The guest's MSS where its SYN does not say (RFC 9293 §3.7.1).
const MSS_DEFAULT4: u16 = 536;
const MSS_DEFAULT6: u16 = 1220;

/// The bits of a traffic class that are carried (RFC 2474 §3). The other two are ECN's: each of the
/// two connections has that for itself (RFC 3168 §6.1).
pub const DSCP: u8 = 0xfc;

/// Between two answers to segments that should not be (RFC 5961 §7).
const CHALLENGE_INTERVAL: Duration = Duration::from_millis(50);

/// Idle times (RFC 5382 §5 REQ-5): of connections, and of those that only begin or end.
const IDLE_OPEN: Duration = Duration::from_secs(2 * 3600 + 4 * 60);
const IDLE_TRANSITORY: Duration = Duration::from_secs(4 * 60);
/// Twice the maximum segment lifetime on a link that is memory.
const TIME_WAIT: Duration = Duration::from_secs(10);

/// Where a flow is in its life, towards the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// The guest's SYN is here; the host's socket is connecting.
    Connecting,
    /// A published port's client is here; the guest has our SYN.
    SynSent,
    /// The guest has our SYN-ACK.
    SynReceived,
    /// Data may flow; [`ToHost::is_ended`] and [`ToGuest::is_ending`] tell which directions have ended.
    Open,
    /// Over; only late segments are answered. The socket is gone.
    TimeWait,
}

/// See the [module's documentation](self).
#[derive(Debug)]
pub struct Flow {
    /// Its endpoints.
    pub key: Key,
    /// The guest's link-layer address.
    pub mac: MacAddr,
    /// The host's socket; gone in [`State::TimeWait`] only.
    pub socket: Option<Socket>,
    /// The traffic class of what the guest sends, without the ECN bits; the socket has it too.
    class: u8,
    /// Where it is in its life.
    pub state: State,
    /// From the guest to the host.
    pub to_host: ToHost,
    /// From the host to the guest.
    pub to_guest: ToGuest,
    /// When the guest or the host last did something.
    pub active: Instant,
    /// What is left to be done.
    pub due: Due,
    challenged: Option<Instant>,
}

/// What all flows begin with.
#[derive(Debug)]
pub struct Seed {
    /// Its endpoints.
    pub key: Key,
    /// The guest's link-layer address.
    pub mac: MacAddr,
    /// The name of its socket's events.
    pub token: Token,
    /// The host's socket.
    pub socket: OwnedFd,
    /// Our initial sequence number.
    pub iss: Seq,
    /// The link's MTU.
    pub mtu: u16,
    /// The time.
    pub now: Instant,
}

impl Flow {
    fn new(seed: Seed, state: State) -> Self {
        let Seed { key, mac, token, socket, iss, mtu, now } = seed;
        let ip = if key.guest.ip.is_ipv4() { IPV4_LEN } else { IPV6_LEN };
        let mss = mtu.saturating_sub((ip + TCP_LEN) as u16).max(1);
        Self {
            key,
            mac,
            socket: Some(Socket { fd: socket, token }),
            class: 0,
            state,
            to_host: ToHost::new(mss),
            to_guest: ToGuest::new(iss, mss),
            active: now,
            due: Due::default(),
            challenged: None,
        }
    }

    /// A flow that the guest's SYN, in that traffic class, begins.
    pub fn from_guest(seed: Seed, syn: &Header, class: u8) -> Self {
        let mut flow = Self::new(seed, State::Connecting);
        flow.class = class;
        flow.learn_syn(syn);
        flow
    }

    /// A flow that a published port's client begins.
    pub fn from_client(seed: Seed) -> Self {
        let mut flow = Self::new(seed, State::SynSent);
        flow.due.syn = true;
        flow
    }

    /// What the guest's SYN says.
    pub fn learn_syn(&mut self, syn: &Header) {
        let default = if self.key.guest.ip.is_ipv4() { MSS_DEFAULT4 } else { MSS_DEFAULT6 };
        self.to_host.learn_syn(syn);
        self.to_guest.learn_syn(syn, default);
    }

    /// What the guest sends is in this traffic class from here on.
    pub fn follow_class(&mut self, ctx: &mut Ctx<'_, '_>, class: u8, gather: &mut Gather) {
        if self.class == class {
            return;
        }
        // What came before goes in its own.
        self.flush_gathered(ctx, gather);
        self.class = class;
        if let Some(socket) = &self.socket {
            // It is only a wish.
            let _ = stream::set_traffic_class(&socket.fd, class);
        }
    }

    /// Around its packets to the guest.
    pub fn envelope(&self) -> Envelope {
        Envelope::new(self.mac, self.key.peer.ip, self.key.guest.ip, protocol::TCP)
    }

    /// Its segments to the guest.
    fn template(&self) -> Template {
        Template::new(self.envelope(), self.fields(true))
    }

    /// What each header to the guest says, with the window scaled or not.
    fn fields(&self, scaled: bool) -> Fields {
        Fields {
            src_port: self.key.peer.port,
            dst_port: self.key.guest.port,
            seq: self.to_guest.nxt(),
            ack: self.to_host.nxt(),
            flags: ACK,
            window: self.to_host.window(scaled),
        }
    }

    /// Sends a segment without payload. False when the guest has no room for it.
    pub fn send_empty(&mut self, ctx: &mut Ctx<'_, '_>, seq: Seq, flags: u8) -> bool {
        let sent = self.template().send_empty(ctx, seq, flags);
        if sent && flags & ACK != 0 {
            self.due.ack = false;
        }
        sent
    }

    /// Sends an acknowledgement. False when the guest has no room for it.
    pub fn send_ack(&mut self, ctx: &mut Ctx<'_, '_>) -> bool {
        self.send_empty(ctx, self.to_guest.nxt(), ACK)
    }

    /// Sends our SYN or SYN-ACK.
    fn send_syn(&mut self, ctx: &mut Ctx<'_, '_>) -> bool {
        let mut fields = Fields { seq: self.to_guest.iss(), ..self.fields(false) };
        if self.state == State::SynSent {
            fields = Fields { ack: Seq::new(0), flags: SYN, window: 0xffff, ..fields };
        } else {
            fields.flags = SYN | ACK;
        }
        let options = Options { mss: Some(self.to_host.mss()), scale: self.to_host.scale() };
        let (header, len) = fields.with_options(options);
        let sent = ctx.deliver_packet(&self.envelope(), &header[..len], &[]).is_ok();
        if sent {
            self.due.syn = false;
            self.to_guest.syn_sent(ctx.io.now);
        }
        sent
    }

    /// The host's socket is connected: the guest is to get a SYN-ACK.
    pub fn connected(&mut self, poll: &Poller) {
        self.state = State::SynReceived;
        self.due.syn = true;
        // The event that told it may have told of bytes as well, or of the end.
        self.to_guest.set_readable();
        self.offer_window(poll);
    }

    /// The header of the reset that tells the guest that the flow is over.
    pub fn reset_fields(&self) -> Fields {
        let seq = match self.state {
            State::Connecting => Seq::new(0),
            _ => self.to_guest.max(),
        };
        Fields { seq, flags: RST | ACK, window: 0, ..self.fields(true) }
    }

    /// An answer to a segment that should not be, now and then (RFC 5961).
    pub fn challenge(&mut self, ctx: &mut Ctx<'_, '_>) -> DropReason {
        let now = ctx.io.now;
        if self.challenged.is_some_and(|t| now.saturating_duration_since(t) < CHALLENGE_INTERVAL) {
            return DropReason::RateLimited;
        }
        self.challenged = Some(now);
        self.due.ack = true;
        DropReason::OutOfWindow
    }

    /// True if both directions have ended and the guest knows.
    pub fn is_finished(&self) -> bool {
        self.state == State::Open && self.to_host.is_ended() && self.to_guest.is_ended()
    }

    /// True if both directions have ended, whether the guest knows or not.
    pub fn is_closing(&self) -> bool {
        self.state == State::Open && self.to_host.is_ended() && self.to_guest.is_ending()
    }

    /// Both directions have ended: what is left is to answer late segments.
    pub fn begin_time_wait(&mut self, now: Instant) {
        self.state = State::TimeWait;
        self.to_guest.rest();
        self.active = now;
        self.socket = None;
    }

    /// True if there may be bytes or an end to deliver, and the guest takes them.
    pub fn wants_delivery(&self) -> bool {
        self.state == State::Open && self.to_guest.wants_delivery()
    }

    /// Delivers one frame, or a few small ones.
    pub fn deliver(&mut self, ctx: &mut Ctx<'_, '_>, scratch: &mut Scratch) -> Turn {
        let template = self.template();
        let (State::Open, Some(socket)) = (self.state, &self.socket) else { return Turn::Idle };
        let guest_ended = self.to_host.is_ended();
        let mut out = Outward { socket, template, guest_ended, due: &mut self.due };
        self.to_guest.deliver(ctx, scratch, &mut out)
    }

    /// Gives what was gathered to the socket, before anything is said about it to the guest.
    pub fn flush_gathered(&mut self, ctx: &mut Ctx<'_, '_>, gather: &mut Gather) {
        if let Some(socket) = &self.socket {
            let mut to = Outlet { socket, gather, due: &mut self.due };
            self.to_host.flush_gathered(ctx, &mut to);
        }
    }

    /// Offers the guest as much window as the socket has room.
    pub fn offer_window(&mut self, poll: &Poller) {
        if let Some(socket) = &self.socket {
            self.to_host.offer_window(socket, poll);
        }
    }

    /// The socket has room.
    pub fn on_writable(&mut self, ctx: &mut Ctx<'_, '_>) {
        let Some(socket) = &self.socket else { return };
        let Some(lost) = self.to_host.on_writable(socket, ctx.io.poll) else { return };
        self.due.ack = true;
        if lost {
            // The guest learns the window with the first one and resends at once what was
            // dropped because of the others, three that say the same (RFC 5681 §3.2).
            for _ in 0..4 {
                self.send_ack(ctx);
            }
        }
    }

    /// The socket has bytes, its end or its failure to tell.
    pub fn on_readable(&mut self, ready: Ready) {
        let failed = ready.intersects(Ready::ERR);
        if failed && matches!(self.state, State::SynSent | State::SynReceived) {
            self.due.end = Some(End::ByHost);
        }
        if let Some(socket) = &self.socket {
            self.to_guest.on_readable(socket, &mut self.due, failed);
        }
    }

    /// Keeps the socket in step with what the guest has said. Needs no room with the guest.
    pub fn upkeep(&mut self, poll: &Poller) {
        if let (State::Open, Some(socket)) = (self.state, &self.socket) {
            self.to_host.push(socket);
            self.to_host.offer_window(socket, poll);
            self.to_guest.discard(Some(socket));
        }
    }

    /// Sends what is due other than data. False when the guest has no room for it.
    pub fn flush(&mut self, ctx: &mut Ctx<'_, '_>) -> bool {
        self.upkeep(ctx.io.poll);
        if self.due.syn && !self.send_syn(ctx) {
            return false;
        }
        if self.due.probe {
            // An old sequence number makes the guest say what it expects and how much.
            if !self.send_empty(ctx, self.to_guest.una() - 1, ACK) {
                return false;
            }
            self.due.probe = false;
        }
        !self.due.ack || self.send_ack(ctx)
    }

    /// The alarm went off. While the guest has no receive buffers, nothing is late.
    pub fn alarm(&mut self, now: Instant, blocked: bool) {
        if self.active + self.idle_limit() <= now {
            let over = self.state == State::TimeWait;
            self.due.end = Some(if over { End::Closed } else { End::Both });
            return;
        }
        let awaits = self.awaits();
        self.to_guest.alarm(&mut self.due, awaits, now, blocked);
    }

    /// When it wants to be woken.
    pub fn alarm_at(&mut self, now: Instant) -> Instant {
        let idle = self.active + self.idle_limit();
        let awaits = self.awaits();
        self.to_guest.alarm_at(awaits, now).map_or(idle, |at| at.min(idle))
    }

    /// What of the guest's it waits for.
    fn awaits(&self) -> Awaits {
        match self.state {
            State::SynSent | State::SynReceived => Awaits::Syn,
            State::Open => Awaits::Acks,
            State::Connecting | State::TimeWait => Awaits::Nothing,
        }
    }

    fn idle_limit(&self) -> Duration {
        match self.state {
            State::TimeWait => TIME_WAIT,
            State::Open if !self.is_closing() => IDLE_OPEN,
            _ => IDLE_TRANSITORY,
        }
    }
}
