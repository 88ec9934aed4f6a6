//! Who may run guest code: the orders of the machine, and a console that can take no more.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    Run,
    Pause,
    Stop,
}

#[derive(Debug)]
struct State {
    order: Order,
    /// A CPU that has written to the console waits until the console has caught up.
    held: bool,
    /// Threads that are not in guest code and will not enter it under the order that stands.
    parked: usize,
    threads: usize,
}

/// See the [module's documentation](self). It starts as paused.
#[derive(Debug)]
pub struct Gate {
    state: Mutex<State>,
    changed: Condvar,
    /// `State::held`, to be looked at without the lock.
    held: AtomicBool,
}

impl Default for Gate {
    fn default() -> Self {
        Self {
            state: Mutex::new(State { order: Order::Pause, held: false, parked: 0, threads: 0 }),
            changed: Condvar::new(),
            held: AtomicBool::new(false),
        }
    }
}

impl Gate {
    /// Lets CPUs that use the port bus wait, those that still run included.
    pub fn hold(&self) {
        self.lock().held = true;
        self.held.store(true, Ordering::Release);
    }

    /// Undoes [`Gate::hold`].
    pub fn release(&self) {
        let mut state = self.lock();
        state.held = false;
        self.held.store(false, Ordering::Release);
        drop(state);
        self.changed.notify_all();
    }

    /// Whether CPUs are held.
    pub fn is_held(&self) -> bool {
        self.held.load(Ordering::Acquire)
    }

    pub(super) fn set_threads(&self, threads: usize) {
        self.lock().threads = threads;
    }

    /// Gives an order; after [`Order::Stop`] there is no other. Threads in guest code do not see it
    /// before they are kicked.
    pub(super) fn order(&self, order: Order) {
        let mut state = self.lock();
        if state.order != Order::Stop {
            state.order = order;
        }
        drop(state);
        self.changed.notify_all();
    }

    /// Whether the machine was told to run.
    pub(super) fn runs(&self) -> bool {
        self.lock().order == Order::Run
    }

    /// Waits until a pause has reached every thread, or another order has come.
    pub(super) fn wait_parked(&self) {
        let state = self.lock();
        drop(self.wait_while(state, |s| s.order == Order::Pause && s.parked < s.threads));
    }

    /// Blocks while paused or held; false when the thread is to end.
    pub(super) fn may_run(&self) -> bool {
        let blocked = |s: &mut State| match s.order {
            Order::Run => s.held,
            Order::Pause => true,
            Order::Stop => false,
        };
        let mut state = self.lock();
        if blocked(&mut state) {
            state.parked += 1;
            self.changed.notify_all();
            state = self.wait_while(state, blocked);
            state.parked -= 1;
        }
        state.order == Order::Run
    }

    /// For a thread that can't go on: it counts as parked until the machine's end, which this
    /// waits for.
    pub(super) fn retire(&self) {
        let mut state = self.lock();
        state.parked += 1;
        self.changed.notify_all();
        drop(self.wait_while(state, |s| s.order != Order::Stop));
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while it holds the lock")
    }

    fn wait_while<'a>(
        &self,
        state: MutexGuard<'a, State>,
        condition: impl FnMut(&mut State) -> bool,
    ) -> MutexGuard<'a, State> {
        self.changed.wait_while(state, condition).expect("nothing panics while it holds the lock")
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicU64;
    use std::thread;
    use std::time::{Duration, Instant};

    use super::*;

    /// A thread that is held by the console counts as parked, and still sees every order.
    #[test]
    fn held_threads_can_be_paused_and_stopped() {
        let gate = Arc::new(Gate::default());
        gate.set_threads(2);
        let turns = Arc::new(AtomicU64::new(0));
        let threads = [(); 2].map(|()| {
            let (gate, turns) = (Arc::clone(&gate), Arc::clone(&turns));
            thread::spawn(move || {
                while gate.may_run() {
                    turns.fetch_add(1, Ordering::Relaxed);
                }
            })
        });
        let turned = || turns.load(Ordering::Relaxed);
        let stand_still = || {
            let before = turned();
            thread::sleep(Duration::from_millis(20));
            assert_eq!(turned(), before);
        };
        let go_on = || {
            let (before, start) = (turned(), Instant::now());
            while turned() == before {
                assert!(start.elapsed() < Duration::from_secs(20));
                thread::yield_now();
            }
        };
        stand_still();
        for _ in 0..100 {
            gate.order(Order::Run);
            gate.hold();
            assert!(gate.is_held());
            gate.order(Order::Pause);
            gate.wait_parked();
            gate.release();
        }
        assert!(!gate.is_held());
        stand_still();
        gate.order(Order::Run);
        go_on();
        gate.hold();
        gate.order(Order::Pause);
        gate.wait_parked();
        gate.order(Order::Run);
        stand_still();
        gate.order(Order::Stop);
        for thread in threads {
            thread.join().unwrap();
        }
    }
}
