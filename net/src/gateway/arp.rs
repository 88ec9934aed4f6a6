//! ARP (RFC 826): the gateway answers for its own address and for no other.

use super::context::{Ctx, Handled};
use crate::frame::{Offload, TxFrame, TxOutcome};
use crate::stats::DropReason;
use crate::wire::arp::{ARP_LEN, ArpMessage, Operation};
use crate::wire::ethernet::{ETHERNET_LEN, EthernetHeader, ethertype};

/// A frame whose EtherType is ARP's.
pub fn input(ctx: &mut Ctx<'_, '_>, frame: &TxFrame<'_>) -> Handled {
    let message = ArpMessage::parse(&frame.head[ETHERNET_LEN..])?;
    let (ip, mac) = message.sender;
    let config = &ctx.shared.config;
    if mac.is_multicast() {
        return Err(DropReason::Malformed);
    }
    // A probe (RFC 5227 §2.1.1) comes from no address, and nothing is learned from it.
    if !ip.is_unspecified() {
        if !config.is_guest4(ip) {
            return Err(DropReason::BadSource);
        }
        ctx.shared.link.learn(ip.into(), mac);
    }
    let gateway = ctx.shared.config.gateway4;
    if message.operation == Operation::Request && message.target.0 == gateway {
        let ours = ctx.shared.link.mac;
        let mut frame = [0; ETHERNET_LEN + ARP_LEN];
        EthernetHeader { dst: mac, src: ours, ethertype: ethertype::ARP }.emit(&mut frame);
        let (sender, target) = ((gateway, ours), message.sender);
        let reply = ArpMessage { operation: Operation::Reply, sender, target };
        reply.emit(&mut frame[ETHERNET_LEN..]);
        ctx.deliver(&frame, Offload::default())?;
    }
    Ok(TxOutcome::Sent)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::gateway::testing::{Bed, GATEWAY_MAC, GUEST_MAC};

    fn request(sender: [u8; 4], target: [u8; 4]) -> Vec<u8> {
        let mut f = vec![0xff; 6];
        f.extend(GUEST_MAC.0);
        f.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
        f.extend(GUEST_MAC.0);
        f.extend(sender);
        f.extend([0; 6]);
        f.extend(target);
        // As from a NIC that pads to 60 bytes.
        f.resize(60, 0);
        f
    }

    #[test]
    fn the_gateway_is_found_and_the_asker_learned() {
        let mut bed = Bed::new();
        // An address that no DHCP gave.
        assert_eq!(bed.send(&request([10, 0, 2, 77], [10, 0, 2, 1])), TxOutcome::Sent);
        let mut want = GUEST_MAC.0.to_vec();
        want.extend(GATEWAY_MAC.0);
        want.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 2]);
        want.extend(GATEWAY_MAC.0);
        want.extend([10, 0, 2, 1]);
        want.extend(GUEST_MAC.0);
        want.extend([10, 0, 2, 77]);
        assert_eq!(bed.received(), vec![want]);
        let guest = Ipv4Addr::new(10, 0, 2, 77).into();
        assert!(bed.shared().link.has_seen(guest));
    }

    #[test]
    fn no_other_address_is_answered_for() {
        let mut bed = Bed::new();
        for target in [[10, 0, 2, 2], [10, 0, 2, 77], [10, 0, 2, 255], [8, 8, 8, 8], [0; 4]] {
            assert_eq!(bed.send(&request([10, 0, 2, 2], target)), TxOutcome::Sent);
        }
        assert!(bed.received().is_empty());
    }

    #[test]
    fn a_probe_for_the_gateway_is_a_conflict_and_others_are_not() {
        let mut bed = Bed::new();
        assert_eq!(bed.send(&request([0; 4], [10, 0, 2, 2])), TxOutcome::Sent);
        assert!(bed.received().is_empty());
        assert_eq!(bed.send(&request([0; 4], [10, 0, 2, 1])), TxOutcome::Sent);
        let reply = &bed.received()[0];
        assert_eq!((&reply[28..32], &reply[38..42]), (&[10, 0, 2, 1][..], &[0; 4][..]));
        assert!(!bed.shared().link.has_seen(Ipv4Addr::UNSPECIFIED.into()));
    }

    #[test]
    fn a_gratuitous_message_moves_an_address() {
        let mut bed = Bed::new();
        let mut f = request([10, 0, 2, 9], [10, 0, 2, 9]);
        bed.send(&f);
        f[27] ^= 0x55;
        bed.send(&f);
        let mut moved = GUEST_MAC;
        moved.0[5] ^= 0x55;
        assert_eq!(bed.shared().link.neighbor(Ipv4Addr::new(10, 0, 2, 9).into()), Some(moved));
        assert!(bed.received().is_empty());
    }

    #[test]
    fn the_gateways_address_and_foreign_ones_are_not_the_guests() {
        let mut bed = Bed::new();
        for sender in [[10, 0, 2, 1], [10, 0, 3, 2], [127, 0, 0, 1], [10, 0, 2, 255]] {
            let got = bed.send(&request(sender, [10, 0, 2, 1]));
            assert_eq!(got, TxOutcome::Dropped(DropReason::BadSource), "{sender:?}");
        }
        assert!(!bed.shared().link.has_seen(Ipv4Addr::new(10, 0, 2, 1).into()));
    }
}
