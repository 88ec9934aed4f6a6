//! What there are several kinds of.

/// Where the guest's first serial port leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Console {
    /// The terminal, in raw mode; Ctrl-A x leaves.
    Tty,
    /// Standard input and output as plain bytes.
    Pipe,
    /// Nowhere: output is thrown away, there is no input.
    None,
}

/// How virtio devices are attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Transport {
    /// Virtio over PCI with MSI-X (Virtio 1.2 §4.1).
    #[default]
    Pci,
    /// Virtio over MMIO (Virtio 1.2 §4.2), for kernels without PCI.
    Mmio,
}

/// How the kernel is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum BootProtocol {
    /// PVH where the kernel has its note, else the 64-bit protocol.
    #[default]
    Auto,
    /// PVH only.
    Pvh,
    /// The 64-bit Linux boot protocol only.
    Linux64,
}
