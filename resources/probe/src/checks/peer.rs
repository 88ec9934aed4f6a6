//! The checks against the peer.

use core::net::SocketAddr;

use minivmm_probe::pattern::{PERIOD, Pattern};
use minivmm_probe::stats::mbit_per_second;
use smoltcp::iface::SocketHandle;
use smoltcp::wire::IpEndpoint;

use super::{Checks, NOT_WANTED, PEER, SMALL_BUFFER};
use crate::net::bulk::{self, Bound, Moved};
use crate::net::resolve::{self, Silence, Tries};
use crate::net::tcp::{self, Failure};
use crate::report::{State, Value};

/// Buffer of a bulk transfer.
const BULK_BUFFER: usize = 2 << 20;

impl Checks<'_> {
    pub(super) fn peer(&mut self, udp: SocketHandle, peer: SocketAddr) -> Option<()> {
        let to = IpEndpoint::from(peer);
        let payload = *b"minivmm-probe udp echo check 01\n";
        let same = |data: &[u8]| (data == payload).then_some(());
        match resolve::exchange(self.stack, udp, to, &payload, &Tries::ECHO, same) {
            Ok(((), rtt)) => self.report.check(
                "udp",
                State::Ok,
                format_args!("{peer} echoes, {rtt} us"),
                &[("peer", Value::Text(&peer)), ("rtt_us", Value::Number(rtt))],
            ),
            Err(Silence::Told(told)) => self.failed("udp", peer, Failure::Told(told)),
            Err(Silence::Complete) => self.failed("udp", peer, Failure::NoEcho),
        }

        let socket = self.stack.add_tcp(self.arena, SMALL_BUFFER, SMALL_BUFFER)?;
        let reached = match tcp::echo(self.stack, socket, to) {
            Ok((connect, echo)) => {
                self.report.check(
                    "tcp",
                    State::Ok,
                    format_args!("{peer}, connect {connect} us, echo {echo} us"),
                    &[
                        ("peer", Value::Text(&peer)),
                        ("connect_us", Value::Number(connect)),
                        ("rtt_us", Value::Number(echo)),
                    ],
                );
                true
            }
            Err(failure) => {
                self.failed("tcp", peer, failure);
                false
            }
        };
        if !reached {
            self.report.absent(&PEER[2..], format_args!("the peer was not reached"));
            return Some(());
        }

        let socket = self.stack.add_tcp(self.arena, SMALL_BUFFER, SMALL_BUFFER)?;
        match tcp::round_trips(self.stack, socket, to) {
            Ok(mut samples) => {
                let (min, p50, p99) =
                    (samples.min(), samples.percentile(50), samples.percentile(99));
                self.report.check(
                    "latency",
                    State::Ok,
                    format_args!(
                        "{min}/{p50}/{p99} us (min/p50/p99 of {} round trips of a byte)",
                        samples.len()
                    ),
                    &[
                        ("min_us", Value::Number(min.into())),
                        ("p50_us", Value::Number(p50.into())),
                        ("p99_us", Value::Number(p99.into())),
                        ("round_trips", Value::Number(samples.len() as u64)),
                    ],
                );
            }
            Err(failure) => self.failed("latency", peer, failure),
        }
        if self.options.without.bulk {
            self.report.absent(&["upload", "download"], format_args!("{NOT_WANTED}"));
            return Some(());
        }
        let bound = Bound {
            micros: u64::from(self.options.bulk_ms) * 1000,
            bytes: self.options.bulk_bytes,
        };
        let pattern = Pattern::new(self.arena.take(2 * PERIOD, 64)?);
        let socket = self.stack.add_tcp(self.arena, SMALL_BUFFER, BULK_BUFFER)?;
        let moved = bulk::upload(self.stack, socket, to, bound, &pattern);
        self.bulk("upload", peer, moved);
        let socket = self.stack.add_tcp(self.arena, BULK_BUFFER, SMALL_BUFFER)?;
        let moved = bulk::download(self.stack, socket, to, bound, &pattern);
        self.bulk("download", peer, moved);
        Some(())
    }

    fn bulk(&mut self, name: &str, peer: SocketAddr, moved: Result<Moved, Failure>) {
        match moved {
            Ok(Moved { bytes, micros }) => {
                let rate = mbit_per_second(bytes, micros);
                self.report.check(
                    name,
                    State::Ok,
                    format_args!("{rate} Mbit/s ({} MiB in {} ms)", bytes >> 20, micros / 1000),
                    &[
                        ("bytes", Value::Number(bytes)),
                        ("took_us", Value::Number(micros)),
                        ("mbit_per_s", Value::Number(rate)),
                    ],
                );
            }
            Err(failure) => self.failed(name, peer, failure),
        }
    }

    fn failed(&mut self, name: &str, peer: SocketAddr, failure: Failure) {
        self.report.check(
            name,
            State::Failed,
            format_args!("{peer}: {failure}"),
            &[("peer", Value::Text(&peer)), ("reason", Value::Text(&failure))],
        );
    }
}
