//! Resolves a neighbour before it is needed (see `minivmm_probe::neighbour` for why).

use minivmm_probe::neighbour::{MAX_REQUEST, arp_request, solicitation};
use smoltcp::wire::{EthernetAddress, IpAddress, IpCidr};

use super::stack::{Stack, link_local};

const TRIES: u32 = 3;
const TIMEOUT: u64 = 200_000;

/// The hardware address of a neighbour and how long it took, microseconds. The stack knows it from then on.
pub fn resolve(stack: &mut Stack, target: IpAddress) -> Option<(EthernetAddress, u64)> {
    let mut frame = [0; MAX_REQUEST];
    let mac = stack.nic.mac;
    let length = match target {
        IpAddress::Ipv4(target) => arp_request(mac, stack.ipv4()?.address(), target, &mut frame),
        IpAddress::Ipv6(target) => {
            let own = stack.iface.ip_addrs().iter().find_map(|cidr| match cidr {
                IpCidr::Ipv6(cidr) if link_local(cidr.address()) => Some(cidr.address()),
                _ => None,
            })?;
            solicitation(mac, own, target, &mut frame)
        }
    };
    let frame = frame.get(..length)?;
    (0..TRIES).find_map(|_| {
        stack.nic.forget_neighbour();
        let start = stack.clock.micros();
        stack.nic.send(frame);
        stack.run(TIMEOUT, |stack| {
            let (who, mac) = stack.nic.neighbour()?;
            (who == target)
                .then(|| (EthernetAddress(mac), stack.clock.micros().saturating_sub(start)))
        })
    })
}
