//! What the network offers by itself: the router, its resolver, IPv6.

use core::fmt::Arguments;

use minivmm_probe::dns::{self, Without};
use smoltcp::iface::SocketHandle;
use smoltcp::wire::{IpAddress, IpEndpoint};

use super::{Checks, Mac, Maybe, NOT_WANTED, text};
use crate::net::neighbour;
use crate::net::ping::Pinger;
use crate::net::resolve::{self, Silence};
use crate::net::stack::{IPV6_MIN_MTU, Stack};
use crate::report::{State, Value};

/// The name to look up: minivmm's gateway knows it, and that nobody else does tells that they answer.
const DEFAULT_NAME: &str = "gateway.minivmm.internal";
/// How long after the start of the network a router advertisement is still waited for, microseconds.
const ADVERTISEMENT: u64 = 500_000;

/// minivmm's NAT advertises itself where the host has an IPv6 route to the internet, and `ipv6=off` does not forbid it.
const NO_ADVERTISEMENT: &str = "no router advertisement (of minivmm's NAT: the host has no IPv6 route to the internet, or ipv6=off)";

impl Checks<'_> {
    pub(super) fn gateway(&mut self, pinger: &mut Pinger, router: Option<IpAddress>) {
        let Some(router) = router else {
            self.report.absent(&["gateway", "mtu"], format_args!("the lease names no router"));
            return;
        };
        let Some((mac, resolved)) = neighbour::resolve(self.stack, router) else {
            let detail = format_args!("{router} answers no ARP request");
            self.report.check(
                "gateway",
                State::Failed,
                detail,
                &[("address", Value::Text(&router))],
            );
            self.report.absent(&["mtu"], format_args!("the router was not reached"));
            return;
        };
        let mac = Mac(mac.0);
        let samples = pinger.measure(self.stack, router);
        if samples.is_empty() {
            let detail = format_args!("{router} is {mac}, but answers no ping");
            let members = [("address", Value::Text(&router)), ("mac", Value::Text(&mac))];
            self.report.check("gateway", State::Failed, detail, &members);
            self.report.absent(&["mtu"], format_args!("the router was not reached"));
            return;
        }
        let (min, mean) = (samples.min(), samples.mean());
        let state = if samples.len() == 5 { State::Ok } else { State::Failed };
        self.report.check(
            "gateway",
            state,
            format_args!(
                "{router}, {mac}, arp {resolved} us, rtt {min}/{mean} us (min/mean of {})",
                samples.len()
            ),
            &[
                ("address", Value::Text(&router)),
                ("mac", Value::Text(&mac)),
                ("arp_us", Value::Number(resolved)),
                ("rtt_us", Value::Number(min.into())),
                ("rtt_mean_us", Value::Number(mean.into())),
                ("answers", Value::Number(samples.len() as u64)),
            ],
        );
        let mtu = self.stack.nic.mtu;
        let data = usize::from(mtu).saturating_sub(28);
        let full =
            pinger.once(self.stack, router, data).or_else(|| pinger.once(self.stack, router, data));
        let (state, word) =
            if full.is_some() { (State::Ok, "makes") } else { (State::Failed, "does not make") };
        self.report.check(
            "mtu",
            state,
            format_args!("a packet of {mtu} bytes {word} the round trip to the router"),
            &[("mtu", Value::Number(mtu.into())), ("rtt_us", Value::optional(full))],
        );
    }

    pub(super) fn dns(&mut self, udp: SocketHandle) {
        let Some(server) = self.stack.lease.and_then(|lease| lease.dns) else {
            self.report.absent(&["dns"], format_args!("the lease names no resolver"));
            return;
        };
        let asked = self.options.name;
        let name = asked.unwrap_or(DEFAULT_NAME);
        // A resolver beyond the router does not answer this, and need not.
        if self.stack.ipv4().is_some_and(|own| own.contains_addr(&server)) {
            let _ = neighbour::resolve(self.stack, IpAddress::Ipv4(server));
        }
        let answer =
            resolve::lookup(self.stack, udp, IpEndpoint::new(IpAddress::Ipv4(server), 53), name);
        let bad = if asked.is_some() { State::Failed } else { State::Absent };
        let base = [("server", Value::Text(&server)), ("name", Value::Text(&name))];
        let [server_member, name_member] = base;
        match answer {
            Err(Silence::Complete) => {
                let detail = format_args!("no answer from {server} for {name}");
                self.report.check("dns", bad, detail, &base);
            }
            Err(Silence::Told(told)) => {
                self.report.check("dns", bad, format_args!("{server}: {told}"), &base);
            }
            Ok((answer, rtt)) => {
                // A resolver that knows that there is no such name works, unless the name was to be found.
                let state = match answer.code {
                    0 if answer.address.is_some() || asked.is_none() => State::Ok,
                    3 if asked.is_none() => State::Ok,
                    _ => bad,
                };
                let code = dns::code_name(answer.code);
                let reason = Some(answer.reason.as_str()).filter(|reason| !reason.is_empty());
                let members = [
                    server_member,
                    name_member,
                    ("code", Value::Text(&code)),
                    ("address", text(&answer.address)),
                    ("reason", text(&reason)),
                    ("rtt_us", Value::Number(rtt)),
                ];
                let mut say = |detail: Arguments<'_>| {
                    self.report.check("dns", state, detail, &members);
                };
                match answer.address {
                    Some(ip) => say(format_args!("{server}: {name} is {ip}, {rtt} us")),
                    None => say(format_args!("{server}: {name} {}", Without(&answer))),
                }
            }
        }
    }

    /// Waits for an address that a router has advertised; `false` if there is none.
    pub(super) fn has_ipv6(&mut self, started: u64) -> bool {
        let left = (started + ADVERTISEMENT).saturating_sub(self.stack.clock.micros());
        let both = |stack: &mut Stack| stack.ipv6().zip(stack.nic.advertisement());
        self.stack.run(left, both).is_some()
    }

    pub(super) fn ipv6(&mut self, pinger: &mut Pinger, started: u64) {
        if self.options.without.ipv6 {
            self.report.absent(&["ipv6"], format_args!("{NOT_WANTED}"));
            return;
        }
        if self.stack.nic.mtu < IPV6_MIN_MTU {
            self.report.absent(&["ipv6"], format_args!("the MTU is below {IPV6_MIN_MTU}"));
            return;
        }
        let _ = self.has_ipv6(started);
        let found = self.stack.ipv6().zip(self.stack.nic.advertisement());
        let Some((address, ra)) = found else {
            self.report.absent(&["ipv6"], format_args!("{NO_ADVERTISEMENT}"));
            return;
        };
        let _ = neighbour::resolve(self.stack, IpAddress::Ipv6(ra.router));
        let samples = pinger.measure(self.stack, IpAddress::Ipv6(ra.router));
        let (min, mean) = (samples.min(), samples.mean());
        // The router is reached from our link-local address. One in the prefix is reached from that which was advertised.
        let inside = ra.dns.filter(|dns| address.contains_addr(dns)).map(IpAddress::Ipv6);
        let answer = inside.and_then(|dns| {
            let _ = neighbour::resolve(self.stack, dns);
            (0..2).find_map(|_| pinger.once(self.stack, dns, 32))
        });
        let router = ra.router;
        let members = [
            ("address", Value::Text(&address)),
            ("router", Value::Text(&router)),
            ("dns", text(&ra.dns)),
            ("mtu", Value::optional(ra.mtu.map(u64::from))),
            ("lifetime_s", Value::Number(ra.lifetime.into())),
            ("rtt_us", if samples.is_empty() { Value::None } else { Value::Number(min.into()) }),
            ("dns_rtt_us", Value::optional(answer)),
        ];
        let mut result = |state, detail: Arguments<'_>| {
            self.report.check("ipv6", state, detail, &members);
        };
        match inside {
            _ if samples.is_empty() => {
                result(
                    State::Failed,
                    format_args!("{address}, but router {router} answers no ping"),
                );
            }
            Some(dns) if answer.is_none() => {
                result(
                    State::Failed,
                    format_args!("{address}, router {router}, but {dns} answers no ping"),
                );
            }
            _ => {
                let dns = Maybe(ra.dns);
                result(
                    State::Ok,
                    format_args!("{address}, router {router}, dns {dns}, rtt {min}/{mean} us"),
                );
            }
        }
    }
}
