//! The direction from the guest to the host.
//!
//! The guest's payload goes to the socket as it comes, in order; what the socket does not take is as
//! if it had not come, and what it takes is acknowledged. The window offered is the socket's room.

mod payload;
mod urgent;
mod window;

use std::os::fd::AsFd;

use rustix::net::Shutdown;

use super::due::Due;
use super::gather::Gather;
use super::socket::Socket;
use crate::frame::TxOutcome;
use crate::gateway::context::{Ctx, Handled};
use crate::gateway::packet::Payload;
use crate::stats::DropReason;
use crate::sys::stream;
use crate::wire::seq::Seq;
use crate::wire::tcp::{FIN, Header};

/// The shift of our windows: enough for the largest send buffer of a default host, 4 MiB.
pub const SCALE: u8 = 7;

/// A segment of the guest's.
#[derive(Debug, Clone, Copy)]
pub struct Segment<'a> {
    /// Its header.
    pub header: &'a Header,
    /// Its payload.
    pub payload: &'a Payload<'a>,
}

/// Where the guest's payload goes.
#[derive(Debug)]
pub struct Outlet<'a> {
    /// The host's socket.
    pub socket: &'a Socket,
    /// Where small segments are put together.
    pub gather: &'a mut Gather,
    /// What is to be done because of it.
    pub due: &'a mut Due,
}

/// See the [module's documentation](self). Sequence numbers are the guest's: `nxt <= edge` but for
/// a byte that asks for more window.
#[derive(Debug)]
pub struct ToHost {
    /// The guest's initial sequence number.
    irs: Seq,
    /// What the socket takes next; all before it is acknowledged.
    nxt: Seq,
    /// The end of the window that was offered; it never moves back.
    edge: Seq,
    /// The shift of the windows that we offer.
    scale: u8,
    /// The socket's send buffer, in bytes.
    size: u32,
    /// The largest segment that we said we take.
    mss: u16,
    /// The socket will tell when it has room.
    armed: bool,
    /// The socket has refused bytes since it last had room.
    full: bool,
    /// Bytes of the guest's were dropped because of that.
    lost: bool,
    /// The socket was told that more follows: it may hold back less than a segment.
    more: bool,
    /// The guest's urgent byte, while it has not been taken.
    urgent: Option<Seq>,
    /// The guest's FIN was taken.
    fin: bool,
}

impl ToHost {
    /// Nothing is known of the guest's sequence numbers yet.
    pub fn new(mss: u16) -> Self {
        let zero = Seq::new(0);
        Self {
            irs: zero,
            nxt: zero,
            edge: zero,
            scale: SCALE,
            size: 0,
            mss,
            armed: false,
            full: false,
            lost: false,
            more: false,
            urgent: None,
            fin: false,
        }
    }

    /// What the guest's SYN says.
    pub fn learn_syn(&mut self, syn: &Header) {
        // Both scale or none does (RFC 7323 §2.2).
        self.scale = if syn.options.scale.is_some() { SCALE } else { 0 };
        self.irs = syn.fields.seq;
        self.nxt = self.irs + 1;
        self.edge = self.nxt;
    }

    /// The guest's initial sequence number.
    pub fn irs(&self) -> Seq {
        self.irs
    }

    /// What is expected of the guest next.
    pub fn nxt(&self) -> Seq {
        self.nxt
    }

    /// The end of the window that the guest was offered.
    pub fn edge(&self) -> Seq {
        self.edge.later(self.nxt)
    }

    /// The largest payload that the guest may send, in bytes, as our SYN says.
    pub fn mss(&self) -> u16 {
        self.mss
    }

    /// The shift that our SYN names, if any.
    pub fn scale(&self) -> Option<u8> {
        (self.scale > 0).then_some(self.scale)
    }

    /// True if the guest has ended its stream and the socket knows.
    pub fn is_ended(&self) -> bool {
        self.fin
    }

    /// Takes the payload and the FIN of a segment that is within the window.
    ///
    /// # Errors
    /// [`DropReason::OutOfOrder`] where something before it is missing, which is to be told at once;
    /// the reason to drop all or some of it.
    pub fn accept(
        &mut self,
        ctx: &mut Ctx<'_, '_>,
        to: &mut Outlet<'_>,
        segment: Segment<'_>,
    ) -> Handled {
        let Segment { header, payload } = segment;
        // One answer a batch, whatever becomes of it.
        to.due.ack = true;
        if self.fin {
            return Err(DropReason::OutOfWindow);
        }
        if self.full {
            // It will tell when it has room.
            return Err(DropReason::SendBufferFull);
        }
        let seq = header.fields.seq;
        if self.nxt.is_before(seq) {
            return Err(DropReason::OutOfOrder);
        }
        let skip = (self.nxt - seq) as usize;
        // Past the payload where only the FIN is new.
        if skip < payload.len && !self.accept_payload(ctx, to, segment, skip)? {
            return Ok(TxOutcome::Sent);
        }
        if header.has(FIN) {
            self.flush_gathered(ctx, to);
            if !self.full && to.due.end.is_none() {
                self.end_to_host(to.socket);
            }
        }
        Ok(TxOutcome::Sent)
    }

    /// Tells the host's peer that the guest sends no more.
    fn end_to_host(&mut self, socket: &Socket) {
        self.fin = true;
        self.nxt += 1;
        let _ = rustix::net::shutdown(socket.fd.as_fd(), Shutdown::Write);
    }

    /// The batch is over: what the socket holds back for more goes now.
    pub fn push(&mut self, socket: &Socket) {
        if std::mem::take(&mut self.more) {
            stream::push(&socket.fd);
        }
    }

    /// Widens the window, so that a test can send beyond what the socket has room for.
    #[cfg(test)]
    pub fn widen(&mut self, edge: Seq) {
        self.edge = edge;
    }
}
