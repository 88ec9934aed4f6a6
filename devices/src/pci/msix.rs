//! MSI-X (PCI Local Bus 3.0 §6.8.2): the table, the pending bits, and the way from a device's
//! signal to an [`IrqLine`].
//!
//! An open vector costs one atomic load and the signal. The lock is taken by the guest's writes
//! only. A signal that meets a closed vector leaves a pending bit and looks again; opening a
//! vector sets it open and then looks for the bit: one of the two always sees the other.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use crate::irq::{IrqLine, MsiMessage};
use crate::lock;

/// Capability id.
pub const CAPABILITY_ID: u8 = 0x11;
/// Bytes of a table entry.
pub const ENTRY_SIZE: u64 = 16;
/// Message control: all vectors masked.
pub const CONTROL_MASK_ALL: u16 = 1 << 14;
/// Message control: MSI-X on.
pub const CONTROL_ENABLE: u16 = 1 << 15;
const ENTRY_MASKED: u32 = 1;
/// An offset past every table.
const BEYOND: u64 = 1 << 32;

/// The MSI-X state of a function.
pub struct Msix {
    vectors: Box<[Vector]>,
    table: Mutex<Table>,
    enabled: AtomicBool,
    /// The user was told of a vector that cannot be served.
    told: AtomicBool,
}

struct Vector {
    line: Arc<dyn IrqLine>,
    /// Enabled, not masked, and routed.
    open: AtomicBool,
    pending: AtomicBool,
}

#[derive(Debug)]
struct Table {
    control: u16,
    entries: Box<[Entry]>,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    address_low: u32,
    address_high: u32,
    data: u32,
    control: u32,
    /// What the line was last routed to.
    routed: Option<MsiMessage>,
}

impl Entry {
    fn message(&self) -> MsiMessage {
        MsiMessage {
            address: u64::from(self.address_high) << 32 | u64::from(self.address_low & !3),
            data: self.data,
        }
    }
}

impl Msix {
    /// One vector for each line, all masked, MSI-X off.
    ///
    /// # Panics
    /// Without a line, or with more than 2048: a mistake of the device's author.
    pub fn new(lines: Vec<Arc<dyn IrqLine>>) -> Self {
        assert!((1..=2048).contains(&lines.len()));
        let entry =
            Entry { address_low: 0, address_high: 0, data: 0, control: ENTRY_MASKED, routed: None };
        let entries = vec![entry; lines.len()].into_boxed_slice();
        let vectors = lines
            .into_iter()
            .map(|line| Vector {
                line,
                open: AtomicBool::new(false),
                pending: AtomicBool::new(false),
            })
            .collect();
        Self {
            vectors,
            table: Mutex::new(Table { control: 0, entries }),
            enabled: AtomicBool::new(false),
            told: AtomicBool::new(false),
        }
    }

    /// Number of vectors.
    pub fn len(&self) -> usize {
        self.vectors.len()
    }

    /// False: there is always a vector.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// The capability after its two first bytes: control, table and pending bits in `bar`.
    pub fn capability(&self, bar: u8, table: u32, pba: u32) -> [u8; 10] {
        let mut body = [0; 10];
        let size = u16::try_from(self.vectors.len() - 1).expect("at most 2048 vectors");
        body[..2].copy_from_slice(&size.to_le_bytes());
        body[2..6].copy_from_slice(&(table | u32::from(bar)).to_le_bytes());
        body[6..].copy_from_slice(&(pba | u32::from(bar)).to_le_bytes());
        body
    }

    /// MSI-X is on.
    pub fn enabled(&self) -> bool {
        self.enabled.load(Ordering::Acquire)
    }

    /// Forgets what is pending: the device was reset.
    pub fn reset(&self) {
        for v in &self.vectors {
            v.pending.store(false, Ordering::SeqCst);
        }
    }

    /// Raises a vector, or leaves it pending. One that does not exist is ignored, and so are all
    /// while MSI-X is off.
    ///
    /// # Errors
    /// What the line reports.
    #[inline]
    pub fn signal(&self, vector: u16) -> io::Result<()> {
        let Some(v) = self.vectors.get(usize::from(vector)) else { return Ok(()) };
        if v.open.load(Ordering::Acquire) {
            return v.line.signal();
        }
        if !self.enabled() {
            return Ok(());
        }
        v.pending.store(true, Ordering::SeqCst);
        if v.open.load(Ordering::SeqCst) && v.pending.swap(false, Ordering::SeqCst) {
            return v.line.signal();
        }
        Ok(())
    }

    /// A write of the guest to the message control register left it at `control`.
    pub fn set_control(&self, control: u16) {
        let mut table = lock(&self.table);
        if table.control == control {
            return;
        }
        table.control = control;
        self.enabled.store(control & CONTROL_ENABLE != 0, Ordering::Release);
        for index in 0..self.vectors.len() {
            self.update(&mut table, index);
        }
    }

    /// Reads the table.
    pub fn read_table(&self, offset: u64, data: &mut [u8]) {
        let table = lock(&self.table);
        for (at, byte) in (offset.min(BEYOND)..).zip(data) {
            let index = usize::try_from(at / ENTRY_SIZE).unwrap_or(usize::MAX);
            let word = table.entries.get(index).map_or(0, |e| match at / 4 % 4 {
                0 => e.address_low,
                1 => e.address_high,
                2 => e.data,
                _ => e.control,
            });
            *byte = word.to_le_bytes()[(at % 4) as usize];
        }
    }

    /// Writes the table: whole aligned words, one or two; anything else is undefined by the
    /// standard and ignored.
    pub fn write_table(&self, offset: u64, data: &[u8]) {
        if !offset.is_multiple_of(4) || !data.len().is_multiple_of(4) || data.len() > 8 {
            return;
        }
        let mut table = lock(&self.table);
        for (at, word) in (offset.min(BEYOND)..).step_by(4).zip(data.chunks_exact(4)) {
            let word = u32::from_le_bytes([word[0], word[1], word[2], word[3]]);
            let index = usize::try_from(at / ENTRY_SIZE).unwrap_or(usize::MAX);
            let Some(e) = table.entries.get_mut(index) else { return };
            match at / 4 % 4 {
                0 => e.address_low = word,
                1 => e.address_high = word,
                2 => e.data = word,
                _ => e.control = word & ENTRY_MASKED,
            }
            self.update(&mut table, index);
        }
    }

    /// Reads the pending bits.
    pub fn read_pba(&self, offset: u64, data: &mut [u8]) {
        for (at, byte) in (offset.min(BEYOND)..).zip(data) {
            let first = usize::try_from(at).unwrap_or(usize::MAX).saturating_mul(8);
            let vectors = self.vectors.get(first..).unwrap_or_default();
            *byte = (0..8)
                .zip(vectors)
                .fold(0, |bits, (i, v)| bits | u8::from(v.pending.load(Ordering::SeqCst)) << i);
        }
    }

    /// Brings a vector in line with table and control.
    fn update(&self, table: &mut Table, index: usize) {
        let enabled = table.control & CONTROL_ENABLE != 0;
        let all_masked = table.control & CONTROL_MASK_ALL != 0;
        let (Some(v), Some(e)) = (self.vectors.get(index), table.entries.get_mut(index)) else {
            return;
        };
        let open = enabled && !all_masked && e.control & ENTRY_MASKED == 0;
        if !open {
            v.open.store(false, Ordering::SeqCst);
            return;
        }
        let message = e.message();
        // Routes are dear (KVM waits for a grace period), so they change only with the message.
        if e.routed != Some(message) {
            v.open.store(false, Ordering::SeqCst);
            if let Err(error) = v.line.set_msi(message) {
                self.tell("route", &error);
                return;
            }
            e.routed = Some(message);
        }
        v.open.store(true, Ordering::SeqCst);
        if v.pending.swap(false, Ordering::SeqCst)
            && let Err(error) = v.line.signal()
        {
            self.tell("raise", &error);
        }
    }

    /// Says once that the guest misses interrupts.
    fn tell(&self, what: &str, error: &io::Error) {
        if !self.told.swap(true, Ordering::Relaxed) {
            tracing::warn!("cannot {what} an interrupt of a PCI device: {error}");
        }
    }
}

impl std::fmt::Debug for Msix {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Msix")
            .field("vectors", &self.vectors.len())
            .field("table", &*lock(&self.table))
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::irq::testing::TestIrq;

    fn msix(n: usize) -> (Msix, Vec<Arc<TestIrq>>) {
        let irqs: Vec<Arc<TestIrq>> = (0..n).map(|_| Arc::default()).collect();
        let lines = irqs.iter().map(|i| i.clone() as Arc<dyn IrqLine>).collect();
        (Msix::new(lines), irqs)
    }

    fn word(m: &Msix, at: u64, value: u32) {
        m.write_table(at, &value.to_le_bytes());
    }

    fn pending(m: &Msix) -> u64 {
        let mut b = [0; 8];
        m.read_pba(0, &mut b);
        u64::from_le_bytes(b)
    }

    fn program(m: &Msix, vector: u64) {
        word(m, 16 * vector, 0xfee0_1000);
        word(m, 16 * vector + 4, 0);
        word(m, 16 * vector + 8, 0x4020 + vector as u32);
        word(m, 16 * vector + 12, 0);
    }

    #[test]
    fn an_open_vector_signals_its_line() {
        let (m, irqs) = msix(3);
        program(&m, 1);
        m.set_control(CONTROL_ENABLE);
        assert!(m.enabled());
        m.signal(1).unwrap();
        assert_eq!(irqs.iter().map(|i| i.count()).collect::<Vec<_>>(), [0, 1, 0]);
        assert_eq!(irqs[1].route(), Some(MsiMessage { address: 0xfee0_1000, data: 0x4021 }));
        assert_eq!(irqs[0].route(), None);
        m.signal(3).unwrap();
        m.signal(u16::MAX).unwrap();
        assert_eq!(pending(&m), 0);
    }

    #[test]
    fn a_masked_vector_pends_and_fires_once_at_unmask() {
        let (m, irqs) = msix(2);
        m.set_control(CONTROL_ENABLE);
        m.signal(0).unwrap();
        m.signal(0).unwrap();
        assert_eq!((irqs[0].count(), pending(&m)), (0, 1));
        program(&m, 0);
        assert_eq!((irqs[0].count(), pending(&m)), (1, 0));
        word(&m, 12, 1);
        m.signal(0).unwrap();
        assert_eq!((irqs[0].count(), pending(&m)), (1, 1));
        word(&m, 12, 0);
        assert_eq!(irqs[0].count(), 2);
    }

    #[test]
    fn nothing_pends_while_off_or_after_a_reset() {
        let (m, irqs) = msix(2);
        m.signal(0).unwrap();
        assert_eq!(pending(&m), 0);
        m.set_control(CONTROL_ENABLE | CONTROL_MASK_ALL);
        program(&m, 0);
        m.signal(0).unwrap();
        assert_eq!(pending(&m), 1);
        m.reset();
        assert_eq!(pending(&m), 0);
        m.set_control(CONTROL_ENABLE);
        assert_eq!(irqs[0].count(), 0);
    }

    #[test]
    fn the_function_mask_masks_all() {
        let (m, irqs) = msix(2);
        m.set_control(CONTROL_ENABLE | CONTROL_MASK_ALL);
        program(&m, 0);
        program(&m, 1);
        m.signal(0).unwrap();
        m.signal(1).unwrap();
        assert_eq!(pending(&m), 3);
        m.set_control(CONTROL_ENABLE);
        assert_eq!((irqs[0].count(), irqs[1].count(), pending(&m)), (1, 1, 0));
    }

    #[test]
    fn a_message_changed_while_open_is_routed_anew() {
        let (m, irqs) = msix(1);
        program(&m, 0);
        m.set_control(CONTROL_ENABLE);
        word(&m, 8, 0x55);
        assert_eq!(irqs[0].route().map(|r| r.data), Some(0x55));
        m.signal(0).unwrap();
        assert_eq!(irqs[0].count(), 1);
    }

    #[test]
    fn a_line_that_cannot_be_routed_stays_closed() {
        struct Broken;
        impl IrqLine for Broken {
            fn signal(&self) -> io::Result<()> {
                unreachable!("not routed")
            }
            fn set_msi(&self, _: MsiMessage) -> io::Result<()> {
                Err(io::ErrorKind::Other.into())
            }
        }
        let m = Msix::new(vec![Arc::new(Broken)]);
        program(&m, 0);
        m.set_control(CONTROL_ENABLE);
        m.signal(0).unwrap();
        assert_eq!(pending(&m), 1);
    }

    #[test]
    fn the_table_reads_back_in_any_width() {
        let (m, _) = msix(2);
        program(&m, 1);
        let mut b = [0; 16];
        m.read_table(16, &mut b);
        assert_eq!(b, [0, 0x10, 0xe0, 0xfe, 0, 0, 0, 0, 0x21, 0x40, 0, 0, 0, 0, 0, 0]);
        let mut one = [0; 1];
        m.read_table(18, &mut one);
        assert_eq!(one, [0xe0]);
        m.read_table(u64::MAX - 3, &mut b[..3]);
        m.write_table(32, &[1; 4]);
        m.write_table(13, &[1; 4]);
        m.write_table(12, &[1; 3]);
        m.write_table(8, &[9, 0, 0, 0, 1, 0, 0, 0]);
        m.read_table(0, &mut b);
        assert_eq!((b[8], b[12]), (9, 1));
    }

    #[test]
    fn a_signal_that_races_with_the_unmask_is_not_lost() {
        use std::sync::atomic::AtomicU32;
        const ROUNDS: u32 = 2_000;

        let (m, irqs) = msix(1);
        program(&m, 0);
        m.set_control(CONTROL_ENABLE);
        let (go, done) = (AtomicU32::new(0), AtomicU32::new(0));
        let await_value = |n: &AtomicU32, value: u32| {
            while n.load(Ordering::Acquire) != value {
                std::hint::spin_loop();
            }
        };
        std::thread::scope(|s| {
            s.spawn(|| {
                for round in 1..=ROUNDS {
                    await_value(&go, round);
                    word(&m, 12, 0);
                    done.store(round, Ordering::Release);
                }
            });
            for round in 1..=ROUNDS {
                word(&m, 12, 1);
                go.store(round, Ordering::Release);
                // Both orders, and what is between, must come up.
                for _ in 0..round % 128 {
                    std::hint::spin_loop();
                }
                m.signal(0).unwrap();
                await_value(&done, round);
                assert_eq!((irqs[0].take(), pending(&m)), (1, 0), "round {round}");
            }
        });
    }
}
