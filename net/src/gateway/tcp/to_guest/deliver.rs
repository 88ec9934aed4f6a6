//! Bytes of the host's sockets to the guest.
//!
//! They are read into the guest's memory, behind room for the headers, and stay in the socket
//! until the guest has acknowledged them. A station that takes large segments gets up to 64 KiB in
//! a frame, and what fills a few frames is read with one system call. For one that does not, as
//! much as a large frame holds is read into memory of ours and cut there: one system call for many
//! frames, and their checksums are due anyway.

use std::io;
use std::time::Instant;

use libc::MSG_PEEK;
use vm_memory::VolatileSlice;

use super::super::due::{Due, End};
use super::super::socket::Socket;
use super::super::template::Template;
use super::{READ_MIN, ToGuest, UNACKED_MAX, fail};
use crate::addr::MacAddr;
use crate::frame::{SegmentKind, Segmentation};
use crate::gateway::context::Ctx;
use crate::gateway::emit::Body;
use crate::rx::RxSlot;
use crate::sys::{self, stream};
use crate::wire::tcp::{ACK, FIN, PSH};
use crate::wire::{IPV6_LEN, TCP_LEN};

/// The largest payload of a frame: a 64 KiB packet less the headers of IPv6 and TCP.
pub const PAYLOAD_MAX: usize = u16::MAX as usize - IPV6_LEN - TCP_LEN;

/// Frames of that size that are read at once, at most.
const FRAMES_MAX: usize = 4;

/// What is read before the bytes that are wanted, at most.
const SKIPPED_MAX: usize = 2 * UNACKED_MAX as usize;

/// Memory of ours for what can't be read into the guest's directly.
#[derive(Debug)]
pub struct Scratch {
    /// Flows may use `SO_PEEK_OFF`, where the kernel has it for TCP (Linux 6.9, for IPv6 6.11).
    pub peeks: bool,
    payload: Box<[u8]>,
    /// Only used without `SO_PEEK_OFF`, and only made then.
    skipped: Vec<u8>,
}

/// What became of a flow's turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// That many bytes were delivered.
    Sent(usize),
    /// Nothing can be delivered now.
    Idle,
    /// The guest has no receive buffers.
    NoRoom,
}

impl Scratch {
    /// Unused memory.
    pub fn new() -> Self {
        Self { peeks: true, payload: vec![0; PAYLOAD_MAX].into(), skipped: Vec::new() }
    }
}

/// What a delivery takes bytes from, and what it puts around them.
#[derive(Debug)]
pub struct Outward<'a> {
    /// The host's socket.
    pub socket: &'a Socket,
    /// The headers.
    pub template: Template,
    /// The guest has ended its stream.
    pub guest_ended: bool,
    /// What is to be done because of it.
    pub due: &'a mut Due,
}

impl ToGuest {
    /// Delivers a few frames, or one.
    pub fn deliver(
        &mut self,
        ctx: &mut Ctx<'_, '_>,
        scratch: &mut Scratch,
        out: &mut Outward<'_>,
    ) -> Turn {
        if self.fin == Some(self.nxt) && self.readable {
            return self.send_fin(ctx, out);
        }
        if !self.wants_delivery() {
            return Turn::Idle;
        }
        let mut len = (self.usable() as usize).min(self.read_size);
        if self.urgent {
            self.find_mark(out.socket, &mut len);
        }
        let Some(skip) = self.seek(scratch, out, &mut len) else { return Turn::Idle };
        let offloads = ctx.io.rx.offloads();
        let tso = if out.template.envelope.src.is_ipv4() { offloads.tso4 } else { offloads.tso6 };
        let turn = if (tso && offloads.checksum) || len <= self.mss.into() {
            self.read_into_guest(ctx, scratch, out, skip, len)
        } else {
            self.read_and_cut(ctx, scratch, out, skip, len.min(PAYLOAD_MAX))
        };
        match turn {
            Ok(turn) => turn,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                // Without an offset to peek at, this is how a failure shows.
                if self.failed {
                    fail(out.socket, out.due);
                }
                self.readable = false;
                Turn::Idle
            }
            Err(_) => {
                out.due.end = Some(End::ByHost);
                Turn::Idle
            }
        }
    }

    /// Makes the kernel peek at `nxt`; where it can't, returns how many bytes before that will
    /// come first.
    fn seek(
        &mut self,
        scratch: &mut Scratch,
        out: &mut Outward<'_>,
        len: &mut usize,
    ) -> Option<usize> {
        let before = self.nxt - self.base;
        if self.peeks {
            if self.peek_at != self.nxt {
                if stream::set_peek_offset(&out.socket.fd, before).is_err() {
                    out.due.end = Some(End::Both);
                    return None;
                }
                self.peek_at = self.nxt;
            }
            return Some(0);
        }
        // The flow's limit keeps what is under way well below this, so the socket will not give
        // up what was acknowledged.
        let before = before as usize;
        if before >= SKIPPED_MAX {
            out.due.end = Some(End::Both);
            return None;
        }
        scratch.skipped.resize(SKIPPED_MAX, 0);
        *len = (*len).min(SKIPPED_MAX - before);
        Some(before)
    }

    /// After `read` bytes came where `asked` were asked for: false if this was the end.
    pub(super) fn learn_read(&mut self, read: usize, asked: usize) -> bool {
        self.readable = read == asked || self.hup || self.urgent;
        if read == asked {
            self.read_size = (self.read_size * 4).min(FRAMES_MAX * PAYLOAD_MAX);
        } else if read < self.read_size / 4 {
            self.read_size = (self.read_size / 2).max(READ_MIN);
        }
        read > 0
    }

    fn read_into_guest(
        &mut self,
        ctx: &mut Ctx<'_, '_>,
        scratch: &mut Scratch,
        out: &mut Outward<'_>,
        skip: usize,
        len: usize,
    ) -> io::Result<Turn> {
        let headers = out.template.envelope.header_len() + TCP_LEN;
        let most = len.min(PAYLOAD_MAX);
        let least = headers + most.min(self.mss.into());
        let Some(mut slot) = RxSlot::reserve_most(ctx.io.rx, headers + most, least) else {
            return Ok(Turn::NoRoom);
        };
        // What each frame holds.
        let room = slot.len() - headers;
        let ahead = if room == PAYLOAD_MAX { slot.look_ahead((len - 1) / room) } else { 0 };
        let len = len.min(room * (1 + ahead));
        let parts = |n| slot.pieces(n, headers, room.min(len - n * room));
        let pieces = (0..len.div_ceil(room)).flat_map(parts);
        let skipped = &mut scratch.skipped[..skip];
        let got = sys::recv(&out.socket.fd, skipped, pieces, MSG_PEEK)?;
        let Some(read) = self.past(got, skip)?.filter(|&read| self.learn_read(read, len)) else {
            drop(slot);
            return Ok(self.ended(ctx, out));
        };
        self.peek_at = self.nxt + read as u32;
        let (now, mac) = (ctx.io.now, ctx.shared.link.mac);
        self.send_read(now, mac, out, slot, read.min(room));
        let mut sent = read.min(room);
        while sent < read {
            let Some(slot) = RxSlot::reserve(ctx.io.rx, headers + room) else {
                self.readable = true;
                return Ok(Turn::NoRoom);
            };
            let part = room.min(read - sent);
            self.send_read(now, mac, out, slot, part);
            sent += part;
        }
        Ok(Turn::Sent(read))
    }

    /// Delivers the next `len` bytes, which lie in `slot` already.
    fn send_read(
        &mut self,
        now: Instant,
        mac: MacAddr,
        out: &mut Outward<'_>,
        slot: RxSlot<'_>,
        len: usize,
    ) {
        let mut header = out.template.header(self.nxt, ACK | PSH);
        self.mark(&mut header);
        let envelope = &out.template.envelope;
        let segmentation = (len > self.mss.into()).then_some(Segmentation {
            kind: if envelope.src.is_ipv4() { SegmentKind::Tcp4 } else { SegmentKind::Tcp6 },
            size: self.mss,
            header_len: (envelope.header_len() + TCP_LEN) as u16,
            ecn: false,
        });
        envelope.send(slot, mac, &header, Body::InSlot { len, segmentation });
        self.sent_acked(now, out, len);
    }

    fn read_and_cut(
        &mut self,
        ctx: &mut Ctx<'_, '_>,
        scratch: &mut Scratch,
        out: &mut Outward<'_>,
        skip: usize,
        len: usize,
    ) -> io::Result<Turn> {
        let mss = usize::from(self.mss);
        let headers = out.template.envelope.header_len() + TCP_LEN;
        // Read only what there is room for: the first frame at least.
        match RxSlot::reserve(ctx.io.rx, headers + mss) {
            Some(slot) => drop(slot),
            None => return Ok(Turn::NoRoom),
        }
        let skipped = &mut scratch.skipped[..skip];
        let piece = VolatileSlice::from(&mut scratch.payload[..len]);
        let got = sys::recv(&out.socket.fd, skipped, [piece], MSG_PEEK)?;
        let Some(read) = self.past(got, skip)?.filter(|&read| self.learn_read(read, len)) else {
            return Ok(self.ended(ctx, out));
        };
        self.peek_at = self.nxt + read as u32;
        let mut sent = 0;
        for payload in scratch.payload[..read].chunks(mss) {
            if !self.send_piece(ctx, out, payload) {
                self.readable = true;
                return Ok(Turn::NoRoom);
            }
            sent += payload.len();
        }
        Ok(Turn::Sent(sent))
    }

    /// Delivers `payload` in a frame of its own.
    fn send_piece(&mut self, ctx: &mut Ctx<'_, '_>, out: &mut Outward<'_>, payload: &[u8]) -> bool {
        let envelope = &out.template.envelope;
        let headers = envelope.header_len() + TCP_LEN;
        let Some(slot) = RxSlot::reserve(ctx.io.rx, headers + payload.len()) else { return false };
        let header = out.template.header(self.nxt, ACK | PSH);
        envelope.send(slot, ctx.shared.link.mac, &header, Body::Bytes(payload));
        self.sent_acked(ctx.io.now, out, payload.len());
        true
    }

    /// How many of `got` bytes are new; `None` at the end of the stream.
    fn past(&self, got: usize, skip: usize) -> io::Result<Option<usize>> {
        if got > skip {
            return Ok(Some(got - skip));
        }
        // Peeking from the start, the end looks just like nothing new.
        if skip == 0 || self.hup {
            return Ok(None);
        }
        Err(io::ErrorKind::WouldBlock.into())
    }

    /// A frame went whose sequence numbers are `len`, which acknowledged what the guest has sent.
    fn sent_acked(&mut self, now: Instant, out: &mut Outward<'_>, len: usize) {
        out.due.ack = false;
        self.sent(now, len as u32);
    }

    /// The host's stream ends at `nxt`.
    fn ended(&mut self, ctx: &mut Ctx<'_, '_>, out: &mut Outward<'_>) -> Turn {
        if self.failed {
            fail(out.socket, out.due);
            if out.due.end.is_some() {
                return Turn::Idle;
            }
        }
        self.fin = Some(self.nxt);
        self.hup = true;
        self.send_fin(ctx, out)
    }

    fn send_fin(&mut self, ctx: &mut Ctx<'_, '_>, out: &mut Outward<'_>) -> Turn {
        self.readable = true;
        if !out.template.send_empty(ctx, self.nxt, FIN | ACK) {
            return Turn::NoRoom;
        }
        self.first |= !out.guest_ended;
        self.readable = false;
        self.sent_acked(ctx.io.now, out, 1);
        Turn::Sent(1)
    }
}
