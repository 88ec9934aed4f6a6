//! The NIC itself, and the address it gets.

use core::fmt::{self, Display};

use minivmm_probe::stats::Millis;
use smoltcp::wire::Ipv4Cidr;

use super::{Checks, Mac, Maybe, NOT_WANTED, text};
use crate::report::{Report, State, Value};
use crate::virtio::feature;
use crate::virtio::net::Nic;

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
/// The NIC itself.
pub fn link(report: &mut Report, nic: &Nic, micros: u64) {
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

impl Checks<'_> {
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
            self.report.absent(&["lease"], format_args!("{NOT_WANTED}"));
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
    /// What the rings saw: a frame without its header, too long to merge, or with a wrong checksum that the device neither
    /// left open nor vouched for, is a mistake of its side. Where an address was to be had, no frame at all is one too.
    pub(super) fn device(&mut self) {
        let nic = &self.stack.nic;
        let ([received, merged, broken, bad, sent], kicks) = (nic.counters(), nic.kicks());
        let addressed = !self.options.without.dhcp || self.options.ip.is_some();
        let state = match received {
            _ if broken > 0 || bad > 0 => State::Failed,
            0 if addressed => State::Failed,
            0 => State::Absent,
            _ => State::Ok,
        };
        self.report.check(
            "device",
            state,
            format_args!(
                "{received} frames in ({merged} merged, {broken} broken, {bad} bad checksums), {sent} out, {kicks} notifications"
            ),
            &[
                ("rx_frames", Value::Number(received)),
                ("rx_merged", Value::Number(merged)),
                ("rx_broken", Value::Number(broken)),
                ("rx_bad_checksums", Value::Number(bad)),
                ("tx_frames", Value::Number(sent)),
                ("notifications", Value::Number(kicks)),
            ],
        );
    }
}
