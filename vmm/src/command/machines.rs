//! The commands that speak with machines that run.

use std::io::{self, Write};
use std::time::Duration;

use minivmm::control::{Client, End, Entry, MachineInfo, Registry, StateInfo, StopRequest};
use minivmm::{MachineStats, exit, prometheus};
use serde_json::{Value, json};

use super::error::CommandError;
use super::table::{self, Table};

type Result<T> = std::result::Result<T, CommandError>;

/// Beyond the guest's own time to power off.
const END_TIME: Duration = Duration::from_secs(60);

/// A machine that is spoken with.
struct Machine {
    name: String,
    client: Client,
}

impl Machine {
    fn find(registry: &Registry, name: &str) -> Result<Self> {
        Self::connect(&registry.machine(name)?)
    }

    fn connect(entry: &Entry) -> Result<Self> {
        let client = Client::connect(&entry.socket()).map_err(CommandError::asked(&entry.name))?;
        Ok(Self { name: entry.name.clone(), client })
    }

    fn info(&mut self) -> Result<MachineInfo> {
        self.client.get("/v1/machine").map_err(CommandError::asked(&self.name))
    }

    fn stats(&mut self) -> Result<MachineStats> {
        self.client.get("/v1/stats").map_err(CommandError::asked(&self.name))
    }

    fn post<T: serde::de::DeserializeOwned>(
        &mut self,
        call: &str,
        body: Option<&StopRequest>,
        time: Duration,
    ) -> Result<T> {
        let path = format!("/v1/machine/{call}");
        self.client.post(&path, body, Some(time)).map_err(CommandError::asked(&self.name))
    }
}

/// `minivmm ps`.
///
/// # Errors
/// [`CommandError`].
pub fn ps(registry: &Registry, json: bool) -> Result<u8> {
    let entries = registry.machines().map_err(CommandError::host("list the machines"))?;
    let mut table = Table::new(["NAME", "PID", "STATE", "CPUS", "MEMORY", "NETWORK", "UPTIME"]);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let now = now.map_or(0, |now| u64::try_from(now.as_millis()).unwrap_or(u64::MAX));
    for entry in entries {
        // One that has ended meanwhile is none; one that starts has no socket yet.
        let info = Machine::connect(&entry).and_then(|mut machine| machine.info());
        let Ok(info) = info else {
            if registry.machine(&entry.name).is_ok() {
                let pid = entry.pid.to_string();
                let row = [&entry.name, &pid, "starting", "", "", "", ""];
                let object = json!({ "name": entry.name, "pid": entry.pid, "state": "starting" });
                if json { table::line(&object)? } else { table.row(row.map(str::to_owned)) }
            }
            continue;
        };
        if json {
            table::line(&serde_json::to_value(&info).unwrap_or_default())?;
            continue;
        }
        let modes: Vec<_> = info.ports.iter().map(|port| &*port.mode).collect();
        table.row([
            info.name,
            info.pid.to_string(),
            info.state.to_string(),
            info.cpus.to_string(),
            format!("{}M", info.memory_bytes >> 20),
            modes.join(" "),
            table::time(now.saturating_sub(info.started_ms) / 1000),
        ]);
    }
    if !json {
        table.print()?;
    }
    Ok(exit::OK)
}

/// `minivmm inspect`.
///
/// # Errors
/// [`CommandError`].
pub fn inspect(registry: &Registry, names: &[String]) -> Result<u8> {
    for name in names {
        let info = Machine::find(registry, name)?.info()?;
        let text = serde_json::to_string_pretty(&info).unwrap_or_default();
        table::write(&format!("{text}\n"))?;
    }
    Ok(exit::OK)
}

/// What a machine is told to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Power off, or end after so many seconds.
    Stop(u32),
    /// End.
    Kill,
    /// Stop its processors.
    Pause,
    /// Go on.
    Resume,
}

/// `minivmm stop`, `kill`, `pause` and `resume`: all at once, and a line for each that has obeyed.
///
/// # Errors
/// [`CommandError`], the first; the others are told all the same.
pub fn order(registry: &Registry, names: &[String], order: Order, json: bool) -> Result<u8> {
    let results: Vec<Result<Value>> = std::thread::scope(|scope| {
        let threads: Vec<_> =
            names.iter().map(|name| scope.spawn(move || obey(registry, name, order))).collect();
        let joined = threads.into_iter().map(|thread| match thread.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        joined.collect()
    });
    let mut failed = None;
    for (name, result) in names.iter().zip(results) {
        match result {
            Ok(object) if json => table::line(&object)?,
            Ok(_) => table::write(&format!("{name}\n"))?,
            Err(e) => failed = failed.or(Some(e)),
        }
    }
    failed.map_or(Ok(exit::OK), Err)
}

fn obey(registry: &Registry, name: &str, order: Order) -> Result<Value> {
    let mut machine = Machine::find(registry, name)?;
    let end = |end: End| json!({ "name": name, "status": end.status, "reason": end.reason });
    let state = |info: StateInfo| json!({ "name": name, "state": info.state });
    let object = match order {
        Order::Stop(timeout_s) => {
            let time = END_TIME + Duration::from_secs(timeout_s.into());
            end(machine.post("stop", Some(&StopRequest { timeout_s }), time)?)
        }
        Order::Kill => end(machine.post("kill", None, END_TIME)?),
        Order::Pause => state(machine.post("pause", None, END_TIME)?),
        Order::Resume => state(machine.post("resume", None, END_TIME)?),
    };
    if matches!(order, Order::Stop(_) | Order::Kill) {
        gone(registry, name);
    }
    Ok(object)
}

/// Waits until a machine that has ended has left its name. Its process has little left to do.
fn gone(registry: &Registry, name: &str) {
    let until = std::time::Instant::now() + Duration::from_secs(5);
    while registry.machine(name).is_ok() && std::time::Instant::now() < until {
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// `minivmm wait`: returns with the machine's own status.
///
/// # Errors
/// [`CommandError`].
pub fn wait(registry: &Registry, name: &str, json: bool) -> Result<u8> {
    let mut machine = Machine::find(registry, name)?;
    let end: End = machine.client.wait("/v1/wait").map_err(CommandError::asked(name))?;
    if json {
        table::line(&json!({ "name": name, "status": end.status, "reason": end.reason }))?;
    }
    gone(registry, name);
    Ok(end.status)
}

/// `minivmm events`: until the machine has ended.
///
/// # Errors
/// [`CommandError`].
pub fn events(registry: &Registry, name: &str) -> Result<u8> {
    let mut machine = Machine::find(registry, name)?;
    let mut written = Ok(());
    let heard = machine.client.lines("/v1/events", |line| {
        let line = String::from_utf8_lossy(line);
        written = table::write(&format!("{line}\n"));
        written.is_ok()
    });
    written?;
    heard.map_err(CommandError::asked(name))?;
    Ok(exit::OK)
}

/// How `minivmm stats` shows them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StatsStyle {
    /// A table.
    Table,
    /// An object a line.
    Json,
    /// Prometheus' text.
    Prometheus,
}

/// `minivmm stats`, of one machine or of all; again and again with `watch`.
///
/// # Errors
/// [`CommandError`].
pub fn stats(
    registry: &Registry,
    name: Option<&str>,
    style: StatsStyle,
    watch: bool,
) -> Result<u8> {
    loop {
        let all = collect(registry, name)?;
        if watch && style == StatsStyle::Table {
            // To the top left corner, and clear to the end (ECMA-48 CUP, ED).
            table::write("\x1b[H\x1b[J")?;
        }
        show(&all, style)?;
        if !watch {
            return Ok(exit::OK);
        }
        std::thread::sleep(Duration::from_secs(1));
    }
}

fn collect(registry: &Registry, name: Option<&str>) -> Result<Vec<(String, MachineStats)>> {
    if let Some(name) = name {
        return Ok(vec![(name.to_owned(), Machine::find(registry, name)?.stats()?)]);
    }
    let entries = registry.machines().map_err(CommandError::host("list the machines"))?;
    // One that has ended meanwhile, or is about to start, has none.
    let stats = |entry: &Entry| Machine::connect(entry).and_then(|mut m| m.stats()).ok();
    Ok(entries.iter().filter_map(|e| Some((e.name.clone(), stats(e)?))).collect())
}

fn show(all: &[(String, MachineStats)], style: StatsStyle) -> Result<()> {
    match style {
        StatsStyle::Prometheus => {
            table::write(&prometheus(all.iter().map(|(name, stats)| (&**name, stats))))
        }
        StatsStyle::Json => all.iter().try_for_each(|(name, stats)| {
            let mut object = json!({ "name": name });
            if let (Value::Object(to), Ok(Value::Object(from))) =
                (&mut object, serde_json::to_value(stats))
            {
                to.extend(from);
            }
            table::line(&object)
        }),
        StatsStyle::Table => {
            let mut table = Table::new([
                "NAME", "PORT", "SENT", "FRAMES", "RECEIVED", "FRAMES", "DROPPED", "TCP", "UDP",
                "EXITS",
            ]);
            for (name, stats) in all {
                let exits: u64 = stats.exits.values().sum();
                for port in &stats.ports {
                    let drops: u64 = port.drops.values().sum();
                    table.row([
                        name.clone(),
                        port.name.clone(),
                        table::bytes(port.tx_bytes),
                        port.tx_frames.to_string(),
                        table::bytes(port.rx_bytes),
                        port.rx_frames.to_string(),
                        drops.to_string(),
                        port.tcp_flows.to_string(),
                        port.udp_flows.to_string(),
                        exits.to_string(),
                    ]);
                }
                if stats.ports.is_empty() {
                    let mut row = [const { String::new() }; 10];
                    row[0].clone_from(name);
                    row[9] = exits.to_string();
                    table.row(row);
                }
            }
            table.print()
        }
    }
}

/// `minivmm logs`: what a detached machine's guest wrote to its console, or with `messages` what
/// its monitor had to say.
///
/// # Errors
/// [`CommandError`].
pub fn logs(registry: &Registry, name: &str, messages: bool, follow: bool) -> Result<u8> {
    let entry = registry.machine(name)?;
    let path = if messages { entry.messages() } else { entry.console() };
    let mut reader = super::follow::Reader::open(&path)
        .map_err(CommandError::host("read the machine's log (only those of run -d have one)"))?;
    let mut out = io::stdout();
    let failed = CommandError::host("write to standard output");
    loop {
        // Before the look at the file: what was written before an end is read after it.
        let runs = registry.machine(name).is_ok_and(|now| now == entry);
        while let Some(part) = reader.next().map_err(CommandError::host("read the log"))? {
            out.write_all(part).map_err(&failed)?;
        }
        out.flush().map_err(&failed)?;
        if !(follow && runs) {
            return Ok(exit::OK);
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}
