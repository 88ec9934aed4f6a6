//! The guest's payload on its way into the socket.

use std::io;

use libc::c_int;
use rustix::io::Errno;
use vm_memory::VolatileSlice;

use super::super::due::{Due, End};
use super::super::socket::Socket;
use super::{Outlet, Segment, ToHost};
use crate::gateway::context::Ctx;
use crate::gateway::packet::Payload;
use crate::stats::DropReason;
use crate::sys;
use crate::wire::tcp::{FIN, PSH};

/// Some of a payload: `len` bytes from `skip` on.
#[derive(Debug, Clone, Copy)]
struct Part<'a> {
    payload: &'a Payload<'a>,
    skip: usize,
    len: usize,
    /// Others follow.
    more: bool,
}

/// Bytes for the socket: those of `head`, then `tail_len` of `tail` from `offset` on.
#[derive(Debug, Default)]
pub(super) struct Bytes<'a> {
    pub head: &'a [u8],
    pub tail: &'a [VolatileSlice<'a>],
    pub offset: usize,
    pub tail_len: usize,
}

impl ToHost {
    /// Gives the socket the segment's payload from `skip` on, its urgent byte by itself. False if
    /// it did not take all of it.
    pub(super) fn accept_payload(
        &mut self,
        ctx: &mut Ctx<'_, '_>,
        to: &mut Outlet<'_>,
        segment: Segment<'_>,
        mut skip: usize,
    ) -> Result<bool, DropReason> {
        let Segment { header, payload } = segment;
        // Without a push more follows, most likely in this very batch (RFC 9293 §3.9.1.2).
        let more = !header.has(PSH | FIN);
        while skip < payload.len {
            let left = payload.len - skip;
            let (len, taken) = match self.before_urgent() {
                Some(0) => (1, self.send_urgent(ctx, to, payload, skip)?),
                before => {
                    let len = before.map_or(left, |n| n.min(left));
                    let part = Part { payload, skip, len, more };
                    (len, self.gather_or_send(ctx, to, part)?)
                }
            };
            self.nxt += taken as u32;
            skip += taken;
            if taken < len {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Has the socket take a part of a payload, now or with others when the batch is over. Returns
    /// how many bytes it takes, at least one.
    fn gather_or_send(
        &mut self,
        ctx: &mut Ctx<'_, '_>,
        to: &mut Outlet<'_>,
        part: Part<'_>,
    ) -> Result<usize, DropReason> {
        let Part { payload, skip, len, more } = part;
        let flow = to.socket.token.id;
        if to.gather.push(flow, payload, skip, len) {
            return Ok(len);
        }
        self.flush_gathered(ctx, to);
        if self.full || to.due.end.is_some() {
            return Err(DropReason::SendBufferFull);
        }
        // There is room again, or it is too large to be worth a copy.
        if to.gather.push(flow, payload, skip, len) {
            return Ok(len);
        }
        let head = payload.head.get(skip..).unwrap_or_default();
        let head = &head[..head.len().min(len)];
        let offset = skip.saturating_sub(payload.head.len());
        let bytes = Bytes { head, tail: payload.tail, offset, tail_len: len - head.len() };
        match self.send(ctx, to.socket, to.due, &bytes, if more { libc::MSG_MORE } else { 0 })? {
            0 => Err(DropReason::SendBufferFull),
            sent => Ok(sent),
        }
    }

    /// Gives what was gathered to the socket, before anything is said about it to the guest.
    pub fn flush_gathered(&mut self, ctx: &mut Ctx<'_, '_>, to: &mut Outlet<'_>) {
        if to.gather.flow() != Some(to.socket.token.id) {
            return;
        }
        let head = to.gather.take();
        let bytes = Bytes { head, ..Bytes::default() };
        let (sent, reason) = match self.send(ctx, to.socket, to.due, &bytes, 0) {
            Ok(sent) => (sent, DropReason::SendBufferFull),
            Err(reason) => (0, reason),
        };
        if sent < head.len() {
            // What was not taken is as if it had not come.
            self.nxt -= (head.len() - sent) as u32;
            to.due.ack = true;
            ctx.io.stats.dropped(reason);
        }
    }

    /// Gives bytes to the socket and returns how many it took. With `MSG_MORE`, what does not
    /// fill a segment of the host's waits for more, until the batch is over at most: a frame's
    /// payload is seldom a multiple of that, and its rest would be a small segment for each frame.
    pub(super) fn send(
        &mut self,
        ctx: &mut Ctx<'_, '_>,
        socket: &Socket,
        due: &mut Due,
        bytes: &Bytes<'_>,
        flags: c_int,
    ) -> Result<usize, DropReason> {
        let &Bytes { head, tail, offset, tail_len } = bytes;
        let error = match sys::send(&socket.fd, head, tail, offset, tail_len, flags) {
            Ok(sent) => {
                self.more = flags & libc::MSG_MORE != 0;
                if sent < head.len() + tail_len {
                    self.refused();
                }
                return Ok(sent);
            }
            Err(e) => e,
        };
        match Errno::from_io_error(&error) {
            Some(Errno::AGAIN) => {
                self.refused();
                Ok(0)
            }
            Some(Errno::NOBUFS | Errno::NOMEM) => {
                self.refused();
                // It did not refuse for want of room, so it would not tell of any.
                socket.watch_anew(ctx.io.poll);
                Ok(0)
            }
            // More pieces than one call takes.
            None if error.kind() == io::ErrorKind::InvalidInput => Err(DropReason::BadChain),
            _ => {
                due.end = Some(End::ByHost);
                Err(DropReason::SendFailed)
            }
        }
    }
}
