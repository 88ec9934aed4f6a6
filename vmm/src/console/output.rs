//! A descriptor of the host, such as standard output, as a sink for the serial port.
//!
//! A thread of its own writes, so that a reader that is slow or has stopped keeps no vCPU in a
//! lock and the monitor at its descriptors. Nothing is lost to such a reader: while too much
//! waits, the vCPUs that write are held at the [`Gate`]. One that has gone ends the machine, as
//! SIGPIPE would; what another error loses is said once, and kept for the exit status.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, ErrorKind, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, Weak};
use std::thread;
use std::time::{Duration, Instant};

use minivmm_devices::serial::{Hook, Serial};

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::io::Errno;

use crate::ending::Ending;
use crate::exit::{self, Exit};
use crate::timings::{Phase, Timings};
use crate::vcpu::Gate;

/// vCPUs are held while more waits.
const HIGH: usize = 32 * 1024;
/// And released when less waits.
const LOW: usize = 8 * 1024;
/// What the writer takes at once.
const PART: usize = 16 * 1024;
/// More is refused. A vCPU that is held has added one exit's worth, at most a page.
const MOST: usize = HIGH + 64 * 4096;

/// How long an unfinished line may wait.
const FLUSH_AFTER: Duration = Duration::from_millis(10);
const UNPOISONED: &str = "nothing panics while it holds the lock";

#[derive(Debug, Default)]
struct Queue {
    bytes: VecDeque<u8>,
    holds: bool,
    closed: bool,
    /// When the serial port is to give what it keeps of an unfinished line.
    flush: Option<Instant>,
}

#[derive(Debug)]
struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
    gate: Arc<Gate>,
    timings: Arc<Timings>,
    ending: Arc<Ending>,
    /// The exit status for what could not be written.
    lost: OnceLock<u8>,
    /// Readable once the writer has ended.
    done: OwnedFd,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().expect(UNPOISONED)
    }
}

/// What takes a console's output.
pub trait Destination: Send + fmt::Debug {
    /// Writes all of `bytes`, and waits where it must.
    ///
    /// # Errors
    /// `BrokenPipe` and `ConnectionReset` where the reader has gone, which ends the machine; by any
    /// other error the bytes are lost.
    fn put(&mut self, bytes: &[u8]) -> io::Result<()>;
}

/// Any descriptor. It may be one that does not block, by the wish of whoever shares it.
impl<T: AsFd + Send + fmt::Debug> Destination for T {
    fn put(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match rustix::io::write(&*self, bytes) {
                Ok(0) => return Err(Errno::NOSPC.into()),
                Ok(n) => bytes = &bytes[n..],
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    // Fails only by a signal; the next write then tells.
                    let _ = poll(&mut [PollFd::new(&*self, PollFlags::OUT)], None);
                }
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }
}

/// A writer whose thread was not started yet: what the guest writes waits.
#[derive(Debug)]
pub(crate) struct OpenOutput {
    shared: Arc<Shared>,
    out: Box<dyn Destination>,
}

impl OpenOutput {
    /// A writer to `out`. vCPUs that outrun it are held at `gate`; a reader that has gone is an
    /// `ending`.
    ///
    /// # Errors
    /// Those of `eventfd(2)`.
    pub fn new(
        out: Box<dyn Destination>,
        gate: Arc<Gate>,
        timings: Arc<Timings>,
        ending: Arc<Ending>,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            queue: Mutex::default(),
            changed: Condvar::new(),
            gate,
            timings,
            ending,
            lost: OnceLock::new(),
            done: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
        });
        Ok(Self { shared, out })
    }

    /// A sink for the serial port that never blocks.
    pub fn sink(&self) -> Box<dyn Write + Send> {
        Box::new(Sink(Arc::clone(&self.shared)))
    }

    /// For the serial port: an unfinished line waits.
    pub fn waits(&self) -> Hook {
        let shared = Arc::clone(&self.shared);
        Arc::new(move || {
            shared.lock().flush = Some(Instant::now() + FLUSH_AFTER);
            shared.changed.notify_all();
        })
    }

    /// Starts the thread that writes what comes from `serial`.
    ///
    /// # Errors
    /// Those of thread creation.
    pub fn start(self, serial: &Arc<Serial>) -> io::Result<Output> {
        let Self { shared, mut out } = self;
        let writer = Arc::clone(&shared);
        // The port has a sink of this.
        let serial = Arc::downgrade(serial);
        thread::Builder::new().name("console".into()).spawn(move || {
            write_out(&writer, &mut *out, &serial);
            // Nobody else writes to it, so its counter can't overflow.
            let _ = rustix::io::write(&writer.done, &1u64.to_ne_bytes());
        })?;
        Ok(Output(shared))
    }
}

/// The writer of what the guest writes; dropping it lets it end when it has written everything.
#[derive(Debug)]
pub struct Output(Arc<Shared>);

impl Output {
    /// Nothing is added any more.
    pub(crate) fn close(&self) {
        self.0.lock().closed = true;
        self.0.changed.notify_all();
    }

    /// Readable when everything has been written after [`Output::close`].
    pub fn done(&self) -> BorrowedFd<'_> {
        self.0.done.as_fd()
    }

    /// The exit status for output that could not be written, if there was any.
    pub fn lost(&self) -> Option<u8> {
        self.0.lost.get().copied()
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        self.close();
    }
}

struct Sink(Arc<Shared>);

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut queue = self.0.lock();
        let taken = bytes.len().min(MOST.saturating_sub(queue.bytes.len()));
        if taken == 0 {
            return Err(ErrorKind::WouldBlock.into());
        }
        self.0.timings.mark(Phase::FirstOutput);
        queue.bytes.extend(&bytes[..taken]);
        if queue.bytes.len() > HIGH && !std::mem::replace(&mut queue.holds, true) {
            self.0.gate.hold();
        }
        drop(queue);
        self.0.changed.notify_all();
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What the writer has to do.
enum Next {
    /// Write the part.
    Part,
    /// Ask the serial port for what it keeps.
    Flush,
    /// Nothing any more.
    End,
}

/// Waits for something to do. What is to be written is moved to `part`.
fn next(shared: &Shared, part: &mut Vec<u8>) -> Next {
    let mut queue = shared.lock();
    while queue.bytes.is_empty() {
        if queue.closed {
            return Next::End;
        }
        queue = match queue.flush.map(|at| at.saturating_duration_since(Instant::now())) {
            None => shared.changed.wait(queue).expect(UNPOISONED),
            Some(Duration::ZERO) => {
                queue.flush = None;
                return Next::Flush;
            }
            Some(left) => shared.changed.wait_timeout(queue, left).expect(UNPOISONED).0,
        };
    }
    let len = queue.bytes.len().min(PART);
    part.clear();
    part.extend(queue.bytes.drain(..len));
    if queue.bytes.len() < LOW && std::mem::take(&mut queue.holds) {
        shared.gate.release();
    }
    Next::Part
}

/// Writes until the queue is closed and empty. What `out` refuses is dropped.
fn write_out(shared: &Shared, out: &mut dyn Destination, serial: &Weak<Serial>) {
    let mut part = Vec::with_capacity(PART);
    loop {
        match next(shared, &mut part) {
            Next::Flush => {
                if serial.upgrade().is_some_and(|serial| !serial.flush()) {
                    // There was no room. It is made here, so there will be.
                    shared.lock().flush = Some(Instant::now() + FLUSH_AFTER);
                }
                continue;
            }
            Next::End => break,
            Next::Part => {}
        }
        match out.put(&part) {
            Ok(()) => {}
            Err(e) if matches!(e.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => {
                shared.ending.set(Exit::Signal(libc::SIGPIPE));
                let _ = shared.lost.set(exit::READER_GONE);
            }
            Err(e) => {
                if shared.lost.set(exit::HOST).is_ok() {
                    tracing::warn!(
                        "cannot write the console to standard output: {e} (what the guest writes \
                         is lost)"
                    );
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::timings::ProcessStart;

    fn shared() -> Arc<Shared> {
        Arc::new(Shared {
            queue: Mutex::default(),
            changed: Condvar::new(),
            gate: Arc::new(Gate::default()),
            timings: Arc::new(Timings::new(ProcessStart::now())),
            ending: Arc::new(Ending::new().unwrap()),
            lost: OnceLock::new(),
            done: eventfd(0, EventfdFlags::CLOEXEC).unwrap(),
        })
    }

    /// All arrives in order, whatever the reader does; nobody is held in the end.
    #[test]
    fn a_slow_reader_loses_nothing() {
        for nonblocking in [false, true] {
            let shared = shared();
            let (mut ours, mut theirs) = UnixStream::pair().unwrap();
            ours.set_nonblocking(nonblocking).unwrap();
            let writer = {
                let shared = Arc::clone(&shared);
                thread::spawn(move || write_out(&shared, &mut ours, &Weak::new()))
            };
            let data: Vec<u8> = (0..1 << 20).map(|i: u32| (i % 251) as u8).collect();
            let mut sink = Sink(Arc::clone(&shared));
            let (mut sent, mut held) = (0, false);
            let mut got = Vec::new();
            let mut buffer = vec![0; 10_000];
            while sent < data.len() {
                match sink.write(&data[sent..]) {
                    Ok(n) => sent += n,
                    Err(e) => {
                        assert_eq!(e.kind(), ErrorKind::WouldBlock);
                        held |= shared.gate.is_held();
                        let n = theirs.read(&mut buffer).unwrap();
                        got.extend_from_slice(&buffer[..n]);
                    }
                }
            }
            assert!(held);
            drop(Output(Arc::clone(&shared)));
            theirs.read_to_end(&mut got).unwrap();
            writer.join().unwrap();
            assert!(got == data);
            assert!(!shared.gate.is_held());
        }
    }

    #[test]
    fn a_reader_that_has_gone_holds_nobody() {
        let shared = shared();
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        drop(theirs);
        let mut sink = Sink(Arc::clone(&shared));
        while sink.write(&[b'x'; 4096]).is_ok() {}
        assert!(shared.gate.is_held());
        shared.lock().closed = true;
        write_out(&shared, &mut ours, &Weak::new());
        assert!(shared.lock().bytes.is_empty() && !shared.gate.is_held());
        assert_eq!(shared.ending.get(), Some(&Exit::Signal(libc::SIGPIPE)));
        assert_eq!(Output(shared).lost(), Some(141));
    }
}
