//! Power-off and reset of a hardware-reduced ACPI machine (ACPI 6.5 §4.8.3.6, §4.8.3.7).
//!
//! Three one-byte ports: `SLEEP_CONTROL_REG`, `SLEEP_STATUS_REG`, `RESET_REG`.

use crate::bus::BusDevice;
use crate::events::{EventSink, GuestEvent};

/// The three registers, in this order.
pub struct AcpiPm {
    events: EventSink,
    s5: u8,
    reset: u8,
}

impl AcpiPm {
    /// Ports to claim.
    pub const PORTS: u64 = 3;

    /// `s5_slp_typ` is what `\_S5` names (0 to 7), `reset_value` what the FADT names.
    pub fn new(s5_slp_typ: u8, reset_value: u8, events: EventSink) -> Self {
        Self { events, s5: s5_slp_typ & 7, reset: reset_value }
    }
}

impl BusDevice for AcpiPm {
    fn read(&self, _offset: u64, data: &mut [u8]) {
        // SLP_EN is write-only; WAK_STS is never set, for there is no sleep to wake from.
        data.fill(0);
    }

    fn write(&self, offset: u64, data: &[u8]) {
        const SLP_EN: u8 = 1 << 5;
        let &[value] = data else { return };
        match offset {
            0 if value & SLP_EN != 0 && value >> 2 & 7 == self.s5 => {
                (self.events)(GuestEvent::PowerOff);
            }
            2 if value == self.reset => (self.events)(GuestEvent::Reset),
            _ => {}
        }
    }
}

impl std::fmt::Debug for AcpiPm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AcpiPm").field("s5", &self.s5).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::testing::recorder;

    #[test]
    fn s5_and_reset_are_told_apart() {
        let (events, sink) = recorder();
        let dev = AcpiPm::new(5, 1, sink);
        dev.write(0, &[5 << 2]);
        dev.write(0, &[4 << 2 | 1 << 5]);
        dev.write(1, &[0x80]);
        dev.write(2, &[0]);
        dev.write(0, &[5 << 2 | 1 << 5, 1, 1]);
        assert!(events.lock().unwrap().is_empty());
        dev.write(0, &[5 << 2 | 1 << 5]);
        dev.write(2, &[1]);
        assert_eq!(*events.lock().unwrap(), [GuestEvent::PowerOff, GuestEvent::Reset]);
        let mut data = [0xff; 1];
        dev.read(1, &mut data);
        assert_eq!(data, [0]);
    }
}
