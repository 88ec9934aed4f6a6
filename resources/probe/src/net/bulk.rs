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
    /// Microseconds from the request to the last byte's arrival.
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
    // The time counts from the first byte: what comes before it is the peer's, and has its own bound.
    stack.run(ANSWER, |stack| {
        let socket = socket_of(stack, handle);
        (socket.can_recv() || !socket.may_recv()).then_some(())
    });
    let start = stack.clock.micros();
    let mut got = 0u64;
    let mut last = start;
    let ended = stack.run(bound.micros, |stack| {
        let now = stack.clock.micros();
        let socket = socket_of(stack, handle);
        while let Ok(n @ 1..) = socket.recv(|data| (data.len(), data.len())) {
            got += n as u64;
            last = now;
        }
        (!socket.may_recv()).then_some(())
    });
    let moved = Moved { bytes: got, micros: last.saturating_sub(start) };
    socket_of(stack, handle).abort();
    stack.poll();
    match ended {
        Some(()) if got < wanted => Err(Failure::Closed),
        _ if got == 0 => Err(Failure::AnswerTimeout(ANSWER)),
        _ => Ok(moved),
    }
}
