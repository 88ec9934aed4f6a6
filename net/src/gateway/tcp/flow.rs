//! One flow: the guest's TCP connection on one side, a socket of the host's on the other.
//!
//! Sequence numbers mirror the socket's byte streams. What the guest sends is acknowledged when
//! the socket has taken it, and the window offered is the room that the socket has. What the host
//! sends stays in the socket's receive buffer until the guest has acknowledged it.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::net::Shutdown;

use super::key::Key;
use super::rto::Rto;
use crate::addr::MacAddr;
use crate::gateway::context::Ctx;
use crate::gateway::emit::Envelope;
use crate::poll::{Poller, Ready, Token};
use crate::stats::DropReason;
use crate::sys::stream;
use crate::wire::protocol;
use crate::wire::tcp::{ACK, Fields, Header, Options, RST, SYN, before, later};

/// What a flow's socket is watched for, by edges: each condition is told once.
pub const INTEREST: Ready =
    Ready::IN.union(Ready::PRI).union(Ready::OUT).union(Ready::RDHUP).union(Ready::ET);

/// The shift of our windows: enough for the largest send buffer of a default host, 4 MiB.
pub const SCALE: u8 = 7;

/// The guest's MSS where its SYN does not say (RFC 9293 §3.7.1).
const MSS_DEFAULT4: u16 = 536;
const MSS_DEFAULT6: u16 = 1220;
/// Smaller ones are an attack: each segment costs a frame.
const MSS_MIN: u16 = 88;

/// Bytes read at first; it grows with what there is to read.
pub const READ_MIN: usize = 2048;

/// The bits of a traffic class that are carried (RFC 2474 §3). The other two are ECN's: each of the
/// two connections has that for itself (RFC 3168 §6.1).
pub const DSCP: u8 = 0xfc;

/// Between two answers to segments that should not be (RFC 5961 §7).
const CHALLENGE_INTERVAL: Duration = Duration::from_millis(50);

/// Where a flow is in its life, towards the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// The guest's SYN is here; the host's socket is connecting.
    Connecting,
    /// A published port's client is here; the guest has our SYN.
    SynSent,
    /// The guest has our SYN-ACK.
    SynReceived,
    /// Data may flow; [`Up::fin`] and [`Down::fin`] tell which directions have ended.
    Open,
    /// Over; only late segments are answered. The socket is gone.
    TimeWait,
}

/// Why a flow is to be removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Both directions ended in order.
    Closed,
    /// The guest reset it: the host's peer gets a reset.
    ByGuest,
    /// The host's side failed: the guest gets a reset.
    ByHost,
    /// Neither wanted it, or there is no room for it: both get a reset.
    Both,
}

/// The direction from the guest to the host.
#[derive(Debug)]
pub struct Up {
    /// The guest's initial sequence number.
    pub irs: u32,
    /// What the socket takes next; all before it is acknowledged.
    pub nxt: u32,
    /// The end of the window that was offered; it never moves back.
    pub edge: u32,
    /// The shift of the windows that we offer.
    pub scale: u8,
    /// The socket's send buffer, in bytes.
    pub size: u32,
    /// The largest segment that we said we take.
    pub mss: u16,
    /// The socket will tell when it has room.
    pub armed: bool,
    /// The socket has refused bytes since it last had room.
    pub full: bool,
    /// Bytes of the guest's were dropped because of that.
    pub lost: bool,
    /// The socket was told that more follows: it may hold back less than a segment.
    pub more: bool,
    /// The guest's urgent byte, while it has not been taken.
    pub urgent: Option<u32>,
    /// The guest's FIN was taken.
    pub fin: bool,
}

/// The direction from the host to the guest.
#[derive(Debug)]
pub struct Down {
    /// Our initial sequence number.
    pub iss: u32,
    /// The first byte that is still in the socket.
    pub base: u32,
    /// The first byte that is not acknowledged.
    pub una: u32,
    /// What is sent next.
    pub nxt: u32,
    /// The end of what was ever sent.
    pub max: u32,
    /// The window that the guest offers, in bytes from `una`.
    pub wnd: u32,
    /// The largest it ever was.
    pub max_wnd: u32,
    /// Sequence and acknowledgement number of the last window update.
    pub wl: (u32, u32),
    /// The shift of the guest's windows.
    pub scale: u8,
    /// The largest payload of a segment on the link.
    pub mss: u16,
    /// Where the host's stream ends, once that is known; the FIN has this sequence number.
    pub fin: Option<u32>,
    /// The guest had not ended when our FIN went.
    pub first: bool,
    /// Acknowledgements in a row that acknowledged nothing new.
    pub dups: u8,
    /// What had been sent when the last retransmission began.
    pub recover: u32,
    /// The kernel remembers where it peeks (`SO_PEEK_OFF`).
    pub peeks: bool,
    /// Where the kernel peeks next.
    pub peek_at: u32,
    /// Bytes that may be under way at most, whatever the guest's window.
    pub limit: u32,
    /// Bytes to ask for.
    pub read_size: usize,
    /// The socket may have bytes from `nxt` on, or its end.
    pub readable: bool,
    /// There is urgent data: a read ends before it, with more behind it.
    pub urgent: bool,
    /// It is what the next read gives.
    pub at_mark: bool,
    /// All that will ever come has come.
    pub hup: bool,
    /// The socket has failed.
    pub failed: bool,
}

/// See the [module's documentation](self).
#[derive(Debug)]
pub struct Flow {
    /// Its endpoints.
    pub key: Key,
    /// The guest's link-layer address.
    pub mac: MacAddr,
    /// The name that its socket's events bear.
    pub token: Token,
    /// The host's socket; gone in [`State::TimeWait`] only.
    pub socket: Option<OwnedFd>,
    /// The traffic class of what the guest sends, without the ECN bits; the socket has it too.
    pub class: u8,
    /// Where it is in its life.
    pub state: State,
    /// From the guest to the host.
    pub up: Up,
    /// From the host to the guest.
    pub down: Down,
    /// When to send again.
    pub rto: Rto,
    /// When the guest or the host last did something.
    pub active: Instant,
    /// An acknowledgement is due when the batch is over.
    pub ack_due: bool,
    /// A SYN or SYN-ACK is due.
    pub syn_due: bool,
    /// A probe of the guest's closed window is due.
    pub probe_due: bool,
    /// It is to be removed.
    pub end: Option<End>,
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
    pub iss: u32,
    /// The link's MTU.
    pub mtu: u16,
    /// The time.
    pub now: Instant,
}

impl Flow {
    fn new(seed: Seed, state: State) -> Self {
        let Seed { key, mac, token, socket, iss, mtu, now } = seed;
        let headers = if key.guest.ip.is_ipv4() { 40 } else { 60 };
        let mss = mtu.saturating_sub(headers).max(1);
        let data = iss.wrapping_add(1);
        let up = Up {
            irs: 0,
            nxt: 0,
            edge: 0,
            scale: SCALE,
            size: 0,
            mss,
            armed: false,
            full: false,
            lost: false,
            more: false,
            urgent: None,
            fin: false,
        };
        let down = Down {
            iss,
            base: data,
            una: iss,
            nxt: data,
            max: data,
            wnd: 0,
            max_wnd: 0,
            wl: (0, 0),
            scale: 0,
            mss,
            fin: None,
            first: false,
            dups: 0,
            recover: iss,
            peeks: false,
            peek_at: data,
            limit: u32::MAX,
            read_size: READ_MIN,
            readable: false,
            urgent: false,
            at_mark: false,
            hup: false,
            failed: false,
        };
        Self {
            key,
            mac,
            token,
            socket: Some(socket),
            class: 0,
            state,
            up,
            down,
            rto: Rto::new(),
            active: now,
            ack_due: false,
            syn_due: false,
            probe_due: false,
            end: None,
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

    /// What the guest sends is in another traffic class from here on.
    pub fn set_class(&mut self, class: u8) {
        self.class = class;
        if let Some(socket) = &self.socket {
            // It is only a wish.
            let _ = stream::set_traffic_class(socket, class);
        }
    }

    /// A flow that a published port's client begins.
    pub fn from_client(seed: Seed) -> Self {
        let mut flow = Self::new(seed, State::SynSent);
        flow.syn_due = true;
        flow
    }

    /// What the guest's SYN says.
    pub fn learn_syn(&mut self, syn: &Header) {
        let default = if self.is_ipv4() { MSS_DEFAULT4 } else { MSS_DEFAULT6 };
        self.down.mss = syn.options.mss.unwrap_or(default).max(MSS_MIN).min(self.up.mss);
        // Both scale or none does (RFC 7323 §2.2).
        (self.up.scale, self.down.scale) = match syn.options.scale {
            Some(scale) => (SCALE, scale),
            None => (0, 0),
        };
        self.up.irs = syn.fields.seq;
        self.up.nxt = syn.fields.seq.wrapping_add(1);
        self.up.edge = self.up.nxt;
        // A SYN's window is never scaled.
        self.down.wnd = syn.fields.window.into();
        self.down.max_wnd = self.down.wnd;
        self.down.wl = (syn.fields.seq, syn.fields.ack);
    }

    /// True if its packets are IPv4's.
    pub fn is_ipv4(&self) -> bool {
        self.key.guest.ip.is_ipv4()
    }

    /// Around its packets to the guest.
    pub fn envelope(&self) -> Envelope {
        Envelope::new(self.mac, self.key.peer.ip, self.key.guest.ip, protocol::TCP)
    }

    /// The fields of a header to the guest.
    pub fn fields(&self, seq: u32, flags: u8) -> Fields {
        let up = &self.up;
        let (mut left, scale) = (later(up.edge, up.nxt).wrapping_sub(up.nxt), up.scale);
        if up.full {
            left = 0;
        }
        let window = if flags & SYN != 0 { left } else { left >> scale };
        Fields {
            src_port: self.key.peer.port,
            dst_port: self.key.guest.port,
            seq,
            ack: if flags & ACK != 0 { up.nxt } else { 0 },
            flags,
            window: window.min(0xffff) as u16,
        }
    }

    /// Sends a segment without payload. False when the guest has no room for it.
    pub fn bare(&mut self, ctx: &mut Ctx<'_, '_>, seq: u32, flags: u8) -> bool {
        let header = self.fields(seq, flags).bytes();
        let sent = ctx.deliver_packet(&self.envelope(), &header, &[]).is_ok();
        if sent && flags & ACK != 0 {
            self.ack_due = false;
        }
        sent
    }

    /// Sends our SYN or SYN-ACK.
    fn send_syn(&mut self, ctx: &mut Ctx<'_, '_>) -> bool {
        let flags = if self.state == State::SynSent { SYN } else { SYN | ACK };
        let mut fields = self.fields(self.down.iss, flags);
        if flags == SYN {
            fields.window = 0xffff;
        }
        let scale = (self.up.scale > 0).then_some(self.up.scale);
        let (header, len) = fields.with_options(Options { mss: Some(self.up.mss), scale });
        let sent = ctx.deliver_packet(&self.envelope(), &header[..len], &[]).is_ok();
        if sent {
            self.syn_due = false;
            self.rto.start(ctx.io.now);
        }
        sent
    }

    /// The host's socket is connected: the guest is to get a SYN-ACK.
    pub fn connected(&mut self, poll: &Poller) {
        self.state = State::SynReceived;
        self.syn_due = true;
        // The event that told it may have told of bytes as well, or of the end.
        self.down.readable = true;
        self.refresh_window(poll);
    }

    /// The header of the reset that tells the guest that the flow is over.
    pub fn reset_fields(&self) -> Fields {
        match self.state {
            State::Connecting => Fields { window: 0, ..self.fields(0, RST | ACK) },
            _ => Fields { window: 0, ..self.fields(self.down.max, RST | ACK) },
        }
    }

    /// An answer to a segment that should not be, now and then (RFC 5961).
    pub fn challenge(&mut self, ctx: &mut Ctx<'_, '_>) -> DropReason {
        let now = ctx.io.now;
        if self.challenged.is_some_and(|t| now.saturating_duration_since(t) < CHALLENGE_INTERVAL) {
            return DropReason::RateLimited;
        }
        self.challenged = Some(now);
        self.ack_due = true;
        DropReason::OutOfWindow
    }

    /// True if both directions have ended and the guest knows.
    pub fn is_finished(&self) -> bool {
        self.state == State::Open
            && self.up.fin
            && self.down.fin.is_some_and(|fin| before(fin, self.down.una))
    }

    /// True if something other than data is due.
    pub fn wants_flush(&self) -> bool {
        self.ack_due || self.syn_due || self.probe_due
    }

    /// Keeps the socket in step with what the guest has said. Needs no room with the guest.
    pub fn upkeep(&mut self, poll: &Poller) {
        if self.state == State::Open {
            if std::mem::take(&mut self.up.more)
                && let Some(socket) = &self.socket
            {
                stream::push(socket);
            }
            self.refresh_window(poll);
            self.discard();
        }
    }

    /// Sends what is due other than data. False when the guest has no room for it.
    pub fn flush(&mut self, ctx: &mut Ctx<'_, '_>) -> bool {
        self.upkeep(ctx.io.poll);
        if self.syn_due && !self.send_syn(ctx) {
            return false;
        }
        if self.probe_due {
            // An old sequence number makes the guest say what it expects and how much.
            if !self.bare(ctx, self.down.una.wrapping_sub(1), ACK) {
                return false;
            }
            self.probe_due = false;
        }
        !self.ack_due || self.bare(ctx, self.down.nxt, ACK)
    }

    /// Tells the host's peer that the guest sends no more.
    pub fn shut(&mut self) {
        self.up.fin = true;
        self.up.nxt = self.up.nxt.wrapping_add(1);
        if let Some(socket) = &self.socket {
            let _ = rustix::net::shutdown(socket.as_fd(), Shutdown::Write);
        }
    }
}
