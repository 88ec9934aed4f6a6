//! The window that the guest is offered: the room that the host's socket has.

use super::flow::{Flow, INTEREST};
use crate::gateway::context::Ctx;
use crate::poll::Poller;
use crate::sys::stream;
use crate::wire::tcp::{ACK, before, later};

impl Flow {
    /// Offers as much window as the socket has room, and has the socket tell of more where the
    /// guest may be waiting for it. A system call only where the window may be small.
    pub fn refresh_window(&mut self, poll: &Poller) {
        let (up, Some(socket)) = (&mut self.up, &self.socket) else { return };
        // A guest may go beyond it, with a byte that asks for more (RFC 9293 §3.8.6.1).
        up.edge = later(up.edge, up.nxt);
        let left = up.edge.wrapping_sub(up.nxt);
        if up.fin || up.full || (left >= up.size / 4 && up.size > 0) {
            return;
        }
        // Where the kernel does not tell, a buffer that every socket has.
        let memory = stream::send_memory(socket);
        let memory = memory.unwrap_or(stream::SendMemory { size: 0x1_0000, used: 0 });
        up.size = memory.size;
        let free = memory.size.saturating_sub(memory.used);
        // The kernel also counts its own overhead. Half is plenty, the guest is near; and it
        // is little enough that what the guest needs to go on (half the largest window it has
        // seen) is less than what the socket has when it tells of room again.
        let room = (free - free / 8).min(memory.size / 2);
        let edge = up.nxt.wrapping_add(room);
        // No silly windows (RFC 9293 §3.8.6.2.2), also not after the field's rounding.
        let step = u32::from(up.mss).next_multiple_of(1 << up.scale).min(memory.size / 4);
        if before(up.edge, edge) && (left < step || edge.wrapping_sub(up.edge) >= step) {
            up.edge = edge;
        }
        if up.edge.wrapping_sub(up.nxt) < step && !up.armed {
            // To ask for it again is what makes the socket tell.
            up.armed = poll.modify(socket, self.token, INTEREST).is_ok();
        }
    }

    /// The socket has refused bytes of the guest's.
    pub fn refused(&mut self, poll: &Poller, rearm: bool) {
        (self.up.full, self.up.armed, self.up.lost) = (true, true, true);
        if rearm && let Some(socket) = &self.socket {
            let _ = poll.modify(socket, self.token, INTEREST);
        }
        self.ack_due = true;
    }

    /// The socket has room.
    pub fn writable(&mut self, ctx: &mut Ctx<'_, '_>) {
        if !std::mem::take(&mut self.up.armed) {
            return;
        }
        self.up.full = false;
        self.refresh_window(ctx.io.poll);
        self.ack_due = true;
        if std::mem::take(&mut self.up.lost) {
            // The guest learns the window with the first one and resends at once what was
            // dropped because of the others, three that say the same (RFC 5681 §3.2).
            for _ in 0..4 {
                self.bare(ctx, self.down.nxt, ACK);
            }
        }
    }
}
