//! The host's interfaces by their names.

use std::fs;

use rustix::net::{AddressFamily, SocketFlags, SocketType, netdevice, socket_with};

/// Whether there is an interface of that name in this network namespace. True as well where that
/// can't be asked.
pub fn interface_exists(name: &str) -> bool {
    let flags = SocketFlags::CLOEXEC;
    let Ok(socket) = socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None) else {
        return true;
    };
    netdevice::name_to_index(&socket, name).is_ok()
}

/// The names of this network namespace's interfaces, as far as they can be listed.
pub fn interface_names() -> Vec<String> {
    // Unlike /sys, it is that of the process's namespace wherever it was mounted.
    names(&fs::read_to_string("/proc/self/net/dev").unwrap_or_default())
}

/// Those of `/proc/net/dev` (proc_pid_net(5)): below two lines of heads, each before a colon.
fn names(text: &str) -> Vec<String> {
    let names = text.lines().skip(2).filter_map(|line| line.rsplit_once(':'));
    names.map(|(name, _)| name.trim().to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interfaces_are_found() {
        assert!(interface_exists("lo") && !interface_exists("nosuch0"));
        assert!(interface_names().iter().any(|name| name == "lo"));
        let text = "Inter-| Receive | Transmit\n face |bytes|bytes\n    lo: 1 2\n tap0.5: 3 4\n";
        assert_eq!(names(text), ["lo", "tap0.5"]);
        assert_eq!(names(""), [""; 0]);
    }
}
