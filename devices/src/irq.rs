//! Interrupts as the devices see them: one line, raised without knowing by whom it is carried.

use std::io;

/// A message-signalled interrupt: a 32-bit write that the interrupt controller understands
/// (PCI Local Bus 3.0 §6.8.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct MsiMessage {
    /// Bus address written to.
    pub address: u64,
    /// Value written.
    pub data: u32,
}

/// One interrupt source of the machine: a GSI that the VMM backs by an irqfd.
///
/// All methods may be called from any thread. None may block on anything a guest controls.
pub trait IrqLine: Send + Sync {
    /// Raises one edge.
    ///
    /// # Errors
    /// What the carrier reports; the interrupt is then lost.
    fn signal(&self) -> io::Result<()>;

    /// Routes the line to an MSI message. Lines wired to an interrupt controller pin never get
    /// this call.
    ///
    /// # Errors
    /// What the carrier reports; the old route then stands.
    fn set_msi(&self, message: MsiMessage) -> io::Result<()>;
}

#[cfg(any(test, feature = "test-utils"))]
pub mod testing {
    //! A line that records what happened to it.

    use std::sync::Mutex;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    /// Counts signals and remembers the route.
    #[derive(Debug, Default)]
    pub struct TestIrq {
        signals: AtomicU64,
        route: Mutex<Option<MsiMessage>>,
    }

    impl TestIrq {
        /// Edges since the last [`Self::take`].
        pub fn count(&self) -> u64 {
            self.signals.load(Ordering::SeqCst)
        }

        /// Edges since the last call.
        pub fn take(&self) -> u64 {
            self.signals.swap(0, Ordering::SeqCst)
        }

        /// The MSI message of the line.
        pub fn route(&self) -> Option<MsiMessage> {
            *self.route.lock().expect("no panic while locked")
        }
    }

    impl IrqLine for TestIrq {
        fn signal(&self) -> io::Result<()> {
            self.signals.fetch_add(1, Ordering::SeqCst);
            Ok(())
        }

        fn set_msi(&self, message: MsiMessage) -> io::Result<()> {
            *self.route.lock().expect("no panic while locked") = Some(message);
            Ok(())
        }
    }
}
