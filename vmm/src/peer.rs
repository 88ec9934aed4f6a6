//! The host's side of the probe's report: a small service on the loopback that the gateway leads
//! the probe to, so that the report is complete on a machine with no internet.
//!
//! UDP datagrams are echoed. A TCP connection begins with one line: `ECHO` or `RR` (all that
//! follows comes back), `SINK` (all that follows is read; the answer is its number of bytes), or
//! `SOURCE n` (n bytes are sent).

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

/// Connections served at once: the probe makes one at a time.
const CONNECTIONS_MAX: usize = 8;
/// The longest first line.
const LINE_MAX: u64 = 64;
/// Connections on which nothing moves for so long are closed.
const IDLE_MAX: Duration = Duration::from_secs(60);
/// Between attempts to accept.
const RETRY: Duration = Duration::from_millis(50);
/// The most that `SOURCE` sends, in bytes.
const SOURCE_MAX: u64 = 1 << 40;

/// The service's address, the same for TCP and UDP. Its threads end with the process.
#[derive(Debug, Clone, Copy)]
pub struct Peer {
    /// On the loopback.
    pub address: SocketAddr,
}

impl Peer {
    /// Starts the service on a free port; none where the loopback interface is down, as it is in a
    /// new network namespace.
    ///
    /// # Errors
    /// Those of the sockets and of thread creation.
    pub fn start() -> io::Result<Option<Self>> {
        let (tcp, udp) = bind()?;
        let address = tcp.local_addr()?;
        // Binding to it is possible all the same.
        if let Err(e) = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?.connect(address) {
            tracing::warn!(
                "127.0.0.1 can't be reached: {e}; the probe has no peer (ip link set lo up)"
            );
            return Ok(None);
        }
        thread::Builder::new().name("peer-udp".into()).spawn(move || echo_datagrams(&udp))?;
        thread::Builder::new().name("peer-tcp".into()).spawn(move || accept(&tcp))?;
        Ok(Some(Self { address }))
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

fn echo_datagrams(socket: &UdpSocket) {
    let mut buffer = vec![0; 65536];
    loop {
        // Errors are a peer's ICMP messages; the next datagram may fare better.
        if let Ok((n, from)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(&buffer[..n], from);
        }
    }
}

fn accept(listener: &TcpListener) {
    let served = Arc::new(AtomicUsize::new(0));
    for stream in listener.incoming() {
        let Ok(stream) = stream else {
            // Out of descriptors, most likely: that passes, and is not to keep a CPU busy.
            thread::sleep(RETRY);
            continue;
        };
        if served.fetch_add(1, Ordering::AcqRel) >= CONNECTIONS_MAX {
            served.fetch_sub(1, Ordering::AcqRel);
            continue;
        }
        let count = Arc::clone(&served);
        let spawned = thread::Builder::new().name("peer-conn".into()).spawn(move || {
            // What goes wrong on a connection shows at the probe's end of it.
            let _ = serve(&stream);
            count.fetch_sub(1, Ordering::AcqRel);
        });
        if spawned.is_err() {
            served.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

fn serve(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(IDLE_MAX))?;
    stream.set_write_timeout(Some(IDLE_MAX))?;
    let mut reader = BufReader::with_capacity(1 << 16, stream);
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
            let n = io::copy(&mut reader, &mut io::sink())?;
            writeln!(writer, "{n}")?;
        }
        ("SOURCE", n) => {
            let n = n.parse::<u64>().map_err(|_| io::ErrorKind::InvalidData)?;
            let data = vec![0x5a; 1 << 18];
            let mut left = n.min(SOURCE_MAX);
            while left > 0 {
                let part = left.min(data.len() as u64) as usize;
                writer.write_all(&data[..part])?;
                left -= part as u64;
            }
        }
        _ => return Err(io::ErrorKind::InvalidData.into()),
    }
    stream.shutdown(Shutdown::Write)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(line: &[u8]) -> Vec<u8> {
        let peer = Peer::start().unwrap().unwrap();
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
        assert_eq!(ask(b"SINK\n12345"), b"5\n");
        assert_eq!(ask(b"SOURCE 300000\n").len(), 300_000);
    }

    #[test]
    fn datagrams_come_back() {
        let peer = Peer::start().unwrap().unwrap();
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        socket.send_to(b"ping", peer.address).unwrap();
        let mut buffer = [0; 8];
        assert_eq!(socket.recv_from(&mut buffer).unwrap(), (4, peer.address));
    }
}
