//! Everything that can keep a machine from running, each with its exit status.

use std::io;
use std::path::PathBuf;

use minivmm_boot::{BootError, CmdlineError};
use minivmm_net::{GatewayError, ListError, PlanError, TapError};

use crate::config::ConfigError;
use crate::cure::{limit_cure, limit_cure_of};
use crate::exit;
use crate::kvm::KvmError;
use crate::memory::MemoryError;

/// Why a machine was not started. `Display` gives one line: what, where, what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration was refused.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A file of the guest's can't be opened.
    #[error("{what}: cannot open {}: {source}{}", path.display(), cure(source, what))]
    Open {
        /// `kernel` or `initrd`.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// The refusal.
        source: io::Error,
    },
    /// The guest can't be loaded from its files.
    #[error("{}: {source}", what.display())]
    Boot {
        /// The kernel or initrd that it is about.
        what: PathBuf,
        /// What is wrong with it.
        source: BootError,
    },
    /// The command line that minivmm and the user made together is refused.
    #[error("cmdline: {0}")]
    Cmdline(#[from] CmdlineError),
    /// KVM refused something.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// There is no guest memory.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// A network interface can't be made.
    #[error(transparent)]
    Net(#[from] NetError),
    /// The host refused something else.
    #[error("cannot {what}: {source}{}", limit_cure(source))]
    Host {
        /// What was tried.
        what: &'static str,
        /// The refusal.
        source: io::Error,
    },
}

impl Error {
    /// A host's refusal of `what`.
    pub fn host(what: &'static str) -> impl Fn(io::Error) -> Self {
        move |source| Self::Host { what, source }
    }

    /// The key of the configuration that it is about, with which its text begins.
    pub fn key(&self) -> Option<&'static str> {
        match self {
            Self::Config(e) => e.key(),
            Self::Open { what, .. } => Some(what),
            Self::Cmdline(_) => Some("cmdline"),
            Self::Net(NetError::Host(_) | NetError::Gateway(_)) => None,
            Self::Net(_) => Some("net"),
            Self::Boot { .. } | Self::Kvm(_) | Self::Memory(_) | Self::Host { .. } => None,
        }
    }

    /// The process exit status for it.
    pub fn status(&self) -> u8 {
        match self {
            Self::Config(_) | Self::Boot { .. } | Self::Cmdline(_) => exit::CONFIG,
            Self::Open { source, .. } => match source.kind() {
                io::ErrorKind::PermissionDenied => exit::NO_PERMISSION,
                _ => exit::CONFIG,
            },
            Self::Kvm(KvmError::Permission { .. } | KvmError::Policy { .. }) => exit::NO_PERMISSION,
            Self::Kvm(KvmError::Open { .. } | KvmError::Ioctl { .. }) => exit::HOST,
            Self::Kvm(_) => exit::NO_VIRTUALIZATION,
            Self::Net(e) => e.status(),
            Self::Memory(_) | Self::Host { .. } => exit::HOST,
        }
    }
}

/// Why a network interface is not made.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// A TAP device can't be used.
    #[error("net: {device}: {source}{}", limit_cure_of(source))]
    Tap {
        /// As `--net` has it.
        device: String,
        /// The refusal.
        source: TapError,
    },
    /// The descriptor of a TAP that was to be inherited is none.
    #[error(
        "net: tap,fd={fd}: no such descriptor was inherited (open the TAP before minivmm is \
         started, without close-on-exec)"
    )]
    NotInherited {
        /// Its number.
        fd: i32,
    },
    /// What the host's network is can't be read.
    #[error("{0}{cure}", cure = limit_cure_of(.0))]
    Host(#[source] ListError),
    /// No addresses for a NAT.
    #[error("net: nat: {0}")]
    Plan(#[source] PlanError),
    /// A gateway can't listen on a published port.
    #[error("{0}{cure}", cure = publish_cure(.0))]
    Gateway(#[source] GatewayError),
    /// The flows that were asked for are more than this process may have files open.
    #[error(
        "net: nat,max-flows: {flows} flows and what else is open take {need} open files, and this \
         process may have {limit} (raise the hard limit: ulimit -Hn {need}, or LimitNOFILE={need} \
         of its service; or allow fewer flows)"
    )]
    Flows {
        /// What was asked for.
        flows: u64,
        /// Descriptors, with all others.
        need: u64,
        /// What the process may have.
        limit: u64,
    },
}

impl NetError {
    /// The process exit status for it.
    pub fn status(&self) -> u8 {
        match self {
            Self::Tap { source, .. } => match source {
                TapError::NotPermitted(_) | TapError::NodeForbidden => exit::NO_PERMISSION,
                TapError::NoDriver(_) | TapError::Setup { .. } => exit::HOST,
                _ => exit::CONFIG,
            },
            Self::NotInherited { .. } | Self::Plan(_) => exit::CONFIG,
            Self::Gateway(e) => match e {
                GatewayError::Publish { source, .. }
                    if source.kind() == io::ErrorKind::PermissionDenied =>
                {
                    exit::NO_PERMISSION
                }
                _ if !publish_cure(e).is_empty() => exit::HOST,
                _ => exit::CONFIG,
            },
            Self::Host(_) | Self::Flows { .. } => exit::HOST,
        }
    }
}

fn publish_cure(error: &GatewayError) -> &'static str {
    let GatewayError::Publish { source, .. } = error;
    limit_cure(source)
}

/// What can be done about a file that can't be opened.
fn cure(source: &io::Error, what: &str) -> String {
    match source.kind() {
        io::ErrorKind::NotFound => format!(" (the {what} is to be the path of an existing file)"),
        io::ErrorKind::PermissionDenied => {
            " (make it readable for this user, or use a copy that is)".into()
        }
        _ => limit_cure(source).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::MemoryError;

    /// The cure is that of the error, not of its place.
    #[test]
    fn too_many_files_are_no_lack_of_memory() {
        let memory = |errno| {
            let source = io::Error::from_raw_os_error(errno);
            Error::from(MemoryError::Memfd { mib: 16, source }).to_string()
        };
        assert!(memory(libc::ENOMEM).contains("--memory"));
        assert!(memory(libc::EMFILE).contains("ulimit -n"));
        assert!(!memory(libc::EMFILE).contains("--memory"));
        let source = io::Error::from_raw_os_error(libc::EMFILE);
        let kvm = Error::from(KvmError::Open { path: "/dev/kvm".into(), source });
        assert!(kvm.to_string().contains("ulimit -n"), "{kvm}");
        assert_eq!(kvm.status(), exit::HOST);
        let source = io::Error::from_raw_os_error(libc::EMFILE);
        let ioctl = Error::from(KvmError::Ioctl { what: "create an interrupt line", source });
        assert!(ioctl.to_string().contains("ulimit -n"), "{ioctl}");
        let host = Error::host("start a thread")(io::Error::from_raw_os_error(libc::EAGAIN));
        assert!(host.to_string().contains("ulimit -u"), "{host}");
        let policy = Error::from(KvmError::Policy { path: "/dev/kvm".into() });
        assert_eq!(policy.status(), exit::NO_PERMISSION);
    }
}
