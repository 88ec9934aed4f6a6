//! Getting a vCPU thread out of guest code, without losing the request.
//!
//! A signal alone is lost when it arrives just before `KVM_RUN`. So its handler also sets the
//! vCPU's `immediate_exit`, which makes that `KVM_RUN` return at once.
#![expect(unsafe_code, reason = "a signal handler, and the shared page of a vCPU")]

use std::cell::Cell;
use std::io;
use std::ptr;
use std::sync::mpsc;
use std::thread::{Builder, JoinHandle};

use kvm_ioctls::VcpuFd;
use vmm_sys_util::signal::{SIGRTMIN, register_signal_handler, unblock_signal};

thread_local! {
    /// `immediate_exit` of this thread's vCPU. Const and without a destructor, hence safe to use
    /// in a signal handler.
    static IMMEDIATE_EXIT: Cell<*mut u8> = const { Cell::new(ptr::null_mut()) };
}

extern "C" fn on_kick(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    let flag = IMMEDIATE_EXIT.get();
    if !flag.is_null() {
        // SAFETY: `arm` set it to a byte of the mapped kvm_run, and `disarm` takes it away before
        // the vCPU is dropped. Only this thread writes it, so a volatile store serves.
        unsafe { flag.write_volatile(1) };
    }
}

/// Installs the handler; once for the process, before the first vCPU thread.
///
/// # Errors
/// Those of `sigaction(2)`.
pub fn install_handler() -> io::Result<()> {
    register_signal_handler(SIGRTMIN(), on_kick)
        .map_err(|e| io::Error::from_raw_os_error(e.errno()))
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
pub struct Kickable(libc::pthread_t);

impl Kickable {
    /// Makes the thread's current or next `KVM_RUN` return.
    pub fn kick(&self) {
        // SAFETY: the thread's handle is joined only after the last kick (see `Vcpus`), so the id
        // is still valid, also when the thread has ended.
        unsafe { libc::pthread_kill(self.0, SIGRTMIN()) };
    }
}

/// Starts a thread and returns a kick for it.
///
/// # Errors
/// Those of thread creation.
pub fn spawn(
    name: &str,
    run: impl FnOnce() + Send + 'static,
) -> io::Result<(JoinHandle<()>, Kickable)> {
    let (tell, told) = mpsc::sync_channel(1);
    let thread = Builder::new().name(name.to_owned()).spawn(move || {
        // Whoever started this process may have had it blocked. Cannot fail for a valid signal.
        let _ = unblock_signal(SIGRTMIN());
        // SAFETY: always valid to call.
        let id = unsafe { libc::pthread_self() };
        // The receiver waits for just this.
        let _ = tell.send(id);
        run();
    })?;
    let id = told.recv().map_err(|_| io::Error::other("the thread ended before it began"))?;
    Ok((thread, Kickable(id)))
}
