//! The yardstick: what two sockets and a buffer between them cost.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::Result;
use minivmm_tests::natbed::SERVER4;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::time::{ClockId, clock_gettime};

use crate::batch::Batch;
use crate::datagrams;

/// The names of its threads begin with it.
pub const THREAD: &str = "relay";

/// iperf3's.
const STREAMS: u16 = 5201;
/// Bytes that are copied at a time: what one of the gateway's frames holds.
const CHUNK: usize = 64 * 1024;

/// Nanoseconds that threads which have ended used.
static ENDED: AtomicU64 = AtomicU64::new(0);

/// Processor time of the relay's threads that have ended.
pub fn ended_threads_time() -> Duration {
    Duration::from_nanos(ENDED.load(Ordering::Relaxed))
}

/// Relays streams and datagrams to the server, in the calling thread's namespace, until the
/// process ends.
pub fn start() -> Result<()> {
    let listener = TcpListener::bind(("0.0.0.0", STREAMS))?;
    spawn(move || {
        for client in listener.incoming() {
            let pair = client.and_then(|c| Ok((c, TcpStream::connect((SERVER4, STREAMS))?)));
            let Ok((client, server)) = pair else { continue };
            if let (Ok(c), Ok(s)) = (client.try_clone(), server.try_clone()) {
                // Without one of them the connection hangs, and its run fails.
                let _ =
                    spawn(move || copy(c, s)).and_then(|()| spawn(move || copy(server, client)));
            }
        }
    })?;
    let inner = UdpSocket::bind(("0.0.0.0", datagrams::PORT))?;
    let outer = UdpSocket::bind("0.0.0.0:0")?;
    spawn(move || {
        let _ = copy_datagrams(&inner, &outer);
    })?;
    Ok(())
}

fn spawn(body: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let run = move || {
        body();
        let used = clock_gettime(ClockId::ThreadCPUTime);
        let nanos = used.tv_sec.cast_unsigned() * 1_000_000_000 + used.tv_nsec.cast_unsigned();
        ENDED.fetch_add(nanos, Ordering::Relaxed);
    };
    thread::Builder::new().name(THREAD.to_owned()).spawn(run).map(drop)
}

/// One direction of a connection, until it ends.
fn copy(mut from: TcpStream, mut to: TcpStream) {
    let mut buffer = vec![0; CHUNK];
    while let Ok(n @ 1..) = from.read(&mut buffer)
        && to.write_all(&buffer[..n]).is_ok()
    {}
    let _ = to.shutdown(Shutdown::Write);
}

/// Both directions of one client's datagrams, in batches.
fn copy_datagrams(inner: &UdpSocket, outer: &UdpSocket) -> io::Result<()> {
    let (_, client) = inner.peek_from(&mut [0])?;
    inner.connect(client)?;
    outer.connect((SERVER4, datagrams::PORT))?;
    inner.set_nonblocking(true)?;
    outer.set_nonblocking(true)?;
    let mut batch = Batch::new();
    loop {
        let mut fds = [PollFd::new(inner, PollFlags::IN), PollFd::new(outer, PollFlags::IN)];
        poll(&mut fds, None)?;
        for (from, to) in [(inner, outer), (outer, inner)] {
            while batch.receive(from).is_ok() {
                // What the other side does not take is lost, or it has gone.
                let _ = batch.send(to);
            }
        }
    }
}
