//! The one thing that is left of the keyboard controller: its reset line.
//!
//! Guests that are told by ACPI that there is no i8042 still pulse it to reset, as the last of
//! their ways. Reads are ones, as from an empty port, but for one bit of the status: the input
//! buffer is never full. Who wants to pulse waits for that first (Linux looks 65536 times). Who
//! probes for a controller reads data until there is none, and gives up when it does not end.

use crate::bus::BusDevice;
use crate::events::{EventSink, GuestEvent};

/// Offset of the port of commands and status.
const COMMAND: u64 = 4;

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
    fn read(&self, offset: u64, data: &mut [u8]) {
        const INPUT_FULL: u8 = 1 << 1;
        if offset == COMMAND
            && let Some(status) = data.first_mut()
        {
            *status = !INPUT_FULL;
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        /// Pulse output line 0, the processor's reset.
        const PULSE_RESET: u8 = 0xfe;
        if offset == COMMAND && data.first() == Some(&PULSE_RESET) {
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
    }

    /// As Linux's `kb_wait` and its driver's `i8042_flush` look at it.
    #[test]
    fn it_is_ready_for_the_pulse_and_no_controller() {
        let dev = I8042::new(recorder().1);
        let read = |offset| {
            let mut data = [0xff];
            dev.read(offset, &mut data);
            data[0]
        };
        assert_eq!((read(4) & 0b11, read(0), read(1)), (0b01, 0xff, 0xff));
    }
}
