//! A network driver of two mock queues, and a ring that counts interrupts.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use minivmm_net::nic::VNET_HEADER_LEN;
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::{RX_QUEUE, TX_QUEUE};
use crate::virtio::device::{
    Activation, ActiveQueue, DeviceInterrupt, QueueInterrupt, VirtioInterrupt,
};
use crate::virtio::memory::GuestRam;
use crate::virtio::queue::VirtQueue;
use crate::virtio::spec::feature;
use crate::virtio::testing::{Buffer, DriverQueue, Used, ram};

/// Counts the interrupts of a device.
#[derive(Debug, Default)]
pub struct Interrupts {
    queues: [AtomicU64; 2],
    config: AtomicU64,
    resets: AtomicU64,
}

impl Interrupts {
    /// Interrupts of queue `index` since the last call.
    pub fn take(&self, index: u16) -> u64 {
        self.queues[usize::from(index)].swap(0, Ordering::SeqCst)
    }

    /// How often the driver was told to reset the device.
    pub fn resets(&self) -> u64 {
        self.resets.load(Ordering::SeqCst)
    }
}

impl VirtioInterrupt for Interrupts {
    fn queue(&self, index: u16) -> std::io::Result<()> {
        self.queues[usize::from(index)].fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    fn config(&self) -> std::io::Result<()> {
        self.config.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    fn needs_reset(&self, _why: &dyn std::fmt::Display) -> std::io::Result<()> {
        self.resets.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
}

const RX_BASE: u64 = 0x1000;
const TX_BASE: u64 = 0x2_0000;
const DATA: u64 = 0x10_0000;

/// The driver's side of a network device, with 64 MiB of guest memory.
#[derive(Debug)]
pub struct NetDriver {
    /// The guest's memory.
    pub ram: GuestRam,
    /// Its receive queue.
    pub rx: DriverQueue,
    /// Its transmit queue.
    pub tx: DriverQueue,
    /// The interrupts it got.
    pub interrupts: Arc<Interrupts>,
    /// What its kicks signal.
    pub kicks: [Arc<EventFd>; 2],
    features: u64,
    next: u64,
}

impl NetDriver {
    /// A driver with queues of `size` descriptors that negotiated `features`; `VERSION_1` and
    /// indirect descriptors are a matter of course.
    pub fn new(features: u64, size: u16) -> Self {
        let ram = ram(64 << 20);
        let kick = || Arc::new(EventFd::new(EFD_NONBLOCK).expect("an eventfd"));
        Self {
            rx: queue(&ram, RX_BASE, size, features),
            tx: queue(&ram, TX_BASE, size, features),
            ram,
            interrupts: Arc::default(),
            kicks: [kick(), kick()],
            features: features | feature::VERSION_1 | feature::RING_INDIRECT_DESC,
            next: DATA,
        }
    }

    /// What the transport gives the device at `DRIVER_OK`.
    pub fn activation(&self) -> Activation {
        let interrupts = Arc::clone(&self.interrupts) as Arc<dyn VirtioInterrupt>;
        let active = |index: u16, driver: &DriverQueue| ActiveQueue {
            index,
            queue: VirtQueue::new(&self.ram, &driver.layout()).expect("a valid layout"),
            kick: Arc::clone(&self.kicks[usize::from(index)]),
            interrupt: QueueInterrupt::new(Arc::clone(&interrupts), index),
        };
        Activation {
            mem: self.ram.clone(),
            queues: vec![active(RX_QUEUE, &self.rx), active(TX_QUEUE, &self.tx)],
            config_interrupt: DeviceInterrupt::new(Arc::clone(&interrupts)),
            acked_features: self.features,
        }
    }

    /// Starts over with empty queues, as after a reset.
    pub fn reset(&mut self) {
        let size = self.rx.layout().size;
        self.rx = queue(&self.ram, RX_BASE, size, self.features);
        self.tx = queue(&self.ram, TX_BASE, size, self.features);
        self.next = DATA;
    }

    /// `len` bytes of guest memory that nobody else has.
    pub fn alloc(&mut self, len: usize) -> u64 {
        let at = self.next;
        self.next = (at + len as u64).next_multiple_of(16);
        at
    }

    /// Writes guest memory.
    pub fn write(&self, at: u64, bytes: &[u8]) {
        self.ram.guest_memory().write_slice(bytes, GuestAddress(at)).expect("in RAM");
    }

    /// Reads guest memory.
    pub fn read(&self, at: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.ram.guest_memory().read_slice(&mut bytes, GuestAddress(at)).expect("in RAM");
        bytes
    }

    /// Puts `header` and `frame` into guest memory, cut into buffers of `pieces` bytes; what is
    /// left is one more.
    pub fn pieces(&mut self, header: &[u8], frame: &[u8], pieces: &[usize]) -> Vec<Buffer> {
        let bytes = [header, frame].concat();
        let mut rest = &bytes[..];
        let mut buffers = Vec::new();
        for n in pieces.iter().copied().chain([usize::MAX]) {
            let (piece, after) = rest.split_at(n.min(rest.len()));
            rest = after;
            if !piece.is_empty() {
                let at = self.alloc(piece.len());
                self.write(at, piece);
                buffers.push(Buffer::readable(at, u32::try_from(piece.len()).expect("small")));
            }
        }
        buffers
    }

    /// Sends `frame` in one buffer with an empty header.
    pub fn send(&mut self, frame: &[u8]) -> u16 {
        let buffers = self.pieces(&[0; VNET_HEADER_LEN], frame, &[]);
        self.tx.add(&buffers)
    }

    /// Gives one receive buffer of `len` bytes and returns its address and head.
    pub fn give(&mut self, len: u32) -> (u64, u16) {
        let at = self.alloc(len as usize);
        (at, self.rx.add(&[Buffer::writable(at, len)]))
    }

    /// Kicks queue `index`, whether the device wants it or not.
    pub fn kick(&self, index: u16) {
        self.kicks[usize::from(index)].write(1).expect("an eventfd that is not full");
    }

    /// Takes all used elements of the transmit queue.
    pub fn tx_used(&mut self) -> Vec<Used> {
        std::iter::from_fn(|| self.tx.pop_used()).collect()
    }

    /// Takes all used elements of the receive queue.
    pub fn rx_used(&mut self) -> Vec<Used> {
        std::iter::from_fn(|| self.rx.pop_used()).collect()
    }
}

fn queue(ram: &GuestRam, base: u64, size: u16, features: u64) -> DriverQueue {
    let queue = DriverQueue::new(ram, base, size);
    if features & feature::RING_EVENT_IDX != 0 { queue.with_event_idx() } else { queue }
}
