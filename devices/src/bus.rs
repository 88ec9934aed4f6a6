//! Address ranges and who answers in them: one [`Bus`] for port I/O, one for memory.

use std::sync::{Arc, PoisonError, RwLock};

use thiserror::Error;

/// A device that answers accesses of vCPUs. It locks inside where it must; several vCPUs may be
/// in it at once.
///
/// Accesses have any length and any alignment, and never reach beyond the device's range.
pub trait BusDevice: Send + Sync {
    /// Reads from `offset`. `data` holds all ones before: what is not written stays so.
    fn read(&self, offset: u64, data: &mut [u8]);

    /// Writes to `offset`.
    fn write(&self, offset: u64, data: &[u8]);
}

/// Why a range was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum BusError {
    /// No bytes, or beyond the end of the address space.
    #[error("range of {len:#x} bytes at {base:#x} is empty or wraps")]
    Range {
        /// Its first address.
        base: u64,
        /// Its bytes.
        len: u64,
    },
    /// Another device answers there.
    #[error("range at {base:#x} overlaps the one at {other:#x}")]
    Overlap {
        /// The range refused.
        base: u64,
        /// The range in its way.
        other: u64,
    },
}

#[derive(Clone)]
struct Entry {
    base: u64,
    /// Inclusive.
    last: u64,
    device: Arc<dyn BusDevice>,
}

/// A map of address ranges. No lock is held while a device is accessed, so a device may change
/// the map.
#[derive(Default)]
pub struct Bus {
    /// Sorted, disjoint.
    entries: RwLock<Vec<Entry>>,
}

impl Bus {
    /// A bus without devices.
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets `device` answer for `len` bytes from `base`.
    ///
    /// # Errors
    /// [`BusError`]; the map is then as it was.
    pub fn insert(&self, base: u64, len: u64, device: Arc<dyn BusDevice>) -> Result<(), BusError> {
        let last = len
            .checked_sub(1)
            .and_then(|n| base.checked_add(n))
            .ok_or(BusError::Range { base, len })?;
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        let at = entries.partition_point(|e| e.last < base);
        if let Some(next) = entries.get(at).filter(|next| next.base <= last) {
            return Err(BusError::Overlap { base, other: next.base });
        }
        entries.insert(at, Entry { base, last, device });
        Ok(())
    }

    /// Takes the range that starts at `base` away. An access that is under way still ends in the
    /// device.
    pub fn remove(&self, base: u64) -> Option<Arc<dyn BusDevice>> {
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        let at = entries.iter().position(|e| e.base == base)?;
        Some(entries.remove(at).device)
    }

    /// Reads `data.len()` bytes from `addr`; what nobody claims reads as ones.
    pub fn read(&self, addr: u64, data: &mut [u8]) {
        data.fill(0xff);
        let mut done = 0;
        while done < data.len() {
            let Part { len, target } = self.part(addr, done, data.len());
            if let Some((device, offset)) = target {
                device.read(offset, &mut data[done..done + len]);
            }
            done += len;
        }
    }

    /// Writes `data` to `addr`; what nobody claims is dropped.
    pub fn write(&self, addr: u64, data: &[u8]) {
        let mut done = 0;
        while done < data.len() {
            let Part { len, target } = self.part(addr, done, data.len());
            if let Some((device, offset)) = target {
                device.write(offset, &data[done..done + len]);
            }
            done += len;
        }
    }

    /// Who answers for byte `done` of an access of `len` bytes at `addr`, and for how many bytes
    /// from there; at least one.
    fn part(&self, addr: u64, done: usize, len: usize) -> Part {
        let left = len - done;
        let Some(at) = addr.checked_add(done as u64) else {
            return Part { len: left, target: None };
        };
        let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner);
        let index = entries.partition_point(|e| e.last < at);
        // An entry that starts later ends the part that nobody claims.
        let limit = |bytes: u64| left.min(usize::try_from(bytes).unwrap_or(usize::MAX));
        match entries.get(index) {
            Some(e) if e.base <= at => Part {
                len: limit((e.last - at).saturating_add(1)),
                target: Some((e.device.clone(), at - e.base)),
            },
            Some(e) => Part { len: limit(e.base - at), target: None },
            None => Part { len: left, target: None },
        }
    }
}

impl std::fmt::Debug for Bus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner);
        f.debug_list().entries(entries.iter().map(|e| e.base..=e.last)).finish()
    }
}

struct Part {
    len: usize,
    target: Option<(Arc<dyn BusDevice>, u64)>,
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use proptest::prelude::*;

    use super::*;

    /// Reads as the low byte of each offset; remembers writes.
    #[derive(Default)]
    struct Probe {
        len: u64,
        writes: Mutex<Vec<(u64, Vec<u8>)>>,
    }

    impl BusDevice for Probe {
        fn read(&self, offset: u64, data: &mut [u8]) {
            assert!(offset + data.len() as u64 <= self.len);
            for (i, b) in data.iter_mut().enumerate() {
                *b = (offset as u8).wrapping_add(i as u8);
            }
        }

        fn write(&self, offset: u64, data: &[u8]) {
            assert!(offset + data.len() as u64 <= self.len);
            self.writes.lock().unwrap().push((offset, data.to_vec()));
        }
    }

    fn probe(len: u64) -> Arc<Probe> {
        Arc::new(Probe { len, ..Probe::default() })
    }

    #[test]
    fn accesses_are_split_at_range_ends() {
        let bus = Bus::new();
        let (a, b) = (probe(4), probe(4));
        bus.insert(0x10, 4, a.clone()).unwrap();
        bus.insert(0x18, 4, b.clone()).unwrap();
        let mut data = [0; 16];
        bus.read(0xe, &mut data);
        let ff = 0xff;
        assert_eq!(data, [ff, ff, 0, 1, 2, 3, ff, ff, ff, ff, 0, 1, 2, 3, ff, ff]);
        bus.write(0x13, &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
        assert_eq!(*a.writes.lock().unwrap(), [(3, vec![1])]);
        assert_eq!(*b.writes.lock().unwrap(), [(0, vec![6, 7, 8, 9])]);
    }

    #[test]
    fn overlaps_and_wraps_are_refused() {
        let bus = Bus::new();
        bus.insert(0x10, 0x10, probe(0x10)).unwrap();
        for (base, len) in [(0x10, 1), (0x1f, 1), (0, 0x11), (0, 0x100), (0x18, 0x100)] {
            assert_eq!(
                bus.insert(base, len, probe(1)),
                Err(BusError::Overlap { base, other: 0x10 })
            );
        }
        assert!(matches!(bus.insert(0x30, 0, probe(1)), Err(BusError::Range { .. })));
        assert!(matches!(bus.insert(u64::MAX, 2, probe(1)), Err(BusError::Range { .. })));
        bus.insert(0, 0x10, probe(0x10)).unwrap();
        bus.insert(u64::MAX, 1, probe(1)).unwrap();
        let mut data = [0; 4];
        bus.read(u64::MAX - 1, &mut data);
        assert_eq!(data, [0xff, 0, 0xff, 0xff]);
    }

    #[test]
    fn a_removed_range_is_free() {
        let bus = Bus::new();
        bus.insert(0x10, 0x10, probe(0x10)).unwrap();
        assert!(bus.remove(0x11).is_none());
        assert!(bus.remove(0x10).is_some());
        bus.insert(0x18, 0x10, probe(0x10)).unwrap();
    }

    proptest! {
        /// Every byte goes to the device that owns its address, or to nobody.
        #[test]
        fn each_byte_finds_its_owner(
            ranges in proptest::collection::vec((0u64..64, 1u64..16), 0..6),
            addr in 0u64..80,
            len in 0usize..40,
        ) {
            let bus = Bus::new();
            let mut owner = [None; 160];
            for (base, len) in ranges {
                if bus.insert(base, len, probe(len)).is_ok() {
                    for i in 0..len { owner[(base + i) as usize] = Some(i as u8); }
                }
            }
            let mut data = vec![0; len];
            bus.read(addr, &mut data);
            bus.write(addr, &data);
            for (i, byte) in data.iter().enumerate() {
                prop_assert_eq!(*byte, owner[addr as usize + i].unwrap_or(0xff));
            }
        }
    }
}
