//! What KVM refuses.

use std::io;

use crate::cure::limit_cure;

/// What KVM refused.
#[derive(Debug, thiserror::Error)]
pub enum KvmError {
    /// There is no such device.
    #[error(
        "cannot open {path}: {source} (load the kvm module, and enable virtualization in the \
             firmware or for this virtual machine)"
    )]
    Missing {
        /// The device.
        path: String,
        /// The refusal.
        source: io::Error,
    },
    /// It may not be opened by this user.
    #[error(
        "cannot open {path}: permission denied (add yourself to the group kvm: sudo usermod \
             -aG kvm $USER, and log in again)"
    )]
    Permission {
        /// The device.
        path: String,
    },
    /// It may not be opened by anybody in here.
    #[error(
        "cannot open {path}: operation not permitted (this container or service may not use it: \
             allow it the device, as docker run --device {path} does)"
    )]
    Policy {
        /// The device.
        path: String,
    },
    /// It can't be opened for a reason that has nothing to do with it.
    #[error("cannot open {path}: {source}{}", limit_cure(source))]
    Open {
        /// The device.
        path: String,
        /// The refusal.
        source: io::Error,
    },
    /// The device is something else.
    #[error("{path} is not KVM: API version {version}, not 12")]
    Version {
        /// The device.
        path: String,
        /// What it said.
        version: i32,
    },
    /// A capability is missing.
    #[error("this KVM lacks {0}, which minivmm needs")]
    Capability(&'static str),
    /// An ioctl failed.
    #[error("KVM refused to {what}: {source}{}", limit_cure(source))]
    Ioctl {
        /// What was tried.
        what: &'static str,
        /// The refusal.
        source: io::Error,
    },
}

/// Names an ioctl's failure.
pub fn refused(what: &'static str) -> impl Fn(kvm_ioctls::Error) -> KvmError {
    move |e| KvmError::Ioctl { what, source: io::Error::from_raw_os_error(e.errno()) }
}
