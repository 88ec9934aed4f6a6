//! What the gateway's protocols share, and what each may use while it handles an event.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};

use super::config::{GatewayConfig, Ipv6Mode, MTU_MIN6};
use super::limiter::Limiter;
use super::link::Link;
use super::packet::Packet;
use super::stand_ins::StandIns;
use crate::frame::TxOutcome;
use crate::host::reach::Reach;
use crate::host::resolvers::Resolvers;
use crate::port::Io;
use crate::stats::DropReason;
use crate::sys::is_exhausted;

/// What all protocols of a gateway share.
#[derive(Debug)]
pub struct Shared {
    /// What it was told.
    pub config: GatewayConfig,
    /// Who is where on the link.
    pub link: Link,
    /// The host's resolvers.
    pub resolvers: Resolvers,
    /// What the host has routes to.
    pub reach: Reach,
    /// How many ICMP errors the guest may still get.
    pub icmp_errors: Limiter,
    /// Ports that stand in for those of clients of published ports.
    pub stand_ins: StandIns,
    /// It was said that there are no descriptors left.
    exhausted: bool,
}

impl Shared {
    /// What is shared before anything has happened.
    pub fn new(config: GatewayConfig) -> Self {
        let link = Link::new(config.mac, config.guest_mac);
        let resolvers = Resolvers::new(&config.resolv_conf);
        let (reach, icmp_errors) = (Reach::default(), Limiter::default());
        let stand_ins = StandIns::default();
        Self { config, link, resolvers, reach, icmp_errors, stand_ins, exhausted: false }
    }

    /// Says, once, that a socket could not be had for want of descriptors, where that is why.
    pub fn no_socket(&mut self, e: &io::Error) {
        if is_exhausted(e) && !std::mem::replace(&mut self.exhausted, true) {
            tracing::warn!(
                "no socket for the guest: {e}; idle flows go for new ones (allow more open files: \
                 {}, or fewer flows: --net nat,max-flows=N)",
                if e.raw_os_error() == Some(libc::ENFILE) {
                    "sysctl fs.file-max"
                } else {
                    "ulimit -n"
                }
            );
        }
    }

    /// True while the guest is offered IPv6.
    pub fn ipv6_offered(&self) -> bool {
        self.config.mtu >= MTU_MIN6
            && match self.config.ipv6 {
                Ipv6Mode::On => true,
                Ipv6Mode::Off => false,
                Ipv6Mode::Auto => self.reach.ipv6,
            }
    }

    /// The host has routes to `reach` now. True if the guest is offered something else by that.
    pub fn set_reach(&mut self, reach: Reach) -> bool {
        let before = self.ipv6_offered();
        if self.reach != reach {
            tracing::info!(ipv6 = reach.ipv6, "the host's routes have changed");
            self.reach = reach;
        }
        self.ipv6_offered() != before
    }

    /// Where published ports lead over IPv4: to the guest's address by DHCP, as long as it has that,
    /// or to the one that it has given itself instead.
    pub fn guest4(&self) -> Ipv4Addr {
        let lease = self.config.guest4;
        match self.link.guest4() {
            Some(other) if !self.link.has_seen(lease.into()) => other,
            _ => lease,
        }
    }

    /// Where published ports lead over IPv6, while the guest is offered that and has an address.
    pub fn guest6(&self) -> Option<Ipv6Addr> {
        self.link.guest6().filter(|_| self.ipv6_offered())
    }
}

/// What a protocol may use while it handles an event.
#[derive(Debug)]
pub struct Ctx<'a, 'b> {
    /// The worker's side: time, the guest's receive ring, polling, counters.
    pub io: &'a mut Io<'b>,
    /// The gateway's side.
    pub shared: &'a mut Shared,
}

impl Ctx<'_, '_> {
    /// Learns who sent `packet`.
    ///
    /// # Errors
    /// [`DropReason::BadSource`]: a guest may speak with addresses of its own link only.
    pub fn admit(&mut self, packet: &Packet<'_>) -> Result<(), DropReason> {
        if !self.shared.config.is_guest(packet.src) {
            return Err(DropReason::BadSource);
        }
        self.shared.link.learn(packet.src, packet.src_mac);
        Ok(())
    }
}

/// What became of a packet: `Ok` is handled, or to be offered again later.
pub type Handled = Result<TxOutcome, DropReason>;
