//! UDP and the ICMP that belongs to it. Timeouts are tested with a clock that can be turned, in
//! the gateway's own tests.

use std::net::UdpSocket;

use anyhow::{Context, Result, ensure};
use minivmm_tests::natbed::{Bed, Options, SERVER4, SERVER6, test};
use rustix::net::sockopt::{
    Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery, ip_mtu, ipv6_mtu, set_ip_mtu_discover,
    set_ipv6_mtu_discover,
};

use crate::{echo_udp, plain, udp};

/// Sends datagrams of these sizes and compares what comes back.
fn echo(socket: &UdpSocket, sizes: impl Iterator<Item = usize>) -> Result<()> {
    let mut buffer = vec![0; 65536];
    for size in sizes {
        let payload: Vec<u8> = (0..size).map(|i| (i * 31 + size) as u8).collect();
        socket.send(&payload)?;
        let n = socket.recv(&mut buffer).with_context(|| format!("{size} bytes"))?;
        ensure!(buffer[..n] == payload, "{size} bytes: others came back");
    }
    Ok(())
}

#[test]
fn datagrams_of_all_sizes_come_back() {
    test("udp::datagrams_of_all_sizes_come_back", || {
        let bed = plain()?;
        for (any, server, largest) in [
            ("0.0.0.0:0", format!("{SERVER4}:7"), 65507),
            ("[::]:0", format!("[{SERVER6}]:7"), 65487),
        ] {
            echo_udp(&bed.internet, &server)?;
            let socket = udp(&bed.guest, any)?;
            socket.connect(&server)?;
            echo(&socket, 0..=1472).with_context(|| format!("drops: {:?}", bed.drops()))?;
            echo(&socket, [1473, 4000, 9000, 30000, largest].into_iter())
                .with_context(|| format!("drops: {:?}", bed.drops()))?;
        }
        Ok(())
    });
}

#[test]
fn datagrams_of_a_large_mtu_come_back() {
    test("udp::datagrams_of_a_large_mtu_come_back", || {
        let bed = Bed::start(&Options { mtu: 65520, ..Options::default() }, |_| {})?;
        let server = format!("{SERVER4}:7");
        echo_udp(&bed.internet, &server)?;
        let socket = udp(&bed.guest, "0.0.0.0:0")?;
        // The host's uplink takes 1,500 bytes: it is to fragment, as the guest would have.
        set_ip_mtu_discover(&socket, Ipv4PathMtuDiscovery::DONT)?;
        socket.connect(&server)?;
        echo(&socket, [1, 1472, 1473, 9000, 65492, 65507].into_iter())
    });
}

#[test]
fn a_closed_port_is_refused() {
    test("udp::a_closed_port_is_refused", || {
        let bed = plain()?;
        for (any, server) in
            [("0.0.0.0:0", format!("{SERVER4}:9")), ("[::]:0", format!("[{SERVER6}]:9"))]
        {
            let socket = udp(&bed.guest, any)?;
            socket.connect(&server)?;
            // Each is refused, the second through a socket that has an error behind it.
            for _ in 0..3 {
                socket.send(b"hello")?;
                let error = socket.recv(&mut [0; 8]).expect_err("nobody listens");
                let drops = bed.drops();
                ensure!(
                    error.kind() == std::io::ErrorKind::ConnectionRefused,
                    "{error}, drops: {drops:?}"
                );
            }
        }
        Ok(())
    });
}

#[test]
fn the_paths_mtu_reaches_the_guest() {
    test("udp::the_paths_mtu_reaches_the_guest", || {
        let bed = plain()?;
        bed.host.sh("ip link set veth0 mtu 1400")?;
        bed.internet.sh("ip link set veth1 mtu 1400")?;
        let (v4, v6) = (format!("{SERVER4}:7"), format!("[{SERVER6}]:7"));
        echo_udp(&bed.internet, &v4)?;
        echo_udp(&bed.internet, &v6)?;

        let socket = udp(&bed.guest, "0.0.0.0:0")?;
        set_ip_mtu_discover(&socket, Ipv4PathMtuDiscovery::DO)?;
        socket.connect(&v4)?;
        socket.send(&[0; 1472])?;
        let error = socket.recv(&mut [0; 8]).expect_err("it is too big");
        ensure!(error.raw_os_error() == Some(libc::EMSGSIZE), "{error}");
        ensure!(ip_mtu(&socket)? == 1400, "MTU {}", ip_mtu(&socket)?);
        echo(&socket, [1372].into_iter())?;

        let socket = udp(&bed.guest, "[::]:0")?;
        set_ipv6_mtu_discover(&socket, Ipv6PathMtuDiscovery::DO)?;
        socket.connect(&v6)?;
        socket.send(&[0; 1452])?;
        let error = socket.recv(&mut [0; 8]).expect_err("it is too big");
        ensure!(error.raw_os_error() == Some(libc::EMSGSIZE), "{error}");
        ensure!(ipv6_mtu(&socket)? == 1400, "MTU {}", ipv6_mtu(&socket)?);
        echo(&socket, [1352].into_iter())?;

        // Without DF the host cuts it smaller.
        let socket = udp(&bed.guest, "0.0.0.0:0")?;
        set_ip_mtu_discover(&socket, Ipv4PathMtuDiscovery::DONT)?;
        socket.connect(&v4)?;
        echo(&socket, [1472, 5000].into_iter())
    });
}

#[test]
fn what_is_too_big_costs_no_other_datagram() {
    test("udp::what_is_too_big_costs_no_other_datagram", || {
        let bed = plain()?;
        bed.internet.sh("ip link add far mtu 1300 type veth peer name end")?;
        bed.internet.sh("ip link set far up && ip link set end up")?;
        bed.internet.sh("ip route add 203.0.113.0/24 dev far")?;
        bed.internet.sh("echo 1 > /proc/sys/net/ipv4/ip_forward")?;
        let server = udp(&bed.internet, &format!("{SERVER4}:7"))?;
        let socket = udp(&bed.guest, "0.0.0.0:0")?;
        // With DF, whatever the guest's own stack knows of the path.
        set_ip_mtu_discover(&socket, Ipv4PathMtuDiscovery::PROBE)?;
        for n in 1..=50 {
            // A router finds the first one too big while the second is on its way by that socket.
            socket.send_to(&[0; 1400], format!("203.0.113.{n}:7"))?;
            socket.send_to(&[n], format!("{SERVER4}:7"))?;
            let mut byte = [0];
            let got = server.recv(&mut byte);
            got.with_context(|| format!("datagram {n}, drops: {:?}", bed.drops()))?;
            ensure!(byte[0] == n, "datagram {n} is {}", byte[0]);
        }
        Ok(())
    });
}

#[test]
fn one_socket_speaks_with_many() {
    test("udp::one_socket_speaks_with_many", || {
        let bed = plain()?;
        let socket = udp(&bed.guest, "0.0.0.0:0")?;
        let mut ports = Vec::new();
        for port in 1000..1050 {
            let server = udp(&bed.internet, &format!("{SERVER4}:{port}"))?;
            socket.send_to(b"?", (SERVER4, port))?;
            let (_, from) = server.recv_from(&mut [0; 8])?;
            ports.push(from.port());
            // The answer may come from another port of the same host.
            let other = udp(&bed.internet, &format!("{SERVER4}:{}", port + 1000))?;
            other.send_to(b"!", from)?;
            let (_, from) = socket.recv_from(&mut [0; 8])?;
            ensure!(from == format!("{SERVER4}:{}", port + 1000).parse()?, "from {from}");
        }
        ports.dedup();
        ensure!(ports.len() == 1, "one endpoint of the guest's had {} ports", ports.len());
        Ok(())
    });
}
