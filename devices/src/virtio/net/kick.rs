//! Watching the eventfd of a queue.
#![expect(unsafe_code, reason = "EventFd lends its descriptor only as a number")]

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::Arc;

use vmm_sys_util::eventfd::EventFd;

/// The kick of a queue, as something to poll.
#[derive(Debug)]
pub struct Kick(pub Arc<EventFd>);

impl AsFd for Kick {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor is open for as long as the EventFd, which `self` keeps.
        unsafe { BorrowedFd::borrow_raw(self.0.as_raw_fd()) }
    }
}
