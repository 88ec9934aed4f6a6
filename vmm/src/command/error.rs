//! Why a command failed, and its exit status.

use std::io;

use minivmm::control::{ClaimError, ClientError, NoMachine};
use minivmm::{Error, exit};

use super::words::Origin;

/// One line each.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// The machine was not started.
    #[error(transparent)]
    Machine(#[from] Error),
    /// Its name can't be had.
    #[error("{0}{cure}", cure = claim_cure(.0))]
    Claim(#[from] ClaimError),
    /// There is no such machine.
    #[error("{0} (minivmm ps lists those that run)")]
    NoMachine(#[from] NoMachine),
    /// A machine that was asked did not answer, or refused.
    #[error("{name}: {source}")]
    Asked {
        /// Its name.
        name: String,
        /// Why there is nothing.
        source: ClientError,
    },
    /// The host refused something.
    #[error("cannot {what}: {source}")]
    Host {
        /// What was tried.
        what: &'static str,
        /// The refusal.
        source: io::Error,
    },
}

impl CommandError {
    /// A host's refusal of `what`.
    pub fn host(what: &'static str) -> impl Fn(io::Error) -> Self {
        move |source| Self::Host { what, source }
    }

    /// A machine that did not answer.
    pub fn asked(name: &str) -> impl Fn(ClientError) -> Self {
        move |source| Self::Asked { name: name.to_owned(), source }
    }

    /// In one line, with the option or the line of the file that is wrong.
    pub fn words(&self, origin: &Origin) -> String {
        match self {
            Self::Machine(error) => origin.words(error),
            other => other.to_string(),
        }
    }

    /// The process exit status for it.
    pub fn status(&self) -> u8 {
        match self {
            Self::Machine(e) => e.status(),
            Self::Claim(ClaimError::Folder { source, .. })
                if source.kind() == io::ErrorKind::PermissionDenied =>
            {
                exit::NO_PERMISSION
            }
            Self::Claim(ClaimError::Folder { .. }) | Self::Host { .. } => exit::HOST,
            Self::Claim(_) => exit::CONFIG,
            Self::NoMachine(_) | Self::Asked { .. } => exit::NO_MACHINE,
        }
    }
}

fn claim_cure(error: &ClaimError) -> &'static str {
    match error {
        ClaimError::Taken { .. } => " (choose another --name, or minivmm stop it)",
        ClaimError::Name { .. } => "",
        ClaimError::Folder { .. } => " (machines are kept in $XDG_RUNTIME_DIR/minivmm)",
    }
}
