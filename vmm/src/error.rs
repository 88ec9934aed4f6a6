//! Everything that can keep a machine from running, each with its exit status.

use std::io;
use std::path::PathBuf;

use minivmm_boot::{BootError, CmdlineError};
use minivmm_net::{GatewayError, ListError, PlanError, TapError};

use crate::config::{ConfigError, Place};
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
    #[error("{what}: cannot open {}: {source}{}", path.display(), cure(source))]
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

    /// What of the configuration it is about, where it is one thing.
    pub fn place(&self) -> Option<Place> {
        match self {
            Self::Config(e) => e.place(),
            Self::Open { what, .. } => Some(Place::key(what)),
            Self::Boot { source: BootError::Initrd(_), .. } => Some(Place::key("initrd")),
            Self::Boot { .. } => Some(Place::key("kernel")),
            Self::Cmdline(_) => Some(Place::key("cmdline")),
            Self::Net(e) => e.place(),
            Self::Memory(_) => Some(Place::key("memory")),
            Self::Kvm(_) | Self::Host { .. } => None,
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
    #[error("net[{index}]: {source}{}", limit_cure_of(source))]
    Tap {
        /// The interface, from 0.
        index: usize,
        /// The refusal.
        source: TapError,
    },
    /// There is no TAP of that name, and none is to be made.
    #[error(
        "net[{index}]: there is no interface {name}{} (make it: sudo ip tuntap add dev {name} mode \
         tap user $USER vnet_hdr; or have it made for the machine: tap={name},create)",
        question(near.as_deref())
    )]
    NoTap {
        /// The interface of the machine, from 0.
        index: usize,
        /// The device's name.
        name: String,
        /// One that there is, of nearly that name.
        near: Option<String>,
    },
    /// The descriptor of a TAP that was to be inherited is none.
    #[error(
        "net[{index}].fd: {fd}: no such descriptor was inherited (open the TAP before minivmm is \
         started, without close-on-exec)"
    )]
    NotInherited {
        /// The interface, from 0.
        index: usize,
        /// The descriptor's number.
        fd: i32,
    },
    /// What the host's network is can't be read.
    #[error("{0}{cure}", cure = limit_cure_of(.0))]
    Host(#[source] ListError),
    /// No addresses for a NAT.
    #[error("net[{index}]: {source}")]
    Plan {
        /// The interface, from 0.
        index: usize,
        /// Why not.
        source: PlanError,
    },
    /// A gateway can't listen on a published port.
    #[error("{0}{cure}", cure = publish_cure(.0))]
    Gateway(#[source] GatewayError),
    /// The flows that were asked for are more than this process may have files open.
    #[error(
        "net[{index}].max-flows: {flows} flows and what else is open take {need} open files, and \
         this process may have {limit} (raise the hard limit: ulimit -Hn {need}, or \
         LimitNOFILE={need} of its service; or allow fewer flows)"
    )]
    Flows {
        /// The first interface that asked for some, from 0.
        index: usize,
        /// What was asked for, by all.
        flows: u64,
        /// Descriptors, with all others.
        need: u64,
        /// What the process may have.
        limit: u64,
    },
}

impl NetError {
    /// What of the configuration it is about, where it is one thing.
    pub fn place(&self) -> Option<Place> {
        match *self {
            Self::Tap { index, .. } | Self::NoTap { index, .. } | Self::Plan { index, .. } => {
                Some(Place::item("net", index))
            }
            Self::NotInherited { index, .. } => Some(Place::net(index, "fd")),
            Self::Flows { index, .. } => Some(Place::net(index, "max-flows")),
            Self::Gateway(_) => Some(Place::key("publish")),
            Self::Host(_) => None,
        }
    }

    /// The process exit status for it.
    pub fn status(&self) -> u8 {
        match self {
            Self::Tap { source, .. } => match source {
                TapError::NotPermitted(_) | TapError::Foreign(_) | TapError::NodeForbidden => {
                    exit::NO_PERMISSION
                }
                TapError::NoDriver(_) | TapError::Setup { .. } => exit::HOST,
                _ => exit::CONFIG,
            },
            Self::NoTap { .. } | Self::NotInherited { .. } | Self::Plan { .. } => exit::CONFIG,
            Self::Gateway(e) => match e {
                GatewayError::Publish { source, .. }
                    if source.kind() == io::ErrorKind::PermissionDenied =>
                {
                    exit::NO_PERMISSION
                }
                GatewayError::Publish { source, .. }
                    if source.kind() == io::ErrorKind::AddrInUse =>
                {
                    exit::HOST
                }
                _ if !publish_cure(e).is_empty() => exit::HOST,
                _ => exit::CONFIG,
            },
            Self::Host(_) | Self::Flows { .. } => exit::HOST,
        }
    }
}

fn question(near: Option<&str>) -> String {
    near.map(|near| format!("; did you mean {near}?")).unwrap_or_default()
}

fn publish_cure(error: &GatewayError) -> &'static str {
    let GatewayError::Publish { source, .. } = error;
    limit_cure(source)
}

/// What can be done about a file that can't be opened.
fn cure(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::NotFound => " (give the path of an existing file)",
        io::ErrorKind::PermissionDenied => {
            " (make it readable for this user, or use a copy that is)"
        }
        _ => limit_cure(source),
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
        assert!(memory(libc::ENOMEM).contains("less memory"));
        assert!(memory(libc::EMFILE).contains("ulimit -n"));
        assert!(!memory(libc::EMFILE).contains("less memory"));
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
