//! Clients that do what none should.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use crate::host::Host;

/// Others are answered at once.
fn still_answers(host: &Host) {
    let start = Instant::now();
    assert_eq!(host.names(), ["one"]);
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
}

fn connect(host: &Host) -> UnixStream {
    let stream = UnixStream::connect(host.socket("one")).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    stream
}

/// What a client gets back until it is thrown out.
fn rest(mut stream: UnixStream) -> String {
    let mut bytes = Vec::new();
    if let Err(e) = stream.read_to_end(&mut bytes) {
        // A reset says the same as an end; silence would be a timeout.
        assert_eq!(e.kind(), std::io::ErrorKind::ConnectionReset);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn finish(host: &Host) {
    still_answers(host);
    host.text(["kill", "one"]);
    host.is_empty();
}

#[test]
fn garbage_is_refused() {
    let host = Host::new();
    host.start("one");
    for garbage in [
        &b"\0\0\0\0\0\0\0\0"[..],
        b"GET / HTTP/9.9\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET /v1/machine HTTP/1.1\r\nContent-Length: -5\r\n\r\n",
        b"POST /v1/machine/stop HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ] {
        let mut stream = connect(&host);
        stream.write_all(garbage).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let answer = rest(stream);
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{garbage:?}: {answer}");
    }
    finish(&host);
}

#[test]
fn a_head_without_end_is_refused() {
    let host = Host::new();
    host.start("one");
    let mut stream = connect(&host);
    stream.write_all(b"GET /v1/machine HTTP/1.1\r\n").unwrap();
    let line = format!("X: {}\r\n", "y".repeat(1000));
    let mut sent = 0_usize;
    while sent < 1 << 20 && stream.write_all(line.as_bytes()).is_ok() {
        sent += line.len();
    }
    assert!(sent < 1 << 20, "all of it was taken");
    finish(&host);
}

/// Half a message, and nothing at all: others are served, and they are thrown out in the end.
#[test]
fn silence_is_not_waited_for() {
    let host = Host::new();
    host.start("one");
    let silent = connect(&host);
    let mut half = connect(&host);
    half.write_all(b"GET /v1/machine HT").unwrap();
    let mut body = connect(&host);
    body.write_all(b"POST /v1/machine/stop HTTP/1.1\r\nContent-Length: 20\r\n\r\n{\"time").unwrap();
    still_answers(&host);
    let start = Instant::now();
    let answer = rest(body);
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    assert!(!rest(silent).starts_with("HTTP/1.1 2"));
    assert!(!rest(half).starts_with("HTTP/1.1 2"));
    assert!(start.elapsed() < Duration::from_secs(25));
    finish(&host);
}

/// One who asks and asks, and never reads.
#[test]
fn answers_that_nobody_reads_are_not_kept() {
    let host = Host::new();
    host.start_ready("one");
    let mut deaf = connect(&host);
    deaf.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
    let request = b"GET /v1/stats HTTP/1.1\r\nHost: x\r\n\r\n";
    let memory = resident(&host);
    let mut sent = 0;
    while sent < 100_000 && deaf.write_all(request).is_ok() {
        sent += 1;
    }
    assert!(sent < 100_000);
    let grown = resident(&host).saturating_sub(memory);
    assert!(grown < 6144, "{grown} KiB");
    finish(&host);
}

#[test]
fn a_thousand_at_once() {
    let host = Host::new();
    host.start_ready("one");
    let memory = resident(&host);
    let mut crowd = Vec::new();
    for _ in 0..1000 {
        crowd.push(connect(&host));
        if crowd.len() % 100 == 0 {
            still_answers(&host);
        }
    }
    let grown = resident(&host).saturating_sub(memory);
    assert!(grown < 6144, "{grown} KiB");
    drop(crowd);
    // Those who listen are a crowd as well.
    let listeners: Vec<_> = (0..200)
        .map(|_| {
            let mut stream = connect(&host);
            stream.write_all(b"GET /v1/events HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
            stream
        })
        .collect();
    still_answers(&host);
    let mut heard = 0;
    host.text(["kill", "one"]);
    for listener in listeners {
        heard += usize::from(rest(listener).contains("\"ended\""));
    }
    assert!((1..=32).contains(&heard), "{heard} heard of the end");
    host.is_empty();
}

/// Resident memory of the machine's process in KiB.
fn resident(host: &Host) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", host.pid("one"))).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}
