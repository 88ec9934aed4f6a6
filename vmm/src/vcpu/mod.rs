//! Virtual CPUs: one thread each, which runs guest code and serves its port and MMIO exits.
//!
//! Queue notifications never come here (ioeventfd), nor do interrupts (irqfd).

mod explain;
mod kick;

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;

use kvm_ioctls::{VcpuExit, VcpuFd};
use minivmm_devices::bus::Bus;
use vm_memory::GuestMemoryMmap;

use self::kick::Kickable;
pub use self::kick::install_handler;

/// Told once by each vCPU thread that can't go on, and what it met.
pub type OnStop = Arc<dyn Fn(Stop) + Send + Sync>;

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
}

/// The two buses of the machine.
#[derive(Debug, Clone)]
pub struct Buses {
    /// Ports.
    pub pio: Arc<Bus>,
    /// Guest-physical addresses that are not RAM.
    pub mmio: Arc<Bus>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    Run,
    Pause,
    Stop,
}

#[derive(Debug)]
struct State {
    order: Order,
    /// Threads that are not in guest code and will not enter it under the order that stands.
    parked: usize,
    threads: usize,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no vCPU thread panics while it holds the lock")
    }

    /// Blocks while paused; false when the thread is to end.
    fn may_run(&self) -> bool {
        let mut state = self.lock();
        if state.order == Order::Run {
            return true;
        }
        state.parked += 1;
        self.changed.notify_all();
        state = self
            .changed
            .wait_while(state, |s| s.order == Order::Pause)
            .expect("no vCPU thread panics while it holds the lock");
        if state.order == Order::Stop {
            return false;
        }
        state.parked -= 1;
        true
    }
}

/// All vCPUs of a machine.
#[derive(Debug)]
pub struct Vcpus {
    shared: Arc<Shared>,
    threads: Vec<(Kickable, JoinHandle<()>)>,
}

impl Vcpus {
    /// Starts a thread for each of `fds`, paused.
    ///
    /// # Errors
    /// Those of thread creation; threads that were started have ended then.
    pub fn start(
        fds: Vec<VcpuFd>,
        memory: &GuestMemoryMmap,
        buses: &Buses,
        on_stop: &OnStop,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            state: Mutex::new(State { order: Order::Pause, parked: 0, threads: fds.len() }),
            changed: Condvar::new(),
        });
        let mut vcpus = Self { shared, threads: Vec::new() };
        for (index, fd) in fds.into_iter().enumerate() {
            let vcpu = Vcpu {
                fd,
                memory: memory.clone(),
                buses: buses.clone(),
                shared: Arc::clone(&vcpus.shared),
                on_stop: Arc::clone(on_stop),
            };
            let (thread, kick) = kick::spawn(&format!("vcpu{index}"), move || vcpu.run())?;
            vcpus.threads.push((kick, thread));
        }
        Ok(vcpus)
    }

    /// Lets all run.
    pub fn resume(&self) {
        self.shared.lock().order = Order::Run;
        self.shared.changed.notify_all();
    }

    /// Stops all at an instruction boundary; returns when none is in guest code.
    pub fn pause(&self) {
        self.order(Order::Pause);
        let state = self.shared.lock();
        drop(
            self.shared
                .changed
                .wait_while(state, |s| s.order == Order::Pause && s.parked < s.threads)
                .expect("no vCPU thread panics while it holds the lock"),
        );
    }

    fn order(&self, order: Order) {
        self.shared.lock().order = order;
        self.shared.changed.notify_all();
        for (kick, _) in &self.threads {
            kick.kick();
        }
    }
}

/// Ends all threads and waits for them.
impl Drop for Vcpus {
    fn drop(&mut self) {
        self.order(Order::Stop);
        for (_, thread) in self.threads.drain(..) {
            // A panic aborts the process in release builds; in tests it has been printed.
            let _ = thread.join();
        }
    }
}

struct Vcpu {
    fd: VcpuFd,
    memory: GuestMemoryMmap,
    buses: Buses,
    shared: Arc<Shared>,
    on_stop: OnStop,
}

impl Vcpu {
    fn run(mut self) {
        kick::arm(&mut self.fd);
        loop {
            // Cleared before the order is read: a kick after this line sets it again, one before
            // it is seen in the order.
            kick::clear(&mut self.fd);
            if !self.shared.may_run() {
                break;
            }
            if let Some(stop) = self.enter() {
                (self.on_stop)(stop);
                // The machine's end comes as an order; until then this CPU is out of the game.
                let mut state = self.shared.lock();
                state.parked += 1;
                self.shared.changed.notify_all();
                drop(self.shared.changed.wait_while(state, |s| s.order != Order::Stop));
                break;
            }
        }
        kick::disarm();
    }

    /// Runs guest code until something else is to be done.
    fn enter(&mut self) -> Option<Stop> {
        loop {
            match self.fd.run() {
                Ok(VcpuExit::IoOut(port, data)) => self.buses.pio.write(port.into(), data),
                Ok(VcpuExit::IoIn(port, data)) => self.buses.pio.read(port.into(), data),
                Ok(VcpuExit::MmioWrite(address, data)) => self.buses.mmio.write(address, data),
                Ok(VcpuExit::MmioRead(address, data)) => self.buses.mmio.read(address, data),
                Ok(VcpuExit::Intr | VcpuExit::Hlt | VcpuExit::IrqWindowOpen) => return None,
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
                    return Some(Stop::Failed(format!(
                        "guest memory at {gpa:#x} ({size} bytes) can't be used by KVM"
                    )));
                }
                Ok(other) => {
                    let exit = format!("{other:?}");
                    return Some(Stop::Failed(format!("unexpected exit {exit}")));
                }
                Err(e) => match e.errno() {
                    libc::EINTR | libc::EAGAIN => return None,
                    errno => {
                        let source = io::Error::from_raw_os_error(errno);
                        let at = explain::location(&self.fd);
                        return Some(Stop::Failed(format!("KVM_RUN failed{at}: {source}")));
                    }
                },
            }
        }
    }
}
