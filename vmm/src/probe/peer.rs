//! The host's side of the probe's report: a small service on the loopback that the gateway leads
//! the probe to, so that the report is complete on a machine with no internet.
//!
//! UDP datagrams are echoed. A TCP connection begins with one line: `ECHO` or `RR` (all that
//! follows comes back), `SINK` (all that follows is read; the answer is its number of bytes, and
//! ` differs at N` where byte N is not the pattern's), or `SOURCE n` (n bytes of the pattern are
//! sent). The pattern is the probe's own file.

use std::cell::Cell;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;

use crate::cure::limit_cure;

#[path = "../../../resources/probe/src/pattern.rs"]
mod pattern;

use self::pattern::{PERIOD, Pattern};

/// Connections served at once: the probe makes one at a time.
const CONNECTIONS_MAX: usize = 8;
/// The longest first line.
const LINE_MAX: u64 = 64;
/// Connections on which nothing moves for so long are closed.
const IDLE_MAX: Duration = Duration::from_secs(60);
/// A datagram to oneself comes at once; this is for a host that is very busy.
const LOOPBACK_TIME: Duration = Duration::from_millis(500);
/// Between attempts to accept.
const RETRY: Duration = Duration::from_millis(50);
/// The most that `SOURCE` sends, in bytes.
const SOURCE_MAX: u64 = 1 << 40;

/// The service; dropping it ends it, with all of its connections.
#[derive(Debug)]
pub struct Peer {
    /// Its address on the loopback, the same for TCP and UDP.
    pub address: SocketAddr,
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    tcp: TcpListener,
    udp: UdpSocket,
    served: Mutex<Vec<Arc<TcpStream>>>,
    ended: AtomicBool,
    /// Readable from the end on.
    end: OwnedFd,
}

impl Shared {
    fn served(&self) -> MutexGuard<'_, Vec<Arc<TcpStream>>> {
        self.served.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }
}

impl Peer {
    /// Opens the service on a free port; none where the loopback interface is down, as it is in a
    /// new network namespace. Nobody is served before [`Peer::start`].
    ///
    /// # Errors
    /// Those of the sockets.
    pub fn open() -> io::Result<Option<Self>> {
        let (tcp, udp) = bind()?;
        let address = tcp.local_addr()?;
        // Binding to it is possible all the same.
        if let Err(e) = try_loopback() {
            tracing::warn!(
                "127.0.0.1 can't be reached: {e}; the probe has no peer (ip link set lo up)"
            );
            return Ok(None);
        }
        // Between its readiness and its reading a datagram may be found broken and be dropped.
        udp.set_nonblocking(true)?;
        let end = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let (served, ended) = (Mutex::default(), AtomicBool::new(false));
        let shared = Arc::new(Shared { tcp, udp, served, ended, end });
        Ok(Some(Self { address, shared, threads: Vec::new() }))
    }

    /// Starts its threads.
    ///
    /// # Errors
    /// Those of thread creation.
    pub fn start(&mut self) -> io::Result<()> {
        for (name, run) in [("peer-udp", echo_datagrams as fn(&Shared)), ("peer-tcp", accept)] {
            let shared = Arc::clone(&self.shared);
            let thread = thread::Builder::new().name(name.into()).spawn(move || run(&shared))?;
            self.threads.push(thread);
        }
        Ok(())
    }
}

impl Peer {
    /// Ends the service, and waits for its threads.
    fn stop(&mut self) -> thread::Result<()> {
        let shared = &self.shared;
        {
            // Under the lock: no connection is added to the list that has been gone through.
            let served = shared.served();
            shared.ended.store(true, Ordering::Release);
            for stream in &*served {
                // It has ended by itself where that fails.
                let _ = stream.shutdown(Shutdown::Both);
            }
        }
        // Wakes who waits for a connection; that of a listener can't fail.
        let _ = rustix::net::shutdown(&shared.tcp, rustix::net::Shutdown::Both);
        // Nobody else writes to it, so its counter can't overflow.
        let _ = rustix::io::write(&shared.end, &1u64.to_ne_bytes());
        self.threads.drain(..).try_for_each(JoinHandle::join)
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        if self.stop().is_err() {
            tracing::error!("the probe's peer had panicked");
        }
    }
}

/// A port that is free for both protocols.
fn bind() -> io::Result<(TcpListener, UdpSocket)> {
    let mut error = None;
    for _ in 0..16 {
        let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        match UdpSocket::bind(tcp.local_addr()?) {
            Ok(udp) => return Ok((tcp, udp)),
            Err(e) => error = Some(e),
        }
    }
    Err(error.unwrap_or_else(|| io::ErrorKind::AddrInUse.into()))
}

/// Sends a datagram to itself. An interface that was up once keeps its address and routes when it is
/// down: only what comes tells.
fn try_loopback() -> io::Result<()> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    socket.connect(socket.local_addr()?)?;
    socket.send(&[0])?;
    let mut waiting = [PollFd::new(&socket, PollFlags::IN)];
    let timeout = Timespec { tv_sec: 0, tv_nsec: LOOPBACK_TIME.subsec_nanos().into() };
    loop {
        match poll(&mut waiting, Some(&timeout)) {
            Err(Errno::INTR) => {}
            Ok(0) => return Err(io::Error::other("the loopback interface is down")),
            ready => return ready.map(drop).map_err(io::Error::from),
        }
    }
}

fn echo_datagrams(shared: &Shared) {
    let mut buffer = vec![0; 65536];
    loop {
        let (udp, end) = (&shared.udp, &shared.end);
        // Fails only by a signal; there is nothing to be read then.
        let _ = poll(&mut [PollFd::new(udp, PollFlags::IN), PollFd::new(end, PollFlags::IN)], None);
        if shared.has_ended() {
            break;
        }
        // Errors are a peer's ICMP messages; the next datagram may fare better.
        if let Ok((n, from)) = udp.recv_from(&mut buffer) {
            let _ = udp.send_to(&buffer[..n], from);
        }
    }
}

/// Returns when the service has ended and no connection is served.
fn accept(shared: &Shared) {
    let warned = Cell::new(false);
    let warn = |e: &io::Error| {
        if !warned.replace(true) {
            let cure = limit_cure(e);
            tracing::warn!("the probe's peer can't serve a connection: {e}{cure}");
        }
    };
    thread::scope(|scope| {
        loop {
            // Without a descriptor to spare, accepting would fail before anyone is there. This wait
            // fails only by a signal.
            let _ = poll(&mut [PollFd::new(&shared.tcp, PollFlags::IN)], None);
            let stream = match shared.tcp.accept() {
                Ok((stream, _)) => stream,
                Err(_) if shared.has_ended() => break,
                Err(e) => {
                    warn(&e);
                    // That passes, and is not to keep a CPU busy.
                    thread::sleep(RETRY);
                    continue;
                }
            };
            let stream = Arc::new(stream);
            {
                let mut served = shared.served();
                if shared.has_ended() || served.len() >= CONNECTIONS_MAX {
                    continue;
                }
                served.push(Arc::clone(&stream));
            }
            let connection = Arc::clone(&stream);
            let spawned =
                thread::Builder::new().name("peer-conn".into()).spawn_scoped(scope, move || {
                    // What goes wrong on a connection shows at the probe's end of it.
                    let _ = serve(&connection);
                    shared.served().retain(|other| !Arc::ptr_eq(other, &connection));
                });
            if let Err(e) = spawned {
                warn(&e);
                shared.served().retain(|other| !Arc::ptr_eq(other, &stream));
            }
        }
    });
}

/// Reads on after the process was stopped and continued: reading with a timeout is then interrupted
/// though no signal was handled (signal(7)). Writing goes on by itself (`write_all`).
struct Patient<'a>(&'a TcpStream);

impl Read for Patient<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.0.read(buffer) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                done => return done,
            }
        }
    }
}

fn serve(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(IDLE_MAX))?;
    stream.set_write_timeout(Some(IDLE_MAX))?;
    let mut reader = BufReader::with_capacity(1 << 16, Patient(stream));
    let mut line = String::new();
    (&mut reader).take(LINE_MAX).read_line(&mut line)?;
    let mut writer = stream;
    match line.trim_end().split_once(' ').unwrap_or((line.trim_end(), "")) {
        ("ECHO" | "RR", _) => {
            let mut buffer = vec![0; 1 << 16];
            loop {
                let n = reader.read(&mut buffer)?;
                if n == 0 {
                    break;
                }
                writer.write_all(&buffer[..n])?;
            }
        }
        ("SINK", _) => {
            let mut table = vec![0; 2 * PERIOD];
            let pattern = Pattern::new(&mut table);
            let mut buffer = vec![0; 1 << 16];
            let (mut count, mut differs) = (0, None);
            loop {
                let n = reader.read(&mut buffer)?;
                if n == 0 {
                    break;
                }
                differs = differs.or_else(|| pattern.differs(count, &buffer[..n]));
                count += n as u64;
            }
            match differs {
                None => writeln!(writer, "{count}")?,
                Some(place) => writeln!(writer, "{count} differs at {place}")?,
            }
        }
        ("SOURCE", n) => {
            let n = n.parse::<u64>().map_err(|_| io::ErrorKind::InvalidData)?;
            let mut table = vec![0; (1 << 18) + PERIOD];
            let pattern = Pattern::new(&mut table);
            let (n, mut sent) = (n.min(SOURCE_MAX), 0);
            while sent < n {
                let piece = pattern.piece(sent, (n - sent).min(1 << 18) as usize);
                writer.write_all(piece)?;
                sent += piece.len() as u64;
            }
        }
        _ => return Err(io::ErrorKind::InvalidData.into()),
    }
    stream.shutdown(Shutdown::Write)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn started() -> Peer {
        let mut peer = Peer::open().unwrap().unwrap();
        peer.start().unwrap();
        peer
    }

    fn ask(line: &[u8]) -> Vec<u8> {
        let peer = started();
        let mut stream = TcpStream::connect(peer.address).unwrap();
        stream.write_all(line).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        answer
    }

    #[test]
    fn each_service_answers() {
        assert_eq!(ask(b"ECHO\nabc"), b"abc");
        assert_eq!(ask(b"RR\nx"), b"x");
    }

    #[test]
    fn content_is_given_and_judged() {
        let content = ask(b"SOURCE 600000\n");
        assert_eq!(content.len(), 600_000);
        let mut table = vec![0; 2 * PERIOD];
        assert_eq!(Pattern::new(&mut table).differs(0, &content), None);
        let mut sunk = [b"SINK\n", &content[..]].concat();
        assert_eq!(ask(&sunk), b"600000\n");
        sunk[5 + 400_000] ^= 0x10;
        assert_eq!(ask(&sunk), b"600000 differs at 400000\n");
    }

    #[test]
    fn datagrams_come_back() {
        let peer = started();
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        socket.send_to(b"ping", peer.address).unwrap();
        let mut buffer = [0; 8];
        assert_eq!(socket.recv_from(&mut buffer).unwrap(), (4, peer.address));
    }

    /// Whatever it is at: a connection that idles, one that sends, none at all.
    #[test]
    fn it_ends() {
        let mut peer = started();
        let mut open = Vec::new();
        for line in ["ECHO\n", "SOURCE 99999999999\n", "SINK\n", "EC"] {
            let mut stream = TcpStream::connect(peer.address).unwrap();
            stream.write_all(line.as_bytes()).unwrap();
            open.push(stream);
        }
        let shared = Arc::clone(&peer.shared);
        while shared.served().len() < open.len() {
            thread::sleep(Duration::from_millis(1));
        }
        peer.stop().unwrap();
        drop(peer);
        assert_eq!(Arc::strong_count(&shared), 1);
        assert!(shared.served().is_empty());
        started().stop().unwrap();
    }
}
