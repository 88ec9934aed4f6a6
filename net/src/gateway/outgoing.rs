//! What is larger than the link towards the guest is cut into fragments.

use std::net::IpAddr;

use super::context::Ctx;
use super::emit::{Envelope, LOWER_MAX};
use crate::addr::MacAddr;
use crate::frame::Offload;
use crate::rx::RxSlot;
use crate::stats::DropReason;
use crate::wire::ETHERNET_LEN;
use crate::wire::ip::{FRAGMENT_LEN, FRAGMENT_UNIT as UNIT, Fragment, IPV4_LEN, IPV6_LEN};

/// Bytes of the longest headers in front of a piece.
const TOP_MAX: usize = LOWER_MAX + FRAGMENT_LEN;

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
        let mtu = usize::from(ctx.shared.config.mtu);
        let headers = match self.envelope.src {
            IpAddr::V4(_) => IPV4_LEN,
            IpAddr::V6(_) => IPV6_LEN + FRAGMENT_LEN,
        };
        let piece = if self.envelope.header_len() - ETHERNET_LEN + self.len <= mtu {
            self.len
        } else {
            mtu.saturating_sub(headers).max(UNIT) / UNIT * UNIT
        };
        while self.at < self.len {
            let n = piece.min(self.len - self.at);
            let mut top = [0; TOP_MAX];
            let lower = self.write(ctx.shared.link.mac, n, &mut top);
            let slot = RxSlot::reserve(ctx.io.rx, lower + n).ok_or(DropReason::NoRxBuffers)?;
            slot.write_at(0, &top[..lower]);
            slot.write_at(lower, &bytes[self.at..self.at + n]);
            slot.commit(lower + n, Offload::default());
            self.at += n;
        }
        Ok(())
    }

    /// Writes the headers of the next piece, of `n` bytes.
    fn write(&self, mac: MacAddr, n: usize, top: &mut [u8; TOP_MAX]) -> usize {
        let (offset, more) = (self.at as u32, self.at + n < self.len);
        let fragment = Fragment { id: self.id, offset, more };
        self.envelope.write_piece(mac, n, fragment.is_part().then_some(fragment), top)
    }

    /// The headers of the piece of `n` bytes at `at`.
    #[cfg(test)]
    pub fn headers(mut self, mac: MacAddr, at: usize, n: usize) -> Vec<u8> {
        self.at = at;
        let mut top = [0; TOP_MAX];
        let lower = self.write(mac, n, &mut top);
        top[..lower].to_vec()
    }
}
