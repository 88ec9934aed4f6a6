//! A machine: memory, devices, processors, networks, and the order in which they come and go.

mod devices;
mod files;
mod flows;
mod nic;

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kvm_ioctls::VcpuFd;
use minivmm_boot::{BootSpec, BootState, Cmdline, Platform, Source, cpuid};
use minivmm_devices::debug_exit::DebugExit;
use minivmm_devices::serial::Serial;
use minivmm_net::Segment;
use vm_memory::GuestMemoryMmap;

use self::devices::Devices;
pub use self::files::Files;
use crate::config::{Validated, VirtioTransport};
use crate::console::{ConsoleEvents, Output};
use crate::ending::Ending;
use crate::error::Error;
use crate::exit::{Exit, Outcome};
use crate::kernel_cache::KernelCache;
use crate::kvm::{self, KvmError, Vm};
use crate::memory::{self, Backing};
use crate::probe::{self, Peer};
use crate::timings::{Phase, ProcessStart, Timings};
use crate::vcpu::{self, Gate, Stop, Vcpus};

/// The KVM device.
const KVM: &str = "/dev/kvm";

/// What a kernel is told before the user's own words: its console, and to end the machine at once,
/// by a reset that says whether it panicked ([`Exit::reset`]).
///
/// `acpi` is last, as a Linux before 5.2 takes `panic_warm` for `pci`, a way that there is not.
const LINUX: &str = "console=ttyS0 panic=-1 reboot=panic_warm,acpi";

/// A machine that was built and not yet ended. Dropping it stops its processors, then its
/// networks, then frees its memory.
#[derive(Debug)]
pub struct Machine {
    // In the order of their end.
    vcpus: Vcpus,
    _devices: Devices,
    segments: Vec<Segment>,
    _peer: Option<Peer>,
    _vm: Vm,
    _memory: GuestMemoryMmap,
    ending: Arc<Ending>,
    serial: Arc<Serial>,
    console: ConsoleEvents,
    output: Option<Output>,
    debug_exit: Arc<DebugExit>,
    timings: Arc<Timings>,
    cache: Option<KernelCache>,
}

/// What a machine is built from beside its configuration.
pub struct BuildOptions {
    /// Takes what the guest writes to its console, by a thread of its own; nothing without one.
    pub output: Option<Box<dyn AsFd + Send>>,
    /// What guest memory is made of.
    pub backing: Backing,
    /// The probe reports in JSON.
    pub json: bool,
    /// When the process began, for [`Timings`].
    pub start: ProcessStart,
}

/// What is left of a machine.
#[derive(Debug)]
pub struct Ended {
    /// How it ended.
    pub outcome: Outcome,
    /// What the guest wrote and standard output has not taken yet.
    pub output: Option<Output>,
}

impl Machine {
    /// Builds a machine from `config` and the `files` that it names; its processors are paused. On
    /// failure nothing is left behind.
    ///
    /// # Errors
    /// [`Error`].
    pub fn build(config: &Validated, files: &Files, options: BuildOptions) -> Result<Self, Error> {
        let timings = Arc::new(Timings::new(options.start));
        timings.mark(Phase::Began);
        let ending = Arc::new(Ending::new().map_err(Error::host("create an eventfd"))?);
        let memory = memory::create(config.memory, options.backing)?;
        let vm = create_vm(config, &memory)?;
        let nics = nic::build(config)?;
        let gate = Arc::new(Gate::default());
        let console =
            ConsoleEvents::new().map_err(Error::host("create the console's descriptors"))?;
        let start_output =
            |out| Output::start(out, Arc::clone(&gate), Arc::clone(&timings), Arc::clone(&ending));
        let output = options.output.map(start_output).transpose();
        let output = output.map_err(Error::host("start the console's thread"))?;
        let host = devices::Host {
            sink: output.as_ref().map_or_else(|| Box::new(io::sink()) as _, Output::sink),
            hooks: console.hooks(),
            ending: Arc::clone(&ending),
        };
        let devices = Devices::build(&vm, &memory, config.transport, nics.devices, host)?;
        let vcpus = create_vcpus(&vm, config)?;
        timings.mark(Phase::Built);

        let cache =
            files.kernel().filter(|_| config.kernel_cache).and_then(|_| KernelCache::open());
        let cmdline = cmdline(config, files, &devices, &nics.peers, options.json)?;
        let spec = boot_spec(config, files, &devices, cmdline, cache.as_ref());
        let boot = load(config, &memory, &spec)?;
        kvm::set_boot_registers(&vcpus[0], &boot.registers)?;
        let vcpus = start(vcpus, &memory, &devices, gate, &ending)?;
        Ok(Self {
            vcpus,
            serial: devices.serial(),
            debug_exit: devices.debug_exit(),
            _devices: devices,
            segments: nics.segments,
            _peer: nics.peer,
            _vm: vm,
            _memory: memory,
            ending,
            console,
            output,
            timings,
            cache,
        })
    }

    /// Lets the processors run.
    pub fn resume(&self) {
        self.timings.mark(Phase::Loaded);
        self.vcpus.resume();
    }

    /// Stops the processors at an instruction boundary; devices and networks go on.
    pub fn pause(&self) {
        self.vcpus.pause();
    }

    /// Guest memory, which the guest changes while it runs.
    #[cfg(feature = "test-utils")]
    pub fn memory(&self) -> &GuestMemoryMmap {
        &self._memory
    }

    /// The machine's end.
    pub fn ending(&self) -> &Arc<Ending> {
        &self.ending
    }

    /// The first serial port, and its events.
    pub fn serial(&self) -> (Arc<Serial>, ConsoleEvents) {
        (Arc::clone(&self.serial), self.console.clone())
    }

    /// How long the start took.
    pub fn timings(&self) -> Arc<Timings> {
        Arc::clone(&self.timings)
    }

    /// The networks, one for each interface.
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// Ends the machine and says how it ended; [`Exit::Quit`] where nothing else had ended it.
    pub fn finish(self) -> Ended {
        let Self { vcpus, serial, debug_exit, ending, output, cache, .. } = self;
        ending.set(Exit::Quit);
        drop(vcpus);
        serial.flush();
        if let Some(output) = &output {
            output.close();
        }
        let exit = ending.get().cloned().unwrap_or(Exit::Quit);
        // Not where a user waits for the end.
        if let (Some(cache), false) = (cache, matches!(exit, Exit::Quit | Exit::Signal(_))) {
            cache.finish();
        }
        let outcome = Outcome { exit, guest_status: debug_exit.code(), lost: None };
        Ended { outcome, output }
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
/// `peers` are the probe's peer as seen through each interface.
fn cmdline(
    config: &Validated,
    files: &Files,
    devices: &Devices,
    peers: &[Option<SocketAddr>],
    json: bool,
) -> Result<Cmdline, Error> {
    let mut cmdline = Cmdline::default();
    match files.kernel() {
        Some(_) => cmdline.push(LINUX)?,
        None => {
            let peer = peers.get(probe::nic(&config.cmdline)).copied().flatten();
            cmdline.push(&probe::cmdline(peer, json))?;
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

/// Starts the processors' threads, paused.
fn start(
    vcpus: Vec<VcpuFd>,
    memory: &GuestMemoryMmap,
    devices: &Devices,
    gate: Arc<Gate>,
    ending: &Arc<Ending>,
) -> Result<Vcpus, Error> {
    vcpu::install_handler().map_err(Error::host("install the vCPU signal"))?;
    let on_stop = {
        let (ending, memory) = (Arc::clone(ending), memory.clone());
        Arc::new(move |stop| ending.set(exit_of(stop, &memory))) as vcpu::OnStop
    };
    Vcpus::start(vcpus, memory, devices.buses(), gate, &on_stop)
        .map_err(Error::host("start the vCPU threads"))
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
