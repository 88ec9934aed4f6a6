//! Bytes of the host's sockets to the guest.
//!
//! They are read into the guest's memory, behind room for the headers, and stay in the socket
//! until the guest has acknowledged them. A station that takes large segments gets up to 64 KiB
//! at once. For one that does not, as much is read into memory of ours and cut there: one system
//! call for many frames, and their checksums are due anyway.

use std::io;

use libc::MSG_PEEK;
use rustix::net::sockopt::socket_error;

use super::flow::{End, Flow, READ_MIN};
use crate::frame::{SegmentKind, Segmentation};
use crate::gateway::context::Ctx;
use crate::gateway::emit::Body;
use crate::rx::RxSlot;
use crate::sys::{self, stream};
use crate::wire::TCP_LEN;
use crate::wire::tcp::{ACK, FIN, PSH};

/// The largest payload of a frame: a 64 KiB packet less the headers of IPv6 and TCP.
pub const PAYLOAD_MAX: usize = 65535 - 60;

/// Bytes under way at most without `SO_PEEK_OFF`: they are copied again with each read.
pub const UNACKED_MAX: u32 = 128 * 1024;

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

impl Flow {
    /// Delivers one frame, or a few small ones.
    pub fn deliver(&mut self, ctx: &mut Ctx<'_, '_>, scratch: &mut Scratch) -> Turn {
        if self.down.fin == Some(self.down.nxt) && self.down.readable {
            return self.send_fin(ctx);
        }
        if !self.wants_delivery() {
            return Turn::Idle;
        }
        let mut len = (self.usable() as usize).min(self.down.read_size);
        if self.down.urgent {
            self.find_mark(&mut len);
        }
        let Some(skip) = self.seek(scratch, &mut len) else { return Turn::Idle };
        let offloads = ctx.io.rx.offloads();
        let tso = if self.is_ipv4() { offloads.tso4 } else { offloads.tso6 };
        let turn = if (tso && offloads.checksum) || len <= self.down.mss.into() {
            self.read_into_guest(ctx, scratch, skip, len)
        } else {
            self.read_and_cut(ctx, scratch, skip, len)
        };
        match turn {
            Ok(turn) => turn,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                // Without an offset to peek at, this is how a failure shows.
                if self.down.failed {
                    self.fail();
                }
                self.down.readable = false;
                Turn::Idle
            }
            Err(_) => {
                self.end = Some(End::ByHost);
                Turn::Idle
            }
        }
    }

    /// Makes the kernel peek at `nxt`; where it can't, returns how many bytes before that will
    /// come first.
    fn seek(&mut self, scratch: &mut Scratch, len: &mut usize) -> Option<usize> {
        let down = &mut self.down;
        let before = down.nxt.wrapping_sub(down.base) as usize;
        let (down, socket) = (down, self.socket.as_ref()?);
        if down.peeks {
            if down.peek_at != down.nxt {
                if stream::set_peek_offset(socket, before as u32).is_err() {
                    self.end = Some(End::Both);
                    return None;
                }
                down.peek_at = down.nxt;
            }
            return Some(0);
        }
        // The flow's limit keeps what is under way well below this, so the socket will not give
        // up what was acknowledged.
        if before >= SKIPPED_MAX {
            self.end = Some(End::Both);
            return None;
        }
        scratch.skipped.resize(SKIPPED_MAX, 0);
        *len = (*len).min(SKIPPED_MAX - before);
        Some(before)
    }

    /// After `read` bytes came where `asked` were asked for: false if this was the end.
    fn learn_read(&mut self, read: usize, asked: usize) -> bool {
        let down = &mut self.down;
        down.readable = read == asked || down.hup || down.urgent;
        if read == asked {
            down.read_size = (down.read_size * 4).min(PAYLOAD_MAX);
        } else if read < down.read_size / 4 {
            down.read_size = (down.read_size / 2).max(READ_MIN);
        }
        read > 0
    }

    fn read_into_guest(
        &mut self,
        ctx: &mut Ctx<'_, '_>,
        scratch: &mut Scratch,
        skip: usize,
        len: usize,
    ) -> io::Result<Turn> {
        let mss = usize::from(self.down.mss);
        let envelope = self.envelope();
        let headers = envelope.header_len() + TCP_LEN;
        let least = headers + len.min(mss);
        let Some(slot) = RxSlot::reserve_most(ctx.io.rx, headers + len, least) else {
            return Ok(Turn::NoRoom);
        };
        let len = slot.len() - headers;
        let Some(socket) = &self.socket else { return Ok(Turn::Idle) };
        let skipped = &mut scratch.skipped[..skip];
        let got = sys::recv(socket, skipped, slot.slices(), headers, len, MSG_PEEK)?;
        let Some(read) = self.past(got, skip)? else {
            drop(slot);
            return Ok(self.ended(ctx));
        };
        if !self.learn_read(read, len) {
            drop(slot);
            return Ok(self.ended(ctx));
        }
        let mut header = self.fields(self.down.nxt, ACK | PSH).bytes();
        if self.down.urgent {
            self.mark(&mut header);
        }
        let segmentation = (read > mss).then(|| Segmentation {
            kind: if self.is_ipv4() { SegmentKind::Tcp4 } else { SegmentKind::Tcp6 },
            size: self.down.mss,
            header_len: headers as u16,
            ecn: false,
        });
        let body = Body::InSlot { len: read, segmentation };
        envelope.send(slot, ctx.shared.link.mac, &header, body);
        self.down.peek_at = self.down.nxt.wrapping_add(read as u32);
        self.sent(ctx, read);
        Ok(Turn::Sent(read))
    }

    fn read_and_cut(
        &mut self,
        ctx: &mut Ctx<'_, '_>,
        scratch: &mut Scratch,
        skip: usize,
        len: usize,
    ) -> io::Result<Turn> {
        let mss = usize::from(self.down.mss);
        let headers = self.envelope().header_len() + TCP_LEN;
        // Read only what there is room for: the first frame at least.
        match RxSlot::reserve(ctx.io.rx, headers + mss) {
            Some(slot) => drop(slot),
            None => return Ok(Turn::NoRoom),
        }
        let Some(socket) = &self.socket else { return Ok(Turn::Idle) };
        let skipped = &mut scratch.skipped[..skip];
        let pieces = [vm_memory::VolatileSlice::from(&mut scratch.payload[..])];
        let got = sys::recv(socket, skipped, &pieces, 0, len, MSG_PEEK)?;
        let Some(read) = self.past(got, skip)? else { return Ok(self.ended(ctx)) };
        if !self.learn_read(read, len) {
            return Ok(self.ended(ctx));
        }
        self.down.peek_at = self.down.nxt.wrapping_add(read as u32);
        let mut sent = 0;
        for payload in scratch.payload[..read].chunks(mss) {
            if !self.send_piece(ctx, payload) {
                self.down.readable = true;
                return Ok(Turn::NoRoom);
            }
            sent += payload.len();
        }
        Ok(Turn::Sent(sent))
    }

    /// Delivers `payload` in a frame of its own.
    fn send_piece(&mut self, ctx: &mut Ctx<'_, '_>, payload: &[u8]) -> bool {
        let envelope = self.envelope();
        let headers = envelope.header_len() + TCP_LEN;
        let Some(slot) = RxSlot::reserve(ctx.io.rx, headers + payload.len()) else { return false };
        let header = self.fields(self.down.nxt, ACK | PSH).bytes();
        envelope.send(slot, ctx.shared.link.mac, &header, Body::Bytes(payload));
        self.sent(ctx, payload.len());
        true
    }

    /// How many of `got` bytes are new; `None` at the end of the stream.
    fn past(&self, got: usize, skip: usize) -> io::Result<Option<usize>> {
        if got > skip {
            return Ok(Some(got - skip));
        }
        // Peeking from the start, the end looks just like nothing new.
        if skip == 0 || self.down.hup {
            return Ok(None);
        }
        Err(io::ErrorKind::WouldBlock.into())
    }

    fn sent(&mut self, ctx: &Ctx<'_, '_>, len: usize) {
        let (down, now) = (&mut self.down, ctx.io.now);
        down.nxt = down.nxt.wrapping_add(len as u32);
        if crate::wire::tcp::before(down.max, down.nxt) {
            down.max = down.nxt;
            self.rto.time(down.nxt, now);
        }
        self.rto.start(now);
        // The frame says it too.
        self.ack_due = false;
    }

    /// The host's stream ends at `nxt`.
    fn ended(&mut self, ctx: &mut Ctx<'_, '_>) -> Turn {
        if self.down.failed {
            self.fail();
            if self.end.is_some() {
                return Turn::Idle;
            }
        }
        self.down.fin = Some(self.down.nxt);
        self.down.hup = true;
        self.send_fin(ctx)
    }

    fn send_fin(&mut self, ctx: &mut Ctx<'_, '_>) -> Turn {
        self.down.readable = true;
        if !self.bare(ctx, self.down.nxt, FIN | ACK) {
            return Turn::NoRoom;
        }
        self.down.first |= !self.up.fin;
        self.down.readable = false;
        self.sent(ctx, 1);
        Turn::Sent(1)
    }

    /// The socket has failed: so has the flow, if it still says so.
    fn fail(&mut self) {
        let error = self.socket.as_ref().map(socket_error);
        if !matches!(error, Some(Ok(Ok(())))) {
            self.end = Some(End::ByHost);
        }
    }

    /// The socket has something to say.
    pub fn note(&mut self, failed: bool) {
        let down = &mut self.down;
        down.failed |= failed;
        match down.fin {
            None => down.readable = true,
            Some(_) if failed => self.fail(),
            Some(_) => {}
        }
        // What there is to read can't be delivered: then the failure is told without it.
        if failed && self.usable() == 0 {
            self.fail();
        }
    }
}
