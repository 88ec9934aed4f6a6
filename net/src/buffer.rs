//! A buffer on the heap that is seen as volatile memory.
#![expect(unsafe_code, reason = "a slice of a buffer beside the buffer itself")]

use std::ptr::NonNull;

use vm_memory::VolatileSlice;

/// Owns its memory; all access goes through its one volatile slice.
#[derive(Debug)]
pub struct HostBuffer {
    memory: NonNull<[u8]>,
    /// Over all of `memory`; the lifetime is a lie that `slices` corrects.
    slice: [VolatileSlice<'static>; 1],
}

// SAFETY: it owns its memory exclusively, as a `Box<[u8]>` does.
unsafe impl Send for HostBuffer {}

impl HostBuffer {
    /// `len` zero bytes.
    pub fn new(len: usize) -> Self {
        let memory = NonNull::from(Box::leak(vec![0u8; len].into_boxed_slice()));
        // SAFETY: `memory` is `len` valid bytes until drop, and nothing else refers to them.
        let slice = [unsafe { VolatileSlice::new(memory.cast().as_ptr(), len) }];
        Self { memory, slice }
    }

    /// The memory, as a list of one.
    pub fn slices(&self) -> &[VolatileSlice<'_>] {
        &self.slice
    }
}

impl Drop for HostBuffer {
    fn drop(&mut self) {
        // SAFETY: `memory` came from a leaked box and is freed only here; slices lent out by
        // `slices` can't outlive `self`.
        drop(unsafe { Box::from_raw(self.memory.as_ptr()) });
    }
}
