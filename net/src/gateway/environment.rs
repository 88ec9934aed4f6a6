//! What is known of the host's own network, and when that may have changed.

use std::io;
use std::time::{Duration, Instant};

use super::context::{Ctx, Shared};
use super::source;
use crate::host::reach::{Reach, Watch};
use crate::poll::{Poller, Ready, Token};

/// How long the host's routes may settle before they are looked at: one change comes as many.
const SETTLE_TIME: Duration = Duration::from_millis(250);

/// A watch over the host's routes.
#[derive(Debug, Default)]
pub struct Environment {
    watch: Option<Watch>,
    /// When they are to be looked at again.
    look: Option<Instant>,
}

impl Environment {
    /// Looks at the host as it is now, and watches it from here on.
    ///
    /// # Errors
    /// Those of `epoll_ctl(2)`.
    pub fn start(&mut self, shared: &mut Shared, poll: &Poller) -> io::Result<()> {
        // First watch, then look: no change is lost between.
        match Watch::new() {
            Ok(watch) => {
                poll.add(&watch, Token::new(source::ENVIRONMENT, 0), Ready::IN)?;
                self.watch = Some(watch);
            }
            Err(e) => tracing::warn!("changes of the host's routes go unnoticed: rtnetlink: {e}"),
        }
        shared.reach = Reach::probe();
        Ok(())
    }

    /// The watch has something to tell.
    pub fn ready(&mut self, now: Instant) {
        let changed = self.watch.as_ref().is_some_and(Watch::drain);
        self.look = self.look.or(changed.then_some(now + SETTLE_TIME));
    }

    /// When [`expire`](Self::expire) is due.
    pub fn deadline(&self) -> Option<Instant> {
        self.look
    }

    /// Looks, if that is due. True if the guest is offered something else now.
    pub fn expire(&mut self, ctx: &mut Ctx<'_, '_>) -> bool {
        let due = self.look.take_if(|due| *due <= ctx.io.now).is_some();
        due && ctx.shared.set_reach(Reach::probe())
    }
}
