//! A segment to the guest before its direction's bytes are known.

use crate::gateway::context::Ctx;
use crate::gateway::emit::Envelope;
use crate::wire::TCP_LEN;
use crate::wire::seq::Seq;
use crate::wire::tcp::{ACK, Fields};

/// A segment's headers, of which only sequence number and flags are open: it says to whom, and what
/// the direction from the guest has come to.
#[derive(Debug)]
pub struct Template {
    /// What is around it.
    pub envelope: Envelope,
    fields: Fields,
}

impl Template {
    /// One in `envelope` that `fields` says all of but sequence number and flags.
    pub fn new(envelope: Envelope, fields: Fields) -> Self {
        Self { envelope, fields }
    }

    /// The TCP header's fields.
    pub fn fields(&self, seq: Seq, flags: u8) -> Fields {
        let ack = if flags & ACK != 0 { self.fields.ack } else { Seq::new(0) };
        Fields { seq, ack, flags, ..self.fields }
    }

    /// The TCP header.
    pub fn header(&self, seq: Seq, flags: u8) -> [u8; TCP_LEN] {
        self.fields(seq, flags).bytes()
    }

    /// Sends a segment without payload. False when the guest has no room for it.
    pub fn send_empty(&self, ctx: &mut Ctx<'_, '_>, seq: Seq, flags: u8) -> bool {
        ctx.deliver_packet(&self.envelope, &self.header(seq, flags), &[]).is_ok()
    }
}
