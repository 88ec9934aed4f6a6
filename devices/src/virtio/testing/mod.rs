//! The driver side, for tests, benches and fuzz targets: rings laid out by hand in real guest
//! memory, and drivers that walk each transport's initialisation as a real one does.
//!
//! Compiled with the feature `test-utils`. Nothing here is careful with errors: it panics.

mod device;
mod driver;
mod queue;

pub use device::{TestDevice, TestDeviceState};
pub use driver::{Driver, MmioDriver, PciDriver, PciMachine, Refused, initialise};
pub use queue::{Buffer, DriverQueue, Used, ram};
