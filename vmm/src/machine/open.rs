//! The first of a start's three acts: all that needs a path, a privilege or the guest's files is
//! opened and loaded, and no thread is started.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Instant, SystemTime};

use kvm_ioctls::VcpuFd;
use minivmm_boot::{BootSpec, BootState, Cmdline, Platform, Source, cpuid};
use minivmm_devices::serial::SerialHooks;
use vm_memory::GuestMemoryMmap;

use super::devices::{self, Devices};
use super::events::Hub;
use super::files::Files;
use super::handle::{Handle, Shared};
use super::nic::{self, OpenPort};
use super::running::{Machine, Owned};
use crate::config::{ConsoleKind, Validated, VirtioTransport};
use crate::console::{Console, Destination, OpenOutput, Room};
use crate::ending::Ending;
use crate::error::Error;
use crate::exit::Exit;
use crate::kernel_cache::KernelCache;
use crate::kvm::{self, KvmError, Vm};
use crate::memory::{self, Backing};
use crate::power::PowerButton;
use crate::probe::{self, Beyond, Peer};
use crate::timings::{Phase, ProcessStart, Timings};
use crate::vcpu::{self, Gate, Stop, Vcpus};

/// The KVM device.
const KVM: &str = "/dev/kvm";

/// What a kernel is told before the user's own words: its console, and to end the machine at once,
/// by a reset that says whether it panicked ([`Exit::reset`]).
///
/// `acpi` is last, as a Linux before 5.2 takes `panic_warm` for `pci`, a way that there is not.
const LINUX: &str = "console=ttyS0 panic=-1 reboot=panic_warm,acpi";

/// Where the guest's first serial port leads.
#[derive(Debug, Default)]
pub enum ConsoleTo {
    /// Nowhere.
    #[default]
    Nowhere,
    /// To [`Machine::take_console`].
    Stream,
    /// Output to a descriptor; input by [`Machine::serial`].
    Descriptor(Box<dyn Destination>),
}

/// What a machine is built from beside its configuration.
#[derive(Debug)]
pub struct BuildOptions {
    /// Takes what the guest writes to its console, by a thread of its own.
    pub console: ConsoleTo,
    /// What guest memory is made of.
    pub backing: Backing,
    /// The probe reports in JSON.
    pub json: bool,
    /// When the process began, for [`Timings`].
    pub start: ProcessStart,
    /// The real-time signal that calls processors out of guest code; the process's other uses of it
    /// go on, as long as its handler stays. `SIGRTMIN` where none is chosen.
    pub kick_signal: Option<i32>,
}

impl Default for BuildOptions {
    fn default() -> Self {
        Self {
            console: ConsoleTo::default(),
            backing: Backing::Anonymous,
            json: false,
            start: ProcessStart::now(),
            kick_signal: None,
        }
    }
}

/// A machine that is ready to run, without a thread: the moment to lock the process in.
#[derive(Debug)]
pub struct Opened {
    config: Validated,
    vcpus: Vec<VcpuFd>,
    devices: Devices,
    ports: Vec<OpenPort>,
    peer: Option<Peer>,
    vm: Vm,
    memory: GuestMemoryMmap,
    ending: Arc<Ending>,
    gate: Arc<Gate>,
    room: Room,
    output: Option<OpenOutput>,
    console: Option<Console>,
    power: PowerButton,
    timings: Arc<Timings>,
    cache: Option<KernelCache>,
    kick_signal: i32,
}

impl Opened {
    /// Opens a machine of `config` and the `files` that it names. On failure nothing is left
    /// behind.
    ///
    /// # Errors
    /// [`Error`].
    pub fn new(config: &Validated, files: &Files, options: BuildOptions) -> Result<Self, Error> {
        let timings = Arc::new(Timings::new(options.start));
        timings.mark(Phase::Began);
        let ending = Arc::new(Ending::new().map_err(Error::host("create an eventfd"))?);
        let memory = memory::create(config.memory, options.backing)?;
        let vm = create_vm(config, &memory)?;
        let nics = nic::open(config)?;
        let gate = Arc::new(Gate::default());
        let descriptors = Error::host("create the console's descriptors");
        let room = Room::new().map_err(&descriptors)?;
        let (out, reader) = match options.console {
            ConsoleTo::Nowhere => (None, None),
            ConsoleTo::Descriptor(out) => (Some(out), None),
            ConsoleTo::Stream => {
                let (reader, writer) = io::pipe().map_err(&descriptors)?;
                (Some(Box::new(writer) as Box<dyn Destination>), Some(reader))
            }
        };
        let open_output = |out| {
            OpenOutput::new(out, Arc::clone(&gate), Arc::clone(&timings), Arc::clone(&ending))
        };
        let output = out.map(open_output).transpose().map_err(&descriptors)?;
        let host = devices::Host {
            sink: output.as_ref().map_or_else(|| Box::new(io::sink()) as _, OpenOutput::sink),
            hooks: SerialHooks {
                input_room: room.hook(),
                output_waits: output
                    .as_ref()
                    .map_or_else(|| Arc::new(|| {}) as _, OpenOutput::waits),
            },
            ending: Arc::clone(&ending),
        };
        let irq_lines = vm.irq_lines();
        let power = PowerButton::new(vm.handle(), &irq_lines)?;
        let devices =
            Devices::build(&vm, &irq_lines, &memory, config.transport, nics.devices, host)?;
        let vcpus = create_vcpus(&vm, config)?;
        timings.mark(Phase::Built);

        let cache =
            files.kernel().filter(|_| config.kernel_cache).and_then(|_| KernelCache::open());
        let cmdline = cmdline(config, files, &devices, &nics.beyond, options.json)?;
        let spec = boot_spec(config, files, &devices, cmdline, cache.as_ref());
        let boot = load(config, &memory, &spec)?;
        kvm::set_boot_registers(&vcpus[0], &boot.registers)?;
        let console = reader.map(|reader| {
            Console::new(reader, devices.serial(), room.clone(), Arc::clone(&ending))
        });
        Ok(Self {
            config: config.clone(),
            vcpus,
            devices,
            ports: nics.ports,
            peer: nics.peer,
            vm,
            memory,
            ending,
            gate,
            room,
            output,
            console,
            power,
            timings,
            cache,
            kick_signal: options.kick_signal.unwrap_or_else(vcpu::default_signal),
        })
    }

    /// The last act: starts all threads. The processors are paused.
    ///
    /// # Errors
    /// [`Error::Host`], where a thread can't be made.
    pub fn spawn(mut self) -> Result<Machine, Error> {
        if let Some(cache) = &mut self.cache {
            cache.start();
        }
        if let Some(peer) = &mut self.peer {
            peer.start().map_err(Error::host("start the probe's peer"))?;
        }
        let (mut ports, mut segments) = (Vec::new(), Vec::new());
        for OpenPort { segment, info } in self.ports {
            ports.push((info, segment.handle()));
            segments.push(segment.start().map_err(Error::host("start a network segment"))?);
        }
        let serial = self.devices.serial();
        let output = self.output.map(|output| output.start(&serial)).transpose();
        let output = output.map_err(Error::host("start the console's thread"))?;
        vcpu::install_handler(self.kick_signal).map_err(Error::host("install the vCPU signal"))?;
        let on_stop = {
            let (ending, memory) = (Arc::clone(&self.ending), self.memory.clone());
            Arc::new(move |stop| ending.set(exit_of(stop, &memory))) as vcpu::OnStop
        };
        let (fds, buses) = (self.vcpus, self.devices.buses());
        let vcpus = Vcpus::start(fds, &self.memory, buses, self.gate, self.kick_signal, &on_stop)
            .map_err(Error::host("start the vCPU threads"))?;
        let shared = Shared {
            config: self.config,
            ending: self.ending,
            vcpus,
            ports,
            power: Mutex::new(Some(self.power)),
            hub: Hub::default(),
            since: (SystemTime::now(), Instant::now()),
        };
        Ok(Machine {
            handle: Handle(Arc::new(shared)),
            serial,
            debug_exit: self.devices.debug_exit(),
            room: self.room,
            console: self.console,
            output,
            timings: self.timings,
            cache: self.cache,
            outcome: OnceLock::new(),
            owned: Owned {
                devices: self.devices,
                segments,
                peer: self.peer,
                vm: self.vm,
                memory: self.memory,
            },
        })
    }
}

/// The machine as KVM has it, which is to allow as many processors.
fn create_vm(config: &Validated, memory: &GuestMemoryMmap) -> Result<Vm, Error> {
    let vm = Vm::new(Path::new(KVM), memory)?;
    if config.cpus as usize > vm.max_vcpus() {
        return Err(KvmError::Capability("so many virtual CPUs").into());
    }
    Ok(vm)
}

/// The processors, without the boot processor's first registers.
fn create_vcpus(vm: &Vm, config: &Validated) -> Result<Vec<VcpuFd>, Error> {
    let supported = kvm::cpuid_entries(vm.supported_cpuid());
    let create = |index| {
        let vcpu = vm.create_vcpu(index)?;
        let entries = cpuid::policy(&supported, index, config.cpus, &config.cpu_mask);
        kvm::set_cpuid(&vcpu, &entries)?;
        Ok(vcpu)
    };
    (0..config.cpus).map(create).collect()
}

/// The command line: what minivmm has to say to a kernel or to the probe, then the user's words.
/// `beyond` is what the probe finds beyond each interface.
fn cmdline(
    config: &Validated,
    files: &Files,
    devices: &Devices,
    beyond: &[Beyond],
    json: bool,
) -> Result<Cmdline, Error> {
    let mut cmdline = Cmdline::default();
    match files.kernel() {
        Some(_) => cmdline.push(LINUX)?,
        None => {
            let beyond = beyond.get(probe::nic(&config.cmdline)).copied().unwrap_or_default();
            let raw = config.console == Some(ConsoleKind::Tty);
            cmdline.push(&probe::cmdline(beyond, json, raw))?;
            // It does not read ACPI's tables for them.
            cmdline.push_virtio_mmio(devices.mmio_slots())?;
        }
    }
    cmdline.push(&config.cmdline)?;
    Ok(cmdline)
}

/// What is booted, and what it is told.
fn boot_spec<'a>(
    config: &Validated,
    files: &'a Files,
    devices: &Devices,
    cmdline: Cmdline,
    cache: Option<&'a KernelCache>,
) -> BootSpec<'a> {
    BootSpec {
        kernel: files.kernel().unwrap_or(Source::Bytes(probe::ELF)),
        store: cache.map(|cache| cache as &dyn minivmm_boot::Store),
        initrd: files.initrd().into_iter().collect(),
        cmdline,
        protocol: config.boot_protocol,
        platform: Platform {
            cpus: config.cpus,
            pci: config.transport == VirtioTransport::Pci,
            virtio_mmio: devices.mmio_slots().to_vec(),
            ..Platform::default()
        },
    }
}

/// Puts all of that into memory. An error names the file that it is about.
fn load(
    config: &Validated,
    memory: &GuestMemoryMmap,
    spec: &BootSpec<'_>,
) -> Result<BootState, Error> {
    minivmm_boot::load(memory, spec).map_err(|source| {
        let initrd = matches!(source, minivmm_boot::BootError::Initrd(_));
        let file = if initrd { &config.initrd } else { &config.kernel };
        let what = file.clone().unwrap_or_else(|| PathBuf::from("the built-in probe"));
        Error::Boot { what, source }
    })
}

fn exit_of(stop: Stop, memory: &GuestMemoryMmap) -> Exit {
    match stop {
        Stop::TripleFault => Exit::Crash("triple fault".into()),
        Stop::PowerOff => Exit::PowerOff,
        Stop::Reset => Exit::reset(memory),
        Stop::Failed(how) => Exit::Crash(how),
        Stop::Refused(what) => Exit::Refused(what),
    }
}
