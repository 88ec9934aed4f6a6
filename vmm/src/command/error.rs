//! Why a command failed, and its exit status.

use std::io;

use minivmm::config::ConfigError;
use minivmm::control::{ClaimError, ClientError, NoMachine};
use minivmm::{Error, exit};

use super::cli::Origin;

/// One line each.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// The machine was not started.
    #[error(transparent)]
    Machine(#[from] Error),
    /// The same, in the words of whoever described it: an option, or a line of a file.
    #[error("{name}{rest}{}", hint(source))]
    Described {
        /// What the key is called.
        name: String,
        /// What follows the key in the error's own text.
        rest: String,
        /// The error.
        source: Error,
    },
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

    /// Puts an error about the configuration into the words of who described it.
    pub fn described(self, origin: &Origin) -> Self {
        let source = match self {
            Self::Machine(source) => source,
            other => return other,
        };
        let Some(key) = source.key() else { return Self::Machine(source) };
        let text = source.to_string();
        match text.strip_prefix(key) {
            Some(rest) => Self::Described { name: origin.name(key), rest: rest.to_owned(), source },
            None => Self::Machine(source),
        }
    }

    /// The process exit status for it.
    pub fn status(&self) -> u8 {
        match self {
            Self::Machine(e) | Self::Described { source: e, .. } => e.status(),
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

/// What can be done, in options.
fn hint(error: &Error) -> &'static str {
    match error {
        Error::Config(ConfigError::PublishWithoutNat(_)) => " (add --net nat)",
        Error::Config(ConfigError::InitrdWithoutKernel) => " (give --kernel too)",
        _ => "",
    }
}

fn claim_cure(error: &ClaimError) -> &'static str {
    match error {
        ClaimError::Taken { .. } => " (choose another --name, or minivmm stop it)",
        ClaimError::Name { .. } => "",
        ClaimError::Folder { .. } => " (machines are kept in $XDG_RUNTIME_DIR/minivmm)",
    }
}
