//! The names that the gateway itself knows: those below `minivmm.internal`.
//!
//! `host` stands for the host's loopback and exists where the guest may reach that; `gateway`
//! always exists, and its addresses lead back to it.

use std::fmt::Write;
use std::net::IpAddr;

use super::message::{AUTHORITATIVE, CLASS_IN, Query, Rcode, Response, rtype};
use crate::gateway::context::Shared;
use crate::wire::names;

const ZONE: &str = "minivmm.internal";
/// Seconds that an answer may be kept. What it says changes only with the configuration.
const TTL: u32 = 60;

/// The answer to `query` if it is about a name of ours.
pub fn answer(shared: &Shared, query: &Query<'_>) -> Option<Vec<u8>> {
    if !matches!(query.qclass(), CLASS_IN | rtype::ANY) {
        return None;
    }
    let config = &shared.config;
    if query.qtype() == rtype::PTR {
        let ours = [IpAddr::V4(config.gateway4), IpAddr::V6(config.gateway6)]
            .into_iter()
            .any(|ip| query.name.eq_ignore_ascii_case(&names::emit(&reverse(ip))));
        return ours.then(|| {
            let mut response = Response::new(query, Rcode::NoError);
            response.flag(AUTHORITATIVE);
            response.answer(rtype::PTR, TTL, &names::emit(&format!("gateway.{ZONE}")));
            response.finish()
        });
    }
    let label = label_in_zone(query.name)?;
    let exists = label.is_empty()
        || label.eq_ignore_ascii_case(b"\x07gateway")
        || config.host_access && label.eq_ignore_ascii_case(b"\x04host");
    let code = if exists { Rcode::NoError } else { Rcode::NxDomain };
    let mut response = Response::new(query, code);
    response.flag(AUTHORITATIVE);
    if exists && !label.is_empty() {
        match query.qtype() {
            rtype::A => response.answer(rtype::A, TTL, &config.gateway4.octets()),
            rtype::AAAA if shared.ipv6_offered() => {
                response.answer(rtype::AAAA, TTL, &config.gateway6.octets());
            }
            _ => {}
        }
    }
    Some(response.finish())
}

/// What of a name in wire form stands before our zone.
fn label_in_zone(name: &[u8]) -> Option<&[u8]> {
    let zone = names::emit(ZONE);
    let at = name.len().checked_sub(zone.len())?;
    // The zone must begin where a label does.
    let mut start = 0;
    while start < at {
        start += 1 + usize::from(name[start]);
    }
    (start == at && name[at..].eq_ignore_ascii_case(&zone)).then(|| &name[..at])
}

/// The name of an address in the reverse tree (RFC 1035 §3.5, RFC 3596 §2.5).
fn reverse(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(ip) => {
            let [a, b, c, d] = ip.octets();
            format!("{d}.{c}.{b}.{a}.in-addr.arpa")
        }
        IpAddr::V6(ip) => {
            let mut text = String::with_capacity(72);
            for byte in ip.octets().iter().rev() {
                let _ = write!(text, "{:x}.{:x}.", byte & 0xf, byte >> 4);
            }
            text + "ip6.arpa"
        }
    }
}
