//! The host's sockets of the flows.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use crate::addr::Family;
use crate::gateway::source;
use crate::poll::{Poller, Ready, Token};
use crate::slab::Slab;
use crate::sys::dgram::Dgram;

/// Whose socket it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
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
    pub owner: Owner,
    /// Its flows.
    pub flows: u32,
    /// It is in line to be read.
    pub queued: bool,
}

impl Socket {
    /// True for that of a published port.
    pub fn is_published(&self) -> bool {
        matches!(self.owner, Owner::Published { .. })
    }
}

/// All sockets.
#[derive(Debug)]
pub struct Sockets {
    list: Slab<Socket>,
    by_guest: HashMap<(SocketAddr, Family), u32>,
}

impl Sockets {
    /// None yet.
    pub fn new() -> Self {
        Self { list: Slab::new(source::UDP), by_guest: HashMap::new() }
    }

    /// Adds a socket.
    pub fn insert(&mut self, dgram: Dgram, owner: Owner) -> u32 {
        let key = (owner, dgram.family());
        let i = self.list.insert(Socket { dgram, owner, flows: 0, queued: false });
        if let (Owner::Guest(guest), family) = key {
            self.by_guest.insert((guest, family), i);
        }
        i
    }

    /// Watches socket `i` for datagrams, by edges: one that can't be read now stays in line.
    pub fn watch(&self, i: u32, poll: &Poller) -> std::io::Result<()> {
        match (self.list.get(i), self.list.token(i)) {
            (Some(socket), Some(token)) => poll.add(&socket.dgram, token, Ready::IN | Ready::ET),
            _ => Ok(()),
        }
    }

    /// The socket that a guest's endpoint has in that family.
    pub fn find(&self, guest: SocketAddr, family: Family) -> Option<u32> {
        self.by_guest.get(&(guest, family)).copied()
    }

    /// The published socket that leads to port `port` of the guest's and from which the host
    /// reaches `host`.
    pub fn find_published(&self, port: u16, host: SocketAddr) -> Option<u32> {
        let fits = |socket: &Socket| match socket.owner {
            Owner::Published { port: published, listen } => {
                published == port
                    && listen.is_ipv4() == host.is_ipv4()
                    && (listen.is_unspecified() || listen.is_loopback() == host.ip().is_loopback())
            }
            Owner::Guest(_) => false,
        };
        // They are bound before there are any others, and stay.
        let mut published = self.list.iter().take_while(|(_, socket)| socket.is_published());
        published.find(|(_, socket)| fits(socket)).map(|(i, _)| i)
    }

    /// The socket at `i`.
    pub fn get(&mut self, i: u32) -> Option<&mut Socket> {
        self.list.get_mut(i)
    }

    /// The socket of an event, unless that is about a former one.
    pub fn of_token(&mut self, token: Token) -> Option<&mut Socket> {
        self.list.named(token)
    }

    /// Closes a socket.
    pub fn remove(&mut self, i: u32, poll: &Poller) {
        let Some(socket) = self.list.remove(i) else { return };
        let _ = poll.remove(&socket.dgram);
        if let Owner::Guest(guest) = socket.owner {
            self.by_guest.remove(&(guest, socket.dgram.family()));
        }
    }

    /// Indices of all there are.
    pub fn indices(&self) -> impl Iterator<Item = u32> {
        self.list.iter().map(|(i, _)| i)
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.list.len()
    }
}
