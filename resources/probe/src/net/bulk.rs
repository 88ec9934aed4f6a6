//! Bulk transfers, bounded by time and perhaps bytes.

use core::fmt::Write;

use minivmm_probe::pattern::Pattern;
use minivmm_probe::sink;
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

/// Sends to the peer's sink, which answers with the number of bytes that it read, and whether they are right.
pub fn upload(
    stack: &mut Stack,
    handle: SocketHandle,
    to: IpEndpoint,
    bound: Bound,
    pattern: &Pattern<'_>,
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
            let claimed = socket.send(|room| {
                let n = usize::try_from(left).unwrap_or(usize::MAX).min(room.len());
                let mut done = 0;
                while done < n {
                    let piece = pattern.piece(sent + done as u64, n - done);
                    room[done..done + piece.len()].copy_from_slice(piece);
                    done += piece.len();
                }
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
    let mut line = sink::Line::new();
    stack.run(DRAIN, |stack| {
        let socket = socket_of(stack, handle);
        let came = socket.recv_slice(line.room()).unwrap_or(0);
        line.add(came);
        (line.complete() || !socket.may_recv()).then_some(())
    });
    let micros = stack.clock.micros().saturating_sub(start);
    match line.answer() {
        Some(sink::Answer { differs: Some(place), .. }) => Err(Failure::Differs(place)),
        Some(answer) if answer.count == sent => Ok(Moved { bytes: sent, micros }),
        None if !line.complete() && socket_of(stack, handle).may_recv() => {
            Err(Failure::AnswerTimeout(DRAIN))
        }
        None if !line.complete() => Err(Failure::Closed),
        _ => Err(Failure::Corrupt),
    }
}

/// What arrives of a download.
struct Inflow<'a> {
    handle: SocketHandle,
    pattern: &'a Pattern<'a>,
    wanted: u64,
    got: u64,
    /// When the last of it came.
    last: u64,
    /// The peer sends no more.
    ended: bool,
    /// The first byte that is not what it should be.
    differs: Option<u64>,
}

impl Inflow<'_> {
    /// Takes what is there. Whether there will be no more, or none is wanted.
    fn take(&mut self, stack: &mut Stack) -> bool {
        let now = stack.clock.micros();
        let socket = socket_of(stack, self.handle);
        while self.differs.is_none()
            && let Ok(n @ 1..) = socket.recv(|data| {
                self.differs = self.pattern.differs(self.got, data);
                (data.len(), data.len())
            })
        {
            self.got += n as u64;
            self.last = now;
        }
        self.ended = !socket.may_recv();
        self.ended || self.got >= self.wanted || self.differs.is_some()
    }
}

/// Receives from the peer's source; when the time is over the connection is reset.
pub fn download(
    stack: &mut Stack,
    handle: SocketHandle,
    to: IpEndpoint,
    bound: Bound,
    pattern: &Pattern<'_>,
) -> Result<Moved, Failure> {
    connect(stack, handle, to)?;
    let wanted = if bound.bytes == 0 { 1 << 40 } else { bound.bytes };
    let mut line = Small { bytes: [0; 32], used: 0 };
    writeln!(line, "SOURCE {wanted}").map_err(|_| Failure::Corrupt)?;
    send(stack, handle, line.bytes.get(..line.used).unwrap_or_default())?;
    let start = stack.clock.micros();
    let mut inflow =
        Inflow { handle, pattern, wanted, got: 0, last: start, ended: false, differs: None };
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
    let Inflow { got, last, ended, differs, .. } = inflow;
    if let Some(place) = differs {
        return Err(Failure::Differs(place));
    }
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
