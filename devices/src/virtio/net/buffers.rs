//! The buffers that the driver gave for receiving, before a frame is in them.

use std::collections::VecDeque;
use std::ops::Range;

use minivmm_net::nic::{IOV_MAX, Scatter, VNET_HEADER_LEN};
use vm_memory::VolatileSlice;

use crate::virtio::memory::Slices;
use crate::virtio::queue::{QueueError, VirtQueue};

/// Slices that one frame may be read into, so that they fit one system call with something in front.
const MAX_SLICES: usize = IOV_MAX - 16;

/// Slices that may lie unused before the first live one.
const COMPACT: usize = 512;

/// A chain that the driver gave.
#[derive(Debug)]
struct Buffer {
    head: u16,
    /// Bytes, all writable, the header's included.
    len: usize,
    /// How many slices of the memory are its own.
    slices: usize,
    /// How many descriptors of the ring it takes.
    descriptors: u16,
}

/// What came of a look at the ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Popped {
    /// A buffer more.
    Buffer,
    /// A chain that is no buffer, by its head; it goes back as it is.
    Refused(u16),
    /// The driver has given no more.
    Nothing,
}

/// Chains that were popped and checked once, in the order in which frames will fill them, and their
/// memory.
///
/// Two sequences go in step, and only this type knows how:
/// * `memory`, from slice `first` on, is that of `chains` one after the other: as many slices for
///   each as it says. What is before `first` was delivered, and is cut off now and then.
/// * `bytes` is the sum of the chains' lengths, each of which is [`VNET_HEADER_LEN`] or more.
/// * `header` is empty; or it is the first [`VNET_HEADER_LEN`] bytes of the first chain, which then
///   are in `memory` no more, so that a frame begins where the live memory does. A chain keeps its
///   number of slices by that: some may be empty.
///
/// `ahead` is what the last look ahead found, counted from slice `first` on: good until a frame is
/// delivered.
#[derive(Debug)]
pub struct Buffers {
    /// Frames may spread over several chains.
    mergeable: bool,
    chains: VecDeque<Buffer>,
    bytes: usize,
    memory: Slices,
    first: usize,
    header: Slices,
    ahead: Vec<Range<usize>>,
}

impl Buffers {
    /// None yet, of a ring of `size` descriptors.
    pub fn new(size: u16, mergeable: bool) -> Self {
        let size = usize::from(size);
        Self {
            mergeable,
            chains: VecDeque::with_capacity(size),
            bytes: 0,
            memory: Slices::with_capacity(COMPACT + 2 * size),
            first: 0,
            header: Slices::with_capacity(VNET_HEADER_LEN),
            ahead: Vec::with_capacity(size),
        }
    }

    /// Takes the next chain of the ring.
    ///
    /// # Errors
    /// The queue is dead.
    // The path of each frame; the other use of it waits.
    #[inline(always)]
    pub fn pop(&mut self, queue: &mut VirtQueue) -> Result<Popped, QueueError> {
        let before = self.memory.len();
        let chain = match queue.pop(&mut self.memory) {
            Ok(Some(chain)) => chain,
            Ok(None) => return Ok(Popped::Nothing),
            Err(QueueError::Chain { head, .. }) => return Ok(Popped::Refused(head)),
            Err(fatal) => return Err(fatal),
        };
        // §5.1.6.3: for the device to write, and with room for the header.
        let len = chain.writable_len as usize;
        if chain.readable_len != 0 || len < VNET_HEADER_LEN {
            self.memory.truncate(before);
            return Ok(Popped::Refused(chain.head));
        }
        let slices = self.memory.len() - before;
        let descriptors = chain.descriptors;
        self.chains.push_back(Buffer { head: chain.head, len, slices, descriptors });
        self.bytes += len;
        self.check();
        Ok(Popped::Buffer)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.chains.is_empty()
    }

    /// Whether there are buffers of as many bytes as `frames` of `len` have; where a frame does not
    /// spread, whether there is one for each.
    #[inline]
    pub fn has(&self, frames: usize, len: usize) -> bool {
        if self.mergeable {
            self.bytes >= frames * (len + VNET_HEADER_LEN)
        } else {
            self.chains.len() >= frames
        }
    }

    /// Whether the driver could still add buffers that make a longer frame fit, of the `size`
    /// descriptors that it has: where frames do not spread, the next buffer may be any.
    pub fn may_grow(&self, size: u16) -> bool {
        let taken: usize = self.chains.iter().map(|b| usize::from(b.descriptors)).sum();
        !self.mergeable || taken < usize::from(size)
    }

    /// The longest frame that fits, in bytes.
    #[inline]
    pub fn longest(&self) -> usize {
        let room =
            if self.mergeable { self.bytes } else { self.chains.front().map_or(0, |b| b.len) };
        room.saturating_sub(VNET_HEADER_LEN)
    }

    /// Whether a frame of `len` bytes fits.
    pub fn fits(&self, len: usize) -> bool {
        !self.is_empty() && self.longest() >= len
    }

    /// Whether a system call takes the slices of a frame of `len` bytes.
    #[inline]
    pub fn is_callable(&self, len: usize) -> bool {
        self.live().len() <= MAX_SLICES
            || if self.mergeable {
                self.covering(len + VNET_HEADER_LEN) <= MAX_SLICES
            } else {
                self.chains.front().is_some_and(|b| b.slices <= MAX_SLICES)
            }
    }

    /// Live slices that `need` bytes take.
    fn covering(&self, need: usize) -> usize {
        let mut left = need;
        let mut count = 0;
        for slice in self.live() {
            if left == 0 {
                break;
            }
            left -= left.min(slice.len());
            count += 1;
        }
        count
    }

    fn live(&self) -> &[VolatileSlice<'_>] {
        &self.memory.as_slice()[self.first..]
    }

    /// Splits the header's place from the first buffer, and says how many slices there are for a
    /// frame.
    #[inline]
    pub fn open(&mut self) -> usize {
        if self.header.is_empty() {
            self.memory.move_front(self.first, VNET_HEADER_LEN, &mut self.header);
            self.check();
        }
        if self.mergeable { self.live().len() } else { self.chains.front().map_or(0, |b| b.slices) }
    }

    /// The first `count` slices for a frame; [`Buffers::open`] says how many there are, and comes
    /// before.
    #[inline]
    pub fn slices(&self, count: usize) -> &[VolatileSlice<'_>] {
        &self.live()[..count]
    }

    /// Finds where frames of `len` bytes will lie behind a first one, `most` at most and no more
    /// than one system call takes together, and returns how many.
    pub fn look_ahead(&mut self, len: usize, most: usize) -> usize {
        self.ahead.clear();
        let mut chains = self.chains.iter();
        let mut end = 0;
        for n in 0..=most {
            let (start, mut left) = (end, len + VNET_HEADER_LEN);
            while left > 0 {
                let Some(buffer) = chains.next() else { return self.ahead.len() };
                end += buffer.slices;
                left = left.saturating_sub(buffer.len);
                if end > MAX_SLICES || (left > 0 && !self.mergeable) {
                    return self.ahead.len();
                }
            }
            if n > 0 {
                self.ahead.push(start..end);
            }
        }
        self.ahead.len()
    }

    /// The slices of frame `n` of those, the header's place in front.
    pub fn ahead(&self, n: usize) -> &[VolatileSlice<'_>] {
        &self.live()[self.ahead[n].clone()]
    }

    /// Copies a frame to where one is to be.
    pub fn copy_from(&mut self, mut frame: VolatileSlice<'_>) {
        self.open();
        for piece in Scatter::new(self.live()).pieces(0, frame.len()) {
            frame.copy_to_volatile_slice(piece);
            frame = frame.offset(piece.len()).expect("pieces are no longer than the frame");
        }
    }

    /// Hands the first buffers to the driver, with a frame of `len` bytes in them; `header` makes the
    /// virtio-net header for their number. After [`Buffers::open`].
    pub fn deliver(
        &mut self,
        queue: &mut VirtQueue,
        len: usize,
        header: impl FnOnce(u16) -> [u8; VNET_HEADER_LEN],
    ) {
        let mut left = len + VNET_HEADER_LEN;
        let mut count = 0u16;
        while left > 0 {
            let Some(buffer) = self.chains.pop_front() else { break };
            let used = left.min(buffer.len);
            // A chain's length is a u32.
            queue.push_used(buffer.head, u32::try_from(used).unwrap_or(u32::MAX));
            left -= used;
            self.bytes -= buffer.len;
            self.first += buffer.slices;
            count += 1;
        }
        let bytes = header(count);
        Scatter::new(self.header.as_slice()).copy_from(0, &bytes);
        self.header.clear();
        self.forget_delivered();
        self.check();
    }

    fn forget_delivered(&mut self) {
        if self.chains.is_empty() {
            self.memory.clear();
            self.first = 0;
        } else if self.first >= COMPACT {
            self.memory.drop_front(self.first);
            self.first = 0;
        }
    }

    /// Holds the sequences to their step, in debug builds.
    fn check(&self) {
        if cfg!(debug_assertions) {
            let sum = |slices: &[VolatileSlice<'_>]| slices.iter().map(VolatileSlice::len).sum();
            let (header, live): (usize, usize) = (sum(self.header.as_slice()), sum(self.live()));
            let slices: usize = self.chains.iter().map(|b| b.slices).sum();
            let bytes: usize = self.chains.iter().map(|b| b.len).sum();
            assert_eq!(slices, self.live().len(), "each live slice is a chain's");
            assert_eq!(bytes, self.bytes);
            assert_eq!(header + live, bytes, "the memory is the chains', with the header's place");
            assert!(header == 0 || header == VNET_HEADER_LEN && !self.is_empty());
        }
    }
}
