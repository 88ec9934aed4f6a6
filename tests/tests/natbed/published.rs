//! Ports of the host that lead to the guest.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result, ensure};
use minivmm_net::{Publish, Transport};
use minivmm_tests::natbed::{Bed, GATEWAY4, HOST4, Options, Place, test, tool};

use crate::{accept, connect, listen, udp};

const HOST6: &str = "2001:db8:1::2";

/// Port 8080 of the host, on all its addresses, is the guest's port 80.
fn published() -> Result<Bed> {
    tool("ping")?;
    let bed = Bed::start(&Options::default(), |config| {
        for transport in [Transport::Tcp, Transport::Udp] {
            for listen in ["0.0.0.0:8080", "[::]:8080"] {
                let listen = listen.parse().expect("an address");
                config.publish.push(Publish { transport, listen, guest_port: 80 });
            }
        }
    })?;
    // The gateway learns the guest's address from what it says.
    let gateway6 = bed.config.gateway6;
    bed.guest_sh(&format!("ping -c 1 -W 10 {GATEWAY4} && ping -c 1 -W 10 {gateway6}"))?;
    Ok(bed)
}

/// From where, to what, and the client's address as the guest is to see it.
fn clients(bed: &Bed) -> Vec<(Place, String, IpAddr)> {
    let gateway6 = bed.config.gateway6.into();
    vec![
        (Place::Internet, format!("{HOST4}:8080"), [192, 0, 2, 1].into()),
        (Place::Internet, format!("[{HOST6}]:8080"), "2001:db8:1::1".parse().expect("an address")),
        (Place::Host, "127.0.0.1:8080".into(), GATEWAY4.into()),
        (Place::Host, "[::1]:8080".into(), gateway6),
    ]
}

#[test]
fn tcp_clients_are_seen_as_who_they_are() {
    test("published::tcp_clients_are_seen_as_who_they_are", || {
        let bed = published()?;
        let v4 = listen(&bed.guest, (bed.config.guest4, 80))?;
        let v6 = listen(&bed.guest, (bed.guest6(), 80))?;
        for (place, to, seen) in clients(&bed) {
            let to: SocketAddr = to.parse()?;
            let mut client = connect(bed.place(place), to).with_context(|| to.to_string())?;
            let listener = if to.is_ipv4() { &v4 } else { &v6 };
            let (mut server, from) = accept(listener)
                .with_context(|| format!("{to} at the guest, drops: {:?}", bed.drops()))?;
            ensure!(from.ip() == seen, "{to}: the guest sees {from}");
            client.write_all(b"ping")?;
            let mut buffer = [0; 4];
            server.read_exact(&mut buffer)?;
            server.write_all(b"pong")?;
            client.read_exact(&mut buffer)?;
            ensure!(&buffer == b"pong");
        }
        Ok(())
    });
}

#[test]
fn udp_clients_are_seen_as_who_they_are() {
    test("published::udp_clients_are_seen_as_who_they_are", || {
        let bed = published()?;
        let v4 = udp(&bed.guest, "0.0.0.0:80")?;
        let v6 = udp(&bed.guest, &format!("[{}]:80", bed.guest6()))?;
        for (place, to, seen) in clients(&bed) {
            let to: SocketAddr = to.parse()?;
            let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
            let client = udp(bed.place(place), any)?;
            // Answers must come from where the question went.
            client.connect(to)?;
            let server = if to.is_ipv4() { &v4 } else { &v6 };
            for size in [1, 1400, 4000] {
                client.send(&vec![7; size])?;
                let mut buffer = [0; 8000];
                let (n, from) = server
                    .recv_from(&mut buffer)
                    .with_context(|| format!("{to} at the guest, drops: {:?}", bed.drops()))?;
                ensure!(n == size && from.ip() == seen, "{to}: the guest sees {n} from {from}");
                server.send_to(&buffer[..n], from)?;
                ensure!(client.recv(&mut buffer).with_context(|| to.to_string())? == size);
            }
        }
        Ok(())
    });
}

#[test]
fn nobody_behind_a_published_port_is_refused() {
    test("published::nobody_behind_a_published_port_is_refused", || {
        let bed = published()?;
        let to: SocketAddr = format!("{HOST4}:8080").parse()?;
        // The host takes the connection, then the guest refuses it: before or after `connect`
        // has looked.
        let end = connect(&bed.internet, to)
            .and_then(|mut client| Ok(client.read(&mut [0; 8])?))
            .expect_err("nobody listens");
        let kind = end.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
        ensure!(kind == Some(std::io::ErrorKind::ConnectionReset), "{end:#}");
        Ok(())
    });
}
