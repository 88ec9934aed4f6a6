//! Addresses above the static 4 GiB map: the page tables are ordinary memory to us, so an entry is a store.
#![expect(unsafe_code, reason = "edits the live page tables")]

use core::sync::atomic::{AtomicUsize, Ordering};

/// What `boot/entry.s` maps.
pub const STATIC_LIMIT: u64 = 1 << 32;

const LIMIT: u64 = 1 << 47;
const LARGE: u64 = 1 << 21;
const TABLE: u64 = 0x27; // accessed, user, writable, present
const PAGE: u64 = 0xe7; // the same, dirty, 2 MiB
const SPARES: usize = 4;

unsafe extern "C" {
    static mut page_tables: [u64; 512];
    static mut spare_tables: [[u64; 512]; SPARES];
}

static USED: AtomicUsize = AtomicUsize::new(0);

/// Makes sure that `start..end` is mapped to itself. `false` if it is not canonical or the spare tables ran out.
pub fn map(start: u64, end: u64) -> bool {
    if end <= STATIC_LIMIT {
        return start <= end;
    }
    if end > LIMIT || start > end {
        return false;
    }
    let mut at = start.max(STATIC_LIMIT) & !(LARGE - 1);
    while at < end {
        if map_large(at).is_none() {
            return false;
        }
        at += LARGE;
    }
    true
}

fn map_large(address: u64) -> Option<()> {
    let index = |shift: u32| (address >> shift) as usize & 511;
    let pdpt = table((&raw mut page_tables).cast(), index(39))?;
    let pd = table(pdpt, index(30))?;
    // SAFETY: `pd` is a page table of ours and the index is below 512. The entry either is equal or was not present, so
    // there is nothing to flush.
    unsafe { pd.add(index(21)).write_volatile(address | PAGE) };
    Some(())
}

fn table(parent: *mut u64, index: usize) -> Option<*mut u64> {
    // SAFETY: `parent` is one of our page tables, identity-mapped, and the index is below 512.
    let entry = unsafe { parent.add(index).read_volatile() };
    if entry & 1 != 0 {
        return Some((entry & !0xfff) as *mut u64);
    }
    let spare = USED.fetch_add(1, Ordering::Relaxed);
    if spare >= SPARES {
        return None;
    }
    // SAFETY: below the number of spare tables; each is zero until it is handed out here.
    let child = unsafe { (&raw mut spare_tables).cast::<u64>().add(spare * 512) };
    // SAFETY: as the read above.
    unsafe { parent.add(index).write_volatile(child as u64 | TABLE) };
    Some(child)
}
