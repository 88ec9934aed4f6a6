//! Runs a command behind the gateway, in namespaces of its own:
//!
//! ```text
//! natbed [--mtu N] [--dhcp] [--host-access] [--no-ipv6] [--serve SERVICE=ADDR:PORT]... [-- COMMAND…]
//! ```
//!
//! In the internet an iperf3 server listens (198.51.100.1 and 2001:db8::1, port 5201), and
//! `minivmm-peer` with the services asked for. Without a command it is an interactive shell. At
//! the end the gateway's counters are printed.

use std::fs::File;
use std::process::{Command, ExitCode, Stdio};
use std::{env, process};

use anyhow::{Context, Result, bail};
use minivmm_tests::natbed::{Bed, Options, Place, Run, isolated};

fn main() -> Result<ExitCode> {
    let args: Vec<_> = env::args_os().skip(1).collect();
    if let Run::Outside(status) = isolated(&args)? {
        return Ok(ExitCode::from(status.code().unwrap_or(1) as u8));
    }
    let mut options = Options::default();
    let (mut services, mut host_access) = (vec![], false);
    let mut args = env::args().skip(1);
    let mut command = vec![];
    while let Some(arg) = args.next() {
        let mut value = || args.next().with_context(|| format!("{arg} needs a value"));
        match arg.as_str() {
            "--mtu" => options.mtu = value()?.parse()?,
            "--dhcp" => options.static_guest = false,
            "--no-ipv6" => options.host_ipv6 = false,
            "--host-access" => host_access = true,
            "--serve" => services.push(value()?),
            "--" => command.extend(args.by_ref()),
            _ => bail!("unknown option {arg}"),
        }
    }
    let mut bed = Bed::start(&options, |config| config.host_access = host_access)?;
    bed.serve_iperf3()?;
    if !services.is_empty() {
        let services: Vec<&str> = services.iter().map(String::as_str).collect();
        bed.serve_peer(&services)?;
    }
    let mut run = Command::new(command.first().map_or("/bin/sh", String::as_str));
    run.args(command.iter().skip(1));
    // Our own stdin tells when whoever started us is gone.
    run.stdin(if command.is_empty() { File::open("/dev/tty")?.into() } else { Stdio::null() });
    let status = bed.place(Place::Guest).spawn(&mut run)?.wait()?;
    let stats = bed.stats();
    eprintln!(
        "natbed: frames {} out, {} in; bytes {} out, {} in; {} wake-ups; drops {:?}",
        stats.tx_frames.get(),
        stats.rx_frames.get(),
        stats.tx_bytes.get(),
        stats.rx_bytes.get(),
        stats.wakeups.get(),
        bed.drops()
    );
    drop(bed);
    process::exit(status.code().unwrap_or(1))
}
