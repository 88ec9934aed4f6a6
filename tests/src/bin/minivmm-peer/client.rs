//! The client half, for guests whose own tools cannot check what they move.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream, ToSocketAddrs, UdpSocket};
use std::time::{Duration, Instant};

use crate::Result;
use crate::digest::Digest;
use crate::pattern::Pattern;
use crate::serve::send_pattern;

/// No single wait is longer; slow software machines need some patience.
const PATIENCE: Duration = Duration::from_secs(30);
/// Datagrams get lost; this many are sent before the path counts as broken.
const TRIES: u32 = 3;

fn connect(peer: &str) -> Result<TcpStream> {
    let mut last = "no address".into();
    for address in peer.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, PATIENCE) {
            Ok(stream) => {
                stream.set_read_timeout(Some(PATIENCE))?;
                stream.set_write_timeout(Some(PATIENCE))?;
                return Ok(stream);
            }
            Err(error) => last = error.into(),
        }
    }
    Err(last)
}

pub fn fetch(peer: &str, bytes: &str) -> Result<()> {
    let bytes: u64 = bytes.parse()?;
    let start = Instant::now();
    let mut stream = connect(peer)?;
    writeln!(stream, "{bytes}")?;
    let mut hash = Digest::new();
    let mut buffer = vec![0; 256 * 1024];
    loop {
        match stream.read(&mut buffer)? {
            0 => break,
            length => hash.update(&buffer[..length]),
        }
    }
    report(bytes, hash.bytes(), &hash.finish(), start)
}

pub fn push(peer: &str, bytes: &str) -> Result<()> {
    let bytes: u64 = bytes.parse()?;
    let start = Instant::now();
    let mut stream = connect(peer)?;
    send_pattern(&stream, bytes)?;
    stream.shutdown(Shutdown::Write)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (arrived, sum) = answer.trim().split_once(' ').ok_or("the sink gave no answer")?;
    report(bytes, arrived.parse()?, sum, start)
}

fn report(asked: u64, bytes: u64, sum: &str, start: Instant) -> Result<()> {
    println!("{bytes} {sum} {:.3}", start.elapsed().as_secs_f64());
    if bytes != asked {
        return Err(format!("{bytes} bytes arrived, not {asked}").into());
    }
    if sum != Pattern::sum(asked) {
        return Err("the checksums differ".into());
    }
    Ok(())
}

pub fn udp(peer: &str, size: &str, count: &str) -> Result<()> {
    let (size, count): (u64, u32) = (size.parse()?, count.parse()?);
    let socket = connect_udp(peer)?;
    let mut payload = Vec::new();
    Pattern::new(size).read_to_end(&mut payload)?;
    for number in 0..count {
        let answer = ask(&socket, &payload)
            .map_err(|error| format!("datagram {number} of {size} bytes: {error}"))?;
        if answer != payload {
            return Err(format!("{} other bytes came back", answer.len()).into());
        }
    }
    println!("{count} datagrams of {size} bytes");
    Ok(())
}

fn connect_udp(peer: &str) -> Result<UdpSocket> {
    let address = peer.to_socket_addrs()?.next().ok_or("no address")?;
    let socket = UdpSocket::bind(if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" })?;
    socket.connect(address)?;
    socket.set_read_timeout(Some(Duration::from_secs(5)))?;
    Ok(socket)
}

/// One datagram and its answer.
fn ask(socket: &UdpSocket, payload: &[u8]) -> io::Result<Vec<u8>> {
    let mut buffer = vec![0; 65536];
    let mut tries = 1;
    loop {
        let answer = socket.send(payload).and_then(|_| socket.recv(&mut buffer));
        match answer {
            Ok(length) => return Ok(buffer[..length].to_vec()),
            Err(error) if tries == TRIES => return Err(error),
            Err(_) => tries += 1,
        }
    }
}

pub fn many(peer: &str, count: &str) -> Result<()> {
    let count: u32 = count.parse()?;
    let mut streams = Vec::new();
    for number in 0..count {
        streams.push(connect(peer).map_err(|e| format!("connection {number}: {e}"))?);
    }
    // All are open now. Each says something of its own, then each hears it.
    for (number, stream) in streams.iter_mut().enumerate() {
        stream.write_all(&(number as u64).to_be_bytes())?;
    }
    for (number, stream) in streams.iter_mut().enumerate() {
        let mut answer = [0; 8];
        stream.read_exact(&mut answer).map_err(|e| format!("connection {number}: {e}"))?;
        if u64::from_be_bytes(answer) != number as u64 {
            return Err(format!("connection {number} hears another's bytes").into());
        }
    }
    println!("{count} connections at once");
    Ok(())
}

pub fn who(peer: &str) -> Result<()> {
    let mut answer = String::new();
    connect(peer)?.read_to_string(&mut answer)?;
    print!("{answer}");
    Ok(())
}

pub fn who_udp(peer: &str) -> Result<()> {
    let answer = ask(&connect_udp(peer)?, b"who")?;
    print!("{}", String::from_utf8_lossy(&answer));
    Ok(())
}

pub fn sum(bytes: &str) -> Result<()> {
    println!("{}", Pattern::sum(bytes.parse()?));
    Ok(())
}
