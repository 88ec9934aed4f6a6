//! How long the phases of a start took.

use std::fmt;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// The moments of a start, each set once.
#[derive(Debug)]
pub struct Timings {
    /// The process's `main`.
    started: Instant,
    /// Guest memory and devices exist.
    built: OnceLock<Instant>,
    /// The kernel is in memory.
    loaded: OnceLock<Instant>,
    /// The first vCPU was let go.
    running: OnceLock<Instant>,
    /// The guest wrote the first byte to its console.
    first_output: OnceLock<Instant>,
}

/// A moment of [`Timings`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Guest memory and devices exist.
    Built,
    /// The kernel is in memory.
    Loaded,
    /// The first vCPU was let go.
    Running,
    /// The guest wrote the first byte to its console.
    FirstOutput,
}

impl Timings {
    /// Starts the clock at `started`.
    pub fn new(started: Instant) -> Self {
        Self {
            started,
            built: OnceLock::new(),
            loaded: OnceLock::new(),
            running: OnceLock::new(),
            first_output: OnceLock::new(),
        }
    }

    /// Marks a moment; only the first mark of each counts.
    pub fn mark(&self, phase: Phase) {
        let _ = self.cell(phase).set(Instant::now());
    }

    fn cell(&self, phase: Phase) -> &OnceLock<Instant> {
        match phase {
            Phase::Built => &self.built,
            Phase::Loaded => &self.loaded,
            Phase::Running => &self.running,
            Phase::FirstOutput => &self.first_output,
        }
    }

    /// The phases that were finished: name and duration, in order, the total last.
    pub fn phases(&self) -> Vec<(&'static str, Duration)> {
        let mut last = self.started;
        let mut phases = Vec::new();
        for (phase, name) in [
            (Phase::Built, "memory and devices"),
            (Phase::Loaded, "kernel load"),
            (Phase::Running, "start of CPUs"),
            (Phase::FirstOutput, "guest boot"),
        ] {
            if let Some(at) = self.cell(phase).get() {
                phases.push((name, *at - last));
                last = *at;
            }
        }
        phases.push(("total", last - self.started));
        phases
    }
}

impl fmt::Display for Timings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for (name, duration) in self.phases() {
            write!(f, "{separator}{name} {:.1} ms", duration.as_secs_f64() * 1e3)?;
            separator = ", ";
        }
        Ok(())
    }
}
