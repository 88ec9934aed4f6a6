//! What a machine with the built-in probe costs and carries on this /dev/kvm: the start and its
//! phases, TCP each way and its latency, resident memory beyond the guest's pages, allocations
//! for each frame. Where QEMU is installed, its microvm starts the same probe beside it.
//!
//! Figures are medians; nothing here judges a slow machine. It fails where a figure can't be had.
//!
//! It runs in a network namespace of its own, whose loopback and congestion control are its own.
#![expect(unsafe_code, reason = "an allocator that counts")]

mod traffic;

use std::alloc::{GlobalAlloc, Layout, System};
use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream, UdpSocket};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use minivmm::config::MachineConfig;
use minivmm::{Backing, BuildOptions, Files, Opened, ProcessStart};
use minivmm_tests::cli;
use serde_json::Value;

/// Runs that a median is taken of.
const RUNS: usize = 9;
/// Bytes of the stream before memory is looked at.
const STREAM: usize = 64 << 20;
const CHUNK: usize = 64 << 10;
/// The default of `--memory`; no other mapping is as large.
const GUEST_MEMORY: u64 = 256 << 20;

struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: all calls go to the system's allocator unchanged; counting has no other effect.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise about `layout` is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise about `ptr` and `layout` is passed on.
        unsafe { System.dealloc(ptr, layout) }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise about the arguments is passed on.
        unsafe { System.realloc(ptr, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn main() -> Result<()> {
    if std::env::var_os(INSIDE).is_none() {
        isolate()?;
    }
    // First, while this process has one thread.
    allocations()?;
    start()?;
    traffic::measure()?;
    memory()
}

/// Set for the program that runs in a namespace of its own.
const INSIDE: &str = "MINIVMM_BENCH_INSIDE";

/// Goes on as the same program in new user and network namespaces, where it may change sysctls;
/// returns there, never here.
fn isolate() -> Result<()> {
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--net", "--", "sh", "-c"]);
    command.args(["ip link set lo up && exec \"$@\"", "sh"]).arg(std::env::current_exe()?);
    command.args(std::env::args_os().skip(1)).env(INSIDE, "1");
    Err(command.exec()).context("cannot run unshare (sudo apt-get install util-linux)")
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Kills the child where its run is not seen to its end.
struct Guard(Child);

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Milliseconds from the call to exec to the first byte on standard output, and what was said on
/// standard error.
fn first_line(command: &mut Command) -> Result<(f64, String)> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let began = Instant::now();
    let mut child = Guard(command.spawn()?);
    let mut stdout = child.0.stdout.take().context("no standard output")?;
    let mut byte = [0];
    stdout.read_exact(&mut byte).context("the guest said nothing")?;
    let elapsed = began.elapsed().as_secs_f64() * 1e3;
    let mut rest = Vec::new();
    stdout.read_to_end(&mut rest)?;
    let mut said = String::new();
    child.0.stderr.take().context("no standard error")?.read_to_string(&mut said)?;
    ensure!(child.0.wait()?.success(), "{command:?} failed: {said}");
    Ok((elapsed, said))
}

/// From exec to the probe's first line.
fn start() -> Result<()> {
    let mut total = Vec::new();
    let mut phases: Vec<(String, Vec<f64>)> = Vec::new();
    let mut add = |name: &str, value: f64| match phases.iter_mut().find(|(n, _)| n == name) {
        Some((_, values)) => values.push(value),
        None => phases.push((name.to_owned(), vec![value])),
    };
    let mut qemu = Vec::new();
    let image = tempfile::NamedTempFile::new()?;
    fs::write(image.path(), minivmm::probe::ELF)?;
    for _ in 0..RUNS {
        let mut command = Command::new(cli::binary()?);
        command.args(["run", "--net", "nat", "--json", "--timings"]);
        command.args(["--cmdline", "probe=none"]);
        let (elapsed, said) = first_line(&mut command)?;
        total.push(elapsed);
        let timings = said
            .lines()
            .filter_map(|l| serde_json::from_str::<Value>(l).ok())
            .find(|v| v["event"] == "timings")
            .context("no timings")?;
        let timings = timings["milliseconds"].as_object().context("no phases")?;
        let mut rest = elapsed;
        for (name, value) in
            timings.iter().filter(|(n, _)| !["total", "monitor_start"].contains(&n.as_str()))
        {
            let value = value.as_f64().context("a phase that is no number")?;
            add(name, value);
            rest -= value;
        }
        // What is left is fork, exec, the dynamic linker and the arguments. From the inside only
        // the processor time of it can be told.
        add("monitor_start", rest);
        if let Some(mut command) = qemu_microvm(image.path()) {
            qemu.push(first_line(&mut command)?.0);
        }
    }
    let total = median(&mut total);
    println!("exec to the probe's first line: {total:.1} ms (aim 50)");
    for (name, values) in &mut phases {
        println!("    {:<20} {:>6.1} ms", name.replace('_', " "), median(values));
    }
    if !qemu.is_empty() {
        let qemu = median(&mut qemu);
        println!("    QEMU microvm, same probe: {qemu:.1} ms, {:.1} times minivmm's", qemu / total);
    }
    Ok(())
}

fn qemu_microvm(kernel: &Path) -> Option<Command> {
    let path = std::env::var_os("PATH")?;
    let qemu = std::env::split_paths(&path)
        .map(|dir| dir.join("qemu-system-x86_64"))
        .find(|p| p.is_file())?;
    let mut command = Command::new(qemu);
    command
        .args(["-M", "microvm,accel=kvm", "-cpu", "host,-arch-capabilities", "-m", "256"])
        .args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"])
        .args(["-serial", "stdio", "-append", "probe=none", "-kernel"])
        .arg(kernel);
    Some(command)
}

/// Bytes of a mapping's range, as in `7f0000000000-7f0010000000`.
fn length(range: &str) -> Option<u64> {
    let (from, to) = range.split_once('-')?;
    let [from, to] = [from, to].map(|at| u64::from_str_radix(at, 16).ok());
    to?.checked_sub(from?)
}

/// Resident memory of a machine without the pages of its guest: before it has carried anything, and
/// after a stream there and back, and datagrams.
fn memory() -> Result<()> {
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let publish = |suffix: &str| format!("127.0.0.1:{port}:7{suffix}");
    let mut machine = cli::Minivmm::run()
        .args(["--net", "nat", "-p", &publish(""), "-p", &publish("/udp"), "--json"])
        .args(["--cmdline", "probe=serve"])
        .start()?;
    machine.wait_for("\"ready\"")?;
    // What only the start needed is given back after a second.
    thread::sleep(Duration::from_millis(1500));
    let (rest, _) = resident(machine.pid())?;
    echo(port)?;
    let (after, guest) = resident(machine.pid())?;
    machine.signal(rustix::process::Signal::TERM)?;
    machine.finish()?;
    println!(
        "resident memory beyond guest pages: {after:.1} MiB after traffic (aim: at most 4), {rest:.1} \
         before; of the guest {guest:.1} MiB"
    );
    Ok(())
}

/// Sends a stream and some datagrams to the guest's echo service, and takes them back.
fn echo(port: u16) -> Result<()> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    let mut writer = stream.try_clone()?;
    let sender = thread::spawn(move || {
        for _ in 0..STREAM / CHUNK {
            writer.write_all(&[7; CHUNK])?;
        }
        writer.shutdown(Shutdown::Write)
    });
    let came = std::io::copy(&mut stream, &mut std::io::sink())?;
    sender.join().ok().context("the sender panicked")??;
    ensure!(came == STREAM as u64, "{came} bytes came back");
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    socket.connect(("127.0.0.1", port))?;
    socket.set_read_timeout(Some(Duration::from_secs(5)))?;
    for _ in 0..1000 {
        socket.send(&[7; 1000])?;
        socket.recv(&mut [0; 1500]).context("a datagram was lost")?;
    }
    Ok(())
}

/// MiB of a process that are resident, without the guest's pages, and those.
fn resident(pid: u32) -> Result<(f64, f64)> {
    let maps = fs::read_to_string(format!("/proc/{pid}/smaps"))?;
    let (mut guest, mut own, mut is_guest) = (0, 0, false);
    for line in maps.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("Rss:") => {
                let kib: u64 = words.next().context("no figure")?.parse()?;
                *if is_guest { &mut guest } else { &mut own } += kib;
            }
            Some(range) if range.contains('-') && !range.ends_with(':') => {
                // By its size, as only some kernels name anonymous memory.
                is_guest = length(range).context("a mapping without a range")? == GUEST_MEMORY;
            }
            _ => {}
        }
    }
    ensure!(guest > 0, "no guest memory among the mappings");
    Ok((own as f64 / 1024.0, guest as f64 / 1024.0))
}

/// Allocations of the whole process while frames cross, machine and peer together.
fn allocations() -> Result<()> {
    let config = MachineConfig {
        net: vec!["nat".parse()?],
        cmdline: "probe.seconds=1".into(),
        ..MachineConfig::default()
    };
    let config = config.validate()?;
    let start = ProcessStart::now();
    let options = BuildOptions { backing: Backing::default(), start, ..BuildOptions::default() };
    let machine = Opened::new(&config, &Files::open(&config)?, options)?.spawn()?;
    let stats = machine.segments()[0].stats();
    let frames = || stats.tx_frames.get() + stats.rx_frames.get();
    machine.resume();
    let (mut counted, mut allocated) = (0, 0);
    let (mut intervals, mut with_any) = (0, 0);
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut last = None;
    while machine.ending().get().is_none() {
        ensure!(Instant::now() < deadline, "the probe did not end");
        let (f0, a0) = (frames(), ALLOCATIONS.load(Ordering::Relaxed));
        thread::sleep(Duration::from_millis(20));
        let (f1, a1) = (frames(), ALLOCATIONS.load(Ordering::Relaxed));
        // Steady state: in the middle of three busy intervals, so that neither the beginning nor
        // the end of a connection is among them.
        let busy = f1 - f0 > 100;
        if let Some((f, a, true)) = last.replace((f1 - f0, a1 - a0, busy))
            && busy
        {
            counted += f;
            allocated += a;
            intervals += 1;
            with_any += u32::from(a > 0);
        }
    }
    ensure!(counted > 1000, "only {counted} frames crossed");
    println!(
        "allocations: {allocated} while {counted} frames crossed, {:.4} a frame (aim 0), all in \
         {with_any} of {intervals} intervals of 20 ms (a connection may begin in one)",
        allocated as f64 / counted as f64
    );
    machine.finish();
    Ok(())
}
