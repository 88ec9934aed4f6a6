//! What is chosen by a word.

use minivmm_boot::Protocol;

/// One of several: the same word for it on the command line and in files.
#[derive(Debug, Clone, Copy)]
pub struct Choice<T> {
    /// What is chosen.
    pub value: T,
    /// By which word.
    pub word: &'static str,
    /// What it means, in one line of help.
    pub help: &'static str,
}

const fn choice<T>(value: T, word: &'static str, help: &'static str) -> Choice<T> {
    Choice { value, word, help }
}

impl<T: Copy> Choice<T> {
    /// The one of `choices` that has this word.
    pub fn find(choices: &[Self], word: &str) -> Option<T> {
        choices.iter().find(|choice| choice.word == word).map(|choice| choice.value)
    }
}

/// Where the guest's first serial port leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConsoleKind {
    /// The terminal, in raw mode; Ctrl-A x leaves.
    Tty,
    /// Standard input and output as plain bytes.
    Pipe,
    /// Nowhere: output is thrown away, there is no input.
    None,
}

/// All that a console may be.
pub const CONSOLES: &[Choice<ConsoleKind>] = &[
    choice(ConsoleKind::Tty, "tty", "The terminal, in raw mode; Ctrl-A x leaves"),
    choice(ConsoleKind::Pipe, "pipe", "Standard input and output as plain bytes"),
    choice(ConsoleKind::None, "none", "Nowhere: output is thrown away, there is no input"),
];

/// How virtio devices are attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum VirtioTransport {
    /// Virtio over PCI with MSI-X (Virtio 1.2 §4.1).
    #[default]
    Pci,
    /// Virtio over MMIO (Virtio 1.2 §4.2), for kernels without PCI.
    Mmio,
}

/// All transports.
pub const TRANSPORTS: &[Choice<VirtioTransport>] = &[
    choice(VirtioTransport::Pci, "pci", "Virtio over PCI with MSI-X (Virtio 1.2 §4.1)"),
    choice(
        VirtioTransport::Mmio,
        "mmio",
        "Virtio over MMIO (Virtio 1.2 §4.2), for kernels without PCI",
    ),
];

/// All ways to start a kernel.
pub const BOOT_PROTOCOLS: &[Choice<Protocol>] = &[
    choice(Protocol::Auto, "auto", "PVH where the kernel has its note, else the 64-bit protocol"),
    choice(Protocol::Pvh, "pvh", "PVH only"),
    choice(Protocol::Linux64, "linux64", "The 64-bit Linux boot protocol only"),
];
