//! A guest's NIC as a port of a segment.

use std::io;

use minivmm_net::Stats;
use minivmm_net::nic::{Drained, FrameSink, Poller, Port, PortReady, Ready, RxRing, Source, Token};

use super::features;
use super::kick::Kick;
use super::queues::{RX_QUEUE, TX_QUEUE};
use super::rx::RxQueue;
use super::tx::TxQueue;
use crate::virtio::device::{ActivateError, Activation, DeviceInterrupt};
use crate::virtio::queue::QueueError;

/// The two queues of a live device, with all that serves them. Dropping it ends the device.
#[derive(Debug)]
pub struct NicPort {
    rx: RxQueue,
    tx: TxQueue,
    rx_kick: Kick,
    tx_kick: Kick,
    device: DeviceInterrupt,
    /// The driver was told that its queues are dead.
    broken: bool,
}

impl NicPort {
    /// Takes the queues out of an activation.
    ///
    /// # Errors
    /// [`ActivateError::MissingQueue`].
    pub fn new(mut activation: Activation) -> Result<Self, ActivateError> {
        let acked = activation.acked_features;
        let rx = activation.take_queue(RX_QUEUE)?;
        let tx = activation.take_queue(TX_QUEUE)?;
        Ok(Self {
            rx: RxQueue::new(
                rx.queue,
                rx.interrupt.into(),
                features::rx_offloads(acked),
                acked & features::MRG_RXBUF != 0,
            ),
            tx: TxQueue::new(tx.queue, tx.interrupt.into(), features::tx_offloads(acked)),
            rx_kick: Kick(rx.kick),
            tx_kick: Kick(tx.kick),
            device: activation.config_interrupt,
            broken: false,
        })
    }

    /// The driver broke the protocol: both queues stand still until it resets the device.
    fn give_up(&mut self, error: QueueError) {
        if !std::mem::replace(&mut self.broken, true) {
            self.rx.stop(error);
            // Its status says so as well.
            let _ = self.device.needs_reset(&error);
        }
    }
}

impl Port for NicPort {
    fn attach(&mut self, poll: &Poller) -> io::Result<()> {
        // Edges: each kick is an event of its own, and the counter is never read.
        let interest = Ready::IN | Ready::ET;
        poll.add(&self.tx_kick, Token::new(Source::Port, TX_QUEUE.into()), interest)?;
        let added = poll.add(&self.rx_kick, Token::new(Source::Port, RX_QUEUE.into()), interest);
        if added.is_err() {
            self.detach(poll);
        }
        added
    }

    fn detach(&mut self, poll: &Poller) {
        for kick in [&self.tx_kick, &self.rx_kick] {
            if let Err(e) = poll.remove(kick) {
                tracing::debug!("a queue's kick was not watched: {e}");
            }
        }
    }

    fn ready(&mut self, id: u32, _ready: Ready) -> PortReady {
        let (tx, rx) = (id == u32::from(TX_QUEUE), id == u32::from(RX_QUEUE));
        if rx {
            self.rx.kicked();
        }
        PortReady { tx, rx }
    }

    fn drain(&mut self, budget: usize, stats: &Stats, sink: &mut FrameSink<'_>) -> Drained {
        if self.broken {
            return Drained::Broken;
        }
        match self.tx.drain(&mut self.rx, budget, stats, sink) {
            Ok(drained) => drained,
            Err(e) => {
                self.give_up(e);
                Drained::Broken
            }
        }
    }

    fn rx(&mut self) -> &mut dyn RxRing {
        &mut self.rx
    }

    fn flush(&mut self, stats: &Stats) {
        self.rx.flush(stats);
        self.tx.flush();
        if let Some(e) = self.rx.dead() {
            self.give_up(e);
        }
    }
}
