//! What the probe serves when it stays up.

use core::fmt::{self, Write};

use minivmm_probe::cmdline::Mode;
use smoltcp::iface::SocketHandle;
use smoltcp::socket::tcp::{Socket, State};
use smoltcp::socket::udp;

use super::stack::Stack;
use super::tcp::socket_of;
use crate::mem::Arena;

/// TCP and UDP: what comes is sent back.
pub const ECHO: u16 = 7;
/// TCP: read to the end, then the number of bytes is sent.
pub const SINK: u16 = 5001;
/// TCP: bytes until the client closes.
pub const SOURCE: u16 = 5002;
/// TCP: the client's address and port as we see them.
pub const IDENTIFY: u16 = 5003;

const BULK_BUFFER: usize = 1 << 20;
const ECHO_BUFFER: usize = 128 << 10;
const SMALL_BUFFER: usize = 4096;
const LOGGED: u32 = 64;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Echo,
    Sink,
    Source,
    Identify,
}

impl Kind {
    fn port(self) -> u16 {
        match self {
            Self::Echo => ECHO,
            Self::Sink => SINK,
            Self::Source => SOURCE,
            Self::Identify => IDENTIFY,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Echo => "echo",
            Self::Sink => "sink",
            Self::Source => "source",
            Self::Identify => "identify",
        }
    }

    /// Receive buffer, send buffer, how many connections at a time.
    fn size(self) -> (usize, usize, usize) {
        match self {
            Self::Echo => (ECHO_BUFFER, ECHO_BUFFER, 4),
            Self::Sink => (BULK_BUFFER, SMALL_BUFFER, 2),
            Self::Source => (SMALL_BUFFER, BULK_BUFFER, 2),
            Self::Identify => (SMALL_BUFFER, SMALL_BUFFER, 4),
        }
    }
}

#[derive(Clone, Copy)]
struct Service {
    kind: Kind,
    handle: SocketHandle,
    /// Connected, and known to us.
    connected: bool,
    bytes: u64,
}

/// The listening sockets and their connections.
pub struct Services {
    list: [Option<Service>; 12],
    udp: Option<SocketHandle>,
    logged: u32,
    log: bool,
}

impl Services {
    /// The services of a mode. `None` if memory is short.
    pub fn new(mode: Mode, stack: &mut Stack, arena: &mut Arena, log: bool) -> Option<Self> {
        let kinds: &[Kind] = match mode {
            Mode::Serve => &[Kind::Echo, Kind::Sink, Kind::Source, Kind::Identify],
            Mode::Echo => &[Kind::Echo],
            Mode::Sink => &[Kind::Sink],
            Mode::Source => &[Kind::Source],
            Mode::Hold | Mode::Report | Mode::None => &[],
        };
        let mut services = Self { list: [None; 12], udp: None, logged: 0, log };
        let mut free = services.list.iter_mut();
        for kind in kinds {
            let (receive, send, count) = kind.size();
            for _ in 0..count {
                let handle = stack.add_tcp(arena, receive, send)?;
                *free.next()? = Some(Service { kind: *kind, handle, connected: false, bytes: 0 });
            }
        }
        if kinds.contains(&Kind::Echo) {
            let handle = stack.add_udp(arena, 128 << 10)?;
            stack.sockets.get_mut::<udp::Socket<'_>>(handle).bind(ECHO).ok()?;
            services.udp = Some(handle);
        }
        Some(services)
    }

    /// One round over all services.
    pub fn serve(&mut self, stack: &mut Stack, scratch: &mut [u8]) {
        let mut greeted = None;
        for service in self.list.iter_mut().flatten() {
            let socket = socket_of(stack, service.handle);
            match socket.state() {
                State::Closed => {
                    service.connected = false;
                    service.bytes = 0;
                    // Only an unspecified port is refused.
                    let _ = socket.listen(service.kind.port());
                }
                State::TimeWait => socket.abort(),
                State::Listen | State::SynReceived => {}
                _ => {
                    if !service.connected {
                        service.connected = true;
                        greeted = socket.remote_endpoint().map(|from| (service.kind, from));
                    }
                    work(service, socket, scratch);
                }
            }
        }
        if let Some((kind, from)) = greeted
            && self.log
            && self.logged < LOGGED
        {
            self.logged += 1;
            say!("probe: {}: connection from {from}", kind.name());
        }
        if let Some(handle) = self.udp {
            let socket = stack.sockets.get_mut::<udp::Socket<'_>>(handle);
            while socket.can_send() && socket.can_recv() {
                let Ok((length, meta)) = socket.recv_slice(scratch) else { break };
                // A full send buffer drops the datagram, as networks do.
                let _ = socket.send_slice(scratch.get(..length).unwrap_or_default(), meta.endpoint);
            }
        }
    }
}

fn work(service: &mut Service, socket: &mut Socket<'_>, scratch: &mut [u8]) {
    match service.kind {
        Kind::Echo => {
            let mut room = socket.send_capacity() - socket.send_queue();
            while room > 0 && socket.can_recv() {
                let length = room.min(scratch.len());
                let n =
                    socket.recv_slice(scratch.get_mut(..length).unwrap_or_default()).unwrap_or(0);
                // There is room: it was measured above.
                let _ = socket.send_slice(scratch.get(..n).unwrap_or_default());
                room = if n == 0 { 0 } else { socket.send_capacity() - socket.send_queue() };
            }
            if !socket.may_recv() && socket.recv_queue() == 0 {
                socket.close();
            }
        }
        Kind::Sink => {
            while let Ok(n @ 1..) = socket.recv(|data| (data.len(), data.len())) {
                service.bytes += n as u64;
            }
            if !socket.may_recv() && socket.may_send() {
                // A number fits into the empty send buffer.
                let _ = writeln!(To(socket), "{}", service.bytes);
                socket.close();
            }
        }
        Kind::Source => {
            while let Ok(1..) = socket.recv(|data| (data.len(), data.len())) {}
            while let Ok(1..) = socket.send(|room| (room.len(), room.len())) {}
            if !socket.may_recv() {
                socket.close();
            }
        }
        Kind::Identify => {
            if service.bytes == 0
                && socket.may_send()
                && let Some(from) = socket.remote_endpoint()
            {
                service.bytes = 1;
                // An address fits into the empty send buffer.
                let _ = writeln!(To(socket), "{from}");
                socket.close();
            }
        }
    }
}

struct To<'a, 'b>(&'a mut Socket<'b>);

impl Write for To<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.send_slice(text.as_bytes()).map(|_| ()).map_err(|_| fmt::Error)
    }
}
