//! A datagram to a service of the gateway's.

use std::net::SocketAddr;

use super::packet::Packet;
use crate::stats::DropReason;

/// A datagram for a service, copied out of the guest's memory and checked.
#[derive(Debug, Clone, Copy)]
pub struct Datagram<'a> {
    /// The guest's side.
    pub src: SocketAddr,
    /// The gateway's, or a group.
    pub dst: SocketAddr,
    /// All of the payload.
    pub payload: &'a [u8],
}

impl<'a> Datagram<'a> {
    /// Copies the datagram in `packet` to `buffer`.
    ///
    /// # Errors
    /// The reason to drop it.
    pub fn read(packet: &Packet<'_>, buffer: &'a mut [u8]) -> Result<Self, DropReason> {
        let (header, payload) = packet.udp()?;
        let buffer = buffer.get_mut(..payload.len).ok_or(DropReason::TooBig)?;
        payload.copy_to(buffer);
        Ok(Self {
            src: (packet.src, header.src_port).into(),
            dst: (packet.dst, header.dst_port).into(),
            payload: buffer,
        })
    }
}
