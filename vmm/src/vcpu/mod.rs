//! Virtual CPUs: one thread each, which runs guest code and serves its port and MMIO exits.
//!
//! Queue notifications never come here (ioeventfd), nor do interrupts (irqfd).

mod exits;
mod explain;
mod gate;
mod kick;
mod pio;
mod stop;

use std::io;
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use kvm_bindings::KVM_MP_STATE_UNINITIALIZED;
use kvm_ioctls::{VcpuExit, VcpuFd};
use minivmm_devices::bus::Bus;
use vm_memory::GuestMemoryMmap;

pub use self::exits::{ExitKind, Exits};
pub use self::gate::Gate;
use self::gate::Order;
use self::kick::Kickable;
pub use self::kick::{default_signal, install_handler};
pub use self::stop::Stop;

/// Told once by each vCPU thread that can't go on, and what it met.
pub type OnStop = Arc<dyn Fn(Stop) + Send + Sync>;

/// The two buses of the machine.
#[derive(Debug, Clone)]
pub struct Buses {
    /// Ports.
    pub pio: Arc<Bus>,
    /// Guest-physical addresses that are not RAM.
    pub mmio: Arc<Bus>,
}

/// All vCPUs of a machine.
#[derive(Debug)]
pub struct Vcpus {
    gate: Arc<Gate>,
    exits: Arc<Exits>,
    /// A thread is kicked under this lock and joined after it was taken out: no kick comes late.
    threads: Mutex<Vec<(Kickable, JoinHandle<()>)>>,
}

impl Vcpus {
    /// Starts a thread for each of `fds`, paused. `gate` is a new one, which the console may hold;
    /// `signal` has its handler.
    ///
    /// # Errors
    /// Those of thread creation; threads that were started have ended then.
    pub fn start(
        fds: Vec<VcpuFd>,
        memory: &GuestMemoryMmap,
        buses: &Buses,
        gate: Arc<Gate>,
        signal: i32,
        on_stop: &OnStop,
    ) -> io::Result<Self> {
        gate.set_threads(fds.len());
        let vcpus = Self { gate, exits: Arc::default(), threads: Mutex::default() };
        for (index, fd) in fds.into_iter().enumerate() {
            let vcpu = Vcpu {
                waits: waits_for_start(&fd),
                fd,
                memory: memory.clone(),
                buses: buses.clone(),
                gate: Arc::clone(&vcpus.gate),
                exits: Arc::clone(&vcpus.exits),
                on_stop: Arc::clone(on_stop),
            };
            let name = format!("vcpu{index}");
            let (thread, kick) = kick::spawn(&name, signal, move || vcpu.run())?;
            vcpus.lock().push((kick, thread));
        }
        Ok(vcpus)
    }

    /// Lets all run.
    pub fn resume(&self) {
        self.gate.order(Order::Run);
    }

    /// Stops all at an instruction boundary; returns when none is in guest code, or another
    /// thread has resumed them.
    pub fn pause(&self) {
        self.order(Order::Pause);
        self.gate.wait_parked();
    }

    /// Whether they were told to run.
    pub fn run(&self) -> bool {
        self.gate.runs()
    }

    /// How often they left guest code.
    pub fn exits(&self) -> &Exits {
        &self.exits
    }

    /// Ends all threads and waits for them. Later orders do nothing.
    pub fn end(&self) {
        self.order(Order::Stop);
        let threads = mem::take(&mut *self.lock());
        for (_, thread) in threads {
            // A panic aborts the process in release builds; in others it has been printed.
            let _ = thread.join();
        }
    }

    fn order(&self, order: Order) {
        self.gate.order(order);
        for (kick, _) in &*self.lock() {
            kick.kick();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<(Kickable, JoinHandle<()>)>> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Vcpus {
    fn drop(&mut self) {
        self.end();
    }
}

/// True for a processor that another has to start, as all but the first have.
fn waits_for_start(fd: &VcpuFd) -> bool {
    fd.get_mp_state().is_ok_and(|state| state.mp_state == KVM_MP_STATE_UNINITIALIZED)
}

struct Vcpu {
    fd: VcpuFd,
    /// It waits to be started. `KVM_RUN` then fails with EAGAIN when it has been woken; of one that
    /// runs, that is a refusal, which would come again for ever.
    waits: bool,
    memory: GuestMemoryMmap,
    buses: Buses,
    gate: Arc<Gate>,
    exits: Arc<Exits>,
    on_stop: OnStop,
}

impl Vcpu {
    fn run(mut self) {
        kick::arm(&mut self.fd);
        loop {
            // Cleared before the order is read: a kick after this line sets it again, one before
            // it is seen in the order.
            kick::clear(&mut self.fd);
            if !self.gate.may_run() {
                break;
            }
            if let Some(stop) = self.enter() {
                (self.on_stop)(stop);
                // The machine's end comes as an order; until then this CPU is out of the game.
                self.gate.retire();
                break;
            }
        }
    }

    /// Runs guest code until something else is to be done.
    fn enter(&mut self) -> Option<Stop> {
        loop {
            match self.fd.run() {
                Ok(VcpuExit::IoOut(..)) => {
                    self.exits.count(ExitKind::Pio);
                    pio::serve(&mut self.fd, &self.buses.pio);
                    if self.gate.is_held() {
                        // The next entry then only completes this instruction.
                        kick::request(&mut self.fd);
                    }
                }
                Ok(VcpuExit::IoIn(..)) => {
                    self.exits.count(ExitKind::Pio);
                    pio::serve(&mut self.fd, &self.buses.pio);
                }
                Ok(VcpuExit::MmioWrite(address, data)) => {
                    self.exits.count(ExitKind::Mmio);
                    self.buses.mmio.write(address, data);
                }
                Ok(VcpuExit::MmioRead(address, data)) => {
                    self.exits.count(ExitKind::Mmio);
                    self.buses.mmio.read(address, data);
                }
                // Accesses that KVM would leave to us if we had asked for it: refused, as KVM
                // itself does, by #GP.
                Ok(VcpuExit::X86Rdmsr(access)) => *access.error = 1,
                Ok(VcpuExit::X86Wrmsr(access)) => *access.error = 1,
                // Nothing to be done: KVM has the interrupt controller.
                Ok(
                    VcpuExit::Intr
                    | VcpuExit::Hlt
                    | VcpuExit::IrqWindowOpen
                    | VcpuExit::Nmi
                    | VcpuExit::SetTpr
                    | VcpuExit::TprAccess
                    | VcpuExit::IoapicEoi(_),
                ) => {
                    self.exits.count(ExitKind::Other);
                    return None;
                }
                Ok(VcpuExit::Shutdown) => return Some(Stop::TripleFault),
                Ok(VcpuExit::SystemEvent(kind, data)) => {
                    return Some(explain::system_event(kind, data));
                }
                Ok(VcpuExit::InternalError) => {
                    return Some(Stop::Failed(explain::internal_error(&mut self.fd, &self.memory)));
                }
                Ok(VcpuExit::FailEntry(reason, cpu)) => {
                    return Some(Stop::Failed(explain::fail_entry(reason, cpu)));
                }
                Ok(VcpuExit::MemoryFault { gpa, size, .. }) => {
                    return Some(Stop::Refused(explain::memory_fault(gpa, size)));
                }
                Ok(VcpuExit::Unknown) => {
                    return Some(Stop::Failed(explain::unknown_exit(&mut self.fd)));
                }
                // Debugging, hypercalls to user space, other architectures' exits, and what
                // kvm-ioctls doesn't know: nothing of it was asked for.
                Ok(other) => {
                    let exit = format!("{other:?}");
                    return Some(Stop::Failed(explain::unexpected_exit(&exit, &self.fd)));
                }
                Err(e) => match e.errno() {
                    // A kick.
                    libc::EINTR => {
                        self.exits.count(ExitKind::Kick);
                        return None;
                    }
                    libc::EAGAIN if self.waits => {
                        self.waits = waits_for_start(&self.fd);
                        return None;
                    }
                    errno => return Some(explain::run_failed(errno, &self.fd)),
                },
            }
        }
    }
}

impl Drop for Vcpu {
    fn drop(&mut self) {
        kick::disarm();
        // The machine is not to wait for a thread that has gone.
        if std::thread::panicking() {
            (self.on_stop)(Stop::Failed("minivmm itself failed (a bug)".into()));
        }
    }
}
