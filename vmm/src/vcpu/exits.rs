//! How often the processors left guest code, by the reason.

use std::sync::atomic::{AtomicU64, Ordering};

/// Why a processor left guest code and came to this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitKind {
    /// An access to a port.
    Pio,
    /// An access to an address that is not RAM.
    Mmio,
    /// This process called it out.
    Kick,
    /// Nothing that had to be done.
    Other,
}

impl ExitKind {
    /// All, in the order of the counters.
    pub const ALL: [Self; 4] = [Self::Pio, Self::Mmio, Self::Kick, Self::Other];

    /// Its name in statistics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pio => "pio",
            Self::Mmio => "mmio",
            Self::Kick => "kick",
            Self::Other => "other",
        }
    }
}

/// Counters of all processors of a machine.
#[derive(Debug, Default)]
pub struct Exits([AtomicU64; ExitKind::ALL.len()]);

impl Exits {
    /// One more. An exit takes a thousand times as long.
    pub(super) fn count(&self, kind: ExitKind) {
        self.0[kind as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// How many there were of a kind.
    pub fn get(&self, kind: ExitKind) -> u64 {
        self.0[kind as usize].load(Ordering::Relaxed)
    }
}
