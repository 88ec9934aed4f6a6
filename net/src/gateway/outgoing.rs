//! What is larger than the link towards the guest is cut into fragments.

use super::context::Ctx;
use super::emit::{Envelope, LOWER_MAX};
use super::packet::FRAGMENT_UNIT as UNIT;
use crate::addr::MacAddr;
use crate::frame::Offload;
use crate::rx::RxSlot;
use crate::stats::DropReason;
use crate::wire::checksum::checksum;
use crate::wire::{ETHERNET_LEN, IPV4_LEN, IPV6_LEN};

/// A datagram towards the guest that is cut to the link's MTU, if it is larger.
#[derive(Debug, Clone, Copy)]
pub struct Outgoing {
    envelope: Envelope,
    len: usize,
    id: u32,
    at: usize,
}

impl Outgoing {
    /// A datagram of `len` bytes, transport header on.
    pub fn new(envelope: Envelope, len: usize, id: u32) -> Self {
        Self { envelope, len, id, at: 0 }
    }

    /// Delivers what is left of it; `bytes` is all of it.
    ///
    /// # Errors
    /// [`DropReason::NoRxBuffers`]: to be called again when there are some.
    pub fn send(&mut self, ctx: &mut Ctx<'_, '_>, bytes: &[u8]) -> Result<(), DropReason> {
        let mtu = usize::from(ctx.core.config.mtu);
        let ipv4 = self.envelope.src.is_ipv4();
        let headers = if ipv4 { IPV4_LEN } else { IPV6_LEN + 8 };
        let piece = if self.envelope.len() - ETHERNET_LEN + self.len <= mtu {
            self.len
        } else {
            mtu.saturating_sub(headers).max(UNIT) / UNIT * UNIT
        };
        while self.at < self.len {
            let n = piece.min(self.len - self.at);
            let mut top = [0; LOWER_MAX + 8];
            let lower = self.write(ctx.core.link.mac, n, &mut top);
            let slot = RxSlot::reserve(ctx.io.rx, lower + n).ok_or(DropReason::NoRxBuffers)?;
            slot.write_at(0, &top[..lower]);
            slot.write_at(lower, &bytes[self.at..self.at + n]);
            slot.commit(lower + n, Offload::default());
            self.at += n;
        }
        Ok(())
    }

    /// Writes the headers of the next piece, of `n` bytes.
    fn write(&self, mac: MacAddr, n: usize, top: &mut [u8; LOWER_MAX + 8]) -> usize {
        let more = self.at + n < self.len;
        if n == self.len {
            self.envelope.write(mac, n, top)
        } else if self.envelope.src.is_ipv4() {
            let lower = self.envelope.write(mac, n, top);
            let header = &mut top[ETHERNET_LEN..lower];
            header[4..6].copy_from_slice(&(self.id as u16).to_be_bytes());
            let field = (self.at / UNIT) as u16 | u16::from(more) << 13;
            header[6..8].copy_from_slice(&field.to_be_bytes());
            header[10..12].fill(0);
            let sum = checksum(header);
            header[10..12].copy_from_slice(&sum.to_be_bytes());
            lower
        } else {
            let envelope = Envelope { protocol: 44, ..self.envelope };
            let lower = envelope.write(mac, 8 + n, top);
            let header = &mut top[lower..lower + 8];
            header[0] = self.envelope.protocol;
            let field = self.at as u16 | u16::from(more);
            header[2..4].copy_from_slice(&field.to_be_bytes());
            header[4..8].copy_from_slice(&self.id.to_be_bytes());
            lower + 8
        }
    }

    /// The headers of the piece of `n` bytes at `at`.
    #[cfg(test)]
    pub fn headers(mut self, mac: MacAddr, at: usize, n: usize) -> Vec<u8> {
        self.at = at;
        let mut top = [0; LOWER_MAX + 8];
        let lower = self.write(mac, n, &mut top);
        top[..lower].to_vec()
    }
}
