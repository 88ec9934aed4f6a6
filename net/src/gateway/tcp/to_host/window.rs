//! The window that the guest is offered: the room that the host's socket has.

use super::super::socket::Socket;
use super::ToHost;
use crate::poll::Poller;
use crate::sys::stream;

impl ToHost {
    /// The window field of a segment to the guest. A SYN's is never scaled (RFC 7323 §2.2).
    pub fn window(&self, scaled: bool) -> u16 {
        if self.full {
            return 0;
        }
        let left = self.edge() - self.nxt;
        let window = if scaled { left >> self.scale } else { left };
        window.min(0xffff) as u16
    }

    /// Offers as much window as the socket has room, and has the socket tell of more where the
    /// guest may be waiting for it. A system call only where the window may be small.
    pub fn offer_window(&mut self, socket: &Socket, poll: &Poller) {
        // A guest may go beyond it, with a byte that asks for more (RFC 9293 §3.8.6.1).
        self.edge = self.edge();
        let left = self.edge - self.nxt;
        if self.fin || self.full || (left >= self.size / 4 && self.size > 0) {
            return;
        }
        // Where the kernel does not tell, a buffer that every socket has.
        let memory = stream::send_memory(&socket.fd);
        let memory = memory.unwrap_or(stream::SendMemory { size: 0x1_0000, used: 0 });
        self.size = memory.size;
        let free = memory.size.saturating_sub(memory.used);
        // The kernel also counts its own overhead. Half is plenty, the guest is near; and it
        // is little enough that what the guest needs to go on (half the largest window it has
        // seen) is less than what the socket has when it tells of room again.
        let room = (free - free / 8).min(memory.size / 2);
        let edge = self.nxt + room;
        // No silly windows (RFC 9293 §3.8.6.2.2), also not after the field's rounding.
        let step = u32::from(self.mss).next_multiple_of(1 << self.scale).min(memory.size / 4);
        if self.edge.is_before(edge) && (left < step || edge - self.edge >= step) {
            self.edge = edge;
        }
        if self.edge - self.nxt < step && !self.armed {
            self.armed = socket.watch_anew(poll);
        }
    }

    /// The socket has refused bytes of the guest's, and will tell when it has room.
    pub(super) fn refused(&mut self) {
        (self.full, self.armed, self.lost) = (true, true, true);
    }

    /// The socket has room. `None` where it was not to tell; else whether bytes of the guest's were
    /// dropped for want of it.
    pub fn on_writable(&mut self, socket: &Socket, poll: &Poller) -> Option<bool> {
        if !std::mem::take(&mut self.armed) {
            return None;
        }
        self.full = false;
        self.offer_window(socket, poll);
        Some(std::mem::take(&mut self.lost))
    }
}
