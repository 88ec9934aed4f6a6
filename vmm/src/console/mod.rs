//! The guest's first serial port, as its host sees it: what it writes, and when it takes input.

mod output;
mod stream;
mod timer;

pub(crate) use self::output::OpenOutput;
pub use self::output::{Destination, Output};
pub use self::stream::{Console, Room};
pub use self::timer::Timer;
