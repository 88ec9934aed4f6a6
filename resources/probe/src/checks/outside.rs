//! What is beyond the gateway, without asking anybody there: the host's first router, and the host's resolvers.

use core::fmt::{self, Display};

use minivmm_probe::dns::{Answer, Without};
use minivmm_probe::icmp::{Told, Why};
use smoltcp::iface::SocketHandle;
use smoltcp::wire::{IpAddress, IpEndpoint};

use super::{Checks, text};
use crate::net::resolve::{self, Silence};
use crate::report::{State, Value};

/// Resolvers know that it does not exist, and need nobody for it (RFC 6761 §6.4).
const NAME: &str = "minivmm-probe.invalid";
/// How long a router may take to answer, microseconds.
const ANSWER: u64 = 1_000_000;
/// The same where something is wrong: longer than the host takes to find that its router is dead.
const DEAD: u64 = 4_000_000;
/// Neighbours are given up no earlier; a route says no at once.
const NEIGHBOUR: u64 = 500_000;

/// What became of a datagram that was to end at the host's first router.
#[derive(Clone, Copy)]
enum Way {
    /// We have no address to send from.
    NoAddress,
    /// Somebody said something.
    Told(Told),
    /// Nobody said anything.
    Silent,
}

impl Way {
    fn leads_out(self) -> bool {
        matches!(self, Self::Told(Told { refusal, gateway: false, .. })
            if matches!(refusal.why, Why::HopLimit | Why::Port))
    }

    /// What stands in JSON for it.
    fn router(self) -> Option<IpAddress> {
        match self {
            Self::Told(told) if self.leads_out() => Some(told.refusal.from.into()),
            _ => None,
        }
    }
}

impl Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let told = match self {
            Self::NoAddress => return f.write_str("no address to go out from"),
            Self::Silent => return f.write_str("the host's router says nothing"),
            Self::Told(told) => told,
        };
        if self.leads_out() {
            return write!(f, "{} routes on", told.refusal.from);
        }
        match told.refusal.why {
            // The host says it as the gateway, or in the name of an address of its own.
            Why::Host if told.after >= NEIGHBOUR => {
                write!(f, "the host's router does not answer ({told})")
            }
            _ if !told.gateway => told.fmt(f),
            Why::Network => f.write_str("the host has no route to the internet"),
            Why::Host => f.write_str("the host's route to the internet is an unreachable one"),
            Why::Prohibited => {
                f.write_str("a firewall or a route of the host prohibits the internet")
            }
            _ => told.fmt(f),
        }
    }
}

impl Checks<'_> {
    /// Absent unless it is expected: a machine without internet is none that is broken.
    pub(super) fn outside(&mut self, udp: SocketHandle) {
        let outside = self.options.outside;
        if (outside.ipv4, outside.ipv6) == (None, None) {
            self.report.absent(&["outside"], format_args!("no probe.outside given"));
            return;
        }
        let server = self.stack.lease.and_then(|lease| lease.dns);
        let names = server.map(|server| {
            let server = IpEndpoint::new(IpAddress::Ipv4(server), 53);
            resolve::lookup(self.stack, udp, server, NAME)
        });
        let patience = if resolved(names.as_ref()) { ANSWER } else { DEAD };
        let far4 = outside.ipv4.filter(|_| self.stack.ipv4().is_some()).map(IpAddress::Ipv4);
        let far6 = outside.ipv6.filter(|_| self.stack.ipv6().is_some()).map(IpAddress::Ipv6);
        let mut way = Way::NoAddress;
        for far in [far4, far6].into_iter().flatten() {
            let told = resolve::beyond(self.stack, udp, far, patience);
            let this = told.map_or(Way::Silent, Way::Told);
            if this.leads_out() || matches!(way, Way::NoAddress) {
                way = this;
            }
            if way.leads_out() {
                break;
            }
        }
        self.say_outside(way, names.as_ref());
    }

    fn say_outside(&mut self, way: Way, names: Option<&Result<(Answer, u64), Silence>>) {
        let state = if way.leads_out() && resolved(names) { State::Ok } else { State::Absent };
        let rtt = names.and_then(|names| names.as_ref().ok()).map(|(_, rtt)| *rtt);
        let router = way.router();
        let members = [
            ("router", text(&router)),
            ("dns_rtt_us", Value::optional(rtt.filter(|_| resolved(names)))),
        ];
        let mut say = |detail: fmt::Arguments<'_>| {
            self.report.check("outside", state, detail, &members);
        };
        match names {
            None => say(format_args!("{way}; the lease names no resolver")),
            Some(Ok((_, rtt))) if resolved(names) => {
                say(format_args!("{way}; the host's resolver answers, {rtt} us"));
            }
            Some(Ok((answer, _))) if !answer.reason.as_str().is_empty() => {
                say(format_args!("{way}; {}", answer.reason.as_str()));
            }
            Some(Ok((answer, _))) => say(format_args!("{way}; {NAME} {}", Without(answer))),
            Some(Err(Silence::Told(told))) => say(format_args!("{way}; resolver: {told}")),
            Some(Err(Silence::Complete)) => say(format_args!("{way}; the resolver is silent")),
        }
    }
}

/// Whether a resolver has done its work.
fn resolved(names: Option<&Result<(Answer, u64), Silence>>) -> bool {
    matches!(names, Some(Ok((Answer { code: 0 | 3, .. }, _))))
}
