//! Stateless DHCPv6 (RFC 8415 §6.1): a client that has its address from the advertised prefix
//! asks for the rest.

use super::context::{Ctx, Handled};
use super::datagram::Datagram;
use super::emit::Envelope;
use crate::addr::MacAddr;
use crate::frame::TxOutcome;
use crate::stats::DropReason;
use crate::wire::udp::UdpHeader;
use crate::wire::{names, protocol, u16_at};

const REPLY: u8 = 7;
const INFORMATION_REQUEST: u8 = 11;

mod option {
    pub const CLIENT_ID: u16 = 1;
    pub const SERVER_ID: u16 = 2;
    pub const IA_NA: u16 = 3;
    pub const IA_TA: u16 = 4;
    pub const OPTION_REQUEST: u16 = 6;
    pub const DNS_SERVERS: u16 = 23;
    pub const DOMAIN_LIST: u16 = 24;
    pub const IA_PD: u16 = 25;
    pub const REFRESH_TIME: u16 = 32;
}

/// Seconds after which a client asks again; the least that RFC 8415 §21.23 allows.
const REFRESH_TIME: u32 = 600;
/// A DUID is no longer (§11.1).
const DUID_MAX: usize = 130;
/// Bytes of search domains.
const SEARCH_MAX: usize = 512;
/// Room for all that is said.
const REPLY_MAX: usize = 1024;

/// An Information-request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Dhcp6Request<'a> {
    transaction: [u8; 3],
    client: Option<&'a [u8]>,
    wanted: Option<&'a [u8]>,
}

impl<'a> Dhcp6Request<'a> {
    /// RFC 8415 §16.12. `duid` is this server's.
    fn parse(bytes: &'a [u8], duid: &[u8]) -> Result<Self, DropReason> {
        let [kind, a, b, c, rest @ ..] = bytes else { return Err(DropReason::Truncated) };
        if *kind != INFORMATION_REQUEST {
            // Who wants an address is told by the advertisements that there are none here.
            return Err(DropReason::UnknownProtocol);
        }
        let mut request = Self { transaction: [*a, *b, *c], client: None, wanted: None };
        let mut rest = rest;
        while !rest.is_empty() {
            if rest.len() < 4 {
                return Err(DropReason::Malformed);
            }
            let (code, len) = (u16_at(rest, 0), usize::from(u16_at(rest, 2)));
            let (value, after) = rest[4..].split_at_checked(len).ok_or(DropReason::Malformed)?;
            rest = after;
            match code {
                option::CLIENT_ID if (3..=DUID_MAX).contains(&len) => request.client = Some(value),
                option::CLIENT_ID | option::IA_NA | option::IA_TA | option::IA_PD => {
                    return Err(DropReason::Malformed);
                }
                option::SERVER_ID if value != duid => return Err(DropReason::NotForUs),
                option::OPTION_REQUEST => request.wanted = Some(value),
                _ => {}
            }
        }
        Ok(request)
    }

    fn wants(&self, code: u16) -> bool {
        self.wanted.is_none_or(|list| list.chunks_exact(2).any(|c| u16_at(c, 0) == code))
    }
}

/// A datagram to the servers' port.
pub fn input(ctx: &mut Ctx<'_, '_>, src_mac: MacAddr, datagram: &Datagram<'_>) -> Handled {
    // For its search domains.
    ctx.shared.resolvers.refresh(ctx.io.now);
    let config = &ctx.shared.config;
    // DUID-LL (§11.4) of Ethernet.
    let mut duid = [0, 3, 0, 1, 0, 0, 0, 0, 0, 0];
    duid[4..].copy_from_slice(&config.mac.0);
    let request = Dhcp6Request::parse(datagram.payload, &duid)?;

    let mut reply = Vec::with_capacity(REPLY_MAX);
    reply.push(REPLY);
    reply.extend(request.transaction);
    let mut put = |code: u16, value: &[u8]| {
        if !value.is_empty() && reply.len() + 4 + value.len() <= REPLY_MAX {
            reply.extend(code.to_be_bytes());
            reply.extend((value.len() as u16).to_be_bytes());
            reply.extend(value);
        }
    };
    if let Some(client) = request.client {
        put(option::CLIENT_ID, client);
    }
    put(option::SERVER_ID, &duid);
    if request.wants(option::DNS_SERVERS) {
        put(option::DNS_SERVERS, &config.gateway6.octets());
    }
    if request.wants(option::DOMAIN_LIST) {
        put(
            option::DOMAIN_LIST,
            &names::emit_list(&ctx.shared.resolvers.conf().search, SEARCH_MAX),
        );
    }
    if request.wants(option::REFRESH_TIME) {
        put(option::REFRESH_TIME, &REFRESH_TIME.to_be_bytes());
    }

    let src = ctx.shared.config.link_local6();
    let envelope = Envelope::new(src_mac, src.into(), datagram.src.ip(), protocol::UDP);
    let header = UdpHeader {
        src_port: datagram.dst.port(),
        dst_port: datagram.src.port(),
        payload_len: reply.len(),
    }
    .emit();
    ctx.deliver_packet(&envelope, &header, &reply)?;
    Ok(TxOutcome::Sent)
}

#[cfg(test)]
mod tests {
    use dhcproto::v6::{DhcpOption, Message, MessageType, ORO, OptionCode};
    use dhcproto::{Decodable, Encodable};
    use proptest::prelude::*;

    use super::*;
    use crate::gateway::testing::{Bed, GUEST_MAC};

    const SERVER_DUID: [u8; 10] = [0, 3, 0, 1, 0x52, 0x4d, 0, 0, 0, 1];

    fn request(kind: MessageType, options: Vec<DhcpOption>) -> Vec<u8> {
        let mut message = Message::new_with_id(kind, [1, 2, 3]);
        for option in options {
            message.opts_mut().insert(option);
        }
        message.to_vec().unwrap()
    }

    fn send(bed: &mut Bed, bytes: &[u8]) -> TxOutcome {
        let src = "[fe80::2]:546".parse().unwrap();
        bed.send_udp(src, "[ff02::1:2]:547".parse().unwrap(), bytes)
    }

    #[test]
    fn a_client_learns_the_resolver() {
        let mut bed = Bed::new();
        let wanted = vec![OptionCode::DomainNameServers, OptionCode::NtpServer];
        let bytes = request(
            MessageType::InformationRequest,
            vec![
                DhcpOption::ClientId(vec![0, 1, 0, 1, 9, 9, 9, 9]),
                DhcpOption::ORO(ORO { opts: wanted }),
            ],
        );
        assert_eq!(send(&mut bed, &bytes), TxOutcome::Sent);
        let frame = bed.received().remove(0);
        assert_eq!(frame[..6], GUEST_MAC.0);
        assert_eq!(frame[22..38], bed.shared().config.link_local6().octets());
        assert_eq!(frame[54..58], [2, 35, 2, 34]);
        let reply = Message::from_bytes(&frame[62..]).unwrap();
        assert_eq!((reply.msg_type(), reply.xid()), (MessageType::Reply, [1, 2, 3]));
        let options: Vec<_> = reply.opts().iter().cloned().collect();
        assert_eq!(
            options,
            vec![
                DhcpOption::ClientId(vec![0, 1, 0, 1, 9, 9, 9, 9]),
                DhcpOption::ServerId(SERVER_DUID.to_vec()),
                DhcpOption::DomainNameServers(vec!["fd00:2::1".parse().unwrap()]),
            ]
        );
    }

    #[test]
    fn what_is_not_stateless_is_dropped() {
        let mut bed = Bed::new();
        let ask = MessageType::InformationRequest;
        let other = request(ask, vec![DhcpOption::ServerId(vec![0, 3, 0, 1, 9, 9, 9, 9, 9, 9])]);
        assert_eq!(send(&mut bed, &other), TxOutcome::Dropped(DropReason::NotForUs));
        let ours = request(ask, vec![DhcpOption::ServerId(SERVER_DUID.to_vec())]);
        assert_eq!(send(&mut bed, &ours), TxOutcome::Sent);
        let solicit = request(MessageType::Solicit, vec![]);
        assert_eq!(send(&mut bed, &solicit), TxOutcome::Dropped(DropReason::UnknownProtocol));
        let mut long = request(ask, vec![DhcpOption::ClientId(vec![0, 3, 1])]);
        long[7] += 1;
        assert_eq!(send(&mut bed, &long), TxOutcome::Dropped(DropReason::Malformed));
        assert_eq!(bed.received().len(), 1);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(options: Vec<u8>) {
            let mut bytes = vec![INFORMATION_REQUEST, 1, 2, 3];
            bytes.extend(options);
            let _ = Dhcp6Request::parse(&bytes, &SERVER_DUID);
            let mut bed = Bed::new();
            let sent = send(&mut bed, &bytes);
            prop_assert_eq!(sent == TxOutcome::Sent, bed.received().len() == 1);
        }
    }
}
