//! What a guest asks of the machine through its devices.

use std::sync::Arc;

/// A request of the guest to the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GuestEvent {
    /// Power off: ACPI S5.
    PowerOff,
    /// Reset: ACPI reset register or keyboard controller pulse.
    Reset,
}

/// Takes guest events. Called on a vCPU thread: it must only note the event and return.
pub type EventSink = Arc<dyn Fn(GuestEvent) + Send + Sync>;

#[cfg(test)]
pub(crate) mod testing {
    use std::sync::Mutex;

    use super::*;

    pub type Recorded = Arc<Mutex<Vec<GuestEvent>>>;

    /// A sink and what it took.
    pub fn recorder() -> (Recorded, EventSink) {
        let events = Recorded::default();
        let sink = events.clone();
        (events, Arc::new(move |e| sink.lock().unwrap().push(e)))
    }
}
