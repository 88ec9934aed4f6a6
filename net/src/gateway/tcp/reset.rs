//! Resets for the guest.

use crate::gateway::context::Ctx;
use crate::gateway::emit::Envelope;
use crate::gateway::packet::Packet;
use crate::wire::protocol;
use crate::wire::seq::Seq;
use crate::wire::tcp::{ACK, FIN, Fields, Header, RST, SYN};

/// A reset for the guest.
#[derive(Debug)]
pub struct Reset {
    /// What is around it.
    pub envelope: Envelope,
    /// What it says.
    pub fields: Fields,
}

impl Reset {
    /// The answer to a segment that belongs to no connection, unless that is a reset itself
    /// (RFC 9293 §3.10.7.1).
    pub fn answer(packet: &Packet<'_>, h: &Header) -> Option<Self> {
        if h.has(RST) {
            return None;
        }
        let f = &h.fields;
        let len = packet.len - h.len + usize::from(h.has(SYN)) + usize::from(h.has(FIN));
        let zero = Seq::new(0);
        let (seq, ack, flags) =
            if h.has(ACK) { (f.ack, zero, RST) } else { (zero, f.seq + len as u32, RST | ACK) };
        let fields =
            Fields { src_port: f.dst_port, dst_port: f.src_port, seq, ack, flags, window: 0 };
        let envelope = Envelope::new(packet.src_mac, packet.dst, packet.src, protocol::TCP);
        Some(Self { envelope, fields })
    }

    /// Sends it. False when the guest has no room for it.
    pub fn send(&self, ctx: &mut Ctx<'_, '_>) -> bool {
        ctx.deliver_packet(&self.envelope, &self.fields.bytes(), &[]).is_ok()
    }
}
