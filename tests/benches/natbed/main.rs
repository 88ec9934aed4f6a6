//! The gateway beside a plain relay of two sockets, beside pasta and beside plain loopback.
//!
//! The client runs in a network namespace behind a TAP (a veth for the relay), the server always
//! in another one behind a veth; only what carries the bytes between differs. Runs are short and
//! take turns, so that a busy machine is busy for all; the figures are medians.
//!
//! The relay is the yardstick: it copies each byte as often as the gateway does, in to its own
//! memory and out again, and does nothing else. All TCP stacks use Reno, because BBR, the default
//! of some hosts, paces: its figures are bound by its clock, not by the processors. They stand
//! beside, as users have them.

mod batch;
mod calls;
mod carriers;
mod datagrams;
mod relay;
mod streams;

use std::ffi::OsString;
use std::fmt;

use anyhow::{Result, bail};
use minivmm_tests::natbed::{Bed, Options, Run, isolated, tool};

use self::carriers::{Carriers, Kind};

/// The link's, in bytes: an ordinary one and the largest.
const MTUS: [u16; 2] = [1500, 65520];
/// Runs that a median is taken of.
const ROUNDS: usize = 5;
/// How long each run takes.
const SECONDS: u32 = 2;
/// The congestion control that all figures but those beside are of.
const RENO: &str = "reno";

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    Up,
    Down,
}

impl Direction {
    const ALL: [Self; 2] = [Self::Up, Self::Down];

    /// A word of the command line.
    fn word(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down => "down",
        }
    }
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Up => "guest to host",
            Self::Down => "host to guest",
        })
    }
}

/// What is to be measured: all of it, or what words of the command line name, one of each kind.
#[derive(Debug)]
struct Wanted(Vec<String>);

impl Wanted {
    const KINDS: [&'static [&'static str]; 4] =
        [&["tcp", "udp"], &["1500", "65520"], &["up", "down"], &["default", "reno"]];

    fn parse(args: &[OsString]) -> Result<Self> {
        // cargo gives `--bench`.
        let words = args.iter().map(|a| a.to_string_lossy().into_owned());
        let words: Vec<String> = words.filter(|a| !a.starts_with('-')).collect();
        let known = |word: &&String| !Self::KINDS.concat().contains(&word.as_str());
        if let Some(word) = words.iter().find(known) {
            bail!("unknown word {word}: {}", Self::KINDS.concat().join(", "));
        }
        Ok(Self(words))
    }

    fn is(&self, word: &str) -> bool {
        let kind = Self::KINDS.iter().find(|kind| kind.contains(&word));
        let named = |w: &&&str| self.0.iter().any(|have| have == **w);
        kind.is_none_or(|kind| !kind.iter().any(|w| named(&w)) || named(&&word))
    }

    fn directions(&self) -> impl Iterator<Item = Direction> {
        Direction::ALL.into_iter().filter(|direction| self.is(direction.word()))
    }
}

fn main() -> Result<()> {
    let args: Vec<OsString> = std::env::args_os().skip(1).collect();
    if args.iter().any(|arg| arg == "--list") {
        return Ok(());
    }
    let wanted = Wanted::parse(&args)?;
    for needed in ["iperf3", "pasta", "strace"] {
        tool(needed)?;
    }
    if let Run::Outside(status) = isolated(&args)? {
        std::process::exit(status.code().unwrap_or(1));
    }
    println!("pasta is {}", carriers::pasta_version()?);
    println!(
        "medians of {ROUNDS} runs of {SECONDS} s (lowest to highest); CPU is that of what carries the \
         bytes, for each GiB that arrived"
    );
    let default = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_congestion_control")?;
    let default = default.trim();
    relay::start()?;
    for mtu in MTUS.into_iter().filter(|mtu| wanted.is(&mtu.to_string())) {
        let mut bed = Bed::start(&Options { mtu, ..Options::default() }, |_| {})?;
        let carriers = Carriers::start(&mut bed, mtu)?;
        for direction in wanted.directions() {
            if wanted.is("tcp") && wanted.is("default") && default != RENO {
                let kinds = [Kind::Minivmm, Kind::Relay, Kind::Loopback];
                carriers.set_congestion_control(default)?;
                println!("TCP, MTU {mtu}, {default}, {direction}:");
                streams::measure(&carriers, direction, &kinds)?;
            }
            if wanted.is("tcp") && wanted.is("reno") {
                carriers.set_congestion_control(RENO)?;
                println!("TCP, MTU {mtu}, {RENO}, {direction}:");
                streams::measure(&carriers, direction, &Kind::ALL)?;
            }
            if wanted.is("udp") && mtu == MTUS[0] {
                datagrams::measure(&carriers, direction)?;
            }
        }
    }
    Ok(())
}

/// Sorts figures and says their median, lowest and highest.
fn spread(values: &mut [f64]) -> (f64, f64, f64) {
    values.sort_by(f64::total_cmp);
    (values[values.len() / 2], values[0], values[values.len() - 1])
}
