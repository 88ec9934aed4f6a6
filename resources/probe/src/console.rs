//! The serial console: COM1, write only, a whole line at a time.

use core::fmt::{self, Write};
use core::sync::atomic::{AtomicBool, Ordering};

use crate::ring0;

const COM1: u16 = 0x3f8;

/// Whether a carriage return goes before each end of a line: a raw terminal wants one.
static RETURNS: AtomicBool = AtomicBool::new(false);

/// Ends lines as a raw terminal wants it from here on.
pub fn to_terminal() {
    RETURNS.store(true, Ordering::Relaxed);
}

/// Collects text and sends it in one call into ring 0 when a line is complete or the buffer full.
pub struct Line {
    buffer: [u8; 512],
    used: usize,
}

impl Line {
    /// An empty line.
    pub const fn new() -> Self {
        Self { buffer: [0; 512], used: 0 }
    }

    fn put(&mut self, byte: u8) {
        if self.used == self.buffer.len() {
            self.flush();
        }
        if let Some(slot) = self.buffer.get_mut(self.used) {
            *slot = byte;
            self.used += 1;
        }
    }

    fn flush(&mut self) {
        if self.used > 0 {
            ring0::outs(COM1, self.buffer.get(..self.used).unwrap_or_default());
            self.used = 0;
        }
    }
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for &byte in text.as_bytes() {
            if byte == b'\n' && RETURNS.load(Ordering::Relaxed) {
                self.put(b'\r');
            }
            self.put(byte);
        }
        Ok(())
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.flush();
    }
}

/// Prints one line.
pub fn print(args: fmt::Arguments<'_>) {
    let mut line = Line::new();
    // Writing to a `Line` cannot fail.
    let _ = line.write_fmt(args);
    let _ = line.write_str("\n");
}

/// `println!` to the serial console.
#[macro_export]
macro_rules! say {
    ($($arg:tt)*) => { $crate::console::print(format_args!($($arg)*)) };
}
