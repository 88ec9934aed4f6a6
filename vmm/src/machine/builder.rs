//! A machine described by a program.

use std::fmt;
use std::path::PathBuf;

use super::files::Files;
use super::open::{BuildOptions, ConsoleTo, Opened};
use super::running::Machine;
use crate::config::{
    HostAccess, MachineConfig, NatConfig, NetConfig, ParseNetError, PublishConfig, Size, TapConfig,
    VirtioTransport,
};
use crate::console::Destination;
use crate::error::Error;
use crate::memory::Backing;

impl Machine {
    /// Begins the description of a machine.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use minivmm::{Machine, Nic};
    ///
    /// let machine = Machine::builder().kernel("vmlinux").nic(Nic::nat()).start()?;
    /// println!("{}", machine.wait().reason());
    /// # Ok(())
    /// # }
    /// ```
    pub fn builder() -> MachineBuilder {
        MachineBuilder::default()
    }
}

/// The description of a machine; what is not said has the default of [`MachineConfig`].
///
/// ```no_run
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use std::time::Duration;
///
/// use minivmm::config::Size;
/// use minivmm::{Machine, Nic};
///
/// let machine = Machine::builder()
///     .kernel("vmlinux")
///     .memory(Size::mib(128))
///     .nic(Nic::nat().publish(8080, 80))
///     .start()?;
/// let outcome = machine.stop(Duration::from_secs(5));
/// println!("{}", outcome.reason());
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Default)]
#[must_use]
pub struct MachineBuilder {
    config: MachineConfig,
    options: BuildOptions,
}

impl MachineBuilder {
    /// Takes all of a configuration, in place of what was said before.
    pub fn config(mut self, config: MachineConfig) -> Self {
        self.config = config;
        self
    }

    /// The kernel, an ELF vmlinux or a bzImage; the built-in probe guest without one.
    pub fn kernel(mut self, path: impl Into<PathBuf>) -> Self {
        self.config.kernel = Some(path.into());
        self
    }

    /// The initial RAM disk.
    pub fn initrd(mut self, path: impl Into<PathBuf>) -> Self {
        self.config.initrd = Some(path.into());
        self
    }

    /// Goes to the kernel after what minivmm adds itself.
    pub fn cmdline(mut self, words: impl Into<String>) -> Self {
        self.config.cmdline = words.into();
        self
    }

    /// Virtual CPUs, 1 to 32; 1 by default.
    pub fn cpus(mut self, cpus: u32) -> Self {
        self.config.cpus = cpus;
        self
    }

    /// Guest memory, whole MiB from 16 on; 256 MiB by default.
    pub fn memory(mut self, memory: Size) -> Self {
        self.config.memory = memory;
        self
    }

    /// The machine's name, which the guest gets by DHCP: letters, digits and hyphens, 63 at most.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.config.name = Some(name.into());
        self
    }

    /// How virtio devices are attached; over PCI by default.
    pub fn transport(mut self, transport: VirtioTransport) -> Self {
        self.config.transport = transport;
        self
    }

    /// One more network interface.
    pub fn nic(mut self, nic: Nic) -> Self {
        self.config.net.push(nic.net);
        self.config.publish.extend(nic.publish);
        self
    }

    /// Makes the guest's console a stream, for [`Machine::take_console`].
    pub fn console_stream(mut self) -> Self {
        self.options.console = ConsoleTo::Stream;
        self
    }

    /// Writes what the guest writes to `out`, by a thread of its own.
    pub fn console_to(mut self, out: impl Destination + 'static) -> Self {
        self.options.console = ConsoleTo::Descriptor(Box::new(out));
        self
    }

    /// What guest memory is made of; pages of this process alone by default.
    pub fn backing(mut self, backing: Backing) -> Self {
        self.options.backing = backing;
        self
    }

    /// Has the built-in probe report in JSON, one object a line.
    pub fn probe_json(mut self) -> Self {
        self.options.json = true;
        self
    }

    /// The real-time signal that calls processors out of guest code; `SIGRTMIN` by default. It
    /// has one handler in a process, which hands on what is sent to other threads.
    pub fn kick_signal(mut self, signal: i32) -> Self {
        self.options.kick_signal = Some(signal);
        self
    }

    /// The first act of a start: opens and loads all, and starts no thread. Then a process can be
    /// locked in, before [`Opened::spawn`].
    ///
    /// # Errors
    /// [`Error`].
    pub fn open(self) -> Result<Opened, Error> {
        let config = self.config.validate()?;
        let files = Files::open(&config)?;
        Opened::new(&config, &files, self.options)
    }

    /// Starts the machine.
    ///
    /// # Errors
    /// [`Error`]; nothing is left behind.
    pub fn start(self) -> Result<Machine, Error> {
        let machine = self.open()?.spawn()?;
        machine.start();
        Ok(machine)
    }
}

/// A network interface of the guest, described by a program.
#[derive(Clone, PartialEq)]
#[must_use]
pub struct Nic {
    net: NetConfig,
    publish: Vec<PublishConfig>,
}

impl fmt::Debug for Nic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Nic").field(&self.net).field(&self.publish).finish()
    }
}

impl Nic {
    /// One behind a NAT gateway of its own, in user space.
    pub fn nat() -> Self {
        NetConfig::Nat(NatConfig::default()).into()
    }

    /// One on a TAP device of the host, by its name.
    pub fn tap(name: impl Into<String>) -> Self {
        NetConfig::Tap(TapConfig { name: Some(name.into()), ..TapConfig::default() }).into()
    }

    /// The interface that words of the command line describe, as in `nat,mtu=1400`.
    ///
    /// # Errors
    /// [`ParseNetError`].
    pub fn parse(text: &str) -> Result<Self, ParseNetError> {
        text.parse().map(|net: NetConfig| net.into())
    }

    /// Leads a TCP port of all of the host's addresses to one of the guest's. The guest's first
    /// NAT interface serves all published ports.
    pub fn publish(self, host: u16, guest: u16) -> Self {
        self.publish_as(PublishConfig::tcp(host, guest))
    }

    /// The same for any published port.
    pub fn publish_as(mut self, publish: PublishConfig) -> Self {
        self.publish.push(publish);
        self
    }

    /// Lets the guest reach the host's loopback, at the gateway's address. Nothing for other than
    /// a NAT.
    pub fn host_access(mut self) -> Self {
        if let NetConfig::Nat(nat) = &mut self.net {
            nat.host = HostAccess::Allow;
        }
        self
    }
}

impl From<NetConfig> for Nic {
    fn from(net: NetConfig) -> Self {
        Self { net, publish: Vec::new() }
    }
}
