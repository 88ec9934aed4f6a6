//! The host's sockets of the flows, by index; an index is used again with another generation.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use crate::poll::{Owner, Poller, Ready, Token};
use crate::sys::dgram::Dgram;

/// Whose socket it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// A guest's endpoint.
    Guest(SocketAddr),
    /// A published port of the address `listen`, which leads to `port` of the guest's.
    Published {
        /// The guest's port.
        port: u16,
        /// Where the host listens.
        listen: IpAddr,
    },
}

/// A socket of the host.
#[derive(Debug)]
pub struct Socket {
    /// The socket.
    pub dgram: Dgram,
    /// Whose it is.
    pub owner: Use,
    /// Its flows.
    pub flows: u32,
    /// It is in line to be read.
    pub queued: bool,
}

impl Socket {
    /// True for that of a published port.
    pub fn is_published(&self) -> bool {
        matches!(self.owner, Use::Published { .. })
    }
}

/// All sockets.
#[derive(Debug, Default)]
pub struct Sockets {
    list: Vec<(u32, Option<Socket>)>,
    free: Vec<u32>,
    by_guest: HashMap<(SocketAddr, bool), u32>,
}

impl Sockets {
    /// Adds a socket.
    pub fn insert(&mut self, dgram: Dgram, owner: Use) -> u32 {
        let i = match self.free.pop() {
            Some(i) => i,
            None => {
                self.list.push((0, None));
                self.list.len() as u32 - 1
            }
        };
        if let Use::Guest(guest) = owner {
            self.by_guest.insert((guest, dgram.is_ipv4()), i);
        }
        self.list[i as usize].1 = Some(Socket { dgram, owner, flows: 0, queued: false });
        i
    }

    /// Watches socket `i` for datagrams, by edges: one that can't be read now stays in line.
    pub fn watch(&self, i: u32, poll: &Poller) -> std::io::Result<()> {
        match &self.list[i as usize].1 {
            Some(socket) => poll.add(&socket.dgram, self.token(i), Ready::IN | Ready::ET),
            None => Ok(()),
        }
    }

    fn token(&self, i: u32) -> Token {
        let (generation, socket) = &self.list[i as usize];
        let owner = match socket.as_ref().map(|s| s.owner) {
            Some(Use::Published { .. }) => Owner::UdpListener,
            _ => Owner::Udp,
        };
        Token::with_generation(owner, i, *generation)
    }

    /// The socket that a guest's endpoint has in that family.
    pub fn find(&self, guest: SocketAddr, ipv4: bool) -> Option<u32> {
        self.by_guest.get(&(guest, ipv4)).copied()
    }

    /// The published socket that leads to port `port` of the guest's and from which the host
    /// reaches `host`.
    pub fn find_published(&self, port: u16, host: SocketAddr) -> Option<u32> {
        let fits = |socket: &Socket| match socket.owner {
            Use::Published { port: published, listen } => {
                published == port
                    && listen.is_ipv4() == host.is_ipv4()
                    && (listen.is_unspecified() || listen.is_loopback() == host.ip().is_loopback())
            }
            Use::Guest(_) => false,
        };
        // They are bound before there are any others, and stay.
        let mut published =
            self.list.iter().map_while(|(_, s)| s.as_ref().filter(|s| s.is_published()));
        published.position(fits).map(|i| i as u32)
    }

    /// The socket at `i`.
    pub fn get(&mut self, i: u32) -> Option<&mut Socket> {
        self.list.get_mut(i as usize)?.1.as_mut()
    }

    /// The socket of an event, unless that is about a former one.
    pub fn of_token(&mut self, token: Token) -> Option<&mut Socket> {
        let (generation, socket) = self.list.get_mut(token.id as usize)?;
        let current = Token::with_generation(token.owner, token.id, *generation) == token;
        socket.as_mut().filter(|_| current)
    }

    /// Closes a socket.
    pub fn remove(&mut self, i: u32, poll: &Poller) {
        let Some((generation, socket)) = self.list.get_mut(i as usize) else { return };
        let Some(socket) = socket.take() else { return };
        *generation = generation.wrapping_add(1);
        self.free.push(i);
        let _ = poll.remove(&socket.dgram);
        if let Use::Guest(guest) = socket.owner {
            self.by_guest.remove(&(guest, socket.dgram.is_ipv4()));
        }
    }

    /// Indices of all there are.
    pub fn indices(&self) -> impl Iterator<Item = u32> {
        self.list.iter().enumerate().filter(|(_, s)| s.1.is_some()).map(|(i, _)| i as u32)
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.indices().count()
    }
}
