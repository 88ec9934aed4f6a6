//! TCP as a client of the peer: connect, echo, one-byte round trips.

use core::fmt::{self, Display};

use minivmm_probe::icmp::{self, Told};
use minivmm_probe::stats::Samples;
use smoltcp::iface::SocketHandle;
use smoltcp::socket::tcp::{Socket, State};
use smoltcp::wire::IpEndpoint;

use super::stack::Stack;

/// How long a connection may take, microseconds: a router needs three seconds to find that a neighbour of its does not
/// answer, and then says so.
const CONNECT: u64 = 4_000_000;
/// How long the peer may take to answer, microseconds.
pub const ANSWER: u64 = 2_000_000;

/// Why a check against the peer failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The stack cannot even send a SYN: no address of ours fits, or theirs is none.
    NoAddress,
    /// Somebody on the way says why it can't be.
    Told(Told),
    /// No datagram came back, and nobody said why.
    NoEcho,
    /// Reset before the connection was there.
    Refused,
    /// Nobody answered the SYN.
    ConnectTimeout,
    /// The connection ended too early.
    Closed,
    /// Connected, but the answer did not come in so many microseconds.
    AnswerTimeout(u64),
    /// The answer was wrong.
    Corrupt,
    /// The stream is wrong from this place on.
    Differs(u64),
    /// So many bytes came, and then no more.
    Stalled(u64),
    /// The time was over after so many bytes of those that were asked for.
    Incomplete(u64),
}

impl Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoAddress => f.write_str("no address to connect from, or to"),
            Self::Told(told) => told.fmt(f),
            Self::NoEcho => f.write_str("no echo"),
            Self::Refused => f.write_str("connection refused"),
            Self::ConnectTimeout => write!(f, "no answer to the SYN in {} s", CONNECT / 1_000_000),
            Self::Closed => f.write_str("connection closed early"),
            Self::AnswerTimeout(waited) => {
                write!(f, "connected, but no answer in {} s", waited / 1_000_000)
            }
            Self::Corrupt => f.write_str("the answer differs from what was sent"),
            Self::Differs(place) => write!(f, "wrong content at byte {place}"),
            Self::Stalled(bytes) => write!(f, "stalled after {bytes} bytes"),
            Self::Incomplete(bytes) => write!(f, "not done in time, after {bytes} bytes"),
        }
    }
}

/// Connects a fresh socket. The time it took, microseconds.
pub fn connect(stack: &mut Stack, handle: SocketHandle, to: IpEndpoint) -> Result<u64, Failure> {
    let port = stack.port();
    let start = stack.clock.micros();
    let socket = stack.sockets.get_mut::<Socket<'_>>(handle);
    socket.connect(stack.iface.context(), to, port).map_err(|_| Failure::NoAddress)?;
    let outcome = stack.run(CONNECT, |stack| match socket_of(stack, handle).state() {
        State::Established | State::CloseWait => {
            Some(Ok(stack.clock.micros().saturating_sub(start)))
        }
        state => match stack.told(icmp::TCP, port, start) {
            Some(told) => {
                socket_of(stack, handle).abort();
                Some(Err(Failure::Told(told)))
            }
            None => (state == State::Closed).then_some(Err(Failure::Refused)),
        },
    });
    outcome.unwrap_or_else(|| {
        socket_of(stack, handle).abort();
        Err(Failure::ConnectTimeout)
    })
}

/// The socket behind a handle.
pub fn socket_of(stack: &mut Stack, handle: SocketHandle) -> &mut Socket<'static> {
    stack.sockets.get_mut::<Socket<'static>>(handle)
}

/// Sends all of a short text.
pub fn send(stack: &mut Stack, handle: SocketHandle, text: &[u8]) -> Result<(), Failure> {
    match socket_of(stack, handle).send_slice(text) {
        Ok(sent) if sent == text.len() => Ok(()),
        _ => Err(Failure::Closed),
    }
}

/// Reads until `out` is full.
fn receive(stack: &mut Stack, handle: SocketHandle, out: &mut [u8]) -> Result<(), Failure> {
    let mut got = 0;
    let outcome = stack.run(ANSWER, |stack| {
        let socket = socket_of(stack, handle);
        if let Ok(n) = socket.recv_slice(out.get_mut(got..).unwrap_or_default()) {
            got += n;
        }
        if got == out.len() {
            Some(Ok(()))
        } else if !socket.may_recv() {
            Some(Err(Failure::Closed))
        } else {
            None
        }
    });
    outcome.unwrap_or(Err(Failure::AnswerTimeout(ANSWER)))
}

/// Connects, has a kilobyte echoed and closes. Time to connect and time of the echo, microseconds.
pub fn echo(
    stack: &mut Stack,
    handle: SocketHandle,
    to: IpEndpoint,
) -> Result<(u64, u64), Failure> {
    let connected = connect(stack, handle, to)?;
    let mut message = [0u8; 1024];
    for (i, byte) in message.iter_mut().enumerate() {
        *byte = (i * 7) as u8;
    }
    let start = stack.clock.micros();
    send(stack, handle, b"ECHO\n")?;
    send(stack, handle, &message)?;
    let mut answer = [0u8; 1024];
    receive(stack, handle, &mut answer)?;
    let took = stack.clock.micros().saturating_sub(start);
    socket_of(stack, handle).close();
    if answer == message { Ok((connected, took)) } else { Err(Failure::Corrupt) }
}

/// Round trips of one byte, at most 100 or 100 ms of them, at least one.
pub fn round_trips(
    stack: &mut Stack,
    handle: SocketHandle,
    to: IpEndpoint,
) -> Result<Samples<100>, Failure> {
    connect(stack, handle, to)?;
    send(stack, handle, b"RR\n")?;
    let mut samples = Samples::new();
    let begin = stack.clock.micros();
    for round in 0..101u8 {
        let start = stack.clock.micros();
        if start.saturating_sub(begin) > 100_000 && !samples.is_empty() {
            break;
        }
        send(stack, handle, &[round])?;
        let mut answer = [0];
        receive(stack, handle, &mut answer)?;
        if answer != [round] {
            return Err(Failure::Corrupt);
        }
        if round > 0 {
            samples.push(stack.clock.micros().saturating_sub(start));
        }
    }
    socket_of(stack, handle).close();
    Ok(samples)
}
