//! The checks of a report, in order.

mod link;
mod outside;
mod peer;
mod router;

use core::fmt::{self, Display};

use minivmm_probe::cmdline::Options;
use smoltcp::wire::IpAddress;

pub use self::link::link;
use crate::mem::Arena;
use crate::net::ping::Pinger;
use crate::net::stack::Stack;
use crate::report::{Report, Value};

const SMALL_BUFFER: usize = 16 << 10;
/// What needs the peer.
const PEER: [&str; 5] = ["udp", "tcp", "latency", "upload", "download"];
/// Why a check is absent that the user does not want.
const NOT_WANTED: &str = "left alone by probe.without";

/// What the checks share.
pub struct Checks<'a> {
    /// The network.
    pub stack: &'a mut Stack,
    /// Memory for sockets.
    pub arena: &'a mut Arena,
    /// Where results go.
    pub report: &'a mut Report,
    /// The command line.
    pub options: &'a Options<'a>,
}

/// A MAC address.
struct Mac([u8; 6]);

impl Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// `None` as a dash.
struct Maybe<T>(Option<T>);

impl<T: Display> Display for Maybe<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(value) => value.fmt(f),
            None => f.write_str("-"),
        }
    }
}

fn text<T: Display>(value: &Option<T>) -> Value<'_> {
    value.as_ref().map_or(Value::None, |value| Value::Text(value))
}

impl Checks<'_> {
    /// Everything after the lease.
    pub fn all(&mut self, ipv4: bool, started: u64) -> Option<()> {
        let udp = self.stack.add_udp(self.arena, SMALL_BUFFER)?;
        let mut pinger = Pinger::new(self.stack, self.arena)?;
        let router = self
            .stack
            .lease
            .map_or_else(|| self.options.ip.and_then(|ip| ip.gateway), |lease| lease.router);
        if ipv4 {
            self.gateway(&mut pinger, router.map(IpAddress::Ipv4));
            self.dns(udp);
        } else {
            self.report.absent(&["gateway", "mtu", "dns"], format_args!("no IPv4 address"));
        }
        let no_peer = if self.options.loopback_down {
            "the host's loopback is down (ip link set lo up)"
        } else {
            "no probe.peer given"
        };
        let options = self.options;
        match options.peer {
            Some(peer) if peer.is_ipv4() && !ipv4 => {
                self.report.absent(&PEER, format_args!("no IPv4 address"));
            }
            Some(peer) if peer.is_ipv6() && !self.has_ipv6(started) => {
                self.report.absent(&PEER, format_args!("no IPv6 address"));
            }
            Some(peer) => self.peer(udp, peer)?,
            None => self.report.absent(&PEER, format_args!("{no_peer}")),
        }
        self.ipv6(&mut pinger, started);
        self.outside(udp);
        self.device();
        Some(())
    }
}
