//! The traffic class of what the guest sends is that of what the host sends.

use rustix::net::sockopt::{ip_tos, ipv6_tclass};

use super::*;

/// The class of the flow's socket.
fn class_of(guest: &Guest) -> u32 {
    let (_, flow) = guest.bed.gateway.tcp.flows.table.iter().next().unwrap();
    let socket = &flow.socket.as_ref().unwrap().fd;
    if guest.local.is_ipv4() {
        ip_tos(socket).unwrap().into()
    } else {
        ipv6_tclass(socket).unwrap()
    }
}

#[test]
fn a_flow_has_the_guests_class_from_its_syn_on() {
    for i in 0..2 {
        let (mut guest, server) = Guest::with_server(i);
        // ECN bits are the guest's own connection's.
        guest.class = 0x48 | 2;
        guest.open();
        assert_eq!(class_of(&guest), 0x48);
        let (server, _) = server.accept().unwrap();
        guest.class = 0x48 | 1;
        guest.send(ACK, b"one");
        assert_eq!(class_of(&guest), 0x48);
        // As ssh does once it knows what it is used for.
        guest.class = 0x20;
        guest.send(ACK, b"two");
        assert_eq!(class_of(&guest), 0x20);
        guest.class = 0;
        guest.send(ACK, b"");
        assert_eq!(class_of(&guest), 0);
        assert_eq!(read_all(&server, 6), b"onetwo");
    }
}

#[test]
fn bytes_of_several_classes_in_a_batch_keep_their_order() {
    for i in 0..2 {
        let (mut guest, server) = Guest::connected(i);
        let data = pattern(30_000);
        for (n, segment) in data.chunks(1000).enumerate() {
            guest.class = (n as u8 / 3) << 2;
            assert_eq!(guest.queue(ACK, segment), TxOutcome::Sent);
        }
        guest.batch_end();
        assert!(read_all(&server, data.len()) == data);
        assert_eq!(class_of(&guest), 9 << 2);
    }
}
