//! Published ports: clients of the host's network at a server in the guest.

use super::*;
use crate::gateway::config::Publish;

/// A guest with a published port, a client that has connected, and the guest's SYN.
fn client(listen: &str, listening: bool) -> (Guest, TcpStream, Got) {
    let probe = TcpListener::bind(listen).unwrap();
    let at = probe.local_addr().unwrap();
    drop(probe);
    let publish = vec![Publish { transport: Transport::Tcp, listen: at, guest_port: 8080 }];
    let mut guest =
        Guest::new(GatewayConfig { publish, ..config() }, "10.0.2.2:8080", "10.0.2.1:1");
    if listening {
        // So that it is known to be there over IPv6 as well.
        let (from, to) = (addr("[fd00:2::2]:1"), addr("[fd00:2::1]:1"));
        let fields = Fields { src_port: 1, dst_port: 1, flags: RST, ..guest.fields(0) };
        guest.bed.send(&frame(from, to, fields, &[], b""));
    }
    let client = TcpStream::connect(at).unwrap();
    client.set_read_timeout(Some(WAIT)).unwrap();
    let syn = guest.next();
    assert_eq!(syn.flags(), SYN);
    (guest, client, syn)
}

fn answer(guest: &mut Guest, syn: &Got) {
    (guest.local, guest.remote) = (syn.to, syn.from);
    guest.learn_syn(syn);
    let fields = guest.fields(SYN | ACK);
    guest.raw(fields, &[2, 4, 0x05, 0xb4, 1, 3, 3, 2], b"");
    guest.seq += 1;
    guest.poll();
    let got = &guest.inbox[0];
    assert_eq!((got.flags() & !PSH, got.h.fields.ack), (ACK, guest.seq));
}

#[test]
fn a_client_reaches_the_guest() {
    for (listen, from) in [("127.0.0.1:0", "10.0.2.1"), ("[::1]:0", "fd00:2::1")] {
        let (mut guest, mut client, syn) = client(listen, true);
        let port = client.local_addr().unwrap().port();
        // Loopback is not an address that the guest could answer.
        assert_eq!((syn.from.ip().to_string(), syn.from.port()), (from.into(), port));
        assert_eq!(syn.to.port(), 8080);
        client.write_all(b"early").unwrap();
        answer(&mut guest, &syn);
        assert_eq!(guest.receive(5), b"early");
        guest.send(ACK, b"answer");
        assert_eq!(read_all(&client, 6), b"answer");
        drop(client);
        assert_eq!(guest.next_with(FIN).h.fields.seq, guest.ack);
    }
}

#[test]
fn a_client_gets_the_guests_traffic_class() {
    use rustix::net::sockopt::{ip_tos, ipv6_tclass};
    // The third is IPv6 outside and IPv4 inside.
    for (listen, ipv6) in [("127.0.0.1:0", true), ("[::1]:0", true), ("[::1]:0", false)] {
        let (mut guest, _client, syn) = client(listen, ipv6);
        guest.class = 0x88 | 1;
        answer(&mut guest, &syn);
        let (_, flow) = guest.bed.gateway.tcp.flows.table.iter().next().unwrap();
        let socket = &flow.socket.as_ref().unwrap().fd;
        let class = match addr(listen).is_ipv4() {
            true => ip_tos(socket).unwrap().into(),
            false => ipv6_tclass(socket).unwrap(),
        };
        assert_eq!(class, 0x88, "{listen}");
    }
}

#[test]
fn a_client_over_ipv6_reaches_a_guest_without_it() {
    let (mut guest, client, syn) = client("[::1]:0", false);
    assert_eq!((syn.from.ip(), syn.to), (addr("10.0.2.1:1").ip(), addr("10.0.2.2:8080")));
    answer(&mut guest, &syn);
    guest.send(ACK, b"hello");
    assert_eq!(read_all(&client, 5), b"hello");
}

#[test]
fn a_guest_that_refuses_resets_the_client() {
    let (mut guest, mut client, syn) = client("127.0.0.1:0", false);
    (guest.local, guest.remote) = (syn.to, syn.from);
    guest.ack = syn.h.fields.seq + 1;
    guest.seq = Seq::new(0);
    guest.send(RST | ACK, b"");
    assert_eq!(client.read(&mut [0]).unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    assert_eq!(guest.flows(), 0);
}

#[test]
fn a_guest_that_does_not_answer_is_asked_again_and_given_up() {
    let (mut guest, mut client, syn) = client("127.0.0.1:0", false);
    guest.bed.advance(Duration::from_millis(1001));
    assert_eq!(guest.next().h, syn.h);
    guest.bed.advance(Duration::from_secs(300));
    assert_eq!(guest.flows(), 0);
    assert_eq!(client.read(&mut [0]).unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    let flags: Vec<_> =
        std::iter::from_fn(|| guest.try_next(Duration::ZERO)).map(|g| g.flags()).collect();
    assert!(flags.len() >= 5 && flags.ends_with(&[RST | ACK]), "{flags:?}");
}

#[test]
fn a_client_that_gives_up_resets_the_guest() {
    let (mut guest, client, syn) = client("127.0.0.1:0", false);
    stream::abort(client.into());
    let got = guest.next();
    assert!(got.h.has(RST) && got.h.fields.seq == syn.h.fields.seq + 1, "{got:?}");
    assert_eq!(guest.flows(), 0);
}

#[test]
fn clients_that_look_alike_get_ports_of_their_own() {
    // Two loopback addresses are one gateway to the guest.
    let (mut guest, first, syn) = client("0.0.0.0:0", false);
    let port = first.local_addr().unwrap().port();
    let at = SocketAddr::new(addr("127.0.0.2:1").ip(), first.peer_addr().unwrap().port());
    let fd = rustix::net::socket(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::STREAM,
        None,
    )
    .unwrap();
    rustix::net::bind(&fd, &SocketAddr::new(addr("127.0.0.3:1").ip(), port)).unwrap();
    rustix::net::connect(&fd, &at).unwrap();
    let other = guest.next();
    assert_eq!(other.from.ip(), syn.from.ip());
    assert_ne!(other.from.port(), syn.from.port());
    assert_eq!(guest.flows(), 2);
}

#[test]
fn a_taken_port_is_known_at_once() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = taken.local_addr().unwrap();
    let publish = vec![Publish { transport: Transport::Tcp, listen, guest_port: 80 }];
    let error = Tcp::bind(&GatewayConfig { publish, ..config() }).unwrap_err();
    let text = error.to_string();
    assert!(text.contains(&listen.to_string()) && text.contains("another program"), "{text}");
}
