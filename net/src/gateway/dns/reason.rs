//! Why no resolver of the host's could help, in words for the guest (RFC 8914).

use std::fmt::Write;
use std::io;
use std::net::SocketAddr;
use std::path::Path;

use super::message::Rcode;
use crate::wire::port;

/// Bytes of the text that the guest gets at most: the answer is to fit any link.
const TEXT_MAX: usize = 200;

/// What is wrong with a resolver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// It can't be asked: an `errno(3)` of the host's.
    Host(i32),
    /// It has answered, with a code that says more about itself than about the name.
    Code(u8),
}

impl Failure {
    /// An error of the host's.
    pub fn of(error: &io::Error) -> Self {
        Self::Host(error.raw_os_error().unwrap_or(0))
    }
}

/// An INFO-CODE with its EXTRA-TEXT (RFC 8914 §2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason {
    /// RFC 8914 §4.
    pub code: u16,
    /// At most [`TEXT_MAX`] bytes.
    pub text: String,
}

impl Reason {
    /// The file at `path` names no resolver.
    pub fn none_named(path: &Path) -> Self {
        // Other Error: there is no code for it.
        Self::new(0, format!("no nameserver in {}", path.display()))
    }

    /// What became of each of `servers`; nothing is known of one that did not answer.
    pub fn of_all(servers: &[SocketAddr], failures: &[Option<Failure>]) -> Self {
        let mut text = String::new();
        for (server, failure) in servers.iter().zip(failures) {
            let separator = if text.is_empty() { "" } else { "; " };
            // Writing to a `String` cannot fail.
            let _ = write!(text, "{separator}{}", one(*server, *failure));
        }
        // No Reachable Authority.
        Self::new(22, text)
    }

    fn new(code: u16, mut text: String) -> Self {
        let end = (0..=TEXT_MAX).rev().find(|&at| text.is_char_boundary(at));
        text.truncate(end.unwrap_or(0));
        Self { code, text }
    }
}

fn one(server: SocketAddr, failure: Option<Failure>) -> String {
    let name = match server {
        SocketAddr::V4(v4) if v4.port() == port::DNS => v4.ip().to_string(),
        SocketAddr::V6(v6) if v6.port() == port::DNS => v6.ip().to_string(),
        other => other.to_string(),
    };
    match failure {
        None => format!("{name} does not answer"),
        Some(Failure::Code(code)) if code == Rcode::Refused as u8 => {
            format!("{name} answers REFUSED")
        }
        Some(Failure::Code(code)) if code == Rcode::ServFail as u8 => {
            format!("{name} answers SERVFAIL")
        }
        Some(Failure::Code(code)) => format!("{name} answers with code {code}"),
        Some(Failure::Host(errno)) => match errno {
            libc::ECONNREFUSED => format!("nobody listens at {name}"),
            libc::ENETUNREACH | libc::ENETDOWN | libc::EADDRNOTAVAIL | libc::EINVAL => {
                format!("the host has no route to {name}")
            }
            libc::EHOSTUNREACH | libc::EHOSTDOWN | libc::ENONET | libc::ETIMEDOUT => {
                format!("{name} is unreachable")
            }
            libc::EPERM | libc::EACCES => {
                format!("a firewall or a route of the host prohibits {name}")
            }
            _ => format!("{name}: {}", io::Error::from_raw_os_error(errno)),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_resolver_is_named_with_what_is_wrong() {
        let servers: Vec<SocketAddr> = ["198.51.100.2:53", "127.0.0.1:5353", "[fd00::1]:53"]
            .map(|text| text.parse().unwrap())
            .into();
        let say = |failures: &[_]| Reason::of_all(&servers, failures);
        let text = "198.51.100.2 does not answer; nobody listens at 127.0.0.1:5353; \
                    fd00::1 answers REFUSED";
        let failures = [None, Some(Failure::Host(libc::ECONNREFUSED)), Some(Failure::Code(5))];
        assert_eq!(say(&failures), Reason { code: 22, text: text.into() });
        for (failure, said) in [
            (Failure::Host(libc::ENETUNREACH), "the host has no route to 198.51.100.2"),
            (Failure::Host(libc::EHOSTUNREACH), "198.51.100.2 is unreachable"),
            (
                Failure::Host(libc::EPERM),
                "a firewall or a route of the host prohibits 198.51.100.2",
            ),
            (Failure::Host(libc::EINVAL), "the host has no route to 198.51.100.2"),
            (Failure::Host(libc::EMFILE), "198.51.100.2: Too many open files (os error 24)"),
            (Failure::Code(2), "198.51.100.2 answers SERVFAIL"),
            (Failure::Code(9), "198.51.100.2 answers with code 9"),
        ] {
            assert_eq!(say(&[Some(failure)]).text, said);
        }
    }

    #[test]
    fn a_long_text_is_cut_between_letters() {
        let reason = Reason::none_named(Path::new(&"ü".repeat(200)));
        assert_eq!(reason.text, format!("no nameserver in {}", "ü".repeat(91)));
        assert_eq!(Reason::none_named(Path::new("/x")).text, "no nameserver in /x");
    }
}
