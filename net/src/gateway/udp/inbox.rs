//! Datagrams that were read from a socket and wait for room in the guest.

use crate::gateway::emit::Envelope;
use crate::gateway::outgoing::Outgoing;
use crate::sys::dgram::batch::{Batch, HEADROOM};
use crate::wire::UDP_LEN;

// A datagram that is to be cut is made where its payload was received.
const _: () = assert!(UDP_LEN <= HEADROOM);

/// Datagrams of one socket that are on their way to the guest.
#[derive(Debug, Default)]
pub struct Inbox {
    /// Those read at once that are left.
    pub batch: Batch,
    /// The index of the socket that they came from.
    pub socket: u32,
    /// What is left of the current one, which is larger than the link.
    pub cut: Option<Outgoing>,
    /// Identifies the last one that was cut.
    id: u32,
}

impl Inbox {
    /// True when there is nothing left.
    pub fn is_empty(&self) -> bool {
        self.batch.current().is_none()
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.batch.clear();
        self.cut = None;
    }

    /// Forgets those of a socket that is closed.
    pub fn forget(&mut self, socket: u32) {
        if self.socket == socket {
            self.clear();
        }
    }

    /// Makes the current datagram ready to be cut.
    pub fn start_cutting(&mut self, envelope: &Envelope, header: [u8; UDP_LEN]) {
        let datagram = self.batch.frame(UDP_LEN);
        datagram[..UDP_LEN].copy_from_slice(&header);
        envelope.complete(datagram);
        self.id = self.id.wrapping_add(1);
        self.cut = Some(Outgoing::new(*envelope, datagram.len(), self.id));
    }
}
