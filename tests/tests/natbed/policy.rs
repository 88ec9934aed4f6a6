//! Where a guest may not go, and where it may.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use minivmm_net::DropReason;
use minivmm_tests::natbed::{Bed, GATEWAY4, Options, test};

use crate::{accept, connect, echo_udp, listen, plain, udp, until};

#[test]
fn loopback_and_metadata_are_out_of_reach() {
    test("policy::loopback_and_metadata_are_out_of_reach", || {
        let bed = plain()?;
        // Even where the host has such an address.
        bed.host.sh("ip addr add 169.254.169.254/32 dev lo")?;
        let at: [SocketAddr; 3] =
            ["127.0.0.1:80".parse()?, "169.254.169.254:80".parse()?, "[::1]:80".parse()?];
        let listeners = at.iter().map(|at| listen(&bed.host, *at)).collect::<Result<Vec<_>>>()?;
        for at in &at {
            echo_udp(&bed.host, &at.to_string())?;
        }
        let gateway6 = bed.config.gateway6;
        for to in
            ["169.254.169.254:80".to_string(), format!("{GATEWAY4}:80"), format!("[{gateway6}]:80")]
        {
            let error =
                connect(&bed.guest, to.parse::<SocketAddr>()?).expect_err("it must not be reached");
            let kind = error.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
            ensure!(
                matches!(
                    kind,
                    Some(
                        ErrorKind::HostUnreachable
                            | ErrorKind::ConnectionRefused
                            | ErrorKind::PermissionDenied
                    )
                ),
                "{to}: {error}, drops {:?}",
                bed.drops()
            );
            let socket = udp(&bed.guest, if to.starts_with('[') { "[::]:0" } else { "0.0.0.0:0" })?;
            socket.connect(&to)?;
            socket.send(b"x")?;
            let error = socket.recv(&mut [0; 8]).expect_err("it must not be reached");
            ensure!(error.kind() != ErrorKind::WouldBlock, "{to}: no answer");
        }
        // A guest's loopback leads nowhere else, unless the guest has it so.
        bed.guest_sh(&format!(
            "ip route del table local local 127.0.0.0/8 dev lo &&
             ip route del table local local 127.0.0.1 dev lo &&
             ip route add 127.0.0.0/8 via {GATEWAY4} &&
             ip -6 addr del ::1 dev lo &&
             ip -6 route add ::1 via {gateway6} src {}",
            bed.guest6()
        ))?;
        for (any, to) in [("0.0.0.0:0", at[0]), ("[::]:0", at[2])] {
            let forbidden = || bed.stats().drops(DropReason::DestinationForbidden);
            let before = forbidden();
            udp(&bed.guest, any)?.send_to(b"x", to).with_context(|| to.to_string())?;
            until("a datagram to the loopback", || Ok(forbidden() > before))?;
            let before = forbidden();
            let second = Duration::from_secs(1);
            let reached = bed.guest.run(|| TcpStream::connect_timeout(&to, second))?;
            ensure!(reached.is_err() && forbidden() > before, "{to}: {reached:?}");
        }
        for listener in listeners {
            listener.set_nonblocking(true)?;
            let reached = listener.accept();
            ensure!(reached.is_err(), "{:?} was reached: {reached:?}", listener.local_addr());
        }
        Ok(())
    });
}

#[test]
fn the_host_is_reached_where_that_is_allowed() {
    test("policy::the_host_is_reached_where_that_is_allowed", || {
        let bed = Bed::start(&Options::default(), |config| config.host_access = true)?;
        let gateway6 = bed.config.gateway6;
        for (at, to) in
            [("127.0.0.1:80", format!("{GATEWAY4}:80")), ("[::1]:80", format!("[{gateway6}]:80"))]
        {
            let listener = listen(&bed.host, at.parse::<SocketAddr>()?)?;
            let mut client = connect(&bed.guest, to.parse::<SocketAddr>()?)?;
            let (mut server, _) = accept(&listener)?;
            server.write_all(b"hello")?;
            let mut buffer = [0; 5];
            client.read_exact(&mut buffer)?;
            ensure!(&buffer == b"hello");

            echo_udp(&bed.host, at)?;
            let socket = udp(&bed.guest, if to.starts_with('[') { "[::]:0" } else { "0.0.0.0:0" })?;
            socket.connect(&to)?;
            socket.send(b"x")?;
            ensure!(socket.recv(&mut [0; 8])? == 1);
        }
        Ok(())
    });
}
