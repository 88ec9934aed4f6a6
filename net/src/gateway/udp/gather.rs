//! Datagrams of one flow, put together for one system call.
//!
//! Within a batch of frames, datagrams of a flow that follow each other with the same header and
//! the same size are copied here, and given to the socket as one buffer that the host's kernel
//! cuts again (`UDP_SEGMENT` of `udp(7)`). What the kernel can't cut goes one by one, so that each
//! has its own error. Nothing outlives the batch.

use super::Udp;
use super::table::UdpFlow;
use crate::gateway::context::Ctx;
use crate::gateway::emit::Envelope;
use crate::gateway::icmp;
use crate::gateway::packet::Payload;
use crate::gateway::refusal::Refusal;
use crate::stats::DropReason;
use crate::sys::dgram::IpFields;
use crate::wire::protocol;
use crate::wire::udp::UdpHeader;

/// Payload that is worth copying; larger ones go to the socket from where they are.
const SIZE_MAX: usize = 16 * 1024;
/// What one call takes: a datagram's payload over IPv4 (the kernel counts the whole as one).
const ROOM: usize = 65507 - 40;
/// `UDP_MAX_SEGMENTS` of kernels before 6.10.
const COUNT_MAX: usize = 64;

/// What datagrams that go together share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct BundleKey {
    flow: u32,
    header: IpFields,
}

/// See the [module's documentation](self).
#[derive(Debug)]
pub struct Bundle {
    bytes: Box<[u8]>,
    len: usize,
    /// Bytes of each datagram but the last, which may have fewer.
    size: usize,
    key: Option<BundleKey>,
}

impl Bundle {
    /// Nothing gathered.
    pub fn new() -> Self {
        Self { bytes: vec![0; ROOM].into(), len: 0, size: 0, key: None }
    }

    /// Adds a datagram of `flow`. False if it does not go with those that are there.
    pub fn push(&mut self, flow: u32, header: IpFields, payload: &Payload<'_>) -> bool {
        let (key, len) = (BundleKey { flow, header }, payload.len);
        if len == 0 || len > SIZE_MAX {
            return false;
        }
        if let Some(have) = self.key {
            let whole = self.len.is_multiple_of(self.size);
            let room = len <= ROOM - self.len && self.len / self.size < COUNT_MAX;
            if have != key || !whole || len > self.size || !room {
                return false;
            }
        } else {
            (self.key, self.size) = (Some(key), len);
        }
        payload.copy_to(&mut self.bytes[self.len..self.len + len]);
        self.len += len;
        true
    }

    /// Forgets what was gathered.
    pub fn clear(&mut self) {
        (self.key, self.len) = (None, 0);
    }
}

impl Udp {
    /// Gives what was gathered to its socket: before a flow begins or ends, before a datagram that
    /// does not go with it, and when the batch is over.
    pub fn flush_gathered(&mut self, ctx: &mut Ctx<'_, '_>) {
        let Some(BundleKey { flow, header }) = self.gather.key else { return };
        // Out of its place while errors are handled, which may not touch it.
        let mut bytes = std::mem::take(&mut self.gather.bytes);
        let (len, size) = (self.gather.len, self.gather.size);
        self.gather.clear();
        let Some(flow) = self.table.get(flow).cloned() else {
            self.gather.bytes = bytes;
            return;
        };
        if len <= size || !self.send_together(&flow, header, &bytes[..len], size) {
            for datagram in bytes[..len].chunks(size) {
                if let Err(reason) = self.send_alone(ctx, &flow, header, datagram) {
                    ctx.io.stats.dropped(reason);
                }
            }
        }
        std::mem::swap(&mut self.gather.bytes, &mut bytes);
    }

    fn send_together(
        &mut self,
        flow: &UdpFlow,
        header: IpFields,
        bytes: &[u8],
        size: usize,
    ) -> bool {
        let Some(socket) = self.sockets.get(flow.socket) else { return false };
        let sent = socket
            .dgram
            .set_header(header)
            .and_then(|()| socket.dgram.send_segments(bytes, size as u16, flow.host, flow.local));
        // Whatever keeps them from going together, each for itself finds out what it is.
        sent.is_ok()
    }

    fn send_alone(
        &mut self,
        ctx: &mut Ctx<'_, '_>,
        flow: &UdpFlow,
        header: IpFields,
        datagram: &[u8],
    ) -> Result<(), DropReason> {
        let payload = Payload { head: datagram, tail: &[], len: datagram.len() };
        let Err(Refusal { why, reason }) = self.send(ctx, flow, header, &payload) else {
            return Ok(());
        };
        let Some(why) = why else { return Err(reason) };
        let (guest, remote) = (flow.guest, flow.remote);
        let from = ctx.core.config.gateway(guest.into());
        let envelope = Envelope {
            traffic_class: header.traffic_class,
            ..Envelope::new(ctx.core.link.mac, guest.ip(), remote.ip(), protocol::UDP)
        };
        let ports = UdpHeader {
            src_port: guest.port(),
            dst_port: remote.port(),
            payload_len: datagram.len(),
        }
        .emit();
        let message = why.header(guest.into());
        icmp::relay_sent(ctx, from, &envelope, message, &ports, datagram);
        Err(reason)
    }
}
