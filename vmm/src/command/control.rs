//! The name of a machine that this command runs, and its API.

use std::sync::Arc;

use minivmm::config::Validated;
use minivmm::control::{Claim, LogFile, OpenServer, Server};
use minivmm::exit::Exit;
use minivmm::{Ending, Error, Machine};

use super::detach::{self, Running};
use super::error::CommandError;
use super::{log, runtime};

/// A name that is taken, and a socket that nobody serves yet.
#[derive(Debug)]
pub struct Control {
    server: OpenServer,
    claim: Claim,
    /// Somebody relies on it.
    needed: bool,
}

impl Control {
    /// Takes the machine's name. Where nobody has asked for one, a machine also runs without.
    ///
    /// # Errors
    /// [`CommandError`] where the name, or the folder, can't be had and is needed.
    pub fn open(config: &Validated, detached: bool) -> Result<Option<Self>, CommandError> {
        let name = config.config.name.as_deref();
        let needed = detached || name.is_some();
        optional(needed, Self::claim(name, needed))
    }

    fn claim(name: Option<&str>, needed: bool) -> Result<Self, CommandError> {
        let claim = runtime::registry()?.claim(name)?;
        let server = OpenServer::new(&claim.socket())
            .map_err(CommandError::host("listen for commands (is $XDG_RUNTIME_DIR too long?)"))?;
        Ok(Self { server, claim, needed })
    }

    /// A file for the console.
    ///
    /// # Errors
    /// [`Error::Host`].
    pub fn log(&self) -> Result<LogFile, Error> {
        LogFile::create(self.claim.console()).map_err(Error::host("keep the console's output"))
    }

    /// Serves a machine. Where nobody relies on it, one can also be without.
    ///
    /// # Errors
    /// [`Error::Host`].
    pub fn serve(self, machine: &Machine) -> Result<Option<Controlled>, CommandError> {
        let Self { server, claim, needed } = self;
        let server = server
            .start(claim.name(), machine.handle())
            .map_err(|e| Error::host("start the control thread")(e).into());
        let Some(server) = optional(needed, server)? else { return Ok(None) };
        tracing::info!("the machine is named {}", claim.name());
        Ok(Some(Controlled { server, claim }))
    }
}

fn optional<T>(needed: bool, result: Result<T, CommandError>) -> Result<Option<T>, CommandError> {
    match result {
        Ok(there) => Ok(Some(there)),
        Err(e) if needed => Err(e),
        Err(e) => {
            tracing::info!("the machine can't be controlled: {e}");
            Ok(None)
        }
    }
}

/// A machine that can be controlled.
#[derive(Debug)]
pub struct Controlled {
    // In the order of their end.
    server: Server,
    claim: Claim,
}

impl Controlled {
    /// Says to who has started this process that the machine runs; where nobody is there, it ends.
    pub fn report(&self, ending: &Arc<Ending>) {
        match LogFile::create(self.claim.messages()) {
            Ok(file) => log::keep(file),
            Err(e) => tracing::warn!("messages are not kept: {e}"),
        }
        let running = Running { name: self.claim.name().to_owned(), pid: std::process::id() };
        if detach::report(&running).is_err() {
            ending.set(Exit::Signal(libc::SIGHUP));
        }
    }

    /// Gives the last answers, and then the name back; removes what killed machines have left.
    pub fn finish(self) {
        drop(self.server);
        drop(self.claim);
        // It removes what it does not list. What can't be removed is nothing to us.
        let _ = runtime::registry().map(|registry| registry.machines());
    }
}
