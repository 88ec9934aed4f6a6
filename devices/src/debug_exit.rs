//! A port by which a guest leaves its own result code, as QEMU's `isa-debug-exit` does.
//!
//! Only a note: the guest ends by powering off.

use std::sync::atomic::{AtomicU32, Ordering};

use crate::bus::BusDevice;

/// One byte at port 0xF4; the last value written counts.
#[derive(Debug)]
pub struct DebugExit(AtomicU32);

/// No byte has this value.
const NONE: u32 = u32::MAX;

impl DebugExit {
    /// Ports to claim.
    pub const PORTS: u64 = 1;

    /// No code yet.
    pub fn new() -> Self {
        Self(AtomicU32::new(NONE))
    }

    /// The code that the guest left.
    pub fn code(&self) -> Option<u8> {
        u8::try_from(self.0.load(Ordering::Acquire)).ok()
    }
}

impl Default for DebugExit {
    fn default() -> Self {
        Self::new()
    }
}

impl BusDevice for DebugExit {
    fn read(&self, _offset: u64, data: &mut [u8]) {
        data.fill(self.code().unwrap_or(0));
    }

    fn write(&self, _offset: u64, data: &[u8]) {
        if let Some(&code) = data.last() {
            self.0.store(u32::from(code), Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_code_counts() {
        let dev = DebugExit::new();
        assert_eq!(dev.code(), None);
        dev.write(0, &[3]);
        dev.write(0, &[0]);
        assert_eq!(dev.code(), Some(0));
    }
}
