//! The gateway with the machine's own Linux stack as its guest. Each test has namespaces of its
//! own, of an ordinary user; none needs root or `/dev/kvm`, but a `/dev/net/tun` that this user may
//! open.

mod dns;
mod guest;
mod ipv6;
mod policy;
mod published;
mod tcp;
mod tcp_load;
mod udp;

use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use minivmm_tests::natbed::{Bed, Netns, Options};

/// Longer than anything takes here, shorter than a test may.
const PATIENCE: Duration = Duration::from_secs(10);

/// A bed with nothing special about it.
fn plain() -> Result<Bed> {
    Bed::start(&Options::default(), |_| {})
}

fn listen(ns: &Netns, at: impl Into<SocketAddr>) -> Result<TcpListener> {
    let at = at.into();
    ns.run(|| TcpListener::bind(at))?.with_context(|| format!("listening on {at}"))
}

fn connect(ns: &Netns, to: impl Into<SocketAddr>) -> Result<TcpStream> {
    let to = to.into();
    let stream = ns.run(|| TcpStream::connect_timeout(&to, PATIENCE))??;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

fn accept(listener: &TcpListener) -> Result<(TcpStream, SocketAddr)> {
    let end = Instant::now() + PATIENCE;
    listener.set_nonblocking(true)?;
    loop {
        match listener.accept() {
            Ok((stream, from)) => {
                stream.set_nonblocking(false)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                stream.set_write_timeout(Some(PATIENCE))?;
                return Ok((stream, from));
            }
            Err(_) if Instant::now() < end => thread::sleep(Duration::from_millis(1)),
            Err(error) => return Err(error.into()),
        }
    }
}

/// A connection of the guest's to a server in the internet: the guest's end, the server's.
fn pair(bed: &Bed, server: &str) -> Result<(TcpStream, TcpStream)> {
    let at: SocketAddr = server.parse()?;
    let listener = listen(&bed.internet, at)?;
    let client = connect(&bed.guest, at).with_context(|| format!("drops: {:?}", bed.drops()))?;
    Ok((client, accept(&listener)?.0))
}

fn udp(ns: &Netns, at: &str) -> Result<UdpSocket> {
    let socket = ns.run(|| UdpSocket::bind(at))?.with_context(|| format!("binding {at}"))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(socket)
}

/// Answers datagrams with themselves until the test ends.
fn echo_udp(ns: &Netns, at: &str) -> Result<()> {
    let socket = udp(ns, at)?;
    socket.set_read_timeout(None)?;
    thread::spawn(move || {
        let mut buffer = vec![0; 65536];
        while let Ok((n, from)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(&buffer[..n], from);
        }
    });
    Ok(())
}

/// Waits until `what` holds.
fn until(text: &str, mut what: impl FnMut() -> Result<bool>) -> Result<()> {
    let end = Instant::now() + PATIENCE;
    while !what()? {
        ensure!(Instant::now() < end, "{text}: not after {PATIENCE:?}");
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}
