//! The one thing that is left of the keyboard controller: its reset line.
//!
//! Guests that are told by ACPI that there is no i8042 still pulse it to reset, as the last of
//! their ways. All reads are ones, as from an empty port, so that a guest which probes for a
//! controller gives up at once.

use crate::bus::BusDevice;
use crate::events::{EventSink, GuestEvent};

/// Ports 0x60 to 0x64.
pub struct I8042 {
    events: EventSink,
}

impl I8042 {
    /// Ports to claim from 0x60.
    pub const PORTS: u64 = 5;

    /// A controller that reports the reset pulse to `events`.
    pub fn new(events: EventSink) -> Self {
        Self { events }
    }
}

impl BusDevice for I8042 {
    fn read(&self, _offset: u64, _data: &mut [u8]) {}

    fn write(&self, offset: u64, data: &[u8]) {
        /// Command 0xFE: pulse output line 0, the processor's reset.
        const PULSE_RESET: u8 = 0xfe;
        if offset == 4 && data.first() == Some(&PULSE_RESET) {
            (self.events)(GuestEvent::Reset);
        }
    }
}

impl std::fmt::Debug for I8042 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("I8042").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::testing::recorder;

    #[test]
    fn only_the_reset_pulse_does_something() {
        let (events, sink) = recorder();
        let dev = I8042::new(sink);
        dev.write(0, &[0xfe]);
        dev.write(4, &[0xff]);
        dev.write(4, &[]);
        assert!(events.lock().unwrap().is_empty());
        dev.write(4, &[0xfe]);
        assert_eq!(*events.lock().unwrap(), [GuestEvent::Reset]);
        let mut data = [0xff; 1];
        dev.read(4, &mut data);
        assert_eq!(data, [0xff]);
    }
}
