//! The services: one thread a socket, one more a TCP connection.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};

use crate::digest::Digest;
use crate::dns::Zone;
use crate::pattern::Pattern;
use crate::{Result, http};

/// What a connection thread needs is small, and thousands of them may be open.
const STACK: usize = 128 * 1024;
/// More than the connections that any test opens at once; the kernel caps it at somaxconn.
const BACKLOG: i32 = 8192;

type Answer = fn(TcpStream, SocketAddr) -> io::Result<()>;

pub fn run(services: &[&str]) -> Result<()> {
    let mut zone = Zone::default();
    for service in services {
        if let Some(record) = service.strip_prefix("record=") {
            zone.add(record)?;
        }
    }
    let zone: &'static Zone = Box::leak(Box::new(zone));
    let mut threads = Vec::new();
    for service in services {
        let (name, at) = service.split_once('=').ok_or("a service is NAME=ADDR:PORT")?;
        let serve: Option<Answer> = match name {
            "record" => continue,
            "echo" => Some(echo),
            "crowd" => {
                let listener = bind(at)?;
                threads.push(thread::spawn(move || crowd(&listener)));
                continue;
            }
            "who" => Some(who),
            "sink" => Some(sink),
            "discard" => Some(discard),
            "source" => Some(source),
            "http" => Some(|stream, client| http::serve(&stream, client)),
            "dns" => None,
            _ => return Err(format!("unknown service {name}").into()),
        };
        let listener = bind(at)?;
        threads.push(thread::spawn(move || match serve {
            Some(serve) => accept(&listener, serve),
            None => accept(&listener, move |stream, _| zone.serve_tcp(&stream)),
        }));
        let answer: fn(&Zone, &[u8], SocketAddr) -> Option<Vec<u8>> = match name {
            "echo" => |_, datagram, _| Some(datagram.to_vec()),
            "who" => |_, _, client| Some(line(client).into_bytes()),
            "dns" => |zone, query, _| zone.answer(query, true),
            _ => continue,
        };
        let socket = UdpSocket::bind(at).map_err(|e| format!("cannot bind UDP {at}: {e}"))?;
        threads.push(thread::spawn(move || datagrams(&socket, zone, answer)));
    }
    let mut out = io::stdout();
    writeln!(out, "ready")?;
    out.flush()?;
    for thread in threads {
        thread.join().map_err(|_| "a service panicked")?;
    }
    Ok(())
}

fn bind(at: &str) -> Result<TcpListener> {
    let listener = TcpListener::bind(at).map_err(|e| format!("cannot listen on {at}: {e}"))?;
    rustix::net::listen(&listener, BACKLOG)?;
    Ok(listener)
}

/// An echo of short messages for very many clients, with one thread for all of them.
fn crowd(listener: &TcpListener) {
    let serve = || -> io::Result<()> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let mut clients = Vec::<Option<TcpStream>>::new();
        let me = u64::MAX;
        epoll::add(&epoll, listener, EventData::new_u64(me), EventFlags::IN)?;
        let mut events = Vec::with_capacity(256);
        loop {
            events.clear();
            epoll::wait(&epoll, spare_capacity(&mut events), None)?;
            for event in &events {
                let data = event.data;
                if data.u64() == me {
                    let (client, _) = listener.accept()?;
                    let data = EventData::new_u64(clients.len() as u64);
                    epoll::add(&epoll, &client, data, EventFlags::IN)?;
                    clients.push(Some(client));
                    continue;
                }
                let place = &mut clients[data.u64() as usize];
                let Some(client) = place else { continue };
                let mut message = [0; 64];
                match client.read(&mut message) {
                    Ok(n) if n > 0 => client.write_all(&message[..n])?,
                    // Its place is not used again.
                    _ => *place = None,
                }
            }
        }
    };
    if let Err(error) = serve() {
        eprintln!("minivmm-peer: the crowd's service ends: {error}");
    }
}

fn accept<F>(listener: &TcpListener, serve: F)
where
    F: Fn(TcpStream, SocketAddr) -> io::Result<()> + Copy + Send + 'static,
{
    loop {
        // Out of descriptors, or a client that is gone already: the listener itself stays good.
        let Ok((stream, client)) = listener.accept() else {
            thread::sleep(std::time::Duration::from_millis(1));
            continue;
        };
        let spawned = thread::Builder::new().stack_size(STACK).spawn(move || {
            // A client may end its connection as it likes; that is what many tests are about.
            let _ = serve(stream, client);
        });
        if let Err(error) = spawned {
            eprintln!("minivmm-peer: no thread for {client}: {error}");
        }
    }
}

fn datagrams(
    socket: &UdpSocket,
    zone: &Zone,
    answer: fn(&Zone, &[u8], SocketAddr) -> Option<Vec<u8>>,
) {
    let mut buffer = vec![0; 65536];
    loop {
        // A failed receive reports an ICMP error of an earlier answer.
        if let Ok((length, client)) = socket.recv_from(&mut buffer)
            && let Some(reply) = answer(zone, &buffer[..length], client)
        {
            let _ = socket.send_to(&reply, client);
        }
    }
}

/// "ADDRESS PORT", an IPv4 client of a dual-stack socket as IPv4.
pub fn line(client: SocketAddr) -> String {
    format!("{} {}\n", client.ip().to_canonical(), client.port())
}

fn echo(mut stream: TcpStream, _: SocketAddr) -> io::Result<()> {
    let mut buffer = vec![0; 32 * 1024];
    loop {
        let length = stream.read(&mut buffer)?;
        if length == 0 {
            return Ok(());
        }
        stream.write_all(&buffer[..length])?;
    }
}

fn who(mut stream: TcpStream, client: SocketAddr) -> io::Result<()> {
    stream.write_all(line(client).as_bytes())
}

fn sink(mut stream: TcpStream, _: SocketAddr) -> io::Result<()> {
    let mut hash = Digest::new();
    drain(&mut stream, |data| hash.update(data))?;
    let bytes = hash.bytes();
    writeln!(stream, "{bytes} {}", hash.finish())
}

fn discard(mut stream: TcpStream, _: SocketAddr) -> io::Result<()> {
    let mut bytes = 0;
    drain(&mut stream, |data| bytes += data.len())?;
    writeln!(stream, "{bytes}")
}

fn drain(stream: &mut TcpStream, mut each: impl FnMut(&[u8])) -> io::Result<()> {
    let mut buffer = vec![0; 256 * 1024];
    loop {
        match stream.read(&mut buffer)? {
            0 => return Ok(()),
            length => each(&buffer[..length]),
        }
    }
}

fn source(stream: TcpStream, _: SocketAddr) -> io::Result<()> {
    let mut request = String::new();
    BufReader::new((&stream).take(32)).read_line(&mut request)?;
    let bytes = request.trim().parse().map_err(io::Error::other)?;
    send_pattern(&stream, bytes)
}

/// Writes `bytes` of the pattern.
pub fn send_pattern(mut stream: &TcpStream, bytes: u64) -> io::Result<()> {
    let mut pattern = Pattern::new(bytes);
    let mut buffer = vec![0; 256 * 1024];
    loop {
        match pattern.read(&mut buffer)? {
            0 => return Ok(()),
            length => stream.write_all(&buffer[..length])?,
        }
    }
}
