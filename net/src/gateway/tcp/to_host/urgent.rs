//! The guest's urgent byte (RFC 9293 §3.8.5, RFC 6093): it stays where it is in the stream and keeps
//! its mark, so that the host's peer finds it the way it has asked for. Sockets know one such byte at
//! a time, the last; it is given to them by itself, with `MSG_OOB`.

use super::payload::Bytes;
use super::{Outlet, ToHost};
use crate::gateway::context::Ctx;
use crate::gateway::packet::Payload;
use crate::stats::DropReason;
use crate::wire::seq::Seq;

impl ToHost {
    /// A segment says that the guest's byte with sequence number `at` is urgent. It may be ahead of
    /// what has come.
    pub fn note_urgent(&mut self, at: Seq) {
        if !at.is_before(self.nxt) {
            self.urgent = Some(self.urgent.map_or(at, |have| have.later(at)));
        }
    }

    /// Bytes of the guest's that come before its urgent one, where there is such.
    pub(super) fn before_urgent(&self) -> Option<usize> {
        self.urgent.map(|at| (at - self.nxt) as usize)
    }

    /// Gives the socket the byte at `skip` of `payload`, which is urgent.
    pub(super) fn send_urgent(
        &mut self,
        ctx: &mut Ctx<'_, '_>,
        to: &mut Outlet<'_>,
        payload: &Payload<'_>,
        skip: usize,
    ) -> Result<usize, DropReason> {
        self.flush_gathered(ctx, to);
        if self.full || to.due.end.is_some() {
            return Err(DropReason::SendBufferFull);
        }
        let mut head = [0];
        payload.copy_at(skip, &mut head);
        let bytes = Bytes { head: &head, ..Bytes::default() };
        match self.send(ctx, to.socket, to.due, &bytes, libc::MSG_OOB)? {
            0 => Err(DropReason::SendBufferFull),
            sent => {
                self.urgent = None;
                Ok(sent)
            }
        }
    }
}
