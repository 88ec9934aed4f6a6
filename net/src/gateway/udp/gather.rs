//! What was gathered of the guest's datagrams goes to the host.
//!
//! Within a batch of frames they are put together ([`bundle`](super::bundle)). What the kernel can't
//! cut goes one by one, so that each has its own error. Nothing outlives the batch.

use super::Udp;
use super::bundle::BundleKey;
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

impl Udp {
    /// Gives what was gathered to its socket: before a flow begins or ends, before a datagram that
    /// does not go with it, and when the batch is over.
    pub fn flush_gathered(&mut self, ctx: &mut Ctx<'_, '_>) {
        // Out of its place while errors are handled, which may not touch it.
        let Some(bundled) = self.bundle.take() else { return };
        let BundleKey { flow, header } = bundled.key;
        if let Some(flow) = self.table.get(flow).cloned() {
            let (payloads, size) = (bundled.payloads(), bundled.size);
            if payloads.len() <= size || !self.send_together(&flow, header, payloads, size) {
                for datagram in payloads.chunks(size) {
                    if let Err(reason) = self.send_alone(ctx, &flow, header, datagram) {
                        ctx.io.stats.dropped(reason);
                    }
                }
            }
        }
        self.bundle.put_back(bundled);
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
        let from = ctx.shared.config.gateway(guest.into());
        let envelope = Envelope {
            traffic_class: header.traffic_class,
            ..Envelope::new(ctx.shared.link.mac, guest.ip(), remote.ip(), protocol::UDP)
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
