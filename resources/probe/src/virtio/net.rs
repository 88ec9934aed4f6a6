//! virtio-net, Virtio 1.2 §5.1, as a device of the IP stack.
#![expect(unsafe_code, reason = "packet buffers are shared with the device")]

use core::num::NonZeroUsize;

use minivmm_probe::cmdline::Options;
use minivmm_probe::icmp::{self, Refusal};
use minivmm_probe::neighbour;
use minivmm_probe::offload::{self, HEADER};
use minivmm_probe::ra::{self, Advertisement};
use smoltcp::phy::{self, Checksum, DeviceCapabilities, Medium, PacketMeta};
use smoltcp::time::Instant;
use smoltcp::wire::IpAddress;

use super::feature;
use super::queue::{Queue, WRITE};
use super::transport::{Transport, status};
use crate::mem::Arena;

const ETHERNET: usize = 14;
/// The least that IPv4 allows (RFC 791).
pub const MIN_MTU: u16 = 68;
/// The largest frame that segmentation offload makes: an IP packet of 65535 bytes.
const LARGE_FRAME: usize = ETHERNET + 65_535;
/// Buffers per direction, for large frames and for frames of a normal MTU.
/// Advertisements, neighbours and ICMP errors are looked for in what is shorter: an IPv6 error has 1280 bytes at most.
const NOTED_FRAME: usize = ETHERNET + 1281;
const LARGE_COUNT: u16 = 32;
const SMALL_COUNT: u16 = 256;

/// Why there is no working NIC.
#[derive(Clone, Copy, Debug)]
pub enum Error {
    /// Neither VERSION_1 nor a legacy device that takes any layout.
    TooOld,
    /// The device refused our features.
    FeaturesRefused,
    /// No receive or transmit queue.
    NoQueue,
    /// Not enough RAM.
    Memory,
}

impl Error {
    /// For people.
    pub fn text(self) -> &'static str {
        match self {
            Self::TooOld => "the device offers neither VERSION_1 nor ANY_LAYOUT",
            Self::FeaturesRefused => "the device refused the features it had offered",
            Self::NoQueue => "the device has no receive or transmit queue",
            Self::Memory => "not enough memory for packet buffers",
        }
    }
}

/// The NIC.
pub struct Nic {
    transport: Transport,
    rx: Rx,
    tx: Tx,
    /// Hardware address.
    pub mac: [u8; 6],
    /// IP MTU in use, bytes.
    pub mtu: u16,
    /// The largest IP MTU that the buffers take.
    pub max_mtu: u16,
    /// Negotiated features.
    pub features: u64,
    /// The device's link status, `true` if it has none.
    pub link: bool,
}

/// The receive side.
struct Rx {
    queue: Queue,
    buffers: *mut u8,
    stride: usize,
    count: u16,
    header: usize,
    mergeable: bool,
    /// The IP stack believes checksums, so those that the device does not vouch for are verified here.
    verify: bool,
    scratch: &'static mut [u8],
    advertisement: Option<Advertisement>,
    neighbour: Option<(IpAddress, [u8; 6])>,
    refusal: Option<Refusal>,
    frames: u64,
    merged: u64,
    broken: u64,
    bad_sums: u64,
}

/// The transmit side.
struct Tx {
    queue: Queue,
    buffers: *mut u8,
    stride: usize,
    header: usize,
    offload: bool,
    free: [u16; SMALL_COUNT as usize],
    free_count: usize,
    frames: u64,
}

impl Nic {
    /// Initializes the device (Virtio 1.2 §3.1.1) and gives it all receive buffers.
    ///
    /// # Errors
    /// If the device is unusable or memory is short.
    pub fn start(
        mut transport: Transport,
        options: &Options<'_>,
        arena: &mut Arena,
    ) -> Result<Self, Error> {
        let base = status::ACKNOWLEDGE | status::DRIVER;
        transport.reset();
        transport.set_status(base);
        let offered = transport.features();
        let features = offered & wanted(options, offered);
        if features & (feature::VERSION_1 | feature::ANY_LAYOUT) == 0 {
            return Err(Error::TooOld);
        }
        transport.accept(features);
        let negotiated = if transport.legacy() { base } else { base | status::FEATURES_OK };
        if !transport.legacy() {
            transport.set_status(negotiated);
            if transport.status() & status::FEATURES_OK == 0 {
                return Err(Error::FeaturesRefused);
            }
        }
        let has = |bit| features & bit != 0;
        let mut mac = [0x52, 0x54, 0, 0x70, 0x72, 0x62];
        if has(feature::MAC) {
            for (i, byte) in mac.iter_mut().enumerate() {
                *byte = transport.config8(i);
            }
        }
        let link = !has(feature::STATUS) || transport.config16(6) & 1 != 0;
        let mtu = if has(feature::MTU) { transport.config16(10).max(MIN_MTU) } else { 1500 };

        let header = if has(feature::VERSION_1 | feature::MRG_RXBUF) { HEADER } else { HEADER - 2 };
        let event_idx = has(feature::EVENT_IDX);
        let frame = ETHERNET + usize::from(mtu);
        let rx_large = has(feature::GUEST_TSO4 | feature::GUEST_TSO6) || frame > 4096;
        let rx_frame = if rx_large { LARGE_FRAME } else { frame };
        let rx_buffer = match options.rx_buffer {
            // Without merging, a buffer must take a whole frame.
            n if n > 0 && has(feature::MRG_RXBUF) => (n as usize).max(header + 64),
            _ => header + rx_frame,
        };
        let tx_frame =
            if has(feature::HOST_TSO4 | feature::HOST_TSO6) { LARGE_FRAME } else { frame };

        let rx_queue = queue(&mut transport, 0, rx_buffer, event_idx, arena)?;
        let mut rx = Rx::new(rx_queue, rx_buffer, header, has(feature::MRG_RXBUF), rx_frame, arena)
            .ok_or(Error::Memory)?;
        rx.verify = has(feature::GUEST_CSUM);
        let tx_queue = queue(&mut transport, 1, header + tx_frame, event_idx, arena)?;
        let mut tx = Tx::new(tx_queue, header + tx_frame, header, has(feature::CSUM), arena)
            .ok_or(Error::Memory)?;
        rx.queue.set_notify(transport.enable_queue(0, &rx.queue.rings(), true));
        tx.queue.set_notify(transport.enable_queue(1, &tx.queue.rings(), false));
        transport.set_status(negotiated | status::DRIVER_OK);
        rx.queue.kick();
        let rx_limit = if has(feature::MRG_RXBUF) { LARGE_FRAME } else { rx_buffer - header };
        let limit =
            if has(feature::MTU) { usize::from(mtu) } else { rx_limit.min(tx_frame) - ETHERNET };
        let max_mtu = u16::try_from(limit).unwrap_or(u16::MAX);
        Ok(Self { transport, rx, tx, mac, mtu, max_mtu, features, link })
    }

    /// How the device is attached.
    pub fn transport_name(&self) -> &'static str {
        self.transport.name()
    }

    /// Whether a negotiated feature is there.
    pub fn has(&self, bits: u64) -> bool {
        self.features & bits != 0
    }

    /// Whether a frame waits.
    pub fn pending(&self) -> bool {
        self.rx.queue.returned() > 0
    }

    /// Tells the device of receive buffers given back.
    pub fn flush(&mut self) {
        self.rx.queue.kick();
    }

    /// Asks for an interrupt at the next frame. `true` if one is there already.
    pub fn arm(&mut self) -> bool {
        self.rx.queue.arm()
    }

    /// Asks for no interrupts, and after a sleep acknowledges one.
    pub fn disarm(&mut self, slept: bool) {
        self.rx.queue.disarm();
        if slept {
            self.transport.acknowledge();
        }
    }

    /// The last router advertisement.
    pub fn advertisement(&self) -> Option<Advertisement> {
        self.rx.advertisement
    }

    /// Forgets the last neighbour.
    pub fn forget_neighbour(&mut self) {
        self.rx.neighbour = None;
    }

    /// The neighbour that answered last.
    pub fn neighbour(&self) -> Option<(IpAddress, [u8; 6])> {
        self.rx.neighbour
    }

    /// The last ICMP error, about a packet of `protocol` from our `port`.
    pub fn refusal(&self, protocol: u8, port: u16) -> Option<Refusal> {
        self.rx.refusal.filter(|said| (said.protocol, said.port) == (protocol, port))
    }

    /// Sends a frame made by hand. `false` if no buffer is free.
    pub fn send(&mut self, frame: &[u8]) -> bool {
        let ready = self.tx.ready();
        if ready {
            self.tx.consume(frame.len(), None, |room| room.copy_from_slice(frame));
        }
        ready
    }

    /// Frames received, of these merged from several buffers, broken ones, ones with a wrong checksum, and frames sent.
    pub fn counters(&self) -> [u64; 5] {
        [self.rx.frames, self.rx.merged, self.rx.broken, self.rx.bad_sums, self.tx.frames]
    }

    /// Notifications sent for both queues.
    pub fn kicks(&self) -> u64 {
        self.rx.queue.kicks + self.tx.queue.kicks
    }
}

/// The features to take, with those they depend on (§5.1.3.1).
fn wanted(options: &Options<'_>, offered: u64) -> u64 {
    use feature::{
        ANY_LAYOUT, CSUM, EVENT_IDX, GUEST_CSUM, GUEST_TSO4, GUEST_TSO6, HOST_TSO4, HOST_TSO6, MAC,
        MRG_RXBUF, MTU, STATUS, VERSION_1,
    };
    let without = &options.without;
    let mut wanted = MAC | STATUS | MTU | VERSION_1 | ANY_LAYOUT;
    if !without.mrg {
        wanted |= MRG_RXBUF;
    }
    if !without.event_idx {
        wanted |= EVENT_IDX;
    }
    if !without.csum && offered & CSUM != 0 {
        wanted |= CSUM;
        if !without.tso {
            wanted |= HOST_TSO4 | HOST_TSO6;
        }
    }
    if !without.csum && offered & GUEST_CSUM != 0 {
        wanted |= GUEST_CSUM;
        if !without.tso {
            wanted |= GUEST_TSO4 | GUEST_TSO6;
        }
    }
    if offered & VERSION_1 != 0 {
        wanted &= !ANY_LAYOUT;
    }
    wanted
}

fn queue(
    transport: &mut Transport,
    index: u16,
    buffer: usize,
    event_idx: bool,
    arena: &mut Arena,
) -> Result<Queue, Error> {
    let max = transport.queue_size(index);
    if max == 0 {
        return Err(Error::NoQueue);
    }
    let count = if buffer > 8192 { LARGE_COUNT } else { SMALL_COUNT };
    // A legacy device dictates the size. Otherwise the largest power of two that fits both.
    let size = if transport.legacy() { max } else { 1 << max.min(count).ilog2() };
    Queue::new(arena, size, event_idx).ok_or(Error::Memory)
}

/// How many buffers of `stride` bytes a queue gets.
fn buffer_count(queue: &Queue, stride: usize) -> u16 {
    queue.size().min(if stride > 8192 { LARGE_COUNT } else { SMALL_COUNT })
}

impl Rx {
    fn new(
        mut queue: Queue,
        length: usize,
        header: usize,
        mergeable: bool,
        frame: usize,
        arena: &mut Arena,
    ) -> Option<Self> {
        let stride = length.next_multiple_of(64);
        let count = buffer_count(&queue, stride);
        let buffers = arena.take(stride * usize::from(count), 4096)?.as_mut_ptr();
        let scratch = if mergeable { arena.take(frame.max(LARGE_FRAME), 64)? } else { &mut [] };
        for id in 0..count {
            let address = buffers.wrapping_add(stride * usize::from(id)) as u64;
            // SAFETY: taken from the arena for good; read only after the device returned it.
            unsafe { queue.describe(id, address, length as u32, WRITE) };
            queue.push(id);
        }
        Some(Self {
            queue,
            buffers,
            stride,
            count,
            header,
            mergeable,
            verify: false,
            scratch,
            advertisement: None,
            neighbour: None,
            refusal: None,
            frames: 0,
            merged: 0,
            broken: 0,
            bad_sums: 0,
        })
    }

    /// The bytes that the device wrote to a returned buffer.
    fn bytes(&self, id: u16, length: u32) -> &'static [u8] {
        if id >= self.count {
            return &[];
        }
        let start = self.buffers.wrapping_add(self.stride * usize::from(id));
        let length = (length as usize).min(self.stride);
        // SAFETY: inside buffer `id`, which the device is done with until `recycle`.
        unsafe { core::slice::from_raw_parts(start, length) }
    }

    /// How many buffers the next frame has, 0 if it is not complete.
    fn ready(&mut self) -> u16 {
        let Some((id, length)) = self.queue.peek(0) else { return 0 };
        let count = match self.bytes(id, length).get(10..12) {
            Some(&[low, high]) if self.mergeable => u16::from_le_bytes([low, high]).max(1),
            _ => 1,
        };
        if self.queue.returned() >= count { count } else { 0 }
    }

    fn recycle(&mut self, count: u16) {
        for nth in 0..count {
            if let Some((id, _)) = self.queue.peek(nth) {
                self.queue.push(id);
            }
        }
        self.queue.take(count);
    }

    fn consume<R>(&mut self, count: u16, f: impl FnOnce(&[u8]) -> R) -> R {
        self.frames += 1;
        let result = match (count, self.queue.peek(0)) {
            (1, Some((id, length))) => {
                let frame = self.bytes(id, length).get(self.header..).unwrap_or_default();
                f(self.note(frame))
            }
            _ => {
                self.merged += 1;
                let used = self.gather(count);
                let scratch = core::mem::take(&mut self.scratch);
                let frame = scratch.get(..used).unwrap_or_default();
                let result = f(self.note(frame));
                self.scratch = scratch;
                result
            }
        };
        self.recycle(count);
        result
    }

    /// Copies the parts of a frame together.
    fn gather(&mut self, count: u16) -> usize {
        let mut used = 0;
        for nth in 0..count {
            let Some((id, length)) = self.queue.peek(nth) else { break };
            let skip = if nth == 0 { self.header } else { 0 };
            let part = self.bytes(id, length).get(skip..).unwrap_or_default();
            let Some(room) = self.scratch.get_mut(used..used + part.len()) else {
                self.broken += 1;
                return 0;
            };
            room.copy_from_slice(part);
            used += part.len();
        }
        used
    }

    /// Looks at the next frame. What of it the IP stack is to see: nothing if its checksum is wrong.
    fn note<'f>(&mut self, frame: &'f [u8]) -> &'f [u8] {
        if frame.is_empty() {
            self.broken += 1;
        } else if self.verify && !offload::sum_holds(self.flags(), frame) {
            self.bad_sums += 1;
            return &[];
        } else if frame.len() < NOTED_FRAME {
            self.advertisement = ra::parse(frame).or(self.advertisement);
            self.neighbour = neighbour::answer(frame).or(self.neighbour);
            self.refusal = icmp::refusal(frame).or(self.refusal);
        }
        frame
    }

    /// The flags in the header of the next frame.
    fn flags(&self) -> u8 {
        let first = self.queue.peek(0).and_then(|(id, length)| self.bytes(id, length).first());
        first.copied().unwrap_or(0)
    }
}

impl Tx {
    fn new(
        mut queue: Queue,
        length: usize,
        header: usize,
        offload: bool,
        arena: &mut Arena,
    ) -> Option<Self> {
        let stride = length.next_multiple_of(64);
        let count = buffer_count(&queue, stride);
        let buffers = arena.take(stride * usize::from(count), 4096)?.as_mut_ptr();
        let mut free = [0; SMALL_COUNT as usize];
        for id in 0..count {
            let address = buffers.wrapping_add(stride * usize::from(id)) as u64;
            // SAFETY: taken from the arena for good; written only while it is on the free list.
            unsafe { queue.describe(id, address, 0, 0) };
            if let Some(slot) = free.get_mut(usize::from(id)) {
                *slot = id;
            }
        }
        Some(Self {
            queue,
            buffers,
            stride,
            header,
            offload,
            free,
            free_count: count.into(),
            frames: 0,
        })
    }

    /// Whether a frame can be sent. Takes back what the device is done with when buffers run out.
    fn ready(&mut self) -> bool {
        if self.free_count == 0 {
            while let Some((id, _)) = self.queue.peek(0) {
                if let Some(slot) = self.free.get_mut(self.free_count) {
                    *slot = id;
                    self.free_count += 1;
                }
                self.queue.take(1);
            }
        }
        self.free_count > 0
    }

    fn consume<R>(
        &mut self,
        length: usize,
        segment: Option<u16>,
        f: impl FnOnce(&mut [u8]) -> R,
    ) -> R {
        assert!(
            self.free_count > 0 && self.header + length <= self.stride,
            "a token is a free buffer"
        );
        self.free_count -= 1;
        let id = self.free.get(self.free_count).copied().unwrap_or_default();
        let start = self.buffers.wrapping_add(self.stride * usize::from(id));
        // SAFETY: inside buffer `id`, which is free, so neither the device nor another slice uses it.
        let buffer = unsafe { core::slice::from_raw_parts_mut(start, self.header + length) };
        let (header, frame) = buffer.split_at_mut(self.header);
        let result = f(frame);
        let fields = if self.offload { offload::prepare(frame, segment) } else { [0; HEADER] };
        header.copy_from_slice(fields.get(..self.header).unwrap_or_default());
        self.queue.set_length(id, (self.header + length) as u32);
        self.queue.push(id);
        self.queue.kick();
        self.frames += 1;
        result
    }
}

/// One received frame.
pub struct RxToken<'a> {
    rx: &'a mut Rx,
    count: u16,
}

/// Room for one frame to send.
pub struct TxToken<'a> {
    tx: &'a mut Tx,
    segment: Option<u16>,
}

impl phy::RxToken for RxToken<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        self.rx.consume(self.count, f)
    }
}

impl phy::TxToken for TxToken<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        self.tx.consume(len, self.segment, f)
    }

    fn set_meta(&mut self, meta: PacketMeta) {
        self.segment = meta.segmentation_offload_size.map(Into::into);
    }
}

impl phy::Device for Nic {
    type RxToken<'a> = RxToken<'a>;
    type TxToken<'a> = TxToken<'a>;

    fn receive(&mut self, _now: Instant) -> Option<(RxToken<'_>, TxToken<'_>)> {
        let count = self.rx.ready();
        if count == 0 || !self.tx.ready() {
            return None;
        }
        Some((RxToken { rx: &mut self.rx, count }, TxToken { tx: &mut self.tx, segment: None }))
    }

    fn transmit(&mut self, _now: Instant) -> Option<TxToken<'_>> {
        self.tx.ready().then_some(TxToken { tx: &mut self.tx, segment: None })
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut caps = DeviceCapabilities::default();
        caps.medium = Medium::Ethernet;
        caps.max_transmission_unit = ETHERNET + usize::from(self.mtu);
        let transport = match (self.has(feature::CSUM), self.has(feature::GUEST_CSUM)) {
            (true, true) => Checksum::None,
            (true, false) => Checksum::Rx,
            (false, true) => Checksum::Tx,
            (false, false) => Checksum::Both,
        };
        caps.checksum.tcp = transport;
        caps.checksum.udp = transport;
        let large = NonZeroUsize::new(LARGE_FRAME);
        caps.segmentation.tcpv4 = large.filter(|_| self.has(feature::HOST_TSO4));
        caps.segmentation.tcpv6 = large.filter(|_| self.has(feature::HOST_TSO6));
        caps
    }
}
