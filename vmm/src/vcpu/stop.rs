//! How a vCPU ends.

/// Why a vCPU stopped by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stop {
    /// The guest's triple fault.
    TripleFault,
    /// The guest asked for it through KVM (`KVM_EXIT_SYSTEM_EVENT`).
    PowerOff,
    /// The same for a reset.
    Reset,
    /// The guest can't be run on; the text explains.
    Failed(String),
    /// The host refuses what it takes to run the guest; the text says what to do.
    Refused(String),
}
