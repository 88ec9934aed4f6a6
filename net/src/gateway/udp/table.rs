//! The table of flows: who of the guest's speaks with whom through which socket, and since when.
//!
//! A flow is a guest's endpoint and a remote one. The flows of one endpoint share a socket
//! (endpoint-independent mapping, RFC 4787 §4.1), which goes with its last flow. Flows are kept
//! by age in one list per lifetime, so timers cost nothing per datagram.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use crate::gateway::source;
use crate::slab::Slab;

/// How long a flow lives without a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// The remote has begun it, and the guest has not answered yet.
    Inbound,
    /// The guest has answered a client of a published port.
    Answered,
    /// The guest has spoken, and nobody has answered yet.
    OneWay,
    /// A question to a name server: one datagram each way.
    Dns,
    /// Both have spoken.
    TwoWay,
}

const CLASSES: usize = 5;

impl Class {
    /// RFC 4787 §4.3: at least two minutes for what is in use; shorter for well-known ports.
    pub const fn lifetime(self) -> Duration {
        Duration::from_secs(match self {
            Self::Inbound => 30,
            Self::OneWay | Self::Answered => 120,
            Self::Dns => 15,
            Self::TwoWay => 180,
        })
    }
}

/// A flow.
#[derive(Debug, Clone)]
pub struct UdpFlow {
    /// The socket's index.
    pub socket: u32,
    /// The guest's endpoint.
    pub guest: SocketAddr,
    /// The remote one as the guest sees it.
    pub remote: SocketAddr,
    /// The remote one as the host sees it.
    pub host: SocketAddr,
    /// The host's address that the remote one spoke to.
    pub local: Option<IpAddr>,
    class: Class,
    last: Instant,
    newer: u32,
    older: u32,
}

impl UdpFlow {
    /// A flow that begins now.
    pub fn new(
        socket: u32,
        guest: SocketAddr,
        remote: SocketAddr,
        host: SocketAddr,
        class: Class,
        now: Instant,
    ) -> Self {
        let (newer, older) = (NONE, NONE);
        Self { socket, guest, remote, host, local: None, class, last: now, newer, older }
    }

    /// When it expires.
    fn due(&self) -> Instant {
        self.last + self.class.lifetime()
    }

    /// True where the guest sees the remote endpoint as what it is; then others at its address
    /// may answer too (address-dependent filtering, RFC 4787 §5).
    pub fn is_plain(&self) -> bool {
        self.remote == self.host
    }
}

const NONE: u32 = u32::MAX;

/// Flows of one class by age.
#[derive(Debug, Clone, Copy)]
struct List {
    oldest: u32,
    newest: u32,
}

/// All flows.
#[derive(Debug)]
pub struct FlowTable {
    flows: Slab<UdpFlow>,
    limit: usize,
    lists: [List; CLASSES],
    /// By the guest's endpoint and the remote one as the guest sees it.
    by_guest: HashMap<(SocketAddr, SocketAddr), u32>,
    /// By socket and the remote endpoint as the host sees it.
    by_host: HashMap<(u32, SocketAddr), u32>,
    /// How many plain flows a socket has with an address.
    by_address: HashMap<(u32, IpAddr), u32>,
}

impl FlowTable {
    /// A table for `limit` flows.
    pub fn new(limit: usize) -> Self {
        Self {
            flows: Slab::new(source::UDP),
            limit: limit.clamp(1, NONE as usize - 1),
            lists: [List { oldest: NONE, newest: NONE }; CLASSES],
            by_guest: HashMap::new(),
            by_host: HashMap::new(),
            by_address: HashMap::new(),
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.by_guest.len()
    }

    /// True when the next one needs another to go.
    pub fn is_full(&self) -> bool {
        self.len() >= self.limit
    }

    /// The flow at `i`.
    pub fn get(&self, i: u32) -> Option<&UdpFlow> {
        self.flows.get(i)
    }

    /// The flow that the guest means.
    pub fn find(&self, guest: SocketAddr, remote: SocketAddr) -> Option<u32> {
        self.by_guest.get(&(guest, remote)).copied()
    }

    /// The flow that a datagram at a socket belongs to.
    pub fn find_host(&self, socket: u32, from: SocketAddr) -> Option<u32> {
        self.by_host.get(&(socket, from)).copied()
    }

    /// True when the guest has sent something to that address through the socket.
    pub fn knows_address(&self, socket: u32, ip: IpAddr) -> bool {
        self.by_address.contains_key(&(socket, ip))
    }

    /// Adds a flow. The table isn't full and has none for these endpoints.
    pub fn insert(&mut self, flow: UdpFlow) -> u32 {
        let UdpFlow { socket, guest, remote, host, class, .. } = flow;
        let plain = flow.is_plain();
        let i = self.flows.insert(flow);
        self.by_guest.insert((guest, remote), i);
        // Two remote endpoints of the guest's may be one of the host's: the younger is answered.
        self.by_host.insert((socket, host), i);
        if plain {
            *self.by_address.entry((socket, host.ip())).or_default() += 1;
        }
        self.append(i, class);
        i
    }

    /// A datagram passed, and the flow is of this class from here on.
    pub fn touch(&mut self, i: u32, class: Class, now: Instant) {
        let Some(old) = self.flows.get(i).map(|flow| flow.class) else { return };
        if old != class || self.lists[class as usize].newest != i {
            self.unlink(i);
            self.append(i, class);
        }
        if let Some(flow) = self.flows.get_mut(i) {
            flow.last = now;
        }
    }

    /// The guest has sent something, by a `published` port or by a socket of its own.
    pub fn sent(&mut self, i: u32, published: bool, now: Instant) {
        let class = match self.flows.get(i).map(|flow| flow.class) {
            Some(Class::Inbound) if published => Class::Answered,
            Some(Class::Inbound) => Class::TwoWay,
            Some(class) => class,
            None => return,
        };
        self.touch(i, class, now);
    }

    /// The remote endpoint has sent something.
    pub fn received(&mut self, i: u32, now: Instant) {
        let class = match self.flows.get(i).map(|flow| flow.class) {
            Some(Class::OneWay) => Class::TwoWay,
            Some(class) => class,
            None => return,
        };
        self.touch(i, class, now);
    }

    /// The address that the remote endpoint of `i` speaks to.
    pub fn set_local(&mut self, i: u32, local: Option<IpAddr>) {
        if let Some(flow) = self.flows.get_mut(i) {
            flow.local = local;
        }
    }

    /// Takes a flow out.
    pub fn remove(&mut self, i: u32) -> Option<UdpFlow> {
        self.unlink(i);
        let flow = self.flows.remove(i)?;
        self.by_guest.remove(&(flow.guest, flow.remote));
        if self.by_host.get(&(flow.socket, flow.host)) == Some(&i) {
            self.by_host.remove(&(flow.socket, flow.host));
        }
        if flow.is_plain() {
            let key = (flow.socket, flow.host.ip());
            match self.by_address.get_mut(&key) {
                Some(n) if *n > 1 => *n -= 1,
                _ => {
                    self.by_address.remove(&key);
                }
            }
        }
        Some(flow)
    }

    /// The flow that goes when there is no room. What strangers have begun goes before all else,
    /// so that they can't push the guest's own flows out; what was answered first, for the next
    /// datagram begins it anew, while the answer to a request needs its flow.
    pub fn victim(&self) -> Option<u32> {
        let mut begun = [Class::Answered, Class::Inbound].iter();
        if let Some(class) = begun.find(|class| self.lists[**class as usize].oldest != NONE) {
            return Some(self.lists[*class as usize].oldest);
        }
        self.oldest().min_by_key(|(_, due)| *due).map(|(i, _)| i)
    }

    /// Of the sockets that `which` takes, the one whose flows would all have expired first. It
    /// looks at each flow: for a want that is rare.
    pub fn idlest(&self, mut which: impl FnMut(u32) -> bool) -> Option<u32> {
        let mut last = HashMap::<u32, Instant>::new();
        for (_, flow) in self.flows.iter().filter(|(_, flow)| which(flow.socket)) {
            let due = flow.due();
            last.entry(flow.socket).and_modify(|last| *last = due.max(*last)).or_insert(due);
        }
        last.into_iter().min_by_key(|(_, due)| *due).map(|(socket, _)| socket)
    }

    /// The flows of a socket.
    pub fn of_socket(&self, socket: u32) -> Vec<u32> {
        self.flows.iter().filter(|(_, flow)| flow.socket == socket).map(|(i, _)| i).collect()
    }

    /// The oldest flow of each class, and when it expires.
    fn oldest(&self) -> impl Iterator<Item = (u32, Instant)> {
        self.lists.iter().filter_map(|l| Some((l.oldest, self.flows.get(l.oldest)?.due())))
    }

    /// When the next flow expires.
    pub fn deadline(&self) -> Option<Instant> {
        self.oldest().map(|(_, due)| due).min()
    }

    /// A flow that has expired.
    pub fn expired(&self, now: Instant) -> Option<u32> {
        self.oldest().find(|(_, due)| *due <= now).map(|(i, _)| i)
    }

    /// Any flow.
    pub fn any(&self) -> Option<u32> {
        self.oldest().next().map(|(i, _)| i)
    }

    fn append(&mut self, i: u32, class: Class) {
        let newest = std::mem::replace(&mut self.lists[class as usize].newest, i);
        if let Some(flow) = self.flows.get_mut(i) {
            flow.class = class;
            (flow.older, flow.newer) = (newest, NONE);
        }
        match self.flows.get_mut(newest) {
            Some(newest) => newest.newer = i,
            None => self.lists[class as usize].oldest = i,
        }
    }

    fn unlink(&mut self, i: u32) {
        let Some(&UdpFlow { class, older, newer, .. }) = self.flows.get(i) else { return };
        match self.flows.get_mut(older) {
            Some(older) => older.newer = newer,
            None => self.lists[class as usize].oldest = newer,
        }
        match self.flows.get_mut(newer) {
            Some(newer) => newer.older = older,
            None => self.lists[class as usize].newest = older,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn flow(port: u16, class: Class, now: Instant) -> UdpFlow {
        let guest = SocketAddr::new([10, 0, 2, 2].into(), port);
        let remote = SocketAddr::new([192, 0, 2, 1].into(), 9);
        UdpFlow::new(0, guest, remote, remote, class, now)
    }

    #[test]
    fn strangers_go_first_then_what_expires_first() {
        let now = Instant::now();
        let mut table = FlowTable::new(8);
        let later = now + Duration::from_secs(5);
        let both = table.insert(flow(1, Class::TwoWay, now));
        let dns = table.insert(flow(2, Class::Dns, later));
        let first = table.insert(flow(3, Class::Inbound, now));
        let second = table.insert(flow(4, Class::Inbound, later));
        let answered = table.insert(flow(5, Class::Answered, later));
        for stranger in [answered, first, second] {
            assert_eq!(table.victim(), Some(stranger));
            table.remove(stranger);
        }
        assert_eq!(table.victim(), Some(dns));
        table.remove(dns);
        assert_eq!(table.victim(), Some(both));
    }

    proptest! {
        /// Against a plain list: the same flows live, and each expires when it should.
        #[test]
        fn flows_live_as_long_as_they_should(steps in prop::collection::vec((0u16..12, 0u8..5, any::<bool>(), 0u64..40), 0..200)) {
            let start = Instant::now();
            let mut now = start;
            let mut table = FlowTable::new(100);
            let mut model: Vec<(u16, Class, Instant)> = Vec::new();
            for (port, what, published, seconds) in steps {
                now += Duration::from_secs(seconds);
                while let Some(i) = table.expired(now) {
                    table.remove(i);
                }
                model.retain(|(_, class, last)| *last + class.lifetime() > now);
                let guest = flow(port, Class::OneWay, now).guest;
                let found = table.find(guest, flow(0, Class::OneWay, now).remote);
                let known = model.iter().position(|f| f.0 == port);
                prop_assert_eq!(found.is_some(), known.is_some());
                match (found, known, what) {
                    (Some(i), Some(k), 0) => {
                        table.remove(i);
                        model.remove(k);
                    }
                    (Some(i), Some(k), 1) => {
                        table.sent(i, published, now);
                        let class = match (model[k].1, published) {
                            (Class::Inbound, true) => Class::Answered,
                            (Class::Inbound, false) => Class::TwoWay,
                            (class, _) => class,
                        };
                        model[k] = (port, class, now);
                    }
                    (Some(i), Some(k), _) => {
                        table.received(i, now);
                        let class = if model[k].1 == Class::OneWay { Class::TwoWay } else { model[k].1 };
                        model[k] = (port, class, now);
                    }
                    (_, _, n) => {
                        let class = [Class::Inbound, Class::Answered, Class::OneWay, Class::Dns, Class::TwoWay];
                        let class = class[usize::from(n)];
                        table.insert(flow(port, class, now));
                        model.push((port, class, now));
                    }
                }
                prop_assert_eq!(table.len(), model.len());
                prop_assert_eq!(table.deadline(), model.iter().map(|f| f.2 + f.1.lifetime()).min());
            }
            while let Some(i) = table.any() {
                table.remove(i);
            }
            prop_assert!(table.by_host.is_empty() && table.by_address.is_empty());
        }
    }
}
