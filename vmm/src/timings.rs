//! How long the phases of a start took.

use std::fmt;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

/// When a process began.
#[derive(Debug, Clone, Copy)]
pub struct ProcessStart {
    /// Its `main`.
    main: Instant,
    /// Processor time that was used before `main`, by the kernel for `exec` and by the dynamic
    /// linker. The wall clock of that moment is not to be had from the inside.
    before: Duration,
}

impl ProcessStart {
    /// To be called first in `main`.
    pub fn now() -> Self {
        let used = clock_gettime(ClockId::ProcessCPUTime);
        let before = Duration::try_from(used).unwrap_or_default();
        Self { main: Instant::now(), before }
    }
}

/// The moments of a start, each set once.
#[derive(Debug)]
pub struct Timings {
    start: ProcessStart,
    /// Memory and devices are begun with.
    began: OnceLock<Instant>,
    /// Guest memory, devices and processors exist.
    built: OnceLock<Instant>,
    /// The kernel is in memory; the guest starts.
    loaded: OnceLock<Instant>,
    /// The guest wrote the first byte to its console.
    first_output: OnceLock<Instant>,
}

/// A moment of [`Timings`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Memory and devices are begun with.
    Began,
    /// Guest memory, devices and processors exist.
    Built,
    /// The kernel is in memory; the guest starts.
    Loaded,
    /// The guest wrote the first byte to its console.
    FirstOutput,
}

impl Timings {
    /// The clock of a process.
    pub(crate) fn new(start: ProcessStart) -> Self {
        Self {
            start,
            began: OnceLock::new(),
            built: OnceLock::new(),
            loaded: OnceLock::new(),
            first_output: OnceLock::new(),
        }
    }

    /// Marks a moment; only the first mark of each counts.
    pub(crate) fn mark(&self, phase: Phase) {
        let _ = self.cell(phase).set(Instant::now());
    }

    fn cell(&self, phase: Phase) -> &OnceLock<Instant> {
        match phase {
            Phase::Began => &self.began,
            Phase::Built => &self.built,
            Phase::Loaded => &self.loaded,
            Phase::FirstOutput => &self.first_output,
        }
    }

    /// The phases that were finished: name and duration, in order, the total last.
    pub fn phases(&self) -> Vec<(&'static str, Duration)> {
        let mut last = self.start.main;
        let mut total = self.start.before;
        let mut phases = Vec::new();
        for (phase, name) in [
            (Phase::Began, "monitor start"),
            (Phase::Built, "memory and devices"),
            (Phase::Loaded, "kernel load"),
            (Phase::FirstOutput, "guest boot"),
        ] {
            let Some(at) = self.cell(phase).get() else { continue };
            let mut took = at.saturating_duration_since(last);
            if phase == Phase::Began {
                took += self.start.before;
            }
            total += at.saturating_duration_since(last);
            phases.push((name, took));
            last = *at;
        }
        phases.push(("total", total));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_add_up_to_the_total() {
        let before = Duration::from_millis(3);
        let timings = Timings::new(ProcessStart { main: Instant::now(), before });
        assert_eq!(timings.phases(), [("total", before)]);
        timings.mark(Phase::Began);
        timings.mark(Phase::Built);
        timings.mark(Phase::Loaded);
        timings.mark(Phase::FirstOutput);
        let first = *timings.first_output.get().unwrap();
        timings.mark(Phase::FirstOutput);
        assert_eq!(timings.first_output.get(), Some(&first));
        let phases = timings.phases();
        let names: Vec<_> = phases.iter().map(|(name, _)| *name).collect();
        let want = ["monitor start", "memory and devices", "kernel load", "guest boot", "total"];
        assert_eq!(names, want);
        let (total, parts) = phases.split_last().unwrap();
        assert_eq!(total.1, parts.iter().map(|(_, took)| *took).sum());
        assert!(phases[0].1 >= before);
    }
}
