//! Quantity: bytes, connections, datagram flows, windows that close.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use minivmm_tests::natbed::{Bed, Options, SERVER4, SERVER6, test, test_for, tool};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::Value;

use crate::{PATIENCE, echo_udp, pair, plain};

const MIB: usize = 1 << 20;

/// As many descriptors as we may have, for us and what we start.
fn raise_descriptors() -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })?;
    Ok(())
}

fn descriptors() -> Result<usize> {
    Ok(std::fs::read_dir("/proc/self/fd")?.count())
}

#[test]
fn sixty_four_mebibytes_each_way_are_the_same() {
    test("tcp_load::sixty_four_mebibytes_each_way_are_the_same", || {
        for mtu in [1500, 65520, 1280] {
            let mut bed = Bed::start(&Options { mtu, ..Options::default() }, |_| {})?;
            for server in [SERVER4.to_string(), format!("[{SERVER6}]")] {
                bed.serve_peer(&[&format!("source={server}:80"), &format!("sink={server}:81")])?;
                let context = || format!("MTU {mtu}, {server}");
                bed.guest_peer(&format!("fetch {server}:80 {}", 64 * MIB)).with_context(context)?;
                bed.guest_peer(&format!("push {server}:81 {}", 64 * MIB)).with_context(context)?;
            }
        }
        Ok(())
    });
}

#[test]
fn curl_gets_a_file() {
    test("tcp_load::curl_gets_a_file", || {
        tool("curl")?;
        let mut bed = plain()?;
        for server in [SERVER4.to_string(), format!("[{SERVER6}]")] {
            bed.serve_peer(&[&format!("http={server}:80")])?;
            let got = bed.guest_sh(&format!(
                "curl -gsS -m 20 http://{server}/bytes/5000000 | md5sum | cut -d' ' -f1"
            ))?;
            let sum = bed.guest_sh(&format!("curl -gsS -m 20 http://{server}/sum/5000000"))?;
            ensure!(!got.trim().is_empty() && sum.contains(got.trim()), "{server}: {got} {sum}");
        }
        Ok(())
    });
}

#[test]
fn iperf3_both_ways() {
    test("tcp_load::iperf3_both_ways", || {
        let iperf3 = tool("iperf3")?;
        let mut bed = plain()?;
        bed.serve_iperf3()?;
        for server in [SERVER4, SERVER6] {
            for direction in ["", "-R"] {
                let command = format!("{} -c {server} -t 2 -J {direction}", iperf3.display());
                let report: Value = serde_json::from_str(&bed.guest_sh(&command)?)?;
                let bytes = report["end"]["sum_received"]["bytes"].as_u64();
                ensure!(bytes.is_some_and(|n| n > MIB as u64), "{command}: {report}");
            }
        }
        Ok(())
    });
}

/// One side writes `bytes` of a pattern; the other does not read for a while, then all of it.
fn stall(mut from: TcpStream, mut to: TcpStream, bytes: usize) -> Result<()> {
    let pattern = |i: usize| (i * 7 / 3) as u8;
    let writer = thread::spawn(move || -> Result<()> {
        let data: Vec<u8> = (0..bytes).map(pattern).collect();
        from.set_write_timeout(Some(Duration::from_secs(60)))?;
        from.write_all(&data)?;
        from.shutdown(Shutdown::Write)?;
        // Only now may it be closed: the other side still reads.
        let _ = from.read(&mut [0; 1]);
        Ok(())
    });
    thread::sleep(Duration::from_secs(3));
    ensure!(!writer.is_finished(), "{bytes} bytes fit without anyone reading");
    let start = Instant::now();
    let mut got = Vec::with_capacity(bytes);
    to.set_read_timeout(Some(Duration::from_secs(10)))?;
    let read = to.read_to_end(&mut got);
    ensure!(read.is_ok(), "after {} bytes: {read:?}", got.len());
    ensure!(got.len() == bytes, "{} bytes came", got.len());
    ensure!(got.iter().enumerate().all(|(i, b)| *b == pattern(i)), "other bytes came");
    drop(to);
    ensure!(start.elapsed() < Duration::from_secs(20), "resuming took {:?}", start.elapsed());
    match writer.join() {
        Ok(result) => result,
        Err(_) => bail!("the writer panicked"),
    }
}

#[test]
fn a_guest_that_does_not_read_stalls_the_server() {
    test("tcp_load::a_guest_that_does_not_read_stalls_the_server", || {
        let bed = plain()?;
        let (client, server) = pair(&bed, "198.51.100.1:80")?;
        stall(server, client, 64 * MIB)
    });
}

#[test]
fn a_server_that_does_not_read_stalls_the_guest() {
    test("tcp_load::a_server_that_does_not_read_stalls_the_guest", || {
        let bed = plain()?;
        let (client, server) = pair(&bed, "198.51.100.1:80")?;
        stall(client, server, 64 * MIB)
    });
}

#[test]
fn a_slow_reader_gets_everything() {
    test("tcp_load::a_slow_reader_gets_everything", || {
        let bed = plain()?;
        let (mut client, mut server) = pair(&bed, "198.51.100.1:80")?;
        let writer = thread::spawn(move || server.write_all(&[9; 4 * MIB]));
        let (mut got, mut buffer) = (0, [0; 32 * 1024]);
        loop {
            match client.read(&mut buffer).with_context(|| format!("after {got} bytes"))? {
                0 => break,
                n => got += n,
            }
            thread::sleep(Duration::from_millis(10));
        }
        ensure!(got == 4 * MIB, "{got} bytes came");
        ensure!(writer.join().is_ok_and(|r| r.is_ok()));
        Ok(())
    });
}

#[test]
fn two_thousand_connections_are_open_at_once() {
    test("tcp_load::two_thousand_connections_are_open_at_once", || {
        raise_descriptors()?;
        let mut bed = plain()?;
        bed.serve_peer(&[&format!("echo={SERVER4}:80")])?;
        let before = descriptors()?;
        bed.guest_peer(&format!("many {SERVER4}:80 2000"))?;
        settle(&bed, before)
    });
}

/// As `max-flows=10000` configures it.
#[test]
fn ten_thousand_connections_are_open_at_once() {
    test("tcp_load::ten_thousand_connections_are_open_at_once", || {
        const FLOWS: usize = 10_000;
        raise_descriptors()?;
        let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        ensure!(limit > 11_000, "{limit} open files are too few for this test (ulimit -Hn 12000)");
        let mut bed = Bed::start(&Options::default(), |config| config.limits.tcp = FLOWS)?;
        bed.serve_peer(&[&format!("crowd={SERVER4}:80")])?;
        let (before, memory) = (descriptors()?, resident()?);
        let most = thread::scope(|scope| {
            let peer = scope.spawn(|| bed.guest_peer(&format!("many {SERVER4}:80 {FLOWS}")));
            let (mut most, mut grown) = (0, 0);
            while !peer.is_finished() {
                most = most.max(bed.stats().tcp_flows.get() as usize);
                grown = grown.max(resident()?.saturating_sub(memory));
                thread::sleep(Duration::from_millis(2));
            }
            peer.join().expect("it does not panic")?;
            println!("{grown} bytes of memory for {most} flows");
            // What they take is bounded: half of it is room to grow.
            ensure!(grown < FLOWS * 8192, "{most} flows take {grown} bytes of memory");
            anyhow::Ok(most)
        })?;
        ensure!(most == FLOWS, "{most} flows at once");
        settle(&bed, before)
    });
}

#[test]
fn twenty_thousand_connections_leave_nothing_behind() {
    // A slow machine takes a minute or two.
    let longest = Duration::from_secs(600);
    test_for(longest, "tcp_load::twenty_thousand_connections_leave_nothing_behind", || {
        raise_descriptors()?;
        let mut bed = plain()?;
        bed.serve_peer(&[&format!("echo={SERVER4}:80")])?;
        let before = descriptors()?;
        let connections = |from: u32| {
            for n in from..from + 5_000 {
                let context = || format!("connection {n}");
                let mut stream = TcpStream::connect((SERVER4, 80)).with_context(context)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                stream.write_all(&n.to_be_bytes()).with_context(context)?;
                let mut answer = [0; 4];
                stream.read_exact(&mut answer).with_context(context)?;
                ensure!(answer == n.to_be_bytes(), "connection {n}: another's bytes");
            }
            Ok(())
        };
        bed.guest.run(|| connections(0))??;
        settle(&bed, before)?;
        let memory = resident()?;
        for batch in 1..4 {
            bed.guest.run(|| connections(batch * 5_000))??;
            settle(&bed, before)?;
        }
        let grown = resident()?.saturating_sub(memory);
        ensure!(grown < MIB, "the last 15,000 connections left {grown} bytes of memory behind");
        Ok(())
    });
}

#[test]
fn thousands_of_datagram_flows_leave_nothing_behind() {
    test("tcp_load::thousands_of_datagram_flows_leave_nothing_behind", || {
        raise_descriptors()?;
        let bed = plain()?;
        // The port of name servers: such flows are short-lived.
        echo_udp(&bed.internet, &format!("{SERVER4}:53"))?;
        let (before, limit) = (descriptors()?, bed.config.limits.udp);
        let flows = || {
            for n in 0..2_500u32 {
                let socket = UdpSocket::bind("0.0.0.0:0")?;
                socket.set_read_timeout(Some(PATIENCE))?;
                socket.send_to(&n.to_be_bytes(), (SERVER4, 53))?;
                let mut answer = [0; 8];
                let got = socket.recv(&mut answer).with_context(|| format!("flow {n}"))?;
                ensure!(answer[..got] == n.to_be_bytes(), "flow {n}: another's bytes");
            }
            Ok(())
        };
        let held = || -> Result<()> {
            let (now, flows) = (descriptors()?, bed.stats().udp_flows.get() as usize);
            ensure!(flows <= limit && now <= before + limit, "{flows} flows, {now} descriptors");
            Ok(())
        };
        bed.guest.run(flows)??;
        held()?;
        let memory = resident()?;
        bed.guest.run(flows)??;
        held()?;
        let grown = resident()?.saturating_sub(memory);
        ensure!(grown < MIB, "another 2,500 flows took {grown} bytes of memory");
        settle(&bed, before)
    });
}

/// Bytes of memory that this process has, with the gateway in it.
fn resident() -> Result<usize> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|rest| rest.trim().strip_suffix(" kB")).context("no VmRSS")?;
    Ok(kib.trim().parse::<usize>()? << 10)
}

/// Waits until the gateway has no flow and no more descriptors than `before`.
fn settle(bed: &Bed, before: usize) -> Result<()> {
    let end = Instant::now() + Duration::from_secs(30);
    loop {
        let stats = bed.stats();
        let (now, flows) = (descriptors()?, stats.tcp_flows.get() + stats.udp_flows.get());
        if now <= before && flows == 0 {
            return Ok(());
        }
        ensure!(
            Instant::now() < end,
            "{before} descriptors before, {now} now, {flows} flows: {:?}",
            bed.drops()
        );
        thread::sleep(Duration::from_millis(50));
    }
}
