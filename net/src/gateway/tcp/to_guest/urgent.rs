//! The host's urgent byte (RFC 9293 §3.8.5, RFC 6093): it stays where it is in the stream and keeps its
//! mark, so that the guest finds it the way it has asked for. The socket tells where it is only when
//! all before it has been taken out (`sockatmark(3)`), so while there is one, the guest gets the next
//! bytes when it has acknowledged those before.

use super::super::socket::Socket;
use super::ToGuest;
use crate::sys::stream;
use crate::wire::tcp::mark_urgent;

impl ToGuest {
    /// Finds out whether the next byte for the guest is urgent: then it is read alone.
    pub(super) fn find_mark(&mut self, socket: &Socket, len: &mut usize) {
        self.discard(Some(socket));
        self.urgent = stream::has_urgent(&socket.fd);
        self.at_mark = self.urgent && stream::is_at_mark(&socket.fd);
        if self.at_mark {
            *len = 1;
        }
    }

    /// Marks the first byte behind `header`, if that is urgent.
    pub(super) fn mark(&self, header: &mut [u8]) {
        if self.urgent && self.at_mark {
            mark_urgent(header);
        }
    }
}
