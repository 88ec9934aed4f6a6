//! Buses, serial, PCI, the virtio core, its transports and the virtio devices.

pub mod acpi_pm;
pub mod bus;
pub mod debug_exit;
pub mod events;
pub mod i8042;
pub mod irq;
pub mod pci;
pub mod serial;
pub mod virtio;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks whatever happened to another holder: each critical section here leaves a state that is
/// valid, if perhaps not the one wanted.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
