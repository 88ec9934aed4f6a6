//! A machine whose threads run.

use std::io;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use minivmm_devices::debug_exit::DebugExit;
use minivmm_devices::serial::Serial;
use minivmm_net::Segment;
use vm_memory::GuestMemoryMmap;

use super::devices::Devices;
use super::events::Events;
use super::handle::Handle;
use super::stats::MachineStats;
use crate::console::{Console, Output, Room};
use crate::ending::Ending;
use crate::exit::{Exit, Outcome};
use crate::kernel_cache::KernelCache;
use crate::kvm::Vm;
use crate::probe::Peer;
use crate::timings::{Phase, Timings};

/// A machine, from the start of its threads to its end. Dropping it ends it: its processors stop,
/// then its networks, then its memory is freed.
#[derive(Debug)]
pub struct Machine {
    pub(super) handle: Handle,
    pub(super) serial: Arc<Serial>,
    pub(super) debug_exit: Arc<DebugExit>,
    pub(super) room: Room,
    pub(super) console: Option<Console>,
    pub(super) output: Option<Output>,
    pub(super) timings: Arc<Timings>,
    pub(super) cache: Option<KernelCache>,
    pub(super) outcome: OnceLock<Outcome>,
    pub(super) owned: Owned,
}

/// What only has to be there, in the order of its end.
#[derive(Debug)]
#[expect(dead_code, reason = "held until the processors have stopped")]
pub(super) struct Owned {
    pub(super) devices: Devices,
    pub(super) segments: Vec<Segment>,
    pub(super) peer: Option<Peer>,
    pub(super) vm: Vm,
    pub(super) memory: GuestMemoryMmap,
}

/// What is left of a machine that a command ran.
#[derive(Debug)]
pub struct Ended {
    /// How it ended.
    pub outcome: Outcome,
    /// What the guest wrote and its reader has not taken yet.
    pub output: Option<Output>,
    handle: Handle,
}

impl Ended {
    /// Tells those who listen to the machine's events.
    pub fn announce(&self) {
        self.handle.announce(&self.outcome);
    }
}

impl Machine {
    /// A way to reach it from other threads.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Lets the processors run for the first time.
    pub fn start(&self) {
        self.timings.mark(Phase::Loaded);
        self.handle.start();
    }

    /// Lets the processors run, where they were paused.
    pub fn resume(&self) {
        self.handle.resume();
    }

    /// Stops the processors at an instruction boundary; devices and networks go on.
    pub fn pause(&self) {
        self.handle.pause();
    }

    /// Waits for the machine's end, and says how it ended. The guest's output can be read on.
    pub fn wait(&self) -> Outcome {
        self.handle.wait_end(None);
        self.ended()
    }

    /// The same, for so long at most; `None` where it has not ended then.
    pub fn wait_timeout(&self, timeout: Duration) -> Option<Outcome> {
        self.handle.wait_end(Some(timeout)).then(|| self.ended())
    }

    /// Asks the guest to power off, and ends it where it does not within `timeout` or does not
    /// listen: see [`Handle::stop`].
    pub fn stop(&self, timeout: Duration) -> Outcome {
        self.handle.stop(timeout);
        self.ended()
    }

    /// Ends the machine at once.
    pub fn kill(&self) -> Outcome {
        self.handle.kill();
        self.ended()
    }

    /// What happens to it from now on.
    ///
    /// # Errors
    /// Those of `eventfd(2)`.
    pub fn events(&self) -> io::Result<Events> {
        self.handle.events()
    }

    /// The counters now.
    pub fn stats(&self) -> MachineStats {
        self.handle.stats()
    }

    /// The guest's console, once; `None` where [`ConsoleTo::Stream`] was not asked for.
    pub fn take_console(&mut self) -> Option<Console> {
        self.console.take()
    }

    /// Guest memory, which the guest changes while it runs.
    #[cfg(feature = "test-utils")]
    pub fn memory(&self) -> &GuestMemoryMmap {
        &self.owned.memory
    }

    /// The machine's end.
    pub fn ending(&self) -> &Arc<Ending> {
        self.handle.ending()
    }

    /// The first serial port, and what says when it has room for input again.
    pub fn serial(&self) -> (Arc<Serial>, Room) {
        (Arc::clone(&self.serial), self.room.clone())
    }

    /// How long the start took.
    pub fn timings(&self) -> Arc<Timings> {
        Arc::clone(&self.timings)
    }

    /// The networks, one for each interface.
    pub fn segments(&self) -> &[Segment] {
        &self.owned.segments
    }

    /// Ends the machine and says how it ended; [`Exit::Quit`] where nothing else had ended it.
    /// Those who listen to its events are not told: see [`Ended::announce`].
    pub fn finish(mut self) -> Ended {
        self.handle.end(Exit::Quit);
        let outcome = self.settle();
        // Not where a user waits for the end.
        if let (Some(cache), false) =
            (self.cache.take(), matches!(outcome.exit, Exit::Quit | Exit::Signal(_)))
        {
            cache.finish();
        }
        Ended { outcome, output: self.output.take(), handle: self.handle.clone() }
    }

    fn ended(&self) -> Outcome {
        let outcome = self.settle();
        self.handle.announce(&outcome);
        outcome
    }

    /// Stops what runs, once the end is decided; what the guest wrote goes its way.
    fn settle(&self) -> Outcome {
        let settled = self.outcome.get_or_init(|| {
            self.handle.settle();
            self.serial.flush();
            if let Some(output) = &self.output {
                output.close();
            }
            let exit = self.ending().get().cloned().unwrap_or(Exit::Quit);
            Outcome { exit, guest_status: self.debug_exit.code(), lost: None }
        });
        settled.clone()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.handle.end(Exit::Quit);
        self.settle();
    }
}
