//! The machine's power button.

use std::sync::Arc;

use kvm_ioctls::VmFd;
use minivmm_boot::layout;
use minivmm_devices::irq::IrqLine;

use crate::kvm::{self, IrqLines, KvmError, Line};

/// A button that the guest hears by an interrupt, where it listens.
#[derive(Debug)]
pub(crate) struct PowerButton {
    vm: Arc<VmFd>,
    line: Arc<Line>,
}

impl PowerButton {
    /// The button of a machine with these interrupt lines.
    pub(crate) fn new(vm: Arc<VmFd>, lines: &Arc<IrqLines>) -> Result<Self, KvmError> {
        Ok(Self { vm, line: lines.pin(layout::POWER_BUTTON_GSI)? })
    }

    /// Presses it. False where the guest does not listen: no driver of its has taken the
    /// interrupt, and it will not be heard.
    pub(crate) fn press(&self) -> bool {
        match kvm::pin_is_masked(&self.vm, layout::POWER_BUTTON_GSI) {
            Ok(masked) => !masked && self.line.signal().is_ok(),
            Err(e) => {
                tracing::debug!("{e}");
                false
            }
        }
    }
}
