//! Bulk transfers, bounded by time and perhaps bytes.

use core::fmt::Write;

use smoltcp::iface::SocketHandle;
use smoltcp::wire::IpEndpoint;

use super::stack::Stack;
use super::tcp::{ANSWER, Failure, connect, send, socket_of};

const DRAIN: u64 = 5_000_000;

/// How much to move.
#[derive(Clone, Copy)]
pub struct Bound {
    /// Microseconds.
    pub micros: u64,
    /// Bytes, 0 for no bound.
    pub bytes: u64,
}

/// What was moved, and how long it took.
#[derive(Clone, Copy)]
pub struct Moved {
    /// Bytes that arrived, by the receiver's count.
    pub bytes: u64,
    /// Microseconds from the request to the last byte's arrival, or to the end of the time where there was no last one.
    pub micros: u64,
}

/// A short decimal line.
struct Small {
    bytes: [u8; 32],
    used: usize,
}

impl Write for Small {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        let room = self.bytes.get_mut(self.used..self.used + text.len()).ok_or(core::fmt::Error)?;
        room.copy_from_slice(text.as_bytes());
        self.used += text.len();
        Ok(())
    }
}

/// Sends to the peer's sink, which answers with the number of bytes that it read.
pub fn upload(
    stack: &mut Stack,
    handle: SocketHandle,
    to: IpEndpoint,
    bound: Bound,
) -> Result<Moved, Failure> {
    connect(stack, handle, to)?;
    send(stack, handle, b"SINK\n")?;
    let limit = if bound.bytes == 0 { u64::MAX } else { bound.bytes };
    let start = stack.clock.micros();
    let mut sent = 0u64;
    let ended = stack.run(bound.micros, |stack| {
        let socket = socket_of(stack, handle);
        if !socket.may_send() {
            return Some(Err(Failure::Closed));
        }
        while socket.can_send() && sent < limit {
            let left = limit - sent;
            // The buffer's old content is as good as any.
            let claimed = socket.send(|room| {
                let n = usize::try_from(left).unwrap_or(usize::MAX).min(room.len());
                (n, n)
            });
            sent += claimed.unwrap_or(0) as u64;
        }
        (sent >= limit).then_some(Ok(()))
    });
    if let Some(Err(failure)) = ended {
        return Err(failure);
    }
    if sent < limit && bound.bytes > 0 {
        abort(stack, handle);
        return Err(Failure::Incomplete(sent));
    }
    socket_of(stack, handle).close();
    let mut count = None;
    let mut number = 0u64;
    stack.run(DRAIN, |stack| {
        let socket = socket_of(stack, handle);
        let mut bytes = [0; 32];
        let n = socket.recv_slice(&mut bytes).unwrap_or(0);
        for byte in bytes.iter().take(n) {
            match byte {
                b'0'..=b'9' => {
                    number = number.wrapping_mul(10).wrapping_add(u64::from(byte - b'0'));
                }
                _ => count = Some(number),
            }
        }
        (count.is_some() || !socket.may_recv()).then_some(())
    });
    let micros = stack.clock.micros().saturating_sub(start);
    match count {
        Some(count) if count == sent => Ok(Moved { bytes: sent, micros }),
        Some(_) => Err(Failure::Corrupt),
        None if socket_of(stack, handle).may_recv() => Err(Failure::AnswerTimeout(DRAIN)),
        None => Err(Failure::Closed),
    }
}

/// What arrives of a download.
struct Inflow {
    handle: SocketHandle,
    wanted: u64,
    got: u64,
    /// When the last of it came.
    last: u64,
    /// The peer sends no more.
    ended: bool,
}

impl Inflow {
    /// Takes what is there. Whether there will be no more, or none is wanted.
    fn take(&mut self, stack: &mut Stack) -> bool {
        let now = stack.clock.micros();
        let socket = socket_of(stack, self.handle);
        while let Ok(n @ 1..) = socket.recv(|data| (data.len(), data.len())) {
            self.got += n as u64;
            self.last = now;
        }
        self.ended = !socket.may_recv();
        self.ended || self.got >= self.wanted
    }
}

/// Receives from the peer's source; when the time is over the connection is reset.
pub fn download(
    stack: &mut Stack,
    handle: SocketHandle,
    to: IpEndpoint,
    bound: Bound,
) -> Result<Moved, Failure> {
    connect(stack, handle, to)?;
    let wanted = if bound.bytes == 0 { 1 << 40 } else { bound.bytes };
    let mut line = Small { bytes: [0; 32], used: 0 };
    writeln!(line, "SOURCE {wanted}").map_err(|_| Failure::Corrupt)?;
    send(stack, handle, line.bytes.get(..line.used).unwrap_or_default())?;
    let start = stack.clock.micros();
    let mut inflow = Inflow { handle, wanted, got: 0, last: start, ended: false };
    // The time counts from the first byte: what comes before it is the peer's, and has its own bound.
    stack.run(ANSWER, |stack| (inflow.take(stack) || inflow.got > 0).then_some(()));
    let mut stalled = false;
    if inflow.got > 0 && stack.run(bound.micros, |stack| inflow.take(stack).then_some(())).is_none()
    {
        let (before, silence) = (inflow.got, stack.clock.micros().saturating_sub(inflow.last));
        if silence >= bound.micros / 2 {
            // The time may be as short as a busy host is silent, so one more byte is waited for, and that time counts.
            stack.run(ANSWER, |stack| (inflow.take(stack) || inflow.got > before).then_some(()));
            stalled = inflow.got == before && !inflow.ended;
        }
    }
    let end = stack.clock.micros();
    abort(stack, handle);
    let Inflow { got, last, ended, .. } = inflow;
    match got {
        0 if !ended => Err(Failure::AnswerTimeout(ANSWER)),
        _ if got == wanted => Ok(Moved { bytes: got, micros: last.saturating_sub(start) }),
        _ if got > wanted => Err(Failure::Corrupt),
        _ if ended => Err(Failure::Closed),
        _ if stalled => Err(Failure::Stalled(got)),
        _ if bound.bytes > 0 => Err(Failure::Incomplete(got)),
        _ => Ok(Moved { bytes: got, micros: end.saturating_sub(start) }),
    }
}

/// Resets the connection, at once.
fn abort(stack: &mut Stack, handle: SocketHandle) {
    socket_of(stack, handle).abort();
    stack.poll();
}
