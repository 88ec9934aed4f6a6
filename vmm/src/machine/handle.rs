//! A machine as others than its owner see it: any thread may look at it, and end it.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use minivmm_net::SegmentHandle;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::events::{Events, Hub, What};
use super::stats::{self, MachineStats, PortInfo, PortStats};
use crate::config::Validated;
use crate::ending::Ending;
use crate::exit::{Exit, Outcome};
use crate::power::PowerButton;
use crate::vcpu::Vcpus;

/// What a machine does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Its processors run guest code.
    Running,
    /// They are stopped at an instruction boundary; devices and networks go on.
    Paused,
    /// It has ended.
    Ended,
}

impl std::fmt::Display for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Ended => "ended",
        })
    }
}

/// A way to reach a machine from any thread. It keeps nothing of it alive: once the machine has
/// ended, orders do nothing.
#[derive(Debug, Clone)]
pub struct Handle(pub(super) Arc<Shared>);

#[derive(Debug)]
pub(super) struct Shared {
    pub config: Validated,
    pub ending: Arc<Ending>,
    pub vcpus: Vcpus,
    pub ports: Vec<(PortInfo, SegmentHandle)>,
    /// Until the end: it holds on to KVM's machine.
    pub power: Mutex<Option<PowerButton>>,
    pub hub: Hub,
    pub since: (SystemTime, Instant),
}

impl Handle {
    /// What the machine was made from.
    pub fn config(&self) -> &Validated {
        &self.0.config
    }

    /// When it was started.
    pub fn since(&self) -> SystemTime {
        self.0.since.0
    }

    /// What it does.
    pub fn state(&self) -> State {
        match (self.0.ending.get(), self.0.vcpus.run()) {
            (Some(_), _) => State::Ended,
            (None, true) => State::Running,
            (None, false) => State::Paused,
        }
    }

    /// The machine's end.
    pub fn ending(&self) -> &Arc<Ending> {
        &self.0.ending
    }

    /// Stops the processors at an instruction boundary; devices and networks go on.
    pub fn pause(&self) {
        if self.0.vcpus.run() {
            self.0.vcpus.pause();
            self.0.hub.tell(What::Paused);
        }
    }

    /// Lets the processors run, where they were paused.
    pub fn resume(&self) {
        if !self.0.vcpus.run() {
            self.0.vcpus.resume();
            self.0.hub.tell(What::Resumed);
        }
    }

    /// Presses the power button, at which a guest that listens powers off in good order. False
    /// where it does not listen: it is paused, has no ACPI, or has no driver for the button.
    pub fn press_power_button(&self) -> bool {
        let heard =
            self.state() == State::Running && self.power().as_ref().is_some_and(PowerButton::press);
        if heard {
            self.0.hub.tell(What::StopRequested);
        }
        heard
    }

    /// Asks the guest to power off by the power button, and ends the machine where it has not done
    /// so after `timeout`, or at once where it does not listen. Returns when the machine is about
    /// to end.
    pub fn stop(&self, timeout: Duration) {
        if !(self.press_power_button() && self.wait_end(Some(timeout))) {
            self.end(Exit::Stopped);
        }
    }

    /// Ends the machine at once.
    pub fn kill(&self) {
        self.end(Exit::Killed);
    }

    /// Ends the machine, for this reason where there is no other yet.
    pub fn end(&self, why: Exit) {
        self.0.ending.set(why);
    }

    /// What happens from now on.
    ///
    /// # Errors
    /// Those of `eventfd(2)`.
    pub fn events(&self) -> io::Result<Events> {
        self.0.hub.listen()
    }

    /// The ports that the guest's interfaces are on, in their order.
    pub fn ports(&self) -> impl Iterator<Item = &PortInfo> {
        self.0.ports.iter().map(|(info, _)| info)
    }

    /// The counters now.
    pub fn stats(&self) -> MachineStats {
        let ports = self.0.ports.iter();
        MachineStats {
            uptime_ms: u64::try_from(self.0.since.1.elapsed().as_millis()).unwrap_or(u64::MAX),
            memory_bytes: self.0.config.memory,
            cpus: self.0.config.cpus,
            exits: stats::exits(self.0.vcpus.exits()),
            ports: ports.map(|(info, port)| PortStats::new(&info.name, &port.stats())).collect(),
        }
    }

    /// Lets the processors run for the first time.
    pub(super) fn start(&self) {
        self.0.vcpus.resume();
        self.0.hub.tell(What::Started);
    }

    /// Stops the processors for good.
    pub(super) fn settle(&self) {
        self.0.vcpus.end();
        *self.power() = None;
    }

    /// Tells those who listen of the end.
    pub(super) fn announce(&self, outcome: &Outcome) {
        self.0.hub.tell(What::Ended { status: outcome.status(), reason: outcome.reason() });
    }

    fn power(&self) -> MutexGuard<'_, Option<PowerButton>> {
        self.0.power.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the end; false where it has not come after `timeout`.
    pub(super) fn wait_end(&self, timeout: Option<Duration>) -> bool {
        let until = timeout.map(|timeout| Instant::now() + timeout);
        while self.0.ending.get().is_none() {
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            let left = left.and_then(|left| Timespec::try_from(left).ok());
            let event = self.0.ending.event();
            match poll(&mut [PollFd::new(event, PollFlags::IN)], left.as_ref()) {
                Ok(0) => return false,
                Ok(_) | Err(Errno::INTR) => {}
                // It can only be a lack of memory.
                Err(_) => return false,
            }
        }
        true
    }
}
