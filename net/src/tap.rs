//! TAP devices: one end is a network interface of the host, the other a descriptor of ours.
//!
//! Every frame has a 12-byte virtio-net header, so checksums and segmentation cross the device
//! undone, and one system call moves up to 64 KiB.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::addr::MacAddr;
use crate::frame::{Offloads, VNET_HEADER_LEN};
use crate::host::interfaces::interface_exists;

mod backend;
#[cfg(feature = "test-utils")]
mod port;
mod sys;

pub use backend::TapBackend;
#[cfg(feature = "test-utils")]
pub use port::TapPort;

const DEV_NET_TUN: &str = "/dev/net/tun";

/// Longest name of an interface, in bytes (`IFNAMSIZ` less the NUL).
const NAME_MAX: usize = 15;

/// Why there is no TAP.
#[derive(Debug, thiserror::Error)]
pub enum TapError {
    /// Not a name that an interface can have.
    #[error("{0:?} is no interface name (1 to 15 bytes without spaces, '/', ':' and '%')")]
    Name(String),
    /// The kernel has no TUN/TAP driver, or the device node is not there.
    #[error("cannot open {DEV_NET_TUN}: {0} (load the driver: sudo modprobe tun)")]
    NoDriver(io::Error),
    /// The device node is closed to us.
    #[error(
        "cannot open {DEV_NET_TUN}: permission denied (sudo chmod 0666 {DEV_NET_TUN}, as udev \
         does by default)"
    )]
    NodeForbidden,
    /// The interface does not exist, and we may not make it.
    #[error(
        "cannot make TAP {0}: operation not permitted (make it for this user: \
         sudo ip tuntap add dev {0} mode tap user $USER vnet_hdr)"
    )]
    NotPermitted(String),
    /// The interface belongs to someone else.
    #[error(
        "cannot use TAP {0}: it is another user's (make it anew for this one: sudo ip tuntap del \
         dev {0} mode tap && sudo ip tuntap add dev {0} mode tap user $USER vnet_hdr)"
    )]
    Foreign(String),
    /// Another process has it open.
    #[error(
        "cannot use TAP {0}: another process has it open (end that, or use another TAP; to find it: \
         sudo grep -ls 'iff:.*{0}$' /proc/[0-9]*/fdinfo/*)"
    )]
    Busy(String),
    /// The name is that of another kind of interface, or of a multi-queue TAP.
    #[error(
        "cannot use {0}: it is not a single-queue TAP (make one: sudo ip tuntap add dev NAME \
         mode tap user $USER vnet_hdr)"
    )]
    NotTap(String),
    /// A descriptor that was handed to us is no TAP.
    #[error(
        "the descriptor for the network is not that of a TAP: {0} (open /dev/net/tun and attach \
         it with IFF_TAP | IFF_NO_PI | IFF_VNET_HDR)"
    )]
    NotTapFd(io::Error),
    /// A descriptor that was handed to us is a TAP, or a TUN, of another make.
    #[error(
        "the descriptor for the network belongs to {name} with flags {flags:#06x} (attach it with \
         IFF_TAP | IFF_NO_PI | IFF_VNET_HDR, without IFF_MULTI_QUEUE)"
    )]
    WrongFlags {
        /// The interface.
        name: String,
        /// Its flags, as `TUNGETIFF` gives them.
        flags: u16,
    },
    /// Anything else.
    #[error("cannot set up TAP {name}: {what}: {source}")]
    Setup {
        /// The interface.
        name: String,
        /// The call that failed.
        what: &'static str,
        /// How it failed.
        source: io::Error,
    },
}

/// An open TAP, non-blocking, single-queue, with virtio-net headers of 12 bytes.
#[derive(Debug)]
pub struct Tap {
    fd: OwnedFd,
    name: String,
}

impl Tap {
    /// Opens TAP `name`; with `CAP_NET_ADMIN` it is made if there is none, and goes when closed.
    ///
    /// # Errors
    /// [`TapError`]
    pub fn open(name: &str) -> Result<Self, TapError> {
        check_name(name)?;
        let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let fd = rustix::fs::open(DEV_NET_TUN, flags, Mode::empty()).map_err(|e| match e {
            Errno::ACCESS | Errno::PERM => TapError::NodeForbidden,
            e @ (Errno::NOENT | Errno::NODEV | Errno::NXIO) => TapError::NoDriver(e.into()),
            e => TapError::Setup { name: name.to_owned(), what: "open", source: e.into() },
        })?;
        sys::set_iff(fd.as_fd(), name, sys::IFF).map_err(|e| match Errno::from_io_error(&e) {
            Some(Errno::PERM) if interface_exists(name) => TapError::Foreign(name.to_owned()),
            Some(Errno::PERM) => TapError::NotPermitted(name.to_owned()),
            Some(Errno::BUSY) => TapError::Busy(name.to_owned()),
            Some(Errno::INVAL) => TapError::NotTap(name.to_owned()),
            _ => TapError::Setup { name: name.to_owned(), what: "TUNSETIFF", source: e },
        })?;
        Self::prepare(fd, name.to_owned())
    }

    /// Takes over a descriptor that is attached to a TAP already.
    ///
    /// # Errors
    /// [`TapError::NotTapFd`] or [`TapError::WrongFlags`] where it is something else.
    pub fn from_fd(fd: OwnedFd) -> Result<Self, TapError> {
        let (name, flags) = sys::get_iff(fd.as_fd()).map_err(TapError::NotTapFd)?;
        if flags & (sys::IFF | sys::MULTI_QUEUE) != sys::IFF {
            return Err(TapError::WrongFlags { name, flags });
        }
        let setup =
            |e: Errno| TapError::Setup { name: name.clone(), what: "O_NONBLOCK", source: e.into() };
        let status = rustix::fs::fcntl_getfl(&fd).map_err(setup)?;
        rustix::fs::fcntl_setfl(&fd, status | OFlags::NONBLOCK).map_err(setup)?;
        Self::prepare(fd, name)
    }

    fn prepare(fd: OwnedFd, name: String) -> Result<Self, TapError> {
        if let Err(source) = sys::set_vnet_header(fd.as_fd(), VNET_HEADER_LEN) {
            return Err(TapError::Setup { name, what: "TUNSETVNETHDRSZ", source });
        }
        Ok(Self { fd, name })
    }

    /// The interface's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The interface's MTU in bytes, at most 65535.
    ///
    /// # Errors
    /// `NoDevice` where the interface is not in this network namespace, or gone.
    pub fn mtu(&self) -> io::Result<u16> {
        sys::mtu(&self.name)
    }

    /// The link-layer address of the host's side.
    ///
    /// # Errors
    /// Those of `SIOCGIFHWADDR`.
    pub fn mac(&self) -> io::Result<MacAddr> {
        sys::hardware_address(self.fd.as_fd()).map(MacAddr)
    }

    /// Which offloads the host's side may leave to whoever reads the descriptor.
    ///
    /// # Errors
    /// Those of `TUNSETOFFLOAD`.
    pub fn set_offloads(&self, offloads: Offloads) -> io::Result<()> {
        let mut flags = 0;
        // The kernel refuses segmentation without checksums.
        if offloads.checksum {
            flags |= libc::TUN_F_CSUM;
            if offloads.tso4 {
                flags |= libc::TUN_F_TSO4;
            }
            if offloads.tso6 {
                flags |= libc::TUN_F_TSO6;
            }
        }
        sys::set_offload(self.fd.as_fd(), flags)
    }
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Checks that an interface can have this name.
///
/// # Errors
/// [`TapError::Name`]
pub fn check_name(name: &str) -> Result<(), TapError> {
    let ok = (1..=NAME_MAX).contains(&name.len())
        && name != "."
        && name != ".."
        && name.bytes().all(|b| b.is_ascii_graphic() && !b"/:%".contains(&b));
    if ok { Ok(()) } else { Err(TapError::Name(name.to_owned())) }
}

/// What a failed read or write on a TAP means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Failure {
    /// Try again when the descriptor says so.
    Again,
    /// This frame can't go; the next one may.
    Frame,
    /// The interface is gone.
    Gone,
}

impl Failure {
    fn of(error: &io::Error) -> Self {
        match Errno::from_io_error(error) {
            // EINTR is not returned by tun for non-blocking descriptors; trying again is right.
            Some(Errno::AGAIN | Errno::INTR) => Self::Again,
            Some(Errno::BADFD | Errno::NODEV | Errno::NXIO | Errno::BADF) => Self::Gone,
            _ => Self::Frame,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_no_interface_has_are_refused() {
        for bad in ["", ".", "..", "a/b", "a b", "tap%d", "a:b", "sixteen-bytes-xx", "t\0p", "tä"]
        {
            assert!(matches!(Tap::open(bad), Err(TapError::Name(_))), "{bad:?}");
        }
        assert!(check_name("fifteen-bytes-x").is_ok());
    }

    #[test]
    fn a_descriptor_of_something_else_is_refused() {
        let file = std::fs::File::open("/dev/null").unwrap();
        let error = Tap::from_fd(file.into()).unwrap_err();
        assert!(matches!(error, TapError::NotTapFd(_)), "{error}");
    }
}
