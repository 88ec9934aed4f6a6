//! Who has which address.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use crate::addr::MacAddr;
use crate::gateway::config::GatewayConfig;

/// Leases, offers and declined addresses together. A station can ask under any number of names.
const LEASES_MAX: usize = 64;
/// How long an offer is kept for its client.
const OFFER_TIME: Duration = Duration::from_secs(60);
/// How long an address that a client found in use is left alone.
const DECLINE_TIME: Duration = Duration::from_secs(600);

#[derive(Debug, Clone, Copy)]
struct Lease {
    address: Ipv4Addr,
    /// `None`: declined, somebody has it who never asked.
    client: Option<MacAddr>,
    until: Instant,
}

/// The table of leases.
///
/// A client is its link-layer address. Its client identifier, which RFC 2131 §4.2 would prefer,
/// changes between an initramfs, the system it starts and the next one installed, and the guest
/// would lose the address that its published ports lead to.
///
/// What has expired stays until its place is needed, so that a client gets its old address back.
#[derive(Debug)]
pub struct Leases(Vec<Lease>);

impl Leases {
    pub fn new() -> Self {
        Self(Vec::with_capacity(LEASES_MAX))
    }

    /// The address that `client` has or can have, `wanted` if that is free, and keeps it for it
    /// for the time of an offer. `None`: there are none left.
    pub fn offer(
        &mut self,
        config: &GatewayConfig,
        client: MacAddr,
        wanted: Option<Ipv4Addr>,
        now: Instant,
    ) -> Option<Ipv4Addr> {
        let primary = config.guest_mac == Some(client);
        if let Some(lease) = self.0.iter_mut().find(|l| l.client == Some(client)) {
            lease.until = lease.until.max(now + OFFER_TIME);
            return Some(lease.address);
        }
        let first = (primary || config.guest_mac.is_none()).then_some(config.guest4);
        let address = first
            .into_iter()
            .chain(wanted)
            .chain(pool(config))
            .find(|&ip| self.is_free(config, ip, client, now))
            // A guest that declined all of its network still needs an address.
            .or(first.filter(|_| primary))?;
        self.insert(Lease { address, client: Some(client), until: now + OFFER_TIME }, now)
            .then_some(address)
    }

    /// Lets `client` have `address` until then, if it has that offer or lease, or if the address
    /// is free: after a restart the table knows nothing of the leases it gave.
    pub fn bind(
        &mut self,
        config: &GatewayConfig,
        client: MacAddr,
        address: Ipv4Addr,
        now: Instant,
        until: Instant,
    ) -> bool {
        if self.offer(config, client, Some(address), now) != Some(address) {
            return false;
        }
        if let Some(lease) = self.0.iter_mut().find(|l| l.client == Some(client)) {
            lease.until = until;
        }
        true
    }

    /// `client` does not need `address` any more. False if it did not have it.
    pub fn release(&mut self, client: MacAddr, address: Ipv4Addr, now: Instant) -> bool {
        let lease = self.find(client, address);
        lease.map(|lease| lease.until = now).is_some()
    }

    /// When the next lease or offer ends that has not ended by `since`.
    pub fn next_end(&self, since: Instant) -> Option<Instant> {
        self.0.iter().map(|l| l.until).filter(|until| *until > since).min()
    }

    /// The addresses whose leases or offers have ended after `since`, and by `now`.
    pub fn ended(&self, since: Instant, now: Instant) -> impl Iterator<Item = Ipv4Addr> {
        let given = self.0.iter().filter(|l| l.client.is_some());
        given.filter(move |l| l.until > since && l.until <= now).map(|l| l.address)
    }

    /// `client` was given `address`, but found it in use.
    pub fn decline(&mut self, client: MacAddr, address: Ipv4Addr, now: Instant) {
        if let Some(lease) = self.find(client, address) {
            lease.client = None;
            lease.until = now + DECLINE_TIME;
        }
    }

    /// `client` took another server's offer.
    pub fn forget_offer(&mut self, client: MacAddr, now: Instant) {
        self.0.retain(|l| l.client != Some(client) || l.until > now + OFFER_TIME);
    }

    fn find(&mut self, client: MacAddr, address: Ipv4Addr) -> Option<&mut Lease> {
        self.0.iter_mut().find(|l| l.client == Some(client) && l.address == address)
    }

    fn is_free(&self, config: &GatewayConfig, ip: Ipv4Addr, client: MacAddr, now: Instant) -> bool {
        let reserved = ip == config.guest4 && config.guest_mac.is_some_and(|mac| mac != client);
        config.is_guest4(ip)
            && !reserved
            && !self.0.iter().any(|l| l.address == ip && l.until > now)
    }

    /// False when the table is full of leases that have not expired.
    fn insert(&mut self, lease: Lease, now: Instant) -> bool {
        self.0.retain(|l| l.address != lease.address);
        if self.0.len() >= LEASES_MAX {
            let oldest = (0..self.0.len()).min_by_key(|&i| self.0[i].until);
            match oldest.filter(|&i| self.0[i].until <= now) {
                Some(i) => {
                    self.0.swap_remove(i);
                }
                None => return false,
            }
        }
        self.0.push(lease);
        true
    }
}

/// The addresses to give, in order, as many as can be needed to find a free one.
fn pool(config: &GatewayConfig) -> impl Iterator<Item = Ipv4Addr> {
    let net = config.subnet4;
    let first = u32::from(net.network()) + 1;
    // A subnet has two hosts at least; a checked configuration has no longer prefix than /30.
    let hosts = u32::from(net.broadcast()).saturating_sub(first).max(1);
    let start = u32::from(config.guest4).saturating_sub(first);
    (0..hosts.min(LEASES_MAX as u32 + 3)).map(move |i| Ipv4Addr::from(first + (start + i) % hosts))
}
