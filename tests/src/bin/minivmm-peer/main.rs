//! The other end of a guest's connections: the "internet" of the lab, the namespace bed and the
//! benches, and the client half that runs inside Linux guests.
//!
//! ```text
//! minivmm-peer serve SERVICE=ADDR:PORT... [record=NAME,ADDR]...
//!   echo     TCP and UDP: what comes in goes back
//!   crowd    TCP: as echo, of short messages, for many thousands of clients
//!   who      TCP and UDP: the client's address and port, as this side sees them, one line
//!   sink     TCP: reads to the end of the stream, answers "BYTES MD5"
//!   discard  TCP: reads to the end of the stream, answers "BYTES"
//!   source   TCP: reads a line "BYTES", sends that much of the pattern and closes
//!   http     GET /bytes/N, GET /sum/N, GET /who, POST or PUT /sink (answers "BYTES MD5")
//!   dns      UDP and TCP: A and AAAA of the records; NXDOMAIN for other names
//! minivmm-peer fetch ADDR:PORT BYTES       reads from a source, prints "BYTES MD5 SECONDS"
//! minivmm-peer push ADDR:PORT BYTES        sends to a sink, compares, prints the same
//! minivmm-peer udp ADDR:PORT SIZE [COUNT]  echoes datagrams and compares
//! minivmm-peer many ADDR:PORT COUNT        that many connections at once, an echo on each
//! minivmm-peer who ADDR:PORT [udp]         asks a who service
//! minivmm-peer sum BYTES                   Sum of the pattern
//! ```
//!
//! `serve` prints `ready` once every socket is bound and runs until it is killed. The pattern is the
//! same on both sides, so equal checksums mean equal streams. A service bound to a wildcard address
//! answers UDP from the address the kernel chooses: on a host with several, name the address.

mod client;
mod digest;
mod dns;
mod http;
mod pattern;
mod serve;

use std::process::ExitCode;

/// Any failure of the peer; it is printed and ends the program.
type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["serve", services @ ..] if !services.is_empty() => serve::run(services),
        ["fetch", peer, bytes] => client::fetch(peer, bytes),
        ["push", peer, bytes] => client::push(peer, bytes),
        ["udp", peer, size] => client::udp(peer, size, "1"),
        ["udp", peer, size, count] => client::udp(peer, size, count),
        ["many", peer, count] => client::many(peer, count),
        ["who", peer] => client::who(peer),
        ["who", peer, "udp"] => client::who_udp(peer),
        ["sum", bytes] => client::sum(bytes),
        _ => Err("usage: minivmm-peer serve|fetch|push|udp|many|who|sum …".into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("minivmm-peer: {}: {error}", words.join(" "));
            ExitCode::FAILURE
        }
    }
}
