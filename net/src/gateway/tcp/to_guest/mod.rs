//! The direction from the host to the guest.
//!
//! What the host sends stays in the socket until the guest has acknowledged it, so that it can be
//! sent again: it is read by peeking, and thrown away when it is acknowledged.

mod acks;
mod alarm;
mod deliver;
mod urgent;

use std::time::Instant;

use rustix::net::sockopt::socket_error;

use super::due::{Due, End};
use super::rto::Rto;
use super::socket::Socket;
use crate::poll::Ready;
use crate::sys::stream;
use crate::wire::seq::Seq;
use crate::wire::tcp::Header;

pub use self::alarm::Awaits;
pub use self::deliver::{Outward, Scratch, Turn};

/// Smaller ones of the guest's are an attack: each segment costs a frame.
const MSS_MIN: u16 = 88;

/// Bytes read at first; it grows with what there is to read.
const READ_MIN: usize = 2048;

/// Bytes under way at most without `SO_PEEK_OFF`: they are copied again with each read.
pub const UNACKED_MAX: u32 = 128 * 1024;

/// See the [module's documentation](self). Sequence numbers are ours: `una <= nxt <= max`, and once
/// our SYN is acknowledged `base <= una`.
#[derive(Debug)]
pub struct ToGuest {
    /// Our initial sequence number.
    iss: Seq,
    /// The first byte that is still in the socket.
    base: Seq,
    /// The first byte that is not acknowledged.
    una: Seq,
    /// What is sent next.
    nxt: Seq,
    /// The end of what was ever sent.
    max: Seq,
    /// The window that the guest offers, in bytes from `una`.
    wnd: u32,
    /// The largest it ever was.
    max_wnd: u32,
    /// Sequence and acknowledgement number of the last window update.
    wl: (Seq, Seq),
    /// The shift of the guest's windows.
    scale: u8,
    /// The largest payload of a segment on the link.
    mss: u16,
    /// Where the host's stream ends, once that is known; the FIN has this sequence number.
    fin: Option<Seq>,
    /// The guest had not ended when our FIN went.
    first: bool,
    /// Acknowledgements in a row that acknowledged nothing new.
    dups: u8,
    /// What had been sent when the last retransmission began.
    recover: Seq,
    /// The kernel remembers where it peeks (`SO_PEEK_OFF`).
    peeks: bool,
    /// Where the kernel peeks next.
    peek_at: Seq,
    /// Bytes that may be under way at most, whatever the guest's window.
    limit: u32,
    /// Bytes to ask for.
    read_size: usize,
    /// The socket may have bytes from `nxt` on, or its end.
    readable: bool,
    /// There is urgent data: a read ends before it, with more behind it.
    urgent: bool,
    /// It is what the next read gives.
    at_mark: bool,
    /// All that will ever come has come.
    hup: bool,
    /// The socket has failed.
    failed: bool,
    /// When to send again.
    rto: Rto,
}

impl ToGuest {
    /// A stream that begins at `iss`, in segments of at most `mss` bytes of payload.
    pub fn new(iss: Seq, mss: u16) -> Self {
        let data = iss + 1;
        Self {
            iss,
            base: data,
            una: iss,
            nxt: data,
            max: data,
            wnd: 0,
            max_wnd: 0,
            wl: (iss, iss),
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
            rto: Rto::new(),
        }
    }

    /// What the guest's SYN says; it takes `default` bytes of payload where it does not say.
    pub fn learn_syn(&mut self, syn: &Header, default: u16) {
        let f = &syn.fields;
        self.mss = syn.options.mss.unwrap_or(default).max(MSS_MIN).min(self.mss);
        // Both scale or none does (RFC 7323 §2.2); a SYN's own window is never scaled.
        self.scale = syn.options.scale.unwrap_or(0);
        self.wnd = f.window.into();
        self.max_wnd = self.wnd;
        self.wl = (f.seq, f.ack);
    }

    /// Finds out whether the kernel remembers where it peeks, if that is `wanted`.
    pub fn begin_peeking(&mut self, socket: &Socket, wanted: bool) {
        self.peeks = wanted && stream::set_peek_offset(&socket.fd, 0).is_ok();
        if !self.peeks {
            self.limit = UNACKED_MAX;
        }
    }

    /// Our initial sequence number.
    pub fn iss(&self) -> Seq {
        self.iss
    }

    /// The first byte that is not acknowledged.
    pub fn una(&self) -> Seq {
        self.una
    }

    /// What is sent next.
    pub fn nxt(&self) -> Seq {
        self.nxt
    }

    /// The end of what was ever sent.
    pub fn max(&self) -> Seq {
        self.max
    }

    /// True if the host's stream has ended, and its end was or can be told.
    pub fn is_ending(&self) -> bool {
        self.fin.is_some()
    }

    /// True if the guest has acknowledged the end of the host's stream.
    pub fn is_ended(&self) -> bool {
        self.fin.is_some_and(|fin| fin.is_before(self.una))
    }

    /// True if it ended before the guest's did.
    pub fn ended_first(&self) -> bool {
        self.first
    }

    /// Our SYN is acknowledged.
    pub fn open(&mut self) {
        self.una = self.nxt;
        self.rto.stop();
        self.check();
    }

    /// The socket may have bytes, or its end.
    pub fn set_readable(&mut self) {
        self.readable = true;
    }

    /// What an event of the socket's says, which is told once, maybe together with what ends the
    /// state of connecting.
    pub fn note_event(&mut self, ready: Ready) {
        self.urgent |= ready.intersects(Ready::PRI);
        self.hup |= ready.intersects(Ready::ERR | Ready::HUP | Ready::RDHUP);
    }

    /// The socket has bytes, its end or its failure to tell.
    pub fn on_readable(&mut self, socket: &Socket, due: &mut Due, failed: bool) {
        self.failed |= failed;
        match self.fin {
            None => self.readable = true,
            Some(_) if failed => fail(socket, due),
            Some(_) => {}
        }
        // What there is to read can't be delivered: then the failure is told without it.
        if failed && self.usable() == 0 {
            fail(socket, due);
        }
    }

    /// Bytes that may be sent now, by the guest's window and our limit.
    fn usable(&self) -> u32 {
        let edge = self.una + self.wnd.min(self.limit);
        if self.nxt.is_before(edge) { edge - self.nxt } else { 0 }
    }

    /// True if there may be bytes or an end to deliver, and the guest takes them.
    pub fn wants_delivery(&self) -> bool {
        self.readable
            && match self.fin {
                Some(fin) if self.nxt == fin => true,
                Some(fin) if fin.is_before(self.nxt) => false,
                _ => self.may_send(),
            }
    }

    /// Not in silly pieces (RFC 9293 §3.8.6.2.1).
    fn may_send(&self) -> bool {
        let usable = self.usable();
        if self.urgent && self.nxt != self.una {
            return false;
        }
        usable > 0 && (self.nxt == self.una || usable >= u32::from(self.mss).min(self.max_wnd / 2))
    }

    /// `len` sequence numbers from `nxt` on have been sent.
    fn sent(&mut self, now: Instant, len: u32) {
        self.nxt += len;
        if self.max.is_before(self.nxt) {
            self.max = self.nxt;
            self.rto.time(self.nxt, now);
        }
        self.rto.start(now);
        self.check();
    }

    /// What the order of the sequence numbers must be.
    fn check(&self) {
        debug_assert!(!self.nxt.is_before(self.una) && !self.max.is_before(self.nxt), "{self:?}");
        debug_assert!(self.una == self.iss || !self.una.is_before(self.base), "{self:?}");
    }

    /// Acknowledged bytes that are still in the socket.
    #[cfg(test)]
    pub fn kept(&self) -> u32 {
        self.una - self.base
    }

    /// It reads as if there had always been as much as it asked for.
    #[cfg(test)]
    pub fn expect_much(&mut self) {
        for _ in 0..8 {
            self.learn_read(self.read_size, self.read_size);
        }
    }

    /// There is an urgent byte that was not delivered.
    #[cfg(test)]
    pub fn has_urgent(&self) -> bool {
        self.urgent
    }
}

/// The socket has failed: so has the flow, if it still says so.
fn fail(socket: &Socket, due: &mut Due) {
    if !matches!(socket_error(&socket.fd), Ok(Ok(()))) {
        due.end = Some(End::ByHost);
    }
}
