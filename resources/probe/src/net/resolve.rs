//! Exchanges of single datagrams: a DNS query, a UDP echo, one that is to go only so far.

use minivmm_probe::dns::{self, Answer, MAX_QUERY};
use minivmm_probe::icmp::{self, Told};
use smoltcp::iface::SocketHandle;
use smoltcp::socket::udp::Socket;
use smoltcp::wire::{IpAddress, IpEndpoint};

use super::stack::Stack;

/// How long an echo may take, microseconds: a router needs three seconds to find that a neighbour of its does not answer, and
/// then says so.
const ECHO: u64 = 4_000_000;
/// minivmm's forwarder has its answer, be it a failure, after 6 s; see `net/src/gateway/dns/mod.rs`.
const LOOKUP: u64 = 6_500_000;
/// The first port of those that traceroute(8) uses, where nobody listens.
const NOBODY: u16 = 33_434;

/// When to send, and for how long to wait. Times are microseconds.
pub struct Tries {
    /// How often.
    pub count: u32,
    /// After how long again.
    pub apart: u64,
    /// How long in all.
    pub patience: u64,
}

impl Tries {
    /// Of an echo.
    pub const ECHO: Self = Self { count: 3, apart: 300_000, patience: ECHO };
    /// Of a look-up, as often as the C library does it in that time and a little more.
    const LOOKUP: Self = Self { count: 4, apart: 1_600_000, patience: LOOKUP };
}

/// Why there was no answer.
pub enum Silence {
    /// Nothing came.
    Complete,
    /// Somebody said why.
    Told(Told),
}

/// Sends `payload` to `to` until `accept` takes an answer. Its value and how long it took in microseconds: from the first try,
/// as the answer may be to any.
pub fn exchange<T>(
    stack: &mut Stack,
    socket: SocketHandle,
    to: IpEndpoint,
    payload: &[u8],
    tries: &Tries,
    mut accept: impl FnMut(&[u8]) -> Option<T>,
) -> Result<(T, u64), Silence> {
    let port = bind(stack, socket);
    let start = stack.clock.micros();
    for nth in 1..=tries.count {
        // Nothing is sent where the stack has no address for it; then nothing comes either.
        let _ = stack.sockets.get_mut::<Socket<'_>>(socket).send_slice(payload, to);
        let over = if nth == tries.count { tries.patience } else { tries.apart * u64::from(nth) };
        let left = (start + over).saturating_sub(stack.clock.micros());
        let outcome = stack.run(left, |stack| {
            let now = stack.clock.micros();
            while let Ok((data, meta)) = stack.sockets.get_mut::<Socket<'_>>(socket).recv() {
                if meta.endpoint == to
                    && let Some(value) = accept(data)
                {
                    return Some(Ok((value, now.saturating_sub(start))));
                }
            }
            stack.told(icmp::UDP, port, start).map(|told| Err(Silence::Told(told)))
        });
        if let Some(outcome) = outcome {
            return outcome;
        }
    }
    Err(Silence::Complete)
}

/// Binds the socket to a fresh port.
fn bind(stack: &mut Stack, socket: SocketHandle) -> u16 {
    let port = stack.port();
    let udp = stack.sockets.get_mut::<Socket<'_>>(socket);
    udp.close();
    // Only port 0 and an open socket are refused.
    let _ = udp.bind(port);
    port
}

/// Looks up the A record of `name`.
pub fn lookup(
    stack: &mut Stack,
    socket: SocketHandle,
    server: IpEndpoint,
    name: &str,
) -> Result<(Answer, u64), Silence> {
    let id = stack.clock.seed() as u16;
    let mut packet = [0; MAX_QUERY];
    let query = dns::query(id, name, &mut packet).and_then(|length| packet.get(..length));
    let Some(query) = query else { return Err(Silence::Complete) };
    exchange(stack, socket, server, query, &Tries::LOOKUP, |data| dns::answer(id, data))
}

/// Sends a datagram towards `to` that ends at the second router, and waits `patience` microseconds for somebody to say so, or
/// what else is in the way.
pub fn beyond(
    stack: &mut Stack,
    socket: SocketHandle,
    to: IpAddress,
    patience: u64,
) -> Option<Told> {
    let nothing = |_: &[u8]| None::<()>;
    let tries = Tries { count: 3, apart: 300_000, patience };
    let to = IpEndpoint::new(to, NOBODY);
    stack.sockets.get_mut::<Socket<'_>>(socket).set_hop_limit(Some(2));
    let outcome = exchange(stack, socket, to, b"minivmm-probe", &tries, nothing);
    stack.sockets.get_mut::<Socket<'_>>(socket).set_hop_limit(None);
    match outcome {
        Err(Silence::Told(told)) => Some(told),
        _ => None,
    }
}
