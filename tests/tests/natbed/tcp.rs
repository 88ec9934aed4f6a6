//! How a TCP connection begins and ends.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use minivmm_tests::natbed::{Bed, SERVER4, SERVER6, test};
use rustix::net::sockopt::set_socket_linger;

use crate::{accept, connect, listen, pair, plain};

const SERVERS: [&str; 2] = ["198.51.100.1:80", "[2001:db8::1]:80"];

fn expect(stream: &mut TcpStream, bytes: &[u8]) -> Result<()> {
    let mut buffer = vec![0; bytes.len()];
    stream.read_exact(&mut buffer)?;
    ensure!(buffer == bytes, "other bytes came");
    Ok(())
}

fn expect_end(stream: &mut TcpStream) -> Result<()> {
    ensure!(stream.read(&mut [0; 8]).context("the end")? == 0, "more bytes came");
    Ok(())
}

fn expect_reset(stream: &mut TcpStream) -> Result<()> {
    let end = stream.read(&mut [0; 8]);
    let kind = end.as_ref().err().map(std::io::Error::kind);
    ensure!(kind == Some(ErrorKind::ConnectionReset), "{end:?}");
    Ok(())
}

/// Closes with a reset.
fn reset(stream: TcpStream) -> Result<()> {
    set_socket_linger(&stream, Some(Duration::ZERO))?;
    drop(stream);
    Ok(())
}

/// Runs `body` with the guest's end and the server's of a connection, for IPv4 and IPv6.
fn each(name: &str, body: fn(&Bed, TcpStream, TcpStream) -> Result<()>) {
    test(name, || {
        let bed = plain()?;
        for server in SERVERS {
            let (client, peer) = pair(&bed, server)?;
            let result = body(&bed, client, peer);
            result.with_context(|| format!("{server}, drops: {:?}", bed.drops()))?;
        }
        Ok(())
    });
}

#[test]
fn a_closed_port_refuses() {
    test("tcp::a_closed_port_refuses", || {
        let bed = plain()?;
        for to in [format!("{SERVER4}:9"), format!("[{SERVER6}]:9")] {
            let start = Instant::now();
            let error = connect(&bed.guest, to.parse::<SocketAddr>()?).expect_err("nobody listens");
            let kind = error.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
            ensure!(kind == Some(ErrorKind::ConnectionRefused), "{error:#}");
            // A SYN that is lost costs a second or three, on a slow machine.
            ensure!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
        }
        Ok(())
    });
}

#[test]
fn no_route_is_told() {
    test("tcp::no_route_is_told", || {
        let bed = plain()?;
        bed.host.sh("ip route del default && ip -6 route del default")?;
        for server in SERVERS {
            let start = Instant::now();
            let error = connect(&bed.guest, server.parse::<SocketAddr>()?).expect_err("no route");
            let kind = error.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
            ensure!(kind == Some(ErrorKind::NetworkUnreachable), "{server}: {error:#}");
            let took = start.elapsed();
            ensure!(took < Duration::from_secs(5), "{server}: {error:#} after {took:?}");
        }
        Ok(())
    });
}

#[test]
fn bytes_go_both_ways() {
    each("tcp::bytes_go_both_ways", |_, mut client, mut server| {
        for n in [1, 100, 1460, 10_000, 100_000] {
            let bytes: Vec<u8> = (0..n).map(|i| (i % 253) as u8).collect();
            client.write_all(&bytes)?;
            expect(&mut server, &bytes)?;
            server.write_all(&bytes)?;
            expect(&mut client, &bytes)?;
        }
        Ok(())
    });
}

#[test]
fn the_server_ends_first() {
    each("tcp::the_server_ends_first", |_, mut client, mut server| {
        server.write_all(b"bye")?;
        server.shutdown(Shutdown::Write)?;
        expect(&mut client, b"bye")?;
        expect_end(&mut client)?;
        thread::sleep(Duration::from_millis(100));
        client.write_all(b"wait")?;
        expect(&mut server, b"wait")?;
        drop(client);
        expect_end(&mut server)
    });
}

#[test]
fn the_client_ends_first() {
    each("tcp::the_client_ends_first", |_, mut client, mut server| {
        client.write_all(b"bye")?;
        client.shutdown(Shutdown::Write)?;
        expect(&mut server, b"bye")?;
        expect_end(&mut server)?;
        thread::sleep(Duration::from_millis(100));
        server.write_all(&[5; 200_000])?;
        expect(&mut client, &[5; 200_000])?;
        drop(server);
        expect_end(&mut client)
    });
}

#[test]
fn both_end_at_once() {
    each("tcp::both_end_at_once", |_, mut client, mut server| {
        client.write_all(b"a")?;
        server.write_all(b"b")?;
        client.shutdown(Shutdown::Write)?;
        server.shutdown(Shutdown::Write)?;
        expect(&mut server, b"a")?;
        expect(&mut client, b"b")?;
        expect_end(&mut client)?;
        expect_end(&mut server)
    });
}

#[test]
fn the_server_resets() {
    each("tcp::the_server_resets", |_, mut client, server| {
        reset(server)?;
        expect_reset(&mut client)
    });
}

#[test]
fn the_client_resets() {
    each("tcp::the_client_resets", |_, client, mut server| {
        reset(client)?;
        expect_reset(&mut server)
    });
}

#[test]
fn closing_with_unread_bytes_resets() {
    each("tcp::closing_with_unread_bytes_resets", |_, mut client, server| {
        client.write_all(&[1; 1000])?;
        thread::sleep(Duration::from_millis(100));
        drop(server);
        expect_reset(&mut client)
    });
}

#[test]
fn a_reset_half_way_reaches_the_other_side() {
    each("tcp::a_reset_half_way_reaches_the_other_side", |_, mut client, server| {
        server.shutdown(Shutdown::Write)?;
        expect_end(&mut client)?;
        reset(server)?;
        let end = Instant::now() + Duration::from_secs(5);
        while client.write_all(b"x").is_ok() {
            ensure!(Instant::now() < end, "the client may still write");
            thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    });
}

#[test]
fn many_servers_share_a_source_port() {
    test("tcp::many_servers_share_a_source_port", || {
        let bed = plain()?;
        let listeners = [80, 81, 82]
            .map(|port| listen(&bed.internet, format!("{SERVER4}:{port}").parse::<SocketAddr>()?));
        for listener in listeners {
            let listener = listener?;
            let mut client = connect(&bed.guest, listener.local_addr()?)?;
            let (mut server, _) = accept(&listener)?;
            client.write_all(b"hello")?;
            expect(&mut server, b"hello")?;
        }
        Ok(())
    });
}
