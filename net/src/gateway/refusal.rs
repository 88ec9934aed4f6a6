//! What an error of the host's means: to the guest, and to us.
//!
//! The host's kernel refuses what the guest wants to send in the words of `errno(3)`. The guest
//! hears what a router would have told it in the host's place, for its own stack knows what to do
//! with that: Linux ends a `connect` at once with the error that the ICMP message stands for, and
//! hands it to a UDP socket or to `ping`. Where a router would have dropped the packet in silence,
//! so do we: the guest's stack tries again. There is this table and no other, for UDP, echo and TCP
//! alike.

use std::io;

use super::context::Ctx;
use super::icmp::{self, Why};
use super::packet::Packet;
use super::target::Destination;
use crate::stats::DropReason;

/// Why a packet did not go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal {
    /// What the guest is told; `None`: a router says nothing, and TCP has its reset.
    pub why: Option<Why>,
    /// What is counted.
    pub reason: DropReason,
}

impl Refusal {
    const fn told(why: Why, reason: DropReason) -> Self {
        Self { why: Some(why), reason }
    }

    const fn untold(reason: DropReason) -> Self {
        Self { why: None, reason }
    }

    /// What `error` of `sendmsg(2)` or `connect(2)` means. `mtu` is the path's.
    pub fn of(error: &io::Error, mtu: u32) -> Self {
        match error.raw_os_error().unwrap_or(0) {
            // A queue is full, or memory short, for now. A router drops (RFC 1812 §4.3.3.3: source
            // quench should not be sent), and TCP and others send again.
            libc::EAGAIN | libc::ENOBUFS | libc::ENOMEM => Self::untold(DropReason::SendBufferFull),
            // ip_forward() and ip6_forward(): fragmentation needed, packet too big.
            libc::EMSGSIZE => Self::told(Why::TooBig(mtu), DropReason::TooBig),
            // ip_error(), no route: ICMP_NET_UNREACH, ICMPV6_NOROUTE. An interface that is down has
            // no routes; a route without an address of the host's to send from, or without a port
            // left there, is none either. Programs with several addresses try the next at once.
            // A blackhole route (EINVAL) would drop packets in silence; to a connection that looks like
            // a network that is lost, and a reset like a peer that refuses.
            libc::ENETUNREACH | libc::ENETDOWN | libc::EADDRNOTAVAIL | libc::EINVAL => {
                Self::told(Why::Network, DropReason::NoRoute)
            }
            // An unreachable route, a neighbor that does not answer, or nobody at the other end
            // within the host's own patience: ICMP_HOST_UNREACH, ICMPV6_ADDR_UNREACH, as
            // ipv4_link_failure() and ndisc_error_report() say. The last two are ICMP's own words
            // for it (host unknown, host isolated: RFC 1122 §3.2.2.1), to be passed on.
            libc::EHOSTUNREACH | libc::ETIMEDOUT | libc::EHOSTDOWN | libc::ENONET => {
                Self::told(Why::Host, DropReason::NoRoute)
            }
            // A prohibit route, a rule of the host's firewall, or a broadcast address of one of its
            // networks: ICMP_PKT_FILTERED, ICMPV6_ADM_PROHIBITED.
            libc::EACCES | libc::EPERM => {
                Self::told(Why::Prohibited, DropReason::DestinationForbidden)
            }
            // The host has no descriptor, or not that family at all.
            libc::EMFILE | libc::ENFILE => Self::told(Why::Prohibited, DropReason::SocketFailed),
            libc::EAFNOSUPPORT | libc::EPROTONOSUPPORT => {
                Self::told(Why::Network, DropReason::SocketFailed)
            }
            // Nothing that a router could say: of TCP the peer's own refusal, else a mistake.
            _ => Self::untold(DropReason::SendFailed),
        }
    }

    /// What `error` of `socket(2)` and of what makes one usable means: it has none left, does not
    /// allow it, or does not have that family at all. Nobody but us can do anything about it, and
    /// the guest does better to know.
    pub fn of_socket(error: &io::Error) -> Self {
        let why = match error.raw_os_error() {
            Some(libc::EAFNOSUPPORT | libc::EPROTONOSUPPORT) => Why::Network,
            _ => Why::Prohibited,
        };
        Self::told(why, DropReason::SocketFailed)
    }

    /// What it means that the guest may not go to `to`, for `reason`: of a datagram or an echo
    /// request, for a segment is answered by a reset.
    pub fn of_target(reason: DropReason, to: Destination) -> Self {
        let why = match (reason, to) {
            (DropReason::NoRoute, _) => Why::Network,
            // The gateway is there, but has no such service.
            (_, Destination::Gateway) => Why::Port,
            _ => Why::Prohibited,
        };
        Self::told(why, reason)
    }

    /// True where the packet may well go if it is sent again.
    pub fn is_passing(&self) -> bool {
        self.reason == DropReason::SendBufferFull
    }

    /// Tells the guest, whose `packet` it is.
    pub fn tell(self, ctx: &mut Ctx<'_, '_>, packet: &Packet<'_>) -> DropReason {
        if let Some(why) = self.why {
            icmp::unreachable(ctx, packet, why);
        }
        self.reason
    }
}

/// True for errors that a datagram socket's `sendmsg` tells of earlier datagrams: those that ICMP
/// brings. One that is too big itself leaves an entry of the host's own in the error queue, with the
/// path's `mtu`.
pub fn is_pending(error: &io::Error, mtu: Option<u32>) -> bool {
    let errno = error.raw_os_error();
    (errno == Some(libc::EMSGSIZE) && mtu.is_none())
        || matches!(
            errno,
            Some(
                libc::ECONNREFUSED
                    | libc::EHOSTUNREACH
                    | libc::ENETUNREACH
                    | libc::EACCES
                    | libc::EPROTO
                    | libc::ENOPROTOOPT
                    | libc::EOPNOTSUPP
                    | libc::EHOSTDOWN
                    | libc::ENONET
            )
        )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{Offload, TxFrame};
    use crate::gateway::testing::{Bed, GATEWAY_MAC, udp_frame};
    use crate::wire::ethernet::EthernetHeader;

    fn of(errno: i32) -> (Option<Why>, DropReason) {
        let Refusal { why, reason } = Refusal::of(&io::Error::from_raw_os_error(errno), 1400);
        (why, reason)
    }

    #[test]
    fn each_error_is_what_a_router_would_say() {
        let network = (Some(Why::Network), DropReason::NoRoute);
        let host = (Some(Why::Host), DropReason::NoRoute);
        let prohibited = (Some(Why::Prohibited), DropReason::DestinationForbidden);
        let passing = (None, DropReason::SendBufferFull);
        let table = [
            (libc::EAGAIN, passing),
            (libc::ENOBUFS, passing),
            (libc::ENOMEM, passing),
            (libc::EMSGSIZE, (Some(Why::TooBig(1400)), DropReason::TooBig)),
            (libc::ENETUNREACH, network),
            (libc::ENETDOWN, network),
            (libc::EADDRNOTAVAIL, network),
            (libc::EHOSTUNREACH, host),
            (libc::ETIMEDOUT, host),
            (libc::EHOSTDOWN, host),
            (libc::ENONET, host),
            (libc::EACCES, prohibited),
            (libc::EPERM, prohibited),
            (libc::EMFILE, (Some(Why::Prohibited), DropReason::SocketFailed)),
            (libc::ENFILE, (Some(Why::Prohibited), DropReason::SocketFailed)),
            (libc::EAFNOSUPPORT, (Some(Why::Network), DropReason::SocketFailed)),
            (libc::EPROTONOSUPPORT, (Some(Why::Network), DropReason::SocketFailed)),
            (libc::ECONNREFUSED, (None, DropReason::SendFailed)),
            (libc::EINVAL, network),
            (libc::EPIPE, (None, DropReason::SendFailed)),
        ];
        for (errno, want) in table {
            assert_eq!(of(errno), want, "{}", io::Error::from_raw_os_error(errno));
        }
        assert!(Refusal::of(&io::Error::from_raw_os_error(libc::ENOMEM), 0).is_passing());
        assert!(!Refusal::of(&io::Error::from_raw_os_error(libc::EPERM), 0).is_passing());
    }

    #[test]
    fn the_guest_is_told_that_the_host_gives_no_socket() {
        let (from, to) = ("10.0.2.2:1000".parse().unwrap(), "192.0.2.1:9".parse().unwrap());
        let frame = udp_frame(GATEWAY_MAC, from, to, b"x");
        let frame =
            TxFrame { head: &frame, tail: &[], len: frame.len(), offload: Offload::default() };
        let link = EthernetHeader::parse(frame.head).unwrap();
        let packet = Packet::parse(&link, &frame).unwrap();
        for (errno, said) in [
            (libc::EACCES, [3, 13]),
            (libc::EPERM, [3, 13]),
            (libc::EAFNOSUPPORT, [3, 0]),
            (libc::EPROTONOSUPPORT, [3, 0]),
            (libc::EMFILE, [3, 13]),
            (libc::ENOBUFS, [3, 13]),
        ] {
            let mut bed = Bed::new();
            let error = io::Error::from_raw_os_error(errno);
            let reason = bed.run(|gateway, io| {
                Refusal::of_socket(&error)
                    .tell(&mut Ctx { io, shared: &mut gateway.shared }, &packet)
            });
            assert_eq!(reason, DropReason::SocketFailed);
            let got = bed.received();
            assert_eq!(got.iter().map(|f| [f[34], f[35]]).collect::<Vec<_>>(), [said], "{error}");
        }
    }

    #[test]
    fn without_a_socket_the_guest_is_always_told() {
        for errno in 1..134 {
            let refusal = Refusal::of_socket(&io::Error::from_raw_os_error(errno));
            assert!(refusal.why.is_some() && refusal.reason == DropReason::SocketFailed, "{errno}");
        }
    }

    #[test]
    fn what_has_another_cause_is_not_pending() {
        let pending = |errno, mtu| is_pending(&io::Error::from_raw_os_error(errno), mtu);
        assert!(pending(libc::ECONNREFUSED, None) && pending(libc::EMSGSIZE, None));
        assert!(!pending(libc::EMSGSIZE, Some(1400)));
        for errno in [libc::EAGAIN, libc::EPERM, libc::ENOBUFS, libc::EINVAL, libc::ENETDOWN] {
            assert!(!pending(errno, None), "{errno}");
        }
    }
}
