//! ICMP echo in both versions.

use minivmm_probe::stats::Samples;
use smoltcp::iface::SocketHandle;
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::socket::icmp::{Endpoint, Socket};
use smoltcp::wire::{Icmpv4Packet, Icmpv4Repr, Icmpv6Packet, Icmpv6Repr, IpAddress};

use super::stack::Stack;
use crate::mem::Arena;

const IDENT: u16 = 0x7072;
const TIMEOUT: u64 = 500_000;
/// The largest payload: an IPv4 packet of 65535 bytes.
const MAX_DATA: usize = 65_535 - 28;

/// Sends echo requests one by one.
pub struct Pinger {
    socket: SocketHandle,
    sequence: u16,
    data: &'static mut [u8],
}

impl Pinger {
    /// `None` if memory is short.
    pub fn new(stack: &mut Stack, arena: &mut Arena) -> Option<Self> {
        let socket = stack.add_icmp(arena, MAX_DATA + 64)?;
        stack.sockets.get_mut::<Socket<'_>>(socket).bind(Endpoint::Ident(IDENT)).ok()?;
        let data = arena.take(MAX_DATA, 8)?;
        for (i, byte) in data.iter_mut().enumerate() {
            *byte = i as u8;
        }
        Some(Self { socket, sequence: 0, data })
    }

    /// One echo request with `length` bytes of data. Its round trip in microseconds, `None` without an answer.
    pub fn once(&mut self, stack: &mut Stack, to: IpAddress, length: usize) -> Option<u64> {
        self.sequence = self.sequence.wrapping_add(1);
        let sequence = self.sequence;
        let data = self.data.get(..length)?;
        let checksums = ChecksumCapabilities::default();
        let socket = stack.sockets.get_mut::<Socket<'_>>(self.socket);
        match to {
            IpAddress::Ipv4(_) => {
                let request = Icmpv4Repr::EchoRequest { ident: IDENT, seq_no: sequence, data };
                let room = socket.send(request.buffer_len(), to).ok()?;
                request.emit(&mut Icmpv4Packet::new_unchecked(room), &checksums);
            }
            IpAddress::Ipv6(address) => {
                let request = Icmpv6Repr::EchoRequest { ident: IDENT, seq_no: sequence, data };
                let room = socket.send(request.buffer_len(), to).ok()?;
                // The stack computes the checksum again with the source address it picks.
                request.emit(
                    &address,
                    &address,
                    &mut Icmpv6Packet::new_unchecked(room),
                    &checksums,
                );
            }
        }
        let start = stack.clock.micros();
        let socket = self.socket;
        stack.run(TIMEOUT, |stack| {
            let now = stack.clock.micros();
            while let Ok((packet, from)) = stack.sockets.get_mut::<Socket<'_>>(socket).recv() {
                let fits = from == to && packet.len() == length + 8;
                // Bytes 6 and 7 are the sequence number in both versions.
                if fits
                    && packet.get(6..8) == Some(&sequence.to_be_bytes())
                    && packet.get(8..) == Some(data)
                {
                    return Some(now.saturating_sub(start));
                }
            }
            None
        })
    }

    /// A first request that resolves the neighbour, then five measured ones. Empty without any answer.
    pub fn measure(&mut self, stack: &mut Stack, to: IpAddress) -> Samples<5> {
        let mut samples = Samples::new();
        if self.once(stack, to, 32).is_none() && self.once(stack, to, 32).is_none() {
            return samples;
        }
        for _ in 0..5 {
            if let Some(micros) = self.once(stack, to, 32) {
                samples.push(micros);
            }
        }
        samples
    }
}
