//! Published ports: from configuration to a gateway that listens at them.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};

use minivmm_net::{Gateway, GatewayConfig, GatewayError, Publish, Transport};

use crate::config::{PublishAddress, PublishConfig};

/// How often the host is asked for a port where others take what it chose.
const ATTEMPTS: usize = 16;

/// A gateway with its published ports open, and these with the ports that the host chose.
///
/// # Errors
/// [`GatewayError`].
pub fn gateway(
    config: &GatewayConfig,
    ports: &[PublishConfig],
) -> Result<(Gateway, Vec<PublishConfig>), GatewayError> {
    let mut attempts = if ports.iter().any(|ports| ports.host == 0) { ATTEMPTS } else { 1 };
    loop {
        attempts -= 1;
        let chosen = choose(ports)?;
        let publish = chosen.iter().flat_map(listen).collect();
        match Gateway::new(GatewayConfig { publish, ..config.clone() }) {
            Ok(gateway) => return Ok((gateway, chosen)),
            // A port of one address may be taken at another, or by now.
            Err(GatewayError::Publish { publish, source })
                if attempts > 0
                    && source.kind() == io::ErrorKind::AddrInUse
                    && !ports.iter().any(|ports| has(ports, publish.listen.port())) => {}
            Err(e) => return Err(e),
        }
    }
}

/// Whether that port was asked for.
fn has(ports: &PublishConfig, port: u16) -> bool {
    port.checked_sub(ports.host).is_some_and(|n| ports.host != 0 && n < ports.count)
}

/// The same with a port that is free in place of each 0: one for all addresses of a published port.
fn choose(ports: &[PublishConfig]) -> Result<Vec<PublishConfig>, GatewayError> {
    // Kept until all are chosen, so that none is chosen twice.
    let mut held = (Vec::new(), Vec::new());
    let mut choose = |ports: &PublishConfig| {
        if ports.host != 0 {
            return Ok(*ports);
        }
        let Some(publish) = listen(ports).next() else { return Ok(*ports) };
        let bound = match ports.transport {
            Transport::Tcp => TcpListener::bind(publish.listen).and_then(|socket| {
                let address = socket.local_addr();
                held.0.push(socket);
                address
            }),
            Transport::Udp => UdpSocket::bind(publish.listen).and_then(|socket| {
                let address = socket.local_addr();
                held.1.push(socket);
                address
            }),
        };
        match bound {
            Ok(address) => Ok(PublishConfig { host: address.port(), ..*ports }),
            Err(source) => Err(GatewayError::Publish { publish, source }),
        }
    };
    ports.iter().map(&mut choose).collect()
}

/// What a gateway listens at: each port at each of its addresses.
fn listen(ports: &PublishConfig) -> impl Iterator<Item = Publish> {
    let ports = *ports;
    let addresses = ports.address.addresses().into_iter();
    let there = addresses.filter(move |address| match (ports.address, address) {
        (PublishAddress::Ip(_), _) | (_, IpAddr::V4(_)) => true,
        // A host may be without IPv6.
        (_, six) => UdpSocket::bind(SocketAddr::new(*six, 0)).is_ok(),
    });
    there.flat_map(move |address| {
        (0..ports.count).map(move |n| Publish {
            transport: ports.transport,
            listen: SocketAddr::new(address, ports.host.saturating_add(n)),
            guest_port: ports.guest.saturating_add(n),
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> PublishConfig {
        text.parse().unwrap()
    }

    fn at(text: &str) -> Vec<(String, u16)> {
        let at = |publish: Publish| (publish.listen.to_string(), publish.guest_port);
        listen(&parse(text)).map(at).collect()
    }

    #[test]
    fn a_range_is_its_ports() {
        let want = [("127.0.0.1:80", 90), ("127.0.0.1:81", 91), ("127.0.0.1:82", 92)];
        let got = at("127.0.0.1:80-82:90-92");
        assert_eq!(got, want.map(|(at, guest)| (at.to_owned(), guest)));
        assert!(at("localhost:80:8080").contains(&("127.0.0.1:80".into(), 8080)));
        assert!(at("80:8080").contains(&("0.0.0.0:80".into(), 8080)));
    }

    #[test]
    fn each_port_that_the_host_chooses_is_another() {
        let ports = ["0:80", "0:81", "127.0.0.1:0:82", "0:80/udp", "localhost:0:81/udp", "7777:7"];
        let chosen = choose(&ports.map(parse)).unwrap();
        let hosts: Vec<u16> = chosen.iter().map(|ports| ports.host).collect();
        assert!(hosts.iter().all(|host| *host != 0), "{hosts:?}");
        assert!(hosts[0] != hosts[1] && hosts[1] != hosts[2] && hosts[3] != hosts[4], "{hosts:?}");
        assert_eq!(chosen[5], parse("7777:7"));
        assert!(has(&parse("80-82:1-3"), 82) && !has(&parse("80-82:1-3"), 83));
        assert!(!has(&parse("0:80"), 80));
    }
}
