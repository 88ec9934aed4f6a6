//! Receive memory that a station lends to whoever has a frame for it.
//!
//! Reserve, fill, commit; what is not committed goes back untouched. Where the station has no
//! buffers the source of the frame is not read: back-pressure, not a queue.

use vm_memory::VolatileSlice;

use crate::frame::{Offload, Offloads};
use crate::scatter::{Pieces, Scatter};

/// The receive side of a station. Use it through [`RxSlot`].
pub trait RxRing {
    /// What the station can take.
    fn offloads(&self) -> Offloads;

    /// Reserves room for a frame, Ethernet header on: for as much of `most` bytes as the station
    /// has buffers for now, if that is `least` or more, and returns how much. At most one
    /// reservation stands at a time. `None` when the station has too few buffers: its port then
    /// calls [`Backend::rx_available`](crate::port::Backend::rx_available) when that has changed.
    fn reserve(&mut self, most: usize, least: usize) -> Option<usize>;

    /// The reserved memory: `len` bytes or more, the first is the first of the Ethernet header.
    fn slices(&self) -> &[VolatileSlice<'_>];

    /// Looks where up to `most` more frames of `len` bytes will lie behind a reservation of `len`
    /// that is committed in full, and returns for how many there are buffers now that one system
    /// call takes together. They may be filled beforehand, but each is reserved, with `len` as
    /// `most` and `least`, when its turn has come: its memory is then where
    /// [`ahead`](Self::ahead) said.
    fn look_ahead(&mut self, len: usize, most: usize) -> usize {
        let _ = (len, most);
        0
    }

    /// The memory of frame `n` of those, from 0 on, and at which byte of it the Ethernet header
    /// begins.
    fn ahead(&self, n: usize) -> (&[VolatileSlice<'_>], usize) {
        let _ = n;
        (&[], 0)
    }

    /// Delivers the first `len` bytes of the reservation and gives back the rest. `len` is at
    /// most what was reserved. The station is told at the port's next flush. A frame that its
    /// buffers could never hold is dropped here, and counted by the port.
    fn commit(&mut self, len: usize, offload: Offload);

    /// Gives the whole reservation back.
    fn release(&mut self);
}

/// A reservation in an [`RxRing`]; dropping it gives it back.
pub struct RxSlot<'a> {
    ring: &'a mut dyn RxRing,
    len: usize,
    committed: bool,
}

impl std::fmt::Debug for RxSlot<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RxSlot").field("len", &self.len).finish_non_exhaustive()
    }
}

impl<'a> RxSlot<'a> {
    /// Reserves `len` bytes, or `None` when the station has no room for them now.
    pub fn reserve(ring: &'a mut dyn RxRing, len: usize) -> Option<Self> {
        Self::reserve_most(ring, len, len)
    }

    /// Reserves as much of `most` bytes as the station has room for now, `least` or more.
    pub fn reserve_most(ring: &'a mut dyn RxRing, most: usize, least: usize) -> Option<Self> {
        let len = ring.reserve(most, least)?;
        Some(Self { ring, len, committed: false })
    }

    /// Bytes that were reserved.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True for a reservation of nothing.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// What the station can take.
    pub fn offloads(&self) -> Offloads {
        self.ring.offloads()
    }

    /// The memory to fill.
    pub fn slices(&self) -> &[VolatileSlice<'_>] {
        self.ring.slices()
    }

    /// Looks where up to `most` more frames of this length will lie, and returns how many have a
    /// place: see [`RxRing::look_ahead`].
    pub fn look_ahead(&mut self, most: usize) -> usize {
        if most == 0 { 0 } else { self.ring.look_ahead(self.len, most) }
    }

    /// The memory of `len` bytes from `at` on of frame `n`: this one is 0, then come those that
    /// [`look_ahead`](Self::look_ahead) found.
    pub fn pieces(&self, n: usize, at: usize, len: usize) -> Pieces<'_> {
        let (slices, start) = match n.checked_sub(1) {
            None => (self.ring.slices(), 0),
            Some(n) => self.ring.ahead(n),
        };
        Scatter::new(slices).pieces(start + at, len)
    }

    /// Copies `bytes` to `offset`.
    ///
    /// # Panics
    /// If they do not fit the reservation: a mistake of the caller, never of a guest.
    pub fn write_at(&self, offset: usize, bytes: &[u8]) {
        let written = Scatter::new(self.slices()).copy_from(offset, bytes);
        assert!(written == bytes.len(), "write beyond the reservation");
    }

    /// Delivers the first `len` bytes.
    pub fn commit(mut self, len: usize, offload: Offload) {
        debug_assert!(len <= self.len);
        self.committed = true;
        self.ring.commit(len, offload);
    }
}

impl Drop for RxSlot<'_> {
    fn drop(&mut self) {
        if !self.committed {
            self.ring.release();
        }
    }
}
