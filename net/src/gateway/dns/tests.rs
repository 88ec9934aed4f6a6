use std::net::{Ipv4Addr, UdpSocket};
use std::path::PathBuf;

use proptest::prelude::*;
use simple_dns::rdata::RData;
use simple_dns::{CLASS, Name, Packet, PacketFlag, QCLASS, QTYPE, Question, RCODE, TYPE};

use super::*;
use crate::gateway::config::GatewayConfig;
use crate::gateway::config::{Redirect, Transport};
use crate::gateway::testing::{Bed, GUEST_MAC, config};
use crate::wire::u16_at;

const CLIENT: &str = "10.0.2.2:40000";
const GATEWAY4: &str = "10.0.2.1:53";

fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn query(id: u16, name: &str, qtype: TYPE, edns: bool) -> Vec<u8> {
    let mut packet = Packet::new_query(id);
    packet.set_flags(PacketFlag::RECURSION_DESIRED);
    let (qtype, qclass) = (QTYPE::TYPE(qtype), QCLASS::CLASS(CLASS::IN));
    packet.questions.push(Question::new(Name::new_unchecked(name), qtype, qclass, false));
    if edns {
        *packet.opt_mut() =
            Some(simple_dns::rdata::OPT { opt_codes: vec![], udp_packet_size: 1232, version: 0 });
    }
    packet.build_bytes_vec().unwrap()
}

/// A resolver of the host's on loopback.
struct Server(UdpSocket);

impl Server {
    fn new() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        Self(socket)
    }

    fn addr(&self) -> SocketAddr {
        self.0.local_addr().unwrap()
    }

    fn get(&self) -> (Vec<u8>, SocketAddr) {
        let mut bytes = vec![0; 5000];
        let (len, from) = self.0.recv_from(&mut bytes).unwrap();
        bytes.truncate(len);
        (bytes, from)
    }

    fn is_quiet(&self) -> bool {
        self.0.set_nonblocking(true).unwrap();
        let quiet = self.0.recv(&mut [0; 1]).is_err();
        self.0.set_nonblocking(false).unwrap();
        quiet
    }
}

/// An answer to `query`: one address, after `padding` bytes of text records.
fn answer(query: &[u8], rcode: RCODE, padding: usize) -> Vec<u8> {
    let mut packet = Packet::parse(query).unwrap().into_reply();
    *packet.rcode_mut() = rcode;
    packet.additional_records.clear();
    let name = packet.questions[0].qname.clone();
    let a = RData::A(simple_dns::rdata::A { address: 0x0909_0909 });
    packet.answers.push(simple_dns::ResourceRecord::new(name, CLASS::IN, 30, a));
    let mut bytes = packet.build_bytes_vec().unwrap();
    bytes.resize(bytes.len() + padding, 0);
    bytes
}

fn bed(servers: &[SocketAddr]) -> Bed {
    let mut bed = Bed::new();
    bed.resolvers(servers);
    bed
}

fn ask(bed: &mut Bed, query: &[u8]) {
    assert_eq!(bed.send_udp(addr(CLIENT), addr(GATEWAY4), query), TxOutcome::Sent);
}

/// The one answer that the guest got by now.
fn response(bed: &mut Bed) -> Vec<u8> {
    let frames = bed.received();
    assert_eq!(frames.len(), 1);
    assert_eq!(frames[0][26..34], [10, 0, 2, 1, 10, 0, 2, 2]);
    assert_eq!(frames[0][34..38], [0, 53, 0x9c, 0x40]);
    frames[0][42..].to_vec()
}

fn code(response: &[u8]) -> RCODE {
    Packet::parse(response).unwrap().rcode()
}

#[test]
fn an_answer_comes_back_under_the_guests_id_and_in_its_letters() {
    let server = Server::new();
    let mut bed = bed(&[server.addr()]);
    let q = query(7, "wWw.ExAmple.test", TYPE::A, true);
    ask(&mut bed, &q);
    let (got, from) = server.get();
    assert_eq!(got[2..], q[2..], "all but the id is as the guest sent it");
    let mut bytes = answer(&got, RCODE::NoError, 0);
    bytes[12..30].make_ascii_lowercase();
    server.0.send_to(&bytes, from).unwrap();
    assert!(bed.events(Duration::from_secs(5)));
    let response = response(&mut bed);
    assert_eq!(response[..2], [0, 7]);
    assert_eq!(response[12..12 + 22], q[12..12 + 22]);
    assert_eq!(Packet::parse(&response).unwrap().answers.len(), 1);
}

#[test]
fn ids_and_ports_are_fresh_for_each_query() {
    let server = Server::new();
    let mut bed = bed(&[server.addr()]);
    let mut seen = std::collections::HashSet::new();
    let mut ports = std::collections::HashSet::new();
    for i in 0..32 {
        ask(&mut bed, &query(1, &format!("n{i}.test"), TYPE::A, false));
        let (got, from) = server.get();
        seen.insert([got[0], got[1]]);
        ports.insert(from.port());
    }
    // 32 of 65,536 collide once in 130 runs, three times never.
    assert!(seen.len() > 28 && ports.len() == 32, "{} ids, {} ports", seen.len(), ports.len());
}

#[test]
fn only_the_resolver_that_was_asked_is_heard_and_only_on_the_question() {
    let server = Server::new();
    let stranger = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut bed = bed(&[server.addr()]);
    ask(&mut bed, &query(7, "a.test", TYPE::A, false));
    let (got, from) = server.get();
    let good = answer(&got, RCODE::NoError, 0);
    stranger.send_to(&good, from).unwrap();
    let mut wrong_id = good.clone();
    wrong_id[0] ^= 1;
    let mut wrong_name = good.clone();
    wrong_name[13] = b'b';
    let mut wrong_type = good.clone();
    wrong_type[20] ^= 1;
    let mut no_response = good.clone();
    no_response[2] &= 0x7f;
    for bad in [&wrong_id, &wrong_name, &wrong_type, &no_response, &good[..11].to_vec(), &vec![]] {
        server.0.send_to(bad, from).unwrap();
    }
    bed.events(Duration::from_secs(5));
    bed.events(Duration::from_millis(50));
    assert!(bed.received().is_empty());
    server.0.send_to(&good, from).unwrap();
    bed.events(Duration::from_secs(5));
    assert_eq!(response(&mut bed)[..2], [0, 7]);
}

#[test]
fn a_silent_resolver_is_passed_over_and_still_heard_when_it_is_late() {
    let (first, second) = (Server::new(), Server::new());
    let mut bed = bed(&[first.addr(), second.addr()]);
    ask(&mut bed, &query(7, "a.test", TYPE::A, false));
    let (got, from) = first.get();
    assert!(second.is_quiet());
    bed.advance(TRY_TIME);
    second.get();
    first.0.send_to(&answer(&got, RCODE::NoError, 0), from).unwrap();
    bed.events(Duration::from_secs(5));
    assert_eq!(code(&response(&mut bed)), RCODE::NoError);
}

#[test]
fn the_resolver_that_answers_is_asked_first_from_then_on() {
    let (silent, good) = (Server::new(), Server::new());
    let servers = [silent.addr(), good.addr()];
    let mut bed = bed(&servers);
    let answered = |bed: &mut Bed, server: &Server, code| {
        let (got, from) = server.get();
        server.0.send_to(&answer(&got, code, 0), from).unwrap();
        bed.events(Duration::from_secs(5));
    };
    ask(&mut bed, &query(7, "a.test", TYPE::A, false));
    silent.get();
    bed.advance(TRY_TIME);
    answered(&mut bed, &good, RCODE::NoError);
    response(&mut bed);
    ask(&mut bed, &query(8, "b.test", TYPE::A, false));
    answered(&mut bed, &good, RCODE::NoError);
    response(&mut bed);
    assert!(silent.is_quiet());
    assert_eq!(bed.shared().resolvers.first(), Some(servers[1]));

    // A failure says nothing for the one that is last to have it.
    ask(&mut bed, &query(9, "c.test", TYPE::A, false));
    answered(&mut bed, &good, RCODE::ServerFailure);
    answered(&mut bed, &silent, RCODE::ServerFailure);
    assert_eq!(code(&response(&mut bed)), RCODE::ServerFailure);
    assert_eq!(bed.shared().resolvers.first(), Some(servers[1]));
    // Other resolvers begin anew.
    bed.resolvers(&servers);
    assert_eq!(bed.shared().resolvers.first(), Some(servers[0]));
}

#[test]
fn silence_from_all_is_a_failure_after_their_time() {
    let (first, second) = (Server::new(), Server::new());
    let mut bed = bed(&[first.addr(), second.addr()]);
    ask(&mut bed, &query(7, "a.test", TYPE::A, false));
    bed.advance(QUERY_TIME - Duration::from_millis(1));
    assert!(bed.received().is_empty());
    bed.advance(Duration::from_millis(1));
    assert_eq!(code(&response(&mut bed)), RCODE::ServerFailure);
    // Each was asked twice.
    for server in [first, second] {
        server.get();
        server.get();
        assert!(server.is_quiet());
    }
    bed.events(Duration::from_millis(50));
    assert!(bed.received().is_empty());
}

#[test]
fn a_resolver_that_fails_or_is_not_there_is_passed_over_at_once() {
    let gone = Server::new().addr();
    let (failing, good) = (Server::new(), Server::new());
    let mut bed = bed(&[gone, failing.addr(), good.addr()]);
    ask(&mut bed, &query(7, "a.test", TYPE::A, false));
    bed.events(Duration::from_secs(5));
    let (got, from) = failing.get();
    failing.0.send_to(&answer(&got, RCODE::ServerFailure, 0), from).unwrap();
    bed.events(Duration::from_secs(5));
    let (got, from) = good.get();
    good.0.send_to(&answer(&got, RCODE::NameError, 0), from).unwrap();
    bed.events(Duration::from_secs(5));
    assert_eq!(code(&response(&mut bed)), RCODE::NameError);
}

#[test]
fn the_last_resolvers_failure_is_the_answer() {
    let gone = Server::new().addr();
    let mut bed = bed(&[gone]);
    ask(&mut bed, &query(7, "a.test", TYPE::A, false));
    bed.events(Duration::from_secs(5));
    assert_eq!(code(&response(&mut bed)), RCODE::ServerFailure);

    let failing = Server::new();
    bed.resolvers(&[failing.addr()]);
    ask(&mut bed, &query(8, "b.test", TYPE::A, false));
    let (got, from) = failing.get();
    failing.0.send_to(&answer(&got, RCODE::Refused, 0), from).unwrap();
    bed.events(Duration::from_secs(5));
    assert_eq!(code(&response(&mut bed)), RCODE::Refused);
}

#[test]
fn an_error_without_the_question_gets_it_back() {
    let server = Server::new();
    let mut bed = bed(&[server.addr()]);
    let q = query(7, "a.test", TYPE::A, true);
    ask(&mut bed, &q);
    let (got, from) = server.get();
    server.0.send_to(&[got[0], got[1], 0x80, 1, 0, 0, 0, 0, 0, 0, 0, 0], from).unwrap();
    bed.events(Duration::from_secs(5));
    let response = response(&mut bed);
    assert_eq!(code(&response), RCODE::FormatError);
    assert_eq!(response[12..24], q[12..24]);
}

/// The extended error of a response: its code and text.
fn reason(response: &[u8]) -> (u16, String) {
    let packet = Packet::parse(response).unwrap();
    let opt = packet.opt().unwrap();
    let option = opt.opt_codes.iter().find(|option| option.code == 15).unwrap();
    let (code, text) = option.data.split_at(2);
    (u16_at(code, 0), String::from_utf8(text.to_vec()).unwrap())
}

#[test]
fn who_asks_with_edns_is_told_why() {
    let (refusing, silent) = (Server::new(), Server::new());
    let gone = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (a, b) = (refusing.addr(), silent.addr());
    let mut several = bed(&[a, gone, b]);
    ask(&mut several, &query(7, "a.test", TYPE::A, true));
    let (got, from) = refusing.get();
    refusing.0.send_to(&answer(&got, RCODE::Refused, 0), from).unwrap();
    several.events(Duration::from_secs(5));
    several.events(Duration::from_secs(5));
    several.advance(QUERY_TIME);
    let got = response(&mut several);
    assert_eq!(code(&got), RCODE::ServerFailure);
    let text = format!("{a} answers REFUSED; nobody listens at {gone}; {b} does not answer");
    assert_eq!(reason(&got), (22, text));

    let mut none = bed(&[]);
    ask(&mut none, &query(7, "a.test", TYPE::A, true));
    let path = none.shared().resolvers.path().display().to_string();
    assert_eq!(reason(&response(&mut none)), (0, format!("no nameserver in {path}")));

    // Its own code stays, and its own words.
    for (own, said) in [(false, format!("{a} answers REFUSED")), (true, "mine".into())] {
        let mut one = bed(&[a]);
        ask(&mut one, &query(7, "a.test", TYPE::A, true));
        let (got, from) = refusing.get();
        let mut reply = Packet::parse(&got).unwrap().into_reply();
        *reply.rcode_mut() = RCODE::Refused;
        let mut opt =
            simple_dns::rdata::OPT { opt_codes: vec![], udp_packet_size: 1232, version: 0 };
        for (code, data) in [(3, &b"ns"[..]), (15, b"\0\x12mine")].iter().take(1 + usize::from(own))
        {
            let data = (*data).into();
            opt.opt_codes.push(simple_dns::rdata::OPTCode { code: *code, data });
        }
        *reply.opt_mut() = Some(opt);
        refusing.0.send_to(&reply.build_bytes_vec().unwrap(), from).unwrap();
        one.events(Duration::from_secs(5));
        let got = response(&mut one);
        assert_eq!(code(&got), RCODE::Refused);
        assert_eq!(reason(&got).1, said);
    }
}

#[test]
fn without_resolvers_the_guest_hears_at_once() {
    let mut bed = Bed::new();
    ask(&mut bed, &query(7, "a.test", TYPE::AAAA, false));
    assert_eq!(code(&response(&mut bed)), RCODE::ServerFailure);
}

#[test]
fn what_does_not_fit_the_link_is_cut() {
    let server = Server::new();
    let mut bed = bed(&[server.addr()]);
    for (padding, fits) in [(1400, true), (1500, false), (4500, false)] {
        ask(&mut bed, &query(7, "a.test", TYPE::A, true));
        let (got, from) = server.get();
        server.0.send_to(&answer(&got, RCODE::NoError, padding), from).unwrap();
        bed.events(Duration::from_secs(5));
        let response = response(&mut bed);
        let cut = Packet::parse(&response[..response.len().min(200)]);
        let truncated = response[2] & 2 != 0;
        assert_eq!((truncated, response.len() > 1400), (!fits, fits), "{padding} {cut:?}");
    }
}

#[test]
fn an_impatient_client_costs_one_query() {
    let server = Server::new();
    let mut bed = bed(&[server.addr()]);
    let q = query(7, "a.test", TYPE::A, false);
    ask(&mut bed, &q);
    ask(&mut bed, &q);
    server.get();
    assert!(server.is_quiet());
    // The same name under another id is another query.
    ask(&mut bed, &query(8, "a.test", TYPE::A, false));
    server.get();
}

#[test]
fn a_flood_drops_the_oldest() {
    let server = Server::new();
    let mut bed = bed(&[server.addr()]);
    for i in 0..QUERIES_MAX as u16 + 3 {
        ask(&mut bed, &query(i, &format!("n{i}.test"), TYPE::A, false));
        bed.now += Duration::from_millis(1);
    }
    assert_eq!(bed.stats.drops(DropReason::FlowTableFull), 3);
    for i in 0..QUERIES_MAX as u16 + 3 {
        let (got, from) = server.get();
        server.0.send_to(&answer(&got, RCODE::NoError, 0), from).unwrap();
        let heard = bed.events(Duration::from_millis(if i < 3 { 20 } else { 5000 }));
        assert_eq!(heard && bed.received().len() == 1, i >= 3, "{i}");
    }
}

#[test]
fn a_guest_that_is_gone_gets_nothing() {
    let server = Server::new();
    let mut bed = bed(&[server.addr()]);
    ask(&mut bed, &query(7, "a.test", TYPE::A, false));
    let (got, from) = server.get();
    bed.detach();
    server.0.send_to(&answer(&got, RCODE::NoError, 0), from).unwrap();
    assert!(!bed.events(Duration::from_millis(50)));
    assert!(bed.received().is_empty());
}

#[test]
fn the_gateways_own_names() {
    let ask_one = |host_access, name: &str, qtype| {
        let mut bed = Bed::with(GatewayConfig { host_access, ..config() });
        ask(&mut bed, &query(7, name, qtype, true));
        let bytes = response(&mut bed);
        let packet = Packet::parse(&bytes).unwrap();
        assert!(packet.opt().is_some());
        let text = packet.answers.iter().map(|r| match &r.rdata {
            RData::A(a) => Ipv4Addr::from(a.address).to_string(),
            RData::AAAA(a) => std::net::Ipv6Addr::from(a.address).to_string(),
            RData::PTR(name) => name.to_string(),
            other => format!("{other:?}"),
        });
        (packet.rcode(), text.collect::<Vec<_>>())
    };
    let found = |text: &str| (RCODE::NoError, vec![text.to_owned()]);
    let (empty, missing) = ((RCODE::NoError, vec![]), (RCODE::NameError, vec![]));
    assert_eq!(ask_one(true, "Host.MiniVMM.internal", TYPE::A), found("10.0.2.1"));
    assert_eq!(ask_one(true, "host.minivmm.internal", TYPE::AAAA), found("fd00:2::1"));
    assert_eq!(ask_one(true, "host.minivmm.internal", TYPE::MX), empty);
    assert_eq!(ask_one(false, "host.minivmm.internal", TYPE::A), missing);
    assert_eq!(ask_one(false, "gateway.minivmm.internal", TYPE::A), found("10.0.2.1"));
    assert_eq!(ask_one(true, "other.minivmm.internal", TYPE::A), missing);
    assert_eq!(ask_one(true, "a.host.minivmm.internal", TYPE::A), missing);
    assert_eq!(ask_one(true, "minivmm.internal", TYPE::A), empty);
    let gateway = "gateway.minivmm.internal";
    assert_eq!(ask_one(true, "1.2.0.10.in-addr.arpa", TYPE::PTR), found(gateway));
    let v6 = "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.2.0.0.0.0.0.d.f.ip6.arpa";
    assert_eq!(ask_one(true, v6, TYPE::PTR), found(gateway));
    // Not ours: forwarded, and there is nobody to forward to.
    for name in ["xminivmm.internal", "internal", "2.2.0.10.in-addr.arpa"] {
        assert_eq!(ask_one(true, name, TYPE::PTR).0, RCODE::ServerFailure, "{name}");
    }
}

#[test]
fn ipv6_clients_are_answered_from_the_address_they_asked() {
    let mut bed = Bed::new();
    let link_local = std::net::IpAddr::V6(config().link_local6());
    for server in [addr("[fd00:2::1]:53"), (link_local, 53).into()] {
        let sent =
            bed.send_udp(addr("[fd00:2::22]:9"), server, &query(7, "a.test", TYPE::A, false));
        assert_eq!(sent, TxOutcome::Sent);
        let frames = bed.received();
        assert_eq!(frames[0][..6], GUEST_MAC.0);
        let std::net::IpAddr::V6(ip) = server.ip() else { unreachable!() };
        assert_eq!(frames[0][22..38], ip.octets());
        assert_eq!(code(&frames[0][62..]), RCODE::ServerFailure);
    }
}

#[test]
fn broken_queries_are_told_so_or_dropped() {
    let mut bed = Bed::new();
    let malformed = TxOutcome::Dropped(DropReason::Malformed);
    let good = query(7, "a.test", TYPE::A, false);
    let mut is_answer = good.clone();
    is_answer[2] |= 0x80;
    assert_eq!(bed.send_udp(addr(CLIENT), addr(GATEWAY4), &is_answer), malformed);
    assert_eq!(bed.send_udp(addr(CLIENT), addr(GATEWAY4), &good[..11]), malformed);
    let mut notify = good.clone();
    notify[2] |= 0x20;
    ask(&mut bed, &notify);
    assert_eq!(response(&mut bed)[2..4], [0xa1, 4]);
    let mut pointer = good.clone();
    pointer[12] = 0xc0;
    ask(&mut bed, &pointer);
    assert_eq!(response(&mut bed), [0, 7, 0x81, 1, 0, 0, 0, 0, 0, 0, 0, 0]);
    ask(&mut bed, &good[..good.len() - 1]);
    assert_eq!(response(&mut bed)[3], 1);
}

#[test]
fn a_redirect_of_the_resolver_goes_first() {
    let server = Server::new();
    let redirect = Redirect { transport: Transport::Udp, from: addr(GATEWAY4), to: server.addr() };
    let mut bed = Bed::with(GatewayConfig { redirects: vec![redirect], ..config() });
    let q = query(7, "a.test", TYPE::A, false);
    ask(&mut bed, &q);
    let (got, from) = server.get();
    assert_eq!(got, q, "a plain flow: not even the id is touched");
    server.0.send_to(&answer(&got, RCODE::NoError, 0), from).unwrap();
    bed.events(Duration::from_secs(5));
    assert_eq!(code(&response(&mut bed)), RCODE::NoError);
}

#[test]
fn the_configuration_file_is_followed() {
    let path: PathBuf = std::env::temp_dir().join(format!("minivmm-dns-{}", std::process::id()));
    std::fs::write(&path, "options edns0\n").unwrap();
    let mut bed = Bed::with(GatewayConfig { resolv_conf: path.clone(), ..config() });
    ask(&mut bed, &query(7, "a.test", TYPE::A, false));
    assert_eq!(code(&response(&mut bed)), RCODE::ServerFailure);
    std::fs::write(&path, "nameserver 127.0.0.1\n").unwrap();
    bed.advance(Duration::from_secs(1));
    // Whether somebody listens at port 53 of this machine does not matter here.
    ask(&mut bed, &query(8, "b.test", TYPE::A, false));
    assert_eq!(bed.shared().resolvers.conf().servers, vec![addr("127.0.0.1:53")]);
    std::fs::remove_file(&path).unwrap();
}

proptest! {
    #[test]
    fn no_query_makes_it_panic(bytes: Vec<u8>, opcode in 0u8..2) {
        let mut bytes = bytes;
        let mut bed = Bed::new();
        bed.send_udp(addr(CLIENT), addr(GATEWAY4), &bytes);
        if bytes.len() >= 12 {
            bytes[2] = opcode << 3;
            bytes[4..8].copy_from_slice(&[0, 1, 0, 0]);
            bed.send_udp(addr(CLIENT), addr(GATEWAY4), &bytes);
            if let Ok(query) = Query::parse(&bytes) {
                prop_assert_eq!(query.question.len(), query.name.len() + 4);
            }
        }
    }

    #[test]
    fn questions_are_those_an_independent_parser_sees(bytes in prop::collection::vec(0u8..6, 5..40)) {
        let mut message = vec![0, 9, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        message.extend(&bytes);
        if let Ok(query) = Query::parse(&message)
            && let Ok(packet) = Packet::parse(&message)
        {
            let labels = packet.questions[0].qname.as_bytes();
            let name: Vec<u8> =
                labels.flat_map(|l| [&[l.len() as u8], l].concat()).chain([0]).collect();
            prop_assert_eq!(query.name, &name[..]);
        }
    }

    #[test]
    fn no_answer_makes_it_panic(bytes: Vec<u8>, id: u16) {
        let question = b"\x01a\x04test\x00\x00\x01\x00\x01";
        let mut bytes = bytes;
        message::judge(&bytes, id, question);
        if bytes.len() >= 12 {
            bytes[..2].copy_from_slice(&id.to_be_bytes());
            bytes[2] = 0x80;
            message::judge(&bytes, id, question);
        }
    }
}
