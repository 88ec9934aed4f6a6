//! A 16550 UART whose output is gathered into writes worth a system call and whose input is
//! throttled, not lost.
//!
//! Output leaves at a newline, at 1 KiB, when the driver touches any register that ends a burst
//! (Linux masks the transmit interrupt then), when [`Serial::flush`] is called, and at drop. For
//! guests that stop in the middle of a line without any of these, [`SerialHooks::output_waits`]
//! asks for a flush after a while.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Write};
use std::sync::{Arc, Mutex};

use vm_superio::serial::NoEvents;
use vm_superio::{Serial as Uart, Trigger};

use crate::bus::BusDevice;
use crate::irq::IrqLine;
use crate::lock;

/// Called on a vCPU thread, with no lock held; it must not block.
pub type Hook = Arc<dyn Fn() + Send + Sync>;

/// What a serial port tells its owner.
#[derive(Clone)]
pub struct SerialHooks {
    /// [`Serial::input`] took less than it was given, and now there is room.
    pub input_room: Hook,
    /// Bytes wait for [`Serial::flush`]; call it in some 10 ms. Not repeated before that call.
    pub output_waits: Hook,
}

impl Default for SerialHooks {
    fn default() -> Self {
        Self { input_room: Arc::new(|| {}), output_waits: Arc::new(|| {}) }
    }
}

impl std::fmt::Debug for SerialHooks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SerialHooks").finish_non_exhaustive()
    }
}

/// A UART at eight ports.
pub struct Serial {
    inner: Mutex<Inner>,
    hooks: SerialHooks,
}

struct Inner {
    uart: Uart<Line, NoEvents, Transmitter>,
    /// Input was refused, and the owner waits for `input_room`.
    starved: bool,
}

/// Registers that matter here (offsets).
const DATA: u8 = 0;
const LSR: u8 = 5;
const MSR: u8 = 6;
const MCR: u8 = 4;
const MCR_LOOP: u8 = 1 << 4;

impl Serial {
    /// Ports to claim.
    pub const PORTS: u64 = 8;
    /// Room that must be free before a starved owner is called: half of the FIFO.
    const ROOM: usize = 32;

    /// A port that sends to `sink` and interrupts by edges on `irq`. A sink that would block
    /// delays bytes, up to 64 KiB; one that fails loses them.
    pub fn new(irq: Arc<dyn IrqLine>, sink: Box<dyn Write + Send>, hooks: SerialHooks) -> Self {
        let out = Transmitter { sink, buffer: VecDeque::new(), lost: false, asked: false };
        let uart = Uart::with_events(Line(irq), NoEvents, out);
        Self { inner: Mutex::new(Inner { uart, starved: false }), hooks }
    }

    /// Gives the guest input; returns how many bytes of it were taken. If not all, offer the rest
    /// again at [`SerialHooks::input_room`].
    pub fn input(&self, bytes: &[u8]) -> usize {
        let mut inner = lock(&self.inner);
        let room = if inner.loopback() { 0 } else { inner.uart.fifo_capacity() };
        let taken = room.min(bytes.len());
        if taken > 0 {
            // An interrupt that can't be raised does not take the bytes back out of the FIFO.
            let _ = inner.uart.enqueue_raw_bytes(&bytes[..taken]);
        }
        inner.starved |= taken < bytes.len();
        taken
    }

    /// Sends what waits. False if the sink would block: call again when it takes bytes.
    pub fn flush(&self) -> bool {
        let mut inner = lock(&self.inner);
        let out = inner.uart.writer_mut();
        out.asked = false;
        out.drain();
        out.buffer.is_empty()
    }

    /// What follows an access.
    fn after(&self, mut inner: std::sync::MutexGuard<'_, Inner>) {
        let room = inner.starved && inner.uart.fifo_capacity() >= Self::ROOM && !inner.loopback();
        if room {
            inner.starved = false;
        }
        let out = inner.uart.writer_mut();
        let waits = !out.buffer.is_empty() && !out.asked;
        out.asked |= waits;
        drop(inner);
        if room {
            (self.hooks.input_room)();
        }
        if waits {
            (self.hooks.output_waits)();
        }
    }
}

impl Inner {
    fn loopback(&mut self) -> bool {
        self.uart.read(MCR) & MCR_LOOP != 0
    }
}

/// The registers from `offset` on.
fn registers(offset: u64) -> impl Iterator<Item = u8> {
    (0..Serial::PORTS as u8).skip(usize::try_from(offset).unwrap_or(usize::MAX))
}

impl BusDevice for Serial {
    fn read(&self, offset: u64, data: &mut [u8]) {
        let mut inner = lock(&self.inner);
        for (register, byte) in registers(offset).zip(data) {
            *byte = inner.uart.read(register);
            if !matches!(register, DATA | LSR | MSR) {
                inner.uart.writer_mut().drain();
            }
        }
        self.after(inner);
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let mut inner = lock(&self.inner);
        for (register, &byte) in registers(offset).zip(data) {
            // The transmitter does not fail; an interrupt that can't be raised can't be reported
            // to a driver either.
            let _ = inner.uart.write(register, byte);
            if register != DATA {
                inner.uart.writer_mut().drain();
            }
        }
        self.after(inner);
    }
}

impl std::fmt::Debug for Serial {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Serial").finish_non_exhaustive()
    }
}

struct Line(Arc<dyn IrqLine>);

impl Trigger for Line {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        self.0.signal()
    }
}

/// Gathers bytes for the sink. Its `Write` never fails: what can't be sent is kept or lost.
struct Transmitter {
    sink: Box<dyn Write + Send>,
    buffer: VecDeque<u8>,
    /// Bytes were lost, and the user was told.
    lost: bool,
    /// `output_waits` was called and `flush` has not been.
    asked: bool,
}

impl Transmitter {
    /// Bytes that are sent without waiting for a newline.
    const BURST: usize = 1024;
    /// Bytes that are kept for a sink that would block.
    const KEEP: usize = 64 * 1024;

    fn drain(&mut self) {
        while !self.buffer.is_empty() {
            match self.sink.write(self.buffer.as_slices().0) {
                Ok(n) if n > 0 => {
                    self.buffer.drain(..n.min(self.buffer.len()));
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => return,
                Ok(_) | Err(_) => {
                    self.buffer.clear();
                    self.lose();
                    return;
                }
            }
        }
        // A sink that buffers reports trouble at its next write.
        let _ = self.sink.flush();
    }

    fn lose(&mut self) {
        if !std::mem::replace(&mut self.lost, true) {
            tracing::warn!("output of the guest's console is lost: nobody takes it");
        }
    }
}

impl Write for Transmitter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for &byte in bytes {
            if self.buffer.len() < Self::KEEP {
                self.buffer.push_back(byte);
            } else {
                self.lose();
            }
            // Multiples only: a blocked sink is not asked again for each byte.
            if byte == b'\n' || self.buffer.len().is_multiple_of(Self::BURST) {
                self.drain();
            }
        }
        Ok(bytes.len())
    }

    /// The UART flushes after every byte; that is what this type is there to avoid.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Transmitter {
    fn drop(&mut self) {
        self.drain();
        if !self.buffer.is_empty() {
            self.lose();
        }
    }
}

#[cfg(test)]
mod tests;
