//! The checks of a report, in order.

use core::fmt::{self, Display};

use minivmm_probe::cmdline::Options;
use minivmm_probe::dns;
use minivmm_probe::stats::{Millis, mbit_per_second};
use smoltcp::iface::SocketHandle;
use smoltcp::wire::{IpAddress, IpEndpoint, Ipv4Cidr};

use crate::mem::Arena;
use crate::net::bulk::{self, Bound, Moved};
use crate::net::neighbour;
use crate::net::ping::Pinger;
use crate::net::resolve;
use crate::net::stack::{IPV6_MIN_MTU, Stack};
use crate::net::tcp::{self, Failure};
use crate::report::{Report, State, Value};
use crate::virtio::feature;
use crate::virtio::net::Nic;

/// Buffer of a bulk transfer.
const BULK_BUFFER: usize = 2 << 20;
const SMALL_BUFFER: usize = 16 << 10;
/// The name to look up: minivmm's gateway knows it, and that nobody else does tells that they answer.
const DEFAULT_NAME: &str = "gateway.minivmm.internal";
/// How long after the start of the network a router advertisement is still waited for, microseconds.
const ADVERTISEMENT: u64 = 500_000;

/// What the checks share.
pub struct Checks<'a, 'o> {
    /// The network.
    pub stack: &'a mut Stack,
    /// Memory for sockets.
    pub arena: &'a mut Arena,
    /// Where results go.
    pub report: &'a mut Report<'o>,
    /// The command line.
    pub options: &'o Options<'o>,
}

/// The names of negotiated features.
struct Features<'a>(&'a Nic);

impl Display for Features<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = [
            (feature::CSUM | feature::GUEST_CSUM, "csum"),
            (feature::HOST_TSO4 | feature::HOST_TSO6, "tso"),
            (feature::GUEST_TSO4 | feature::GUEST_TSO6, "lro"),
            (feature::MRG_RXBUF, "mrg"),
            (feature::EVENT_IDX, "event-idx"),
        ];
        let mut separator = "";
        for (_, name) in names.iter().filter(|(bits, _)| self.0.has(*bits)) {
            write!(f, "{separator}{name}")?;
            separator = " ";
        }
        if separator.is_empty() { f.write_str("no offloads") } else { Ok(()) }
    }
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

/// The NIC itself.
pub fn link(report: &mut Report<'_>, nic: &Nic, micros: u64) {
    let mac = Mac(nic.mac);
    let state = if nic.link { State::Ok } else { State::Failed };
    let down = if nic.link { "" } else { "link is down, " };
    let transport = nic.transport_name();
    let features = Features(nic);
    report.check(
        "link",
        state,
        format_args!("{down}{transport}, {mac}, mtu {}, {features}", nic.mtu),
        &[
            ("transport", Value::Text(&transport)),
            ("mac", Value::Text(&mac)),
            ("mtu", Value::Number(nic.mtu.into())),
            ("up", Value::Bool(nic.link)),
            ("features", Value::Text(&format_args!("{:#x}", nic.features))),
            ("at_us", Value::Number(micros)),
        ],
    );
}

impl Checks<'_, '_> {
    /// Waits for an IPv4 configuration and reports it. `false` if there is none.
    pub fn lease(&mut self) -> bool {
        let start = self.stack.clock.micros();
        let lease = if self.options.without.dhcp {
            None
        } else {
            self.stack.run(u64::from(self.options.wait_ms) * 1000, |stack| stack.lease)
        };
        if let Some(lease) = lease {
            let took = lease.at.saturating_sub(start);
            let o = lease.options;
            let seconds = o.lease.map(u64::from);
            let hostname = Some(o.hostname.as_str()).filter(|name| !name.is_empty());
            let domain = Some(o.domain.as_str()).filter(|name| !name.is_empty());
            self.report.check(
                "lease",
                State::Ok,
                format_args!(
                    "{}, router {}, dns {}, mtu {}, name {}, for {} s, in {}",
                    lease.address,
                    Maybe(lease.router),
                    Maybe(lease.dns),
                    Maybe(o.mtu),
                    Maybe(hostname),
                    Maybe(seconds),
                    Millis(took)
                ),
                &[
                    ("address", Value::Text(&lease.address)),
                    ("router", text(&lease.router)),
                    ("dns", text(&lease.dns)),
                    ("server", Value::Text(&lease.server)),
                    ("mtu", Value::optional(o.mtu.map(u64::from))),
                    ("hostname", text(&hostname)),
                    ("domain", text(&domain)),
                    ("lease_s", Value::optional(seconds)),
                    ("took_us", Value::Number(took)),
                ],
            );
            return true;
        }
        if let Some(ip) = self.options.ip {
            let address = Ipv4Cidr::new(ip.address, ip.prefix);
            self.stack.set_ipv4(Some(address), ip.gateway);
            self.report.check(
                "lease",
                State::Absent,
                format_args!("{address}, router {}, from probe.ip", Maybe(ip.gateway)),
                &[
                    ("address", Value::Text(&address)),
                    ("router", text(&ip.gateway)),
                    ("static", Value::Bool(true)),
                ],
            );
            return true;
        }
        if self.options.without.dhcp {
            self.report.check("lease", State::Absent, format_args!("not asked for"), &[]);
        } else {
            let wait = self.options.wait_ms;
            self.report.check(
                "lease",
                State::Failed,
                format_args!("no DHCP answer in {wait} ms"),
                &[],
            );
        }
        false
    }

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
        }
        match self.options.peer.map(IpEndpoint::from) {
            Some(peer) => self.peer(udp, peer)?,
            None => {
                for name in ["udp", "tcp", "latency", "upload", "download"] {
                    self.report.check(
                        name,
                        State::Absent,
                        format_args!("no probe.peer given"),
                        &[],
                    );
                }
            }
        }
        self.ipv6(&mut pinger, started);
        self.device();
        Some(())
    }

    /// What the rings saw: a frame without its header, or too long to merge, is the device's mistake.
    fn device(&mut self) {
        let nic = &self.stack.nic;
        let ([received, merged, broken, sent], kicks) = (nic.counters(), nic.kicks());
        let state = if broken == 0 { State::Ok } else { State::Failed };
        self.report.check(
            "device",
            state,
            format_args!(
                "{received} frames in ({merged} merged, {broken} broken), {sent} out, {kicks} notifications"
            ),
            &[
                ("rx_frames", Value::Number(received)),
                ("rx_merged", Value::Number(merged)),
                ("rx_broken", Value::Number(broken)),
                ("tx_frames", Value::Number(sent)),
                ("notifications", Value::Number(kicks)),
            ],
        );
    }

    fn gateway(&mut self, pinger: &mut Pinger, router: Option<IpAddress>) {
        let Some(router) = router else {
            for name in ["gateway", "mtu"] {
                self.report.check(
                    name,
                    State::Absent,
                    format_args!("the lease names no router"),
                    &[],
                );
            }
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
            return;
        };
        let mac = Mac(mac.0);
        let samples = pinger.measure(self.stack, router);
        if samples.is_empty() {
            let detail = format_args!("{router} is {mac}, but answers no ping");
            let members = [("address", Value::Text(&router)), ("mac", Value::Text(&mac))];
            self.report.check("gateway", State::Failed, detail, &members);
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

    fn dns(&mut self, udp: SocketHandle) {
        let Some(server) = self.stack.lease.and_then(|lease| lease.dns) else {
            self.report.check(
                "dns",
                State::Absent,
                format_args!("the lease names no resolver"),
                &[],
            );
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
            None => self.report.check(
                "dns",
                bad,
                format_args!("no answer from {server} for {name}"),
                &base,
            ),
            Some((answer, rtt)) => {
                // A resolver that knows that there is no such name works, unless the name was to be found.
                let state = match answer.code {
                    0 if answer.address.is_some() || asked.is_none() => State::Ok,
                    3 if asked.is_none() => State::Ok,
                    _ => bad,
                };
                let code = dns::code_name(answer.code);
                self.report.check(
                    "dns",
                    state,
                    format_args!(
                        "{server}: {name} is {} ({code}), {rtt} us",
                        Maybe(answer.address)
                    ),
                    &[
                        server_member,
                        name_member,
                        ("code", Value::Text(&code)),
                        ("address", text(&answer.address)),
                        ("rtt_us", Value::Number(rtt)),
                    ],
                );
            }
        }
    }

    fn peer(&mut self, udp: SocketHandle, peer: IpEndpoint) -> Option<()> {
        let payload = *b"minivmm-probe udp echo check 01\n";
        let same = |data: &[u8]| (data == payload).then_some(());
        match resolve::exchange(self.stack, udp, peer, &payload, (3, 300_000), same) {
            Some(((), rtt)) => self.report.check(
                "udp",
                State::Ok,
                format_args!("{peer} echoes, {rtt} us"),
                &[("peer", Value::Text(&peer)), ("rtt_us", Value::Number(rtt))],
            ),
            None => self.report.check(
                "udp",
                State::Failed,
                format_args!("no echo from {peer}"),
                &[("peer", Value::Text(&peer))],
            ),
        }

        let socket = self.stack.add_tcp(self.arena, SMALL_BUFFER, SMALL_BUFFER)?;
        let reached = match tcp::echo(self.stack, socket, peer) {
            Ok((connect, echo)) => {
                self.report.check(
                    "tcp",
                    State::Ok,
                    format_args!("{peer}, connect {connect} us, echo {echo} us"),
                    &[
                        ("peer", Value::Text(&peer)),
                        ("connect_us", Value::Number(connect)),
                        ("rtt_us", Value::Number(echo)),
                    ],
                );
                true
            }
            Err(failure) => {
                self.failed("tcp", peer, failure);
                false
            }
        };
        if !reached {
            for name in ["latency", "upload", "download"] {
                self.report.check(
                    name,
                    State::Absent,
                    format_args!("the peer was not reached"),
                    &[],
                );
            }
            return Some(());
        }

        let socket = self.stack.add_tcp(self.arena, SMALL_BUFFER, SMALL_BUFFER)?;
        match tcp::round_trips(self.stack, socket, peer) {
            Ok(mut samples) => {
                let (min, p50, p99) =
                    (samples.min(), samples.percentile(50), samples.percentile(99));
                self.report.check(
                    "latency",
                    State::Ok,
                    format_args!(
                        "{min}/{p50}/{p99} us (min/p50/p99 of {} round trips of a byte)",
                        samples.len()
                    ),
                    &[
                        ("min_us", Value::Number(min.into())),
                        ("p50_us", Value::Number(p50.into())),
                        ("p99_us", Value::Number(p99.into())),
                        ("round_trips", Value::Number(samples.len() as u64)),
                    ],
                );
            }
            Err(failure) => self.failed("latency", peer, failure),
        }
        if self.options.without.bulk {
            return Some(());
        }
        let bound = Bound {
            micros: u64::from(self.options.bulk_ms) * 1000,
            bytes: self.options.bulk_bytes,
        };
        let socket = self.stack.add_tcp(self.arena, SMALL_BUFFER, BULK_BUFFER)?;
        let moved = bulk::upload(self.stack, socket, peer, bound);
        self.bulk("upload", peer, moved);
        let socket = self.stack.add_tcp(self.arena, BULK_BUFFER, SMALL_BUFFER)?;
        let moved = bulk::download(self.stack, socket, peer, bound);
        self.bulk("download", peer, moved);
        Some(())
    }

    fn bulk(&mut self, name: &str, peer: IpEndpoint, moved: Result<Moved, Failure>) {
        match moved {
            Ok(Moved { bytes, micros }) => {
                let rate = mbit_per_second(bytes, micros);
                self.report.check(
                    name,
                    State::Ok,
                    format_args!("{rate} Mbit/s ({} MiB in {} ms)", bytes >> 20, micros / 1000),
                    &[
                        ("bytes", Value::Number(bytes)),
                        ("took_us", Value::Number(micros)),
                        ("mbit_per_s", Value::Number(rate)),
                    ],
                );
            }
            Err(failure) => self.failed(name, peer, failure),
        }
    }

    fn failed(&mut self, name: &str, peer: IpEndpoint, failure: Failure) {
        let reason = failure.text();
        self.report.check(
            name,
            State::Failed,
            format_args!("{peer}: {reason}"),
            &[("peer", Value::Text(&peer)), ("reason", Value::Text(&reason))],
        );
    }

    fn ipv6(&mut self, pinger: &mut Pinger, started: u64) {
        if self.options.without.ipv6 {
            return;
        }
        if self.stack.nic.mtu < IPV6_MIN_MTU {
            self.report.check(
                "ipv6",
                State::Absent,
                format_args!("the MTU is below {IPV6_MIN_MTU}"),
                &[],
            );
            return;
        }
        let left = (started + ADVERTISEMENT).saturating_sub(self.stack.clock.micros());
        let found = self.stack.run(left, |stack| stack.ipv6().zip(stack.nic.advertisement()));
        let Some((address, ra)) = found else {
            self.report.check("ipv6", State::Absent, format_args!("no router advertisement"), &[]);
            return;
        };
        let _ = neighbour::resolve(self.stack, IpAddress::Ipv6(ra.router));
        let samples = pinger.measure(self.stack, IpAddress::Ipv6(ra.router));
        let (min, mean) = (samples.min(), samples.mean());
        let state = if samples.is_empty() { State::Failed } else { State::Ok };
        let router = ra.router;
        let members = [
            ("address", Value::Text(&address)),
            ("router", Value::Text(&router)),
            ("dns", text(&ra.dns)),
            ("mtu", Value::optional(ra.mtu.map(u64::from))),
            ("lifetime_s", Value::Number(ra.lifetime.into())),
            ("rtt_us", if samples.is_empty() { Value::None } else { Value::Number(min.into()) }),
        ];
        if samples.is_empty() {
            let detail = format_args!("{address}, but router {router} answers no ping");
            self.report.check("ipv6", state, detail, &members);
        } else {
            let detail = format_args!(
                "{address}, router {router}, dns {}, rtt {min}/{mean} us",
                Maybe(ra.dns)
            );
            self.report.check("ipv6", state, detail, &members);
        }
    }
}
