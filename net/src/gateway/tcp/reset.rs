//! Resets for the guest.

use super::Tcp;
use crate::gateway::context::Ctx;
use crate::gateway::emit::Envelope;
use crate::gateway::icmp;
use crate::gateway::packet::Packet;
use crate::stats::DropReason;
use crate::wire::protocol;
use crate::wire::tcp::{ACK, FIN, Fields, Header, RST, SYN};

/// Resets that wait for receive buffers; who is not told finds out when it sends something.
pub const RESETS_MAX: usize = 256;

/// A reset for the guest.
#[derive(Debug)]
pub struct Reset {
    /// What is around it.
    pub envelope: Envelope,
    /// What it says.
    pub fields: Fields,
}

impl Tcp {
    /// A segment that belongs to no connection is answered with a reset, unless it is one
    /// (RFC 9293 §3.10.7.1).
    pub(super) fn answer_stray(&mut self, ctx: &mut Ctx<'_, '_>, packet: &Packet<'_>, h: &Header) {
        if h.has(RST) || icmp::is_group_traffic(&ctx.shared.config, packet) {
            return;
        }
        let f = &h.fields;
        let len = packet.len - h.len + usize::from(h.has(SYN)) + usize::from(h.has(FIN));
        let (seq, ack, flags) = if h.has(ACK) {
            (f.ack, 0, RST)
        } else {
            (0, f.seq.wrapping_add(len as u32), RST | ACK)
        };
        let fields =
            Fields { src_port: f.dst_port, dst_port: f.src_port, seq, ack, flags, window: 0 };
        let envelope = Envelope::new(packet.src_mac, packet.dst, packet.src, protocol::TCP);
        self.reset_guest(ctx, Reset { envelope, fields });
    }

    /// Sends a reset, or has it wait for receive buffers.
    pub(super) fn reset_guest(&mut self, ctx: &mut Ctx<'_, '_>, reset: Reset) {
        if self.resets.is_empty() && reset.send(ctx) {
            return;
        }
        if self.resets.len() < RESETS_MAX {
            self.blocked = true;
            self.resets.push_back(reset);
        } else {
            ctx.io.stats.dropped(DropReason::NoRxBuffers);
        }
    }
}

impl Reset {
    /// Sends it. False when the guest has no room for it.
    pub fn send(&self, ctx: &mut Ctx<'_, '_>) -> bool {
        ctx.deliver_packet(&self.envelope, &self.fields.bytes(), &[]).is_ok()
    }
}
