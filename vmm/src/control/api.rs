//! What the API says: see `docs/openapi.json`.

use serde::{Deserialize, Serialize};

use crate::config::MachineConfig;
use crate::exit::Outcome;
use crate::machine::{Handle, PortInfo, State};

/// `GET /v1/machine`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MachineInfo {
    /// Its name.
    pub name: String,
    /// The process that runs it.
    pub pid: u32,
    /// What it does.
    pub state: State,
    /// When it was started, in milliseconds since 1970-01-01 UTC.
    pub started_ms: u64,
    /// The version of minivmm.
    pub version: String,
    /// Virtual CPUs.
    pub cpus: u32,
    /// Guest memory in bytes.
    pub memory_bytes: u64,
    /// What its interfaces are on.
    pub ports: Vec<PortInfo>,
    /// What it was made from, as `--config` takes it.
    pub config: MachineConfig,
}

impl MachineInfo {
    /// What a machine is now.
    pub fn new(name: &str, handle: &Handle) -> Self {
        let config = handle.config();
        let started = handle.since().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Self {
            name: name.to_owned(),
            pid: std::process::id(),
            state: handle.state(),
            started_ms: u64::try_from(started.as_millis()).unwrap_or(u64::MAX),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            cpus: config.cpus,
            memory_bytes: config.memory,
            ports: handle.ports().cloned().collect(),
            config: config.config.clone(),
        }
    }
}

/// `POST /v1/machine/stop`; without a body, the default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StopRequest {
    /// How long the guest has to power off, in seconds; 10 by default.
    pub timeout_s: u32,
}

impl Default for StopRequest {
    fn default() -> Self {
        Self { timeout_s: 10 }
    }
}

/// How a machine ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// The exit status of a command that runs it.
    pub status: u8,
    /// Why, in words.
    pub reason: String,
}

impl From<&Outcome> for End {
    fn from(outcome: &Outcome) -> Self {
        Self { status: outcome.status(), reason: outcome.reason() }
    }
}

/// `POST /v1/machine/pause` and `resume`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateInfo {
    /// What it does now.
    pub state: State,
}

/// Every answer that is a refusal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// One line.
    pub error: String,
}
