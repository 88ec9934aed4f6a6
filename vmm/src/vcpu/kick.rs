//! Getting a vCPU thread out of guest code, without losing the request.
//!
//! A signal alone is lost when it arrives just before `KVM_RUN`. So its handler also sets the
//! vCPU's `immediate_exit`, which makes that `KVM_RUN` return at once.
#![expect(unsafe_code, reason = "a signal handler, and the shared page of a vCPU")]

use std::cell::Cell;
use std::io;
use std::mem;
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};
use std::sync::{Mutex, PoisonError, mpsc};
use std::thread::{Builder, JoinHandle};

use kvm_ioctls::VcpuFd;
use vmm_sys_util::signal::{SIGRTMAX, SIGRTMIN, unblock_signal};

thread_local! {
    /// `immediate_exit` of this thread's vCPU. Const and without a destructor, hence safe to use
    /// in a signal handler.
    static IMMEDIATE_EXIT: Cell<*mut u8> = const { Cell::new(ptr::null_mut()) };
}

/// One more than the highest signal.
const SIGNALS: usize = 65;

/// What handled each signal before [`install_handler`] took it; never freed, as a handler may run
/// at any time.
static BEFORE: [AtomicPtr<libc::sigaction>; SIGNALS] =
    [const { AtomicPtr::new(ptr::null_mut()) }; SIGNALS];

extern "C" fn on_kick(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let flag = IMMEDIATE_EXIT.get();
    if flag.is_null() {
        chain(signal, info, context);
    } else {
        // SAFETY: `arm` set it to a byte of the mapped kvm_run, and `disarm` takes it away before
        // the vCPU is dropped. Only this thread writes it, so a volatile store serves.
        unsafe { flag.write_volatile(1) };
    }
}

/// Hands a signal that was sent to a thread without a vCPU to who had it before.
fn chain(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let before = usize::try_from(signal).ok().and_then(|signal| BEFORE.get(signal));
    let before = before.map_or(ptr::null_mut(), |before| before.load(Ordering::Acquire));
    // SAFETY: it is null or was leaked by `install_handler`, and is not changed after that.
    let Some(before) = (unsafe { before.as_ref() }) else { return };
    match before.sa_sigaction {
        libc::SIG_DFL | libc::SIG_IGN => {}
        handler if before.sa_flags & libc::SA_SIGINFO != 0 => {
            type Handler = extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void);
            // SAFETY: the kernel gave this address as that of a handler of this form.
            let handler = unsafe { mem::transmute::<libc::sighandler_t, Handler>(handler) };
            handler(signal, info, context);
        }
        handler => {
            // SAFETY: the kernel gave this address as that of a handler of this form.
            let handler = unsafe {
                mem::transmute::<libc::sighandler_t, extern "C" fn(libc::c_int)>(handler)
            };
            handler(signal);
        }
    }
}

/// The signal that kicks vCPUs where none was chosen.
pub fn default_signal() -> i32 {
    SIGRTMIN()
}

/// Takes a real-time signal for kicks, before the first vCPU thread that uses it. It is taken once
/// for the process; who handled it before still gets those that are sent to other threads.
///
/// # Errors
/// `InvalidInput` for what is no real-time signal, and those of `sigaction(2)`.
pub fn install_handler(signal: i32) -> io::Result<()> {
    static LOCK: Mutex<()> = Mutex::new(());
    if !(SIGRTMIN()..=SIGRTMAX()).contains(&signal) {
        let range = format!("{signal} is no real-time signal ({} to {})", SIGRTMIN(), SIGRTMAX());
        return Err(io::Error::new(io::ErrorKind::InvalidInput, range));
    }
    let index = usize::try_from(signal).expect("real-time signals are positive");
    let _one = LOCK.lock().unwrap_or_else(PoisonError::into_inner);
    if !BEFORE[index].load(Ordering::Acquire).is_null() {
        return Ok(());
    }
    // SAFETY: all zeros is a valid sigaction: the default action, an empty mask, no flags.
    let (mut action, mut before) = unsafe { (mem::zeroed::<libc::sigaction>(), mem::zeroed()) };
    // Not SA_RESTART: KVM_RUN is to return.
    action.sa_flags = libc::SA_SIGINFO;
    action.sa_sigaction = on_kick as *const () as libc::sighandler_t;
    // SAFETY: both are valid for the call.
    if unsafe { libc::sigaction(signal, &action, &mut before) } != 0 {
        return Err(io::Error::last_os_error());
    }
    BEFORE[index].store(Box::leak(Box::new(before)), Ordering::Release);
    Ok(())
}

/// Makes kicks of this thread reach `fd`.
pub fn arm(fd: &mut VcpuFd) {
    IMMEDIATE_EXIT.set(ptr::from_mut(&mut fd.get_kvm_run().immediate_exit));
}

/// Undoes [`arm`].
pub fn disarm() {
    IMMEDIATE_EXIT.set(ptr::null_mut());
}

/// Makes the next `KVM_RUN` return once it has completed what the last one left open.
pub fn request(fd: &mut VcpuFd) {
    fd.set_kvm_immediate_exit(1);
}

/// Lets the next `KVM_RUN` enter the guest.
pub fn clear(fd: &mut VcpuFd) {
    fd.set_kvm_immediate_exit(0);
}

/// A thread that can be kicked for as long as its handle isn't joined.
#[derive(Debug)]
pub struct Kickable {
    thread: libc::pthread_t,
    signal: i32,
}

impl Kickable {
    /// Makes the thread's current or next `KVM_RUN` return.
    pub fn kick(&self) {
        // SAFETY: the thread's handle is joined only after the last kick (see `Vcpus`), so the id
        // is still valid, also when the thread has ended.
        unsafe { libc::pthread_kill(self.thread, self.signal) };
    }
}

/// Starts a thread and returns a kick for it, by a `signal` whose handler is installed.
///
/// # Errors
/// Those of thread creation.
pub fn spawn(
    name: &str,
    signal: i32,
    run: impl FnOnce() + Send + 'static,
) -> io::Result<(JoinHandle<()>, Kickable)> {
    let (tell, told) = mpsc::sync_channel(1);
    let thread = Builder::new().name(name.to_owned()).spawn(move || {
        // Whoever started this process may have had it blocked. Cannot fail for a valid signal.
        let _ = unblock_signal(signal);
        // SAFETY: always valid to call.
        let id = unsafe { libc::pthread_self() };
        // The receiver waits for just this.
        let _ = tell.send(id);
        run();
    })?;
    let told = told.recv().map_err(|_| io::Error::other("the thread ended before it began"))?;
    Ok((thread, Kickable { thread: told, signal }))
}
