//! ARP (RFC 826): the gateway answers for its own address and for no other.

use std::net::Ipv4Addr;

use super::context::{Ctx, Handled};
use crate::addr::MacAddr;
use crate::frame::{Offload, TxFrame, TxOutcome};
use crate::stats::DropReason;
use crate::wire::{ETHERNET_LEN, ethertype, u16_at, u32_at};

/// Bytes of a message for Ethernet and IPv4, behind the Ethernet header.
const LEN: usize = 28;

const ETHERNET: u16 = 1;
const REQUEST: u16 = 1;
const REPLY: u16 = 2;

/// A message between Ethernet stations about IPv4 addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Message {
    operation: u16,
    sender: (Ipv4Addr, MacAddr),
    target: (Ipv4Addr, MacAddr),
}

impl Message {
    fn parse(bytes: &[u8]) -> Result<Self, DropReason> {
        if bytes.len() < LEN {
            return Err(DropReason::Truncated);
        }
        if u16_at(bytes, 0) != ETHERNET
            || u16_at(bytes, 2) != ethertype::IPV4
            || bytes[4..6] != [6, 4]
            || !matches!(u16_at(bytes, 6), REQUEST | REPLY)
        {
            return Err(DropReason::Malformed);
        }
        let pair = |at: usize| {
            let mut mac = MacAddr::default();
            mac.0.copy_from_slice(&bytes[at..at + 6]);
            (Ipv4Addr::from(u32_at(bytes, at + 6)), mac)
        };
        Ok(Self { operation: u16_at(bytes, 6), sender: pair(8), target: pair(18) })
    }

    /// The frame that carries it to its target.
    fn frame(&self) -> [u8; ETHERNET_LEN + LEN] {
        let mut frame = [0; ETHERNET_LEN + LEN];
        frame[0..6].copy_from_slice(&self.target.1.0);
        frame[6..12].copy_from_slice(&self.sender.1.0);
        frame[12..14].copy_from_slice(&ethertype::ARP.to_be_bytes());
        let m = &mut frame[ETHERNET_LEN..];
        m[0..2].copy_from_slice(&ETHERNET.to_be_bytes());
        m[2..4].copy_from_slice(&ethertype::IPV4.to_be_bytes());
        m[4..6].copy_from_slice(&[6, 4]);
        m[6..8].copy_from_slice(&self.operation.to_be_bytes());
        for (at, (ip, mac)) in [(8, self.sender), (18, self.target)] {
            m[at..at + 6].copy_from_slice(&mac.0);
            m[at + 6..at + 10].copy_from_slice(&ip.octets());
        }
        frame
    }
}

/// A frame whose EtherType is ARP's.
pub fn input(ctx: &mut Ctx<'_, '_>, frame: &TxFrame<'_>) -> Handled {
    let message = Message::parse(&frame.head[ETHERNET_LEN..])?;
    let (ip, mac) = message.sender;
    let config = &ctx.core.config;
    if mac.is_multicast() {
        return Err(DropReason::Malformed);
    }
    // A probe (RFC 5227 §2.1.1) comes from no address, and nothing is learned from it.
    if !ip.is_unspecified() {
        if !config.is_guest4(ip) {
            return Err(DropReason::BadSource);
        }
        ctx.core.link.learn(ip.into(), mac);
    }
    let gateway = ctx.core.config.gateway4;
    if message.operation == REQUEST && message.target.0 == gateway {
        let reply = Message {
            operation: REPLY,
            sender: (gateway, ctx.core.link.mac),
            target: message.sender,
        };
        ctx.deliver(&reply.frame(), Offload::default())?;
    }
    Ok(TxOutcome::Sent)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

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
        assert!(bed.core().link.has_seen(guest));
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
        assert!(!bed.core().link.has_seen(Ipv4Addr::UNSPECIFIED.into()));
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
        assert_eq!(bed.core().link.neighbor(Ipv4Addr::new(10, 0, 2, 9).into()), Some(moved));
        assert!(bed.received().is_empty());
    }

    #[test]
    fn the_gateways_address_and_foreign_ones_are_not_the_guests() {
        let mut bed = Bed::new();
        for sender in [[10, 0, 2, 1], [10, 0, 3, 2], [127, 0, 0, 1], [10, 0, 2, 255]] {
            let got = bed.send(&request(sender, [10, 0, 2, 1]));
            assert_eq!(got, TxOutcome::Dropped(DropReason::BadSource), "{sender:?}");
        }
        assert!(!bed.core().link.has_seen(Ipv4Addr::new(10, 0, 2, 1).into()));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>, operation in 0u16..4) {
            let mut bytes = bytes;
            if let Ok(m) = Message::parse(&bytes) {
                prop_assert_eq!(&m.frame()[ETHERNET_LEN..], &bytes[..LEN]);
            }
            bytes.resize(LEN, 7);
            bytes[..6].copy_from_slice(&[0, 1, 8, 0, 6, 4]);
            bytes[6..8].copy_from_slice(&operation.to_be_bytes());
            prop_assert_eq!(Message::parse(&bytes).is_ok(), (1..3).contains(&operation));
        }
    }
}
