//! What the probe says of a peer that does wrong: what it can't tell from a good one, no other test
//! can see either.
#![expect(clippy::unwrap_used, reason = "a test fails by it")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::Duration;

use minivmm_tests::cli::Minivmm;
use serde_json::Value;

#[path = "../../resources/probe/src/pattern.rs"]
mod pattern;

use pattern::{PERIOD, Pattern};

/// What it does wrong.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// Nothing.
    None,
    /// The first byte of `RR` and `SOURCE` comes late.
    LateStart,
    /// `SOURCE` changes a byte.
    Changed,
    /// `SOURCE` leaves a kilobyte out.
    Gap,
    /// `SOURCE` stops, and holds the connection.
    Stall,
    /// `SOURCE` ends early.
    Short,
    /// `SOURCE` sends nothing.
    Silent,
    /// `SOURCE` sends a little at a time.
    Slow,
    /// `SINK` says that a byte was wrong.
    Complaint,
    /// `SINK` reads nothing of what comes.
    Deaf,
    /// The second datagram is the first that is answered.
    LostDatagram,
}

const PAUSE: Duration = Duration::from_millis(400);

fn serve(stream: &TcpStream, fault: Fault) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    let mut writer = stream;
    let mut line = String::new();
    reader.read_line(&mut line)?;
    match line.trim_end().split(' ').next() {
        Some("SINK") => {
            if fault == Fault::Deaf {
                return hold(reader);
            }
            let count = std::io::copy(&mut reader, &mut std::io::sink())?;
            let complaint = if fault == Fault::Complaint { " differs at 7" } else { "" };
            writeln!(writer, "{count}{complaint}")
        }
        Some("SOURCE") => source(reader, writer, fault),
        _ => {
            let mut buffer = [0; 4096];
            let mut late = fault == Fault::LateStart && line.starts_with("RR");
            loop {
                let n = reader.read(&mut buffer)?;
                if n == 0 {
                    return Ok(());
                }
                if std::mem::take(&mut late) {
                    thread::sleep(PAUSE);
                }
                writer.write_all(&buffer[..n])?;
            }
        }
    }
}

fn source(reader: impl Read, mut writer: impl Write, fault: Fault) -> std::io::Result<()> {
    let mut table = vec![0; 100_000 + PERIOD];
    let pattern = Pattern::new(&mut table);
    let first = pattern.piece(0, 100_000);
    match fault {
        Fault::LateStart => thread::sleep(PAUSE),
        Fault::Changed => {
            let mut changed = first.to_vec();
            changed[70_000] ^= 1;
            writer.write_all(&changed)?;
        }
        Fault::Gap => {
            writer.write_all(&first[..50_000])?;
            writer.write_all(&first[51_024..])?;
        }
        Fault::Stall => {
            writer.write_all(first)?;
            return hold(reader);
        }
        Fault::Short => return writer.write_all(first),
        Fault::Silent => return hold(reader),
        _ => {}
    }
    let mut sent = 0;
    loop {
        let most = if fault == Fault::Slow { 100 } else { 100_000 };
        let piece = pattern.piece(sent, most);
        writer.write_all(piece)?;
        sent += piece.len() as u64;
        if fault == Fault::Slow {
            thread::sleep(Duration::from_millis(10));
        }
    }
}

/// Keeps the connection until the other side ends it.
fn hold(mut reader: impl Read) -> std::io::Result<()> {
    thread::sleep(Duration::from_secs(8));
    reader.read(&mut [0]).map(|_| ())
}

/// A port that is free for both protocols.
fn bind() -> (TcpListener, UdpSocket, u16) {
    for _ in 0..16 {
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = tcp.local_addr().unwrap().port();
        if let Ok(udp) = UdpSocket::bind(("127.0.0.1", port)) {
            return (tcp, udp, port);
        }
    }
    panic!("no port is free for both protocols");
}

/// The probe's line about `check`, with such a peer on the loopback, and whether all of it was ok.
fn report(fault: Fault, check: &str, cmdline: &str) -> (Value, bool) {
    let (tcp, udp, port) = bind();
    thread::spawn(move || {
        let mut ignored = fault == Fault::LostDatagram;
        let mut buffer = [0; 2048];
        while let Ok((n, from)) = udp.recv_from(&mut buffer) {
            if !std::mem::take(&mut ignored) {
                udp.send_to(&buffer[..n], from).unwrap();
            }
        }
    });
    thread::spawn(move || {
        while let Ok((stream, _)) = tcp.accept() {
            // The probe resets a download when its time is over.
            thread::spawn(move || serve(&stream, fault));
        }
    });
    let outcome = Minivmm::run()
        .args(["--net", "nat,host=allow,subnet=10.77.64.0/24", "--json", "--cmdline"])
        .args([format!("probe.peer=10.77.64.1:{port} probe.without=ipv6 {cmdline}")])
        .finish()
        .unwrap();
    let line = outcome.json().into_iter().find(|l| l["check"] == check);
    (line.unwrap_or_else(|| panic!("no {check}: {outcome}")), outcome.status == Some(0))
}

fn fails(fault: Fault, check: &str, cmdline: &str, reason: &str) {
    let (line, ok) = report(fault, check, cmdline);
    assert!(line["state"] == "failed" && !ok, "{line}");
    assert!(line["reason"].as_str().unwrap().contains(reason), "{reason}: {line}");
}

#[test]
fn a_good_one() {
    for check in ["latency", "upload", "download"] {
        let (line, ok) = report(Fault::None, check, "");
        assert!(line["state"] == "ok" && ok, "{line}");
    }
}

#[test]
fn content() {
    fails(Fault::Changed, "download", "", "wrong content at byte 70000");
    fails(Fault::Gap, "download", "", "wrong content at byte 50000");
    fails(Fault::Complaint, "upload", "", "wrong content at byte 7");
}

#[test]
fn an_end() {
    fails(Fault::Stall, "download", "", "stalled after 100000 bytes");
    fails(Fault::Short, "download", "", "closed early");
    fails(Fault::Silent, "download", "", "no answer in 2 s");
    fails(Fault::Deaf, "upload", "", "no answer in 5 s");
}

#[test]
fn so_many_bytes() {
    fails(Fault::Slow, "download", "probe.bytes=100000", "not done in time");
    let (line, ok) = report(Fault::Slow, "download", "");
    assert!(line["state"] == "ok" && ok, "{line}");
    assert_eq!(line["mbit_per_s"], 0, "of a hundred bytes in ten milliseconds: {line}");
}

/// What comes late is slow, not absent, and not nothing.
#[test]
fn a_late_start() {
    let (line, ok) = report(Fault::LateStart, "latency", "");
    assert!(line["state"] == "ok" && ok, "{line}");
    assert!(line["round_trips"].as_u64().unwrap() > 0 && line["min_us"] != 0, "{line}");
    let (line, ok) = report(Fault::LateStart, "download", "");
    assert!(line["state"] == "ok" && ok, "{line}");
}

/// An answer to the second try counts from the first.
#[test]
fn a_lost_datagram() {
    let (line, ok) = report(Fault::LostDatagram, "udp", "");
    assert!(line["state"] == "ok" && ok, "{line}");
    assert!(line["rtt_us"].as_u64().unwrap() >= 300_000, "{line}");
}
