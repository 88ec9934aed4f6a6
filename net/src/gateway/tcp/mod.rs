//! The guest's TCP flows and the host's sockets for them.

use std::io;
use std::time::Instant;

use super::config::GatewayConfig;
use super::packet::Packet;
use super::{Ctx, Handled};
use crate::poll::{Poller, Ready, Token};
use crate::stats::DropReason;

/// All TCP flows of a gateway.
#[derive(Debug)]
pub struct Tcp {}

impl Tcp {
    /// No flows yet.
    pub fn new(_config: &GatewayConfig) -> Self {
        Self {}
    }

    /// Opens the published ports.
    ///
    /// # Errors
    /// Those of the sockets.
    pub fn start(&mut self, _poll: &Poller) -> io::Result<()> {
        Ok(())
    }

    /// A segment or datagram from the guest.
    pub fn input(&mut self, _ctx: &mut Ctx<'_, '_>, _packet: &Packet<'_>) -> Handled {
        Err(DropReason::UnknownProtocol)
    }

    /// A socket is ready.
    pub fn ready(&mut self, _ctx: &mut Ctx<'_, '_>, _token: Token, _ready: Ready) {}

    /// The guest has receive buffers again.
    pub fn rx_available(&mut self, _ctx: &mut Ctx<'_, '_>) {}

    /// The batch of packets from the guest is over.
    pub fn batch_end(&mut self, _ctx: &mut Ctx<'_, '_>) {}

    /// When [`expire`](Self::expire) is due.
    pub fn deadline(&self) -> Option<Instant> {
        None
    }

    /// Does what is due.
    pub fn expire(&mut self, _ctx: &mut Ctx<'_, '_>) {}

    /// The guest is gone, and its flows with it.
    pub fn detached(&mut self, _poll: &Poller) {}
}
