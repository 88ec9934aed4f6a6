//! The host's socket of a flow.

use std::os::fd::OwnedFd;

use crate::poll::{Poller, Ready, Token};

/// What it is watched for, by edges: each condition is told once.
const INTEREST: Ready =
    Ready::IN.union(Ready::PRI).union(Ready::OUT).union(Ready::RDHUP).union(Ready::ET);

/// See the [module's documentation](self).
#[derive(Debug)]
pub struct Socket {
    /// The socket itself.
    pub fd: OwnedFd,
    /// The name that its events bear.
    pub token: Token,
}

impl Socket {
    /// Begins to watch it. False where there is no memory for that.
    pub fn watch(&self, poll: &Poller) -> bool {
        poll.add(&self.fd, self.token, INTEREST).is_ok()
    }

    /// Has it tell once more what is true of it: to ask again is what makes the kernel look.
    pub fn watch_anew(&self, poll: &Poller) -> bool {
        poll.modify(&self.fd, self.token, INTEREST).is_ok()
    }
}
