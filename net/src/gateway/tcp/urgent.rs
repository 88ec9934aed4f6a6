//! The urgent byte (RFC 9293 §3.8.5, RFC 6093): it stays where it is in the stream, and keeps its
//! mark in both directions, so that each end finds it the way it has asked for.
//!
//! Sockets know one such byte at a time, the last. The guest's is given to the socket by itself,
//! with `MSG_OOB`. The host's socket tells where its own is only when all before it has been taken
//! out (`sockatmark(3)`), so while there is one, the guest gets the next bytes when it has
//! acknowledged those before.

use super::flow::Flow;
use super::gather::Gather;
use crate::gateway::context::Ctx;
use crate::gateway::packet::Payload;
use crate::stats::DropReason;
use crate::sys::stream;
use crate::wire::TCP_LEN;
use crate::wire::tcp::{URG, before, later};

impl Flow {
    /// A segment says that the guest's byte with sequence number `at` is urgent. It may be ahead of
    /// what has come.
    pub fn note_urgent(&mut self, at: u32) {
        if !before(at, self.up.nxt) {
            self.up.urgent = Some(self.up.urgent.map_or(at, |have| later(have, at)));
        }
    }

    /// Bytes of the guest's that come before its urgent one, where there is such.
    pub fn before_urgent(&self) -> Option<usize> {
        self.up.urgent.map(|at| at.wrapping_sub(self.up.nxt) as usize)
    }

    /// Gives the socket the byte at `skip` of `payload`, which is urgent.
    pub fn pass_urgent(
        &mut self,
        ctx: &mut Ctx<'_, '_>,
        payload: &Payload<'_>,
        skip: usize,
        gather: &mut Gather,
    ) -> Result<usize, DropReason> {
        self.give(ctx, gather);
        if self.up.full || self.end.is_some() {
            return Err(DropReason::SendBufferFull);
        }
        let mut byte = [0];
        payload.copy_at(skip, &mut byte);
        match self.send(ctx, &byte, &[], 0, 0, libc::MSG_OOB)? {
            0 => Err(DropReason::SendBufferFull),
            sent => {
                self.up.urgent = None;
                Ok(sent)
            }
        }
    }

    /// Finds out whether the next byte for the guest is urgent: then it is read alone.
    pub(super) fn find_mark(&mut self, len: &mut usize) {
        self.discard();
        let Some(socket) = &self.socket else { return };
        self.down.urgent = stream::has_urgent(socket);
        self.down.at_mark = self.down.urgent && stream::is_at_mark(socket);
        if self.down.at_mark {
            *len = 1;
        }
    }

    /// Marks the first byte behind `header`, if that is urgent.
    pub(super) fn mark(&self, header: &mut [u8; TCP_LEN]) {
        if self.down.at_mark {
            header[13] |= URG;
            header[18..20].copy_from_slice(&1u16.to_be_bytes());
        }
    }
}
