//! Exchanges of single datagrams: a DNS query, a UDP echo.

use minivmm_probe::dns::{self, Answer, MAX_QUERY};
use smoltcp::iface::SocketHandle;
use smoltcp::socket::udp::Socket;
use smoltcp::wire::IpEndpoint;

use super::stack::Stack;

/// Sends `payload` to `to` up to `tries` times, each waiting `micros`, until `accept` takes an answer. Its value and how
/// long it took in microseconds: from the first try, as the answer may be to any.
pub fn exchange<T>(
    stack: &mut Stack,
    socket: SocketHandle,
    to: IpEndpoint,
    payload: &[u8],
    (tries, micros): (u32, u64),
    mut accept: impl FnMut(&[u8]) -> Option<T>,
) -> Option<(T, u64)> {
    let port = stack.port();
    let udp = stack.sockets.get_mut::<Socket<'_>>(socket);
    udp.close();
    udp.bind(port).ok()?;
    let start = stack.clock.micros();
    for _ in 0..tries {
        let udp = stack.sockets.get_mut::<Socket<'_>>(socket);
        udp.send_slice(payload, to).ok()?;
        let answer = stack.run(micros, |stack| {
            let now = stack.clock.micros();
            while let Ok((data, meta)) = stack.sockets.get_mut::<Socket<'_>>(socket).recv() {
                if meta.endpoint == to
                    && let Some(value) = accept(data)
                {
                    return Some((value, now.saturating_sub(start)));
                }
            }
            None
        });
        if answer.is_some() {
            return answer;
        }
    }
    None
}

/// Looks up the A record of `name`.
pub fn lookup(
    stack: &mut Stack,
    socket: SocketHandle,
    server: IpEndpoint,
    name: &str,
) -> Option<(Answer, u64)> {
    let id = stack.clock.seed() as u16;
    let mut packet = [0; MAX_QUERY];
    let length = dns::query(id, name, &mut packet)?;
    let query = packet.get(..length)?;
    exchange(stack, socket, server, query, (2, 400_000), |data| dns::answer(id, data))
}
