//! Standard input as what is typed at the serial port.

use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use minivmm_devices::serial::Serial;
use rustix::fs::OFlags;

use crate::command::{stream, terminal};

/// Ctrl-A begins a command to the monitor.
const ESCAPE: u8 = 0x01;
/// Bytes taken at once.
const PART: usize = 512;
/// Typed bytes that are kept for a guest that doesn't take them; later ones are dropped, so that
/// the escape is always heard.
const TYPED_MAX: usize = 4096;

/// What became of the input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fed {
    /// The guest has everything that was read.
    All,
    /// The guest has no room; the port's hook tells when it has.
    Waits,
    /// Nothing was read: the terminal belongs to another job.
    Background,
    /// There will be no more.
    End,
    /// The user wants to leave.
    Quit,
}

/// Descriptor 0 without a buffer. It is open: the standard library opens /dev/null where it was
/// closed at the start.
///
/// Reading it does not block, where that can be had: who shares a pipe or a terminal may be quicker
/// than we are after its readiness.
#[derive(Debug)]
pub struct Stdin(Option<OwnedFd>);

impl Stdin {
    fn open() -> Self {
        Self(stream::reopen(io::stdin(), OFlags::RDONLY))
    }
}

impl Read for Stdin {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        // As the kernel says where it does not stop us for reading another job's terminal.
        if !terminal::is_foreground() {
            return Err(rustix::io::Errno::IO.into());
        }
        Ok(rustix::io::read(self.as_fd(), bytes)?)
    }
}

impl AsFd for Stdin {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_ref().map_or(rustix::stdio::stdin(), AsFd::as_fd)
    }
}

/// Standard input, with what the guest has not taken yet.
#[derive(Debug)]
pub struct Input<R = Stdin> {
    source: R,
    waiting: Vec<u8>,
    escapes: Option<Escapes>,
}

impl Input {
    /// Standard input; with `escapes`, Ctrl-A x in it is for the monitor.
    pub fn new(escapes: bool) -> Self {
        Self::from_source(Stdin::open(), escapes)
    }

    /// What is waited for.
    pub fn fd(&self) -> RawFd {
        self.source.as_fd().as_raw_fd()
    }
}

impl<R: Read> Input<R> {
    fn from_source(source: R, escapes: bool) -> Self {
        Self { source, waiting: Vec::new(), escapes: escapes.then(Escapes::default) }
    }

    /// True where input is to be read even while the guest has no room for it.
    pub fn listens(&self) -> bool {
        self.escapes.is_some()
    }

    /// Offers the guest what waits.
    pub fn offer(&mut self, serial: &Serial) -> Fed {
        if !self.waiting.is_empty() {
            let taken = serial.input(&self.waiting);
            self.waiting.drain(..taken);
        }
        if self.waiting.is_empty() { Fed::All } else { Fed::Waits }
    }

    /// Reads once and offers it.
    pub fn read(&mut self, serial: &Serial) -> Fed {
        let mut bytes = [0; PART];
        let n = match self.source.read(&mut bytes) {
            Ok(0) => return Fed::End,
            Ok(n) => n,
            Err(e)
                if matches!(e.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock) =>
            {
                return self.offer(serial);
            }
            Err(e) if e.raw_os_error() == Some(libc::EIO) && !terminal::is_foreground() => {
                return Fed::Background;
            }
            // A terminal that has hung up, a directory.
            Err(_) => return Fed::End,
        };
        match &mut self.escapes {
            None => self.waiting.extend_from_slice(&bytes[..n]),
            Some(escapes) => {
                if escapes.filter(&bytes[..n], &mut self.waiting) {
                    return Fed::Quit;
                }
                self.waiting.truncate(TYPED_MAX);
            }
        }
        self.offer(serial)
    }
}

/// The monitor's commands in a terminal's input.
#[derive(Debug, Default)]
struct Escapes {
    pending: bool,
}

impl Escapes {
    /// Appends what is for the guest to `out`; true when the user wants to leave.
    fn filter(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> bool {
        for &byte in bytes {
            match (std::mem::take(&mut self.pending), byte) {
                (false, ESCAPE) => self.pending = true,
                (true, b'x' | b'X') => return true,
                (true, ESCAPE) => out.push(ESCAPE),
                (true, other) => out.extend([ESCAPE, other]),
                (false, other) => out.push(other),
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use minivmm_devices::bus::BusDevice;
    use minivmm_devices::irq::testing::TestIrq;
    use minivmm_devices::serial::SerialHooks;

    use super::*;

    fn serial() -> Serial {
        let irq = Arc::new(TestIrq::default());
        Serial::new(irq, Box::new(io::sink()), SerialHooks::default())
    }

    fn received(serial: &Serial) -> Vec<u8> {
        const LSR: u64 = 5;
        let mut got = Vec::new();
        loop {
            let (mut status, mut byte) = ([0], [0]);
            serial.read(LSR, &mut status);
            if status[0] & 1 == 0 {
                return got;
            }
            serial.read(0, &mut byte);
            got.push(byte[0]);
        }
    }

    #[test]
    fn escapes_are_for_the_monitor_and_the_rest_for_the_guest() {
        let mut escapes = Escapes::default();
        let mut out = Vec::new();
        assert!(!escapes.filter(b"a\x01", &mut out));
        assert!(!escapes.filter(b"\x01b\x01c", &mut out));
        assert_eq!(out, b"a\x01b\x01c");
        assert!(escapes.filter(b"d\x01xe", &mut out));
        assert_eq!(out, b"a\x01b\x01cd");
    }

    #[test]
    fn a_file_is_read_as_the_guest_takes_it() {
        let serial = serial();
        let data: Vec<u8> = (0..2000).map(|i: u32| i as u8).collect();
        let mut input = Input::from_source(&data[..], false);
        let mut got = Vec::new();
        let mut fed = input.read(&serial);
        while fed != Fed::End {
            if fed == Fed::Waits {
                got.extend(received(&serial));
                fed = input.offer(&serial);
            } else {
                fed = input.read(&serial);
            }
        }
        got.extend(received(&serial));
        assert_eq!(got, data);
    }

    /// A guest that reads nothing does not keep the user from leaving.
    #[test]
    fn the_escape_is_heard_past_a_deaf_guest() {
        let serial = serial();
        let typed = [&[b'k'; 3 * TYPED_MAX][..], b"\x01x"].concat();
        let mut input = Input::from_source(&typed[..], true);
        let mut fed = Fed::All;
        while !matches!(fed, Fed::End | Fed::Quit) {
            fed = input.read(&serial);
            assert!(input.waiting.len() <= TYPED_MAX);
        }
        assert_eq!(fed, Fed::Quit);
    }
}
