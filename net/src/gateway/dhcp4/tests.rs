use std::net::SocketAddr;

use dhcproto::v4::{DhcpOption, HType, Message, MessageType, Opcode, OptionCode};
use dhcproto::{Decodable, Encodable};
use proptest::prelude::*;
use smoltcp::iface::{Interface, SocketSet};
use smoltcp::phy::{self, Device, DeviceCapabilities, Medium};
use smoltcp::socket::dhcpv4;
use smoltcp::wire::EthernetAddress;

use super::*;
use crate::gateway::config::GatewayConfig;
use crate::gateway::testing::{Bed, GATEWAY_MAC, GUEST_MAC, config};

const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 1);
const GUEST: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
const OTHER_MAC: MacAddr = MacAddr([0x52, 0x4d, 0, 0, 0, 9]);

fn message(mac: MacAddr, kind: MessageType) -> Message {
    let any = Ipv4Addr::UNSPECIFIED;
    let mut message = Message::new_with_id(0x1234_5678, any, any, any, any, &mac.0);
    message.opts_mut().insert(DhcpOption::MessageType(kind));
    message
}

/// Sends a message the way `source` says, and returns the answers with the frames they came in.
fn exchange(bed: &mut Bed, source: Ipv4Addr, message: &Message) -> Vec<(Vec<u8>, Message)> {
    let dst = if source.is_unspecified() { Ipv4Addr::BROADCAST } else { GATEWAY };
    let bytes = message.to_vec().unwrap();
    let sent = bed.send_udp((source, 68).into(), (dst, 67).into(), &bytes);
    assert_eq!(sent, TxOutcome::Sent);
    bed.received()
        .into_iter()
        .map(|frame| {
            assert_eq!(frame[34..38], [0, 67, 0, 68]);
            let message = Message::from_bytes(&frame[42..]).unwrap();
            (frame, message)
        })
        .collect()
}

fn one(mut answers: Vec<(Vec<u8>, Message)>) -> (Vec<u8>, Message) {
    assert_eq!(answers.len(), 1);
    answers.remove(0)
}

fn request(mac: MacAddr, server: Option<Ipv4Addr>, address: Ipv4Addr) -> Message {
    let mut m = message(mac, MessageType::Request);
    m.opts_mut().insert(DhcpOption::RequestedIpAddress(address));
    if let Some(server) = server {
        m.opts_mut().insert(DhcpOption::ServerIdentifier(server));
    }
    m
}

/// DISCOVER and REQUEST; the address that was given.
fn join(bed: &mut Bed, mac: MacAddr) -> Ipv4Addr {
    let any = Ipv4Addr::UNSPECIFIED;
    let (_, offer) = one(exchange(bed, any, &message(mac, MessageType::Discover)));
    assert_eq!(offer.opts().msg_type(), Some(MessageType::Offer));
    let (_, ack) = one(exchange(bed, any, &request(mac, Some(GATEWAY), offer.yiaddr())));
    assert_eq!(ack.opts().msg_type(), Some(MessageType::Ack));
    assert_eq!(ack.yiaddr(), offer.yiaddr());
    ack.yiaddr()
}

#[test]
fn the_guest_is_offered_its_address_with_all_parameters() {
    let mut bed = Bed::with(GatewayConfig { mtu: 9000, ..config() });
    let mut discover = message(GUEST_MAC, MessageType::Discover);
    discover.opts_mut().insert(DhcpOption::ClientIdentifier(vec![0xff, 1, 2, 3]));
    let (frame, offer) = one(exchange(&mut bed, Ipv4Addr::UNSPECIFIED, &discover));
    // By unicast to an address that the client does not have yet.
    assert_eq!(frame[..6], GUEST_MAC.0);
    assert_eq!(frame[6..12], GATEWAY_MAC.0);
    assert_eq!(frame[26..34], [10, 0, 2, 1, 10, 0, 2, 2]);
    assert_eq!(
        (offer.opcode(), offer.htype(), offer.xid()),
        (Opcode::BootReply, HType::Eth, 0x1234_5678)
    );
    assert_eq!(offer.chaddr(), &GUEST_MAC.0);
    assert_eq!((offer.yiaddr(), offer.ciaddr()), (GUEST, Ipv4Addr::UNSPECIFIED));
    let opts = offer.opts();
    for want in [
        DhcpOption::MessageType(MessageType::Offer),
        DhcpOption::ServerIdentifier(GATEWAY),
        DhcpOption::AddressLeaseTime(3600),
        DhcpOption::Renewal(1800),
        DhcpOption::Rebinding(3150),
        DhcpOption::SubnetMask(Ipv4Addr::new(255, 255, 255, 0)),
        DhcpOption::Router(vec![GATEWAY]),
        DhcpOption::DomainNameServer(vec![GATEWAY]),
        DhcpOption::BroadcastAddr(Ipv4Addr::new(10, 0, 2, 255)),
        DhcpOption::InterfaceMtu(9000),
        DhcpOption::Hostname("guest".into()),
        DhcpOption::ClientIdentifier(vec![0xff, 1, 2, 3]),
    ] {
        assert_eq!(opts.get(OptionCode::from(&want)), Some(&want));
    }
}

#[test]
fn of_a_long_search_list_the_first_domains_are_passed_on() {
    let path = std::env::temp_dir().join(format!("minivmm-dhcp-long-{}", std::process::id()));
    let domains: Vec<_> =
        (0..6).map(|i| format!("{}.{}.test{i}", "a".repeat(40), "b".repeat(30))).collect();
    std::fs::write(&path, format!("search {}\n", domains.join(" "))).unwrap();
    let mut bed = Bed::with(GatewayConfig { resolv_conf: path.clone(), ..config() });
    let discover = message(GUEST_MAC, MessageType::Discover);
    let (_, offer) = one(exchange(&mut bed, Ipv4Addr::UNSPECIFIED, &discover));
    std::fs::remove_file(&path).unwrap();
    let Some(DhcpOption::DomainSearch(list)) = offer.opts().get(OptionCode::DomainSearch) else {
        panic!("none are passed on");
    };
    let list: Vec<_> =
        list.iter().map(|d| d.to_string().trim_end_matches('.').to_owned()).collect();
    assert!(list.len() >= 2 && domains.starts_with(&list), "{list:?}");
}

#[test]
fn published_ports_do_not_lead_to_a_lease_that_is_over() {
    let own = Ipv4Addr::new(10, 0, 2, 50);
    let mut bed = Bed::new();
    let speak = |bed: &mut Bed, from: Ipv4Addr| {
        bed.send_udp((from, 9).into(), (Ipv4Addr::LOCALHOST, 9).into(), b"");
        bed.received();
    };
    // Given back: what the guest takes instead counts.
    assert_eq!(join(&mut bed, GUEST_MAC), GUEST);
    speak(&mut bed, own);
    assert_eq!(bed.shared().guest4(), GUEST, "both are the guest's");
    let mut release = message(GUEST_MAC, MessageType::Release);
    release.set_ciaddr(GUEST);
    exchange(&mut bed, GUEST, &release);
    assert_eq!(bed.shared().guest4(), own);

    // Not renewed.
    assert_eq!(join(&mut bed, GUEST_MAC), GUEST);
    speak(&mut bed, own);
    bed.advance(LEASE_TIME / 2);
    exchange(&mut bed, Ipv4Addr::UNSPECIFIED, &request(GUEST_MAC, None, GUEST));
    bed.advance(LEASE_TIME - Duration::from_secs(1));
    assert_eq!(bed.shared().guest4(), GUEST);
    bed.advance(Duration::from_secs(1));
    assert_eq!(bed.shared().guest4(), own);
    // Unless the guest goes on with it.
    speak(&mut bed, GUEST);
    assert_eq!(bed.shared().guest4(), GUEST);
    bed.advance(LEASE_TIME * 2);
    assert_eq!(bed.shared().guest4(), GUEST);
}

#[test]
fn the_hosts_search_domains_are_passed_on() {
    let path = std::env::temp_dir().join(format!("minivmm-dhcp-{}", std::process::id()));
    std::fs::write(&path, "search corp.test lab.test\n").unwrap();
    let mut bed = Bed::with(GatewayConfig { resolv_conf: path.clone(), ..config() });
    let discover = message(GUEST_MAC, MessageType::Discover);
    let (_, offer) = one(exchange(&mut bed, Ipv4Addr::UNSPECIFIED, &discover));
    std::fs::remove_file(&path).unwrap();
    let domain = DhcpOption::DomainName("corp.test".into());
    assert_eq!(offer.opts().get(OptionCode::DomainName), Some(&domain));
    let Some(DhcpOption::DomainSearch(list)) = offer.opts().get(OptionCode::DomainSearch) else {
        panic!("no search list");
    };
    let list: Vec<_> = list.iter().map(ToString::to_string).collect();
    assert_eq!(list, ["corp.test.", "lab.test."]);
}

#[test]
fn an_ack_is_these_bytes() {
    let mut bed = Bed::new();
    let mut m = request(GUEST_MAC, Some(GATEWAY), GUEST);
    let list = [OptionCode::Router, OptionCode::SubnetMask, OptionCode::TimeServer];
    m.opts_mut().insert(DhcpOption::ParameterRequestList(list.to_vec()));
    let (frame, _) = one(exchange(&mut bed, Ipv4Addr::UNSPECIFIED, &m));
    let mut want = vec![2, 1, 6, 0, 0x12, 0x34, 0x56, 0x78, 0, 0, 0, 0];
    want.extend([0, 0, 0, 0, 10, 0, 2, 2, 0, 0, 0, 0, 0, 0, 0, 0]);
    want.extend(GUEST_MAC.0);
    want.resize(236, 0);
    want.extend([99, 130, 83, 99, 53, 1, 5, 54, 4, 10, 0, 2, 1]);
    want.extend([51, 4, 0, 0, 0x0e, 0x10, 58, 4, 0, 0, 7, 8, 59, 4, 0, 0, 0x0c, 0x4e]);
    // Mask before router, and nothing else that was not asked for.
    want.extend([1, 4, 255, 255, 255, 0, 3, 4, 10, 0, 2, 1, 255]);
    want.resize(300, 0);
    assert_eq!(frame[42..], want);
}

#[test]
fn the_broadcast_flag_is_honoured() {
    let mut bed = Bed::new();
    let mut m = message(GUEST_MAC, MessageType::Discover);
    m.set_flags(dhcproto::v4::Flags::default().set_broadcast());
    let (frame, offer) = one(exchange(&mut bed, Ipv4Addr::UNSPECIFIED, &m));
    assert_eq!(frame[..6], [0xff; 6]);
    assert_eq!(frame[30..34], [255; 4]);
    assert!(offer.flags().broadcast());
}

#[test]
fn a_rebooting_guest_keeps_a_good_address_and_is_told_of_a_bad_one() {
    let mut bed = Bed::new();
    let any = Ipv4Addr::UNSPECIFIED;
    // The table is empty, as after a restart.
    let (_, ack) = one(exchange(&mut bed, any, &request(GUEST_MAC, None, GUEST)));
    assert_eq!((ack.opts().msg_type(), ack.yiaddr()), (Some(MessageType::Ack), GUEST));
    for bad in [[192, 168, 1, 5], [10, 0, 2, 1], [10, 0, 2, 255], [10, 0, 2, 9]] {
        let (frame, nak) = one(exchange(&mut bed, any, &request(GUEST_MAC, None, bad.into())));
        assert_eq!(nak.opts().msg_type(), Some(MessageType::Nak), "{bad:?}");
        assert_eq!((nak.yiaddr(), &frame[..6]), (any, &[0xff; 6][..]));
        assert_eq!(frame[30..34], [255; 4]);
    }
}

#[test]
fn a_lease_is_renewed_by_unicast_and_refused_from_another_network() {
    let mut bed = Bed::new();
    assert_eq!(join(&mut bed, GUEST_MAC), GUEST);
    assert_eq!(bed.shared().link.neighbor(GUEST.into()), Some(GUEST_MAC));
    bed.advance(Duration::from_secs(1800));
    let mut renew = message(GUEST_MAC, MessageType::Request);
    renew.set_ciaddr(GUEST);
    let (frame, ack) = one(exchange(&mut bed, GUEST, &renew));
    assert_eq!(ack.opts().msg_type(), Some(MessageType::Ack));
    assert_eq!((ack.ciaddr(), ack.yiaddr(), &frame[30..34]), (GUEST, GUEST, &[10, 0, 2, 2][..]));

    // A machine that was moved here rebinds, from an address that is not of this link.
    let old = Ipv4Addr::new(192, 168, 7, 7);
    let mut rebind = message(GUEST_MAC, MessageType::Request);
    rebind.set_ciaddr(old);
    let (src, dst): (SocketAddr, SocketAddr) = ((old, 68).into(), (Ipv4Addr::BROADCAST, 67).into());
    bed.send_udp(src, dst, &rebind.to_vec().unwrap());
    let nak = Message::from_bytes(&bed.received()[0][42..]).unwrap();
    assert_eq!(nak.opts().msg_type(), Some(MessageType::Nak));
}

#[test]
fn the_address_does_not_follow_the_client_identifier() {
    let mut bed = Bed::new();
    for id in [None, Some(vec![1, 2, 3]), Some(vec![0xff, 9, 9, 9, 9])] {
        let mut m = message(GUEST_MAC, MessageType::Discover);
        if let Some(id) = id {
            m.opts_mut().insert(DhcpOption::ClientIdentifier(id));
        }
        let (_, offer) = one(exchange(&mut bed, Ipv4Addr::UNSPECIFIED, &m));
        assert_eq!(offer.yiaddr(), GUEST);
    }
}

#[test]
fn others_get_other_addresses_and_never_the_guests() {
    let mut bed = Bed::new();
    assert_eq!(join(&mut bed, OTHER_MAC), Ipv4Addr::new(10, 0, 2, 3));
    let (_, nak) =
        one(exchange(&mut bed, Ipv4Addr::UNSPECIFIED, &request(MacAddr([2; 6]), None, GUEST)));
    assert_eq!(nak.opts().msg_type(), Some(MessageType::Nak));
    assert_eq!(join(&mut bed, GUEST_MAC), GUEST);
    let mut wanting = message(MacAddr([4; 6]), MessageType::Discover);
    wanting.opts_mut().insert(DhcpOption::RequestedIpAddress([10, 0, 2, 200].into()));
    let (_, offer) = one(exchange(&mut bed, Ipv4Addr::UNSPECIFIED, &wanting));
    assert_eq!(offer.yiaddr(), Ipv4Addr::new(10, 0, 2, 200));
}

#[test]
fn a_flood_of_clients_fills_the_table_and_ends() {
    let mut bed = Bed::new();
    let mut offers = 0;
    for i in 0..200u32 {
        let m = message(MacAddr::local(1000 + i), MessageType::Discover);
        offers += exchange(&mut bed, Ipv4Addr::UNSPECIFIED, &m).len();
    }
    assert_eq!(offers, 64);
    // Offers that nobody took make room, and the guest gets its address even now.
    bed.advance(Duration::from_secs(61));
    assert_eq!(join(&mut bed, GUEST_MAC), GUEST);
}

#[test]
fn a_small_subnet_runs_out() {
    let mut bed = Bed::with(GatewayConfig {
        subnet4: "10.0.2.0/30".parse().unwrap(),
        guest_mac: None,
        ..config()
    });
    assert_eq!(join(&mut bed, OTHER_MAC), GUEST);
    let m = message(GUEST_MAC, MessageType::Discover);
    assert!(exchange(&mut bed, Ipv4Addr::UNSPECIFIED, &m).is_empty());
    let mut release = message(OTHER_MAC, MessageType::Release);
    release.set_ciaddr(GUEST);
    assert!(exchange(&mut bed, GUEST, &release).is_empty());
    assert_eq!(join(&mut bed, GUEST_MAC), GUEST);
}

#[test]
fn a_declined_address_rests() {
    let mut bed = Bed::new();
    let any = Ipv4Addr::UNSPECIFIED;
    let address = join(&mut bed, OTHER_MAC);
    let mut decline = message(OTHER_MAC, MessageType::Decline);
    decline.opts_mut().insert(DhcpOption::RequestedIpAddress(address));
    decline.opts_mut().insert(DhcpOption::ServerIdentifier(GATEWAY));
    assert!(exchange(&mut bed, any, &decline).is_empty());
    assert_eq!(join(&mut bed, OTHER_MAC), Ipv4Addr::new(10, 0, 2, 4));
    // Another client's, and another server's, are left alone.
    decline.set_chaddr(&GUEST_MAC.0);
    exchange(&mut bed, any, &decline);
    assert_eq!(join(&mut bed, OTHER_MAC), Ipv4Addr::new(10, 0, 2, 4));
}

#[test]
fn another_servers_client_is_left_alone() {
    let mut bed = Bed::new();
    let m = request(GUEST_MAC, Some(Ipv4Addr::new(10, 0, 2, 250)), GUEST);
    assert!(exchange(&mut bed, Ipv4Addr::UNSPECIFIED, &m).is_empty());
}

#[test]
fn inform_gives_parameters_and_no_lease() {
    let mut bed = Bed::new();
    let address = Ipv4Addr::new(10, 0, 2, 50);
    let mut m = message(GUEST_MAC, MessageType::Inform);
    m.set_ciaddr(address);
    let (frame, ack) = one(exchange(&mut bed, address, &m));
    assert_eq!(
        (ack.opts().msg_type(), ack.yiaddr()),
        (Some(MessageType::Ack), Ipv4Addr::UNSPECIFIED)
    );
    assert_eq!(frame[30..34], [10, 0, 2, 50]);
    assert_eq!(ack.opts().get(OptionCode::AddressLeaseTime), None);
    assert_eq!(ack.opts().get(OptionCode::Router), Some(&DhcpOption::Router(vec![GATEWAY])));
}

#[test]
fn a_ring_without_buffers_costs_only_the_answer() {
    let mut bed = Bed::new();
    bed.ring.full = true;
    let bytes = message(GUEST_MAC, MessageType::Discover).to_vec().unwrap();
    let (src, dst) = ((Ipv4Addr::UNSPECIFIED, 68).into(), (Ipv4Addr::BROADCAST, 67).into());
    let got = bed.send_udp(src, dst, &bytes);
    assert_eq!(got, TxOutcome::Dropped(DropReason::NoRxBuffers));
    bed.ring.full = false;
    assert_eq!(join(&mut bed, GUEST_MAC), GUEST);
}

#[test]
fn options_go_on_in_the_fields_for_names() {
    let mut bytes = message(GUEST_MAC, MessageType::Request).to_vec().unwrap();
    bytes.truncate(240);
    bytes.extend([52, 1, 3, 255]);
    bytes[108..115].copy_from_slice(&[53, 1, 3, 0, 0, 0, 255]);
    bytes[44..51].copy_from_slice(&[50, 4, 10, 0, 2, 2, 255]);
    let request = DhcpRequest::parse(&bytes).unwrap();
    assert_eq!((request.kind, request.requested), (Kind::Request, Some(GUEST)));
    // An option that ends beyond its field is refused.
    bytes[107] = 0;
    bytes[44..108].fill(0);
    bytes[106..108].copy_from_slice(&[50, 4]);
    assert_eq!(DhcpRequest::parse(&bytes), Err(DropReason::Malformed));
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(options: Vec<u8>, fixed in prop::collection::vec(any::<u8>(), 236), kind in 0u8..10) {
        let mut bytes = fixed;
        bytes[..3].copy_from_slice(&[1, 1, 6]);
        bytes[24..28].fill(0);
        bytes.extend([99, 130, 83, 99, 53, 1, kind]);
        bytes.extend(options);
        let _ = DhcpRequest::parse(&bytes);
        let mut bed = Bed::new();
        let (src, dst) = ((Ipv4Addr::UNSPECIFIED, 68).into(), (Ipv4Addr::BROADCAST, 67).into());
        bed.send_udp(src, dst, &bytes);
        for frame in bed.received() {
            prop_assert!(Message::from_bytes(&frame[42..]).is_ok());
        }
    }
}

/// A network stack's way to the bed.
struct Nic(Bed);

struct Received(Vec<u8>);

impl phy::RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

struct Transmit<'a>(&'a mut Bed);

impl phy::TxToken for Transmit<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut frame = vec![0; len];
        let result = f(&mut frame);
        self.0.send(&frame);
        result
    }
}

impl Device for Nic {
    type RxToken<'a> = Received;
    type TxToken<'a> = Transmit<'a>;

    fn receive(&mut self, _: smoltcp::time::Instant) -> Option<(Received, Transmit<'_>)> {
        if self.0.ring.frames.is_empty() {
            return None;
        }
        let (frame, _) = self.0.ring.frames.remove(0);
        Some((Received(frame), Transmit(&mut self.0)))
    }

    fn transmit(&mut self, _: smoltcp::time::Instant) -> Option<Transmit<'_>> {
        Some(Transmit(&mut self.0))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = 1514;
        capabilities
    }
}

#[test]
fn an_independent_client_is_configured_and_renews() {
    let mut nic = Nic(Bed::new());
    let time = |ms: i64| smoltcp::time::Instant::from_millis(ms);
    let hardware = EthernetAddress(GUEST_MAC.0).into();
    let mut interface = Interface::new(smoltcp::iface::Config::new(hardware), &mut nic, time(0));
    let mut sockets = SocketSet::new(vec![]);
    let handle = sockets.add(dhcpv4::Socket::new());
    let mut configured = 0;
    // Two hours in steps of a second.
    for second in 0..7200 {
        interface.poll(time(second * 1000), &mut nic, &mut sockets);
        let mut address = None;
        match sockets.get_mut::<dhcpv4::Socket<'_>>(handle).poll() {
            Some(dhcpv4::Event::Configured(config)) => {
                assert_eq!(config.address.to_string(), "10.0.2.2/24");
                assert_eq!(config.router, Some(GATEWAY));
                assert_eq!(config.dns_servers.as_slice(), [GATEWAY]);
                address = Some(config.address);
                configured += 1;
            }
            Some(dhcpv4::Event::Deconfigured) => assert_eq!(configured, 0, "at {second} s"),
            None => {}
        }
        if let Some(address) = address {
            interface.update_ip_addrs(|list| list.push(address.into()).unwrap());
        }
        nic.0.advance(Duration::from_secs(1));
    }
    assert_eq!(configured, 1);
    // Counted at the wire: it renewed, by unicast, and was answered.
    assert!(nic.0.shared().link.neighbor(GUEST.into()) == Some(GUEST_MAC));
}
