//! The host's resolvers, as `resolv.conf(5)` names them.

use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use std::{fs, io};

use rustix::net::{AddressFamily, SocketFlags, SocketType, netdevice, socket_with};

use crate::wire::port;

/// Resolvers that are used; the C library uses three.
pub const RESOLVERS_MAX: usize = 4;
/// Search domains that are passed on.
const SEARCH_MAX: usize = 6;
/// A file longer than that is not a resolver configuration.
const FILE_MAX: u64 = 64 * 1024;
/// How often the file is looked at, at most.
const CHECK_EVERY: Duration = Duration::from_secs(1);

/// The content of a resolver configuration. `options` are ignored: they tune the C library.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ResolvConf {
    /// `nameserver` lines, in order.
    pub servers: Vec<SocketAddr>,
    /// The last `search` or `domain` line.
    pub search: Vec<String>,
}

impl ResolvConf {
    /// Reads the text of a file. Lines that make no sense are passed over, as the C library does.
    /// `scope` turns an interface's name into its index, for link-local servers.
    pub fn parse(text: &str, scope: impl Fn(&str) -> Option<u32>) -> Self {
        let mut conf = Self::default();
        for line in text.lines() {
            let mut words = line.split_ascii_whitespace();
            match words.next() {
                Some("nameserver") if conf.servers.len() < RESOLVERS_MAX => {
                    conf.servers.extend(words.next().and_then(|word| server(word, &scope)));
                }
                Some("search" | "domain") => {
                    conf.search = words
                        .map(|domain| domain.trim_end_matches('.'))
                        .filter(|domain| is_domain(domain))
                        .take(SEARCH_MAX)
                        .map(str::to_owned)
                        .collect();
                }
                _ => {}
            }
        }
        conf
    }
}

fn server(word: &str, scope: impl Fn(&str) -> Option<u32>) -> Option<SocketAddr> {
    let Some((ip, zone)) = word.split_once('%') else {
        let ip: IpAddr = word.parse().ok()?;
        return Some((ip, port::DNS).into());
    };
    let ip: Ipv6Addr = ip.parse().ok()?;
    let index = zone.parse().ok().or_else(|| scope(zone))?;
    Some(SocketAddrV6::new(ip, port::DNS, 0, index).into())
}

/// True for a name that can be put into DNS messages (RFC 1035 §2.3.4).
fn is_domain(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 253
        && name.split('.').all(|label| {
            (1..=63).contains(&label.len()) && label.bytes().all(|b| b.is_ascii_graphic())
        })
}

fn interface_index(name: &str) -> Option<u32> {
    let flags = SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None).ok()?;
    netdevice::name_to_index(&socket, name).ok()
}

/// A file's identity: another one means another content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Version {
    device: u64,
    inode: u64,
    len: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// The configuration of the host's resolver, read again when its file is another one.
///
/// The file is looked at when it is needed: it may be a link to one in a directory that appears
/// later, and replaced by a rename, which a watch on it would miss.
#[derive(Debug)]
pub struct Resolvers {
    path: PathBuf,
    conf: ResolvConf,
    /// Which of the servers has answered last, and is asked first.
    preferred: usize,
    version: Option<Version>,
    checked: Option<Instant>,
}

impl Resolvers {
    /// Those of the file at `path`, which is first read by [`refresh`](Self::refresh).
    pub fn new(path: &Path) -> Self {
        let (path, conf) = (path.to_owned(), ResolvConf::default());
        Self { path, conf, preferred: 0, version: None, checked: None }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The configuration as it was at the last refresh.
    pub fn conf(&self) -> &ResolvConf {
        &self.conf
    }

    /// The place of the server that is asked first, in the configuration's list: the one that has
    /// answered last, so that one which is dead costs its time only once.
    pub fn preferred(&self) -> usize {
        self.preferred
    }

    /// The server that is asked first.
    pub fn first(&self) -> Option<SocketAddr> {
        self.conf.servers.get(self.preferred).copied()
    }

    /// `server` has answered.
    pub fn answered(&mut self, server: SocketAddr) {
        self.preferred = self.conf.servers.iter().position(|s| *s == server).unwrap_or(0);
    }

    /// For tests, which can't listen at port 53: these servers, while there is no file.
    #[cfg(test)]
    pub fn set(&mut self, servers: &[SocketAddr]) {
        self.conf.servers = servers.to_vec();
        self.preferred = 0;
    }

    /// Reads the file again if it has changed; looks at it at most once a second. True if the
    /// configuration is another one now.
    pub fn refresh(&mut self, now: Instant) -> bool {
        if self.checked.is_some_and(|t| now.saturating_duration_since(t) < CHECK_EVERY) {
            return false;
        }
        self.checked = Some(now);
        let version =
            fs::metadata(&self.path).ok().filter(fs::Metadata::is_file).map(|m| Version {
                device: m.dev(),
                inode: m.ino(),
                len: m.len(),
                modified: (m.mtime(), m.mtime_nsec()),
                changed: (m.ctime(), m.ctime_nsec()),
            });
        if version == self.version {
            return false;
        }
        let conf = version.map(|_| self.read()).transpose();
        let conf = match conf {
            Ok(conf) => conf.unwrap_or_default(),
            Err(e) => {
                tracing::warn!("cannot read {}: {e}; names are not resolved", self.path.display());
                ResolvConf::default()
            }
        };
        self.version = version;
        let changed = conf != self.conf;
        if changed {
            tracing::debug!(servers = ?conf.servers, "the host's resolvers");
            self.conf = conf;
            self.preferred = 0;
        }
        changed
    }

    fn read(&self) -> io::Result<ResolvConf> {
        let mut bytes = Vec::new();
        io::Read::read_to_end(
            &mut io::Read::take(fs::File::open(&self.path)?, FILE_MAX),
            &mut bytes,
        )?;
        Ok(ResolvConf::parse(&String::from_utf8_lossy(&bytes), interface_index))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::names;

    fn parse(text: &str) -> ResolvConf {
        ResolvConf::parse(text, |name| (name == "eth7").then_some(7))
    }

    #[test]
    fn stubs_scopes_and_families_are_all_servers() {
        let conf = parse(
            "# generated\n; also a comment\nnameserver 127.0.0.53\n\tnameserver   fe80::1%eth7 x\n\
             nameserver fe80::2%3\nnameserver 2001:db8::5\nnameserver 9.9.9.9\noptions edns0 timeout:1\n",
        );
        let want: Vec<SocketAddr> = vec![
            "127.0.0.53:53".parse().unwrap(),
            "[fe80::1%7]:53".parse().unwrap(),
            "[fe80::2%3]:53".parse().unwrap(),
            "[2001:db8::5]:53".parse().unwrap(),
        ];
        assert_eq!(conf.servers, want);
    }

    #[test]
    fn lines_without_sense_are_passed_over() {
        let conf = parse(
            "nameserver\nnameserver nine\nnameserver fe80::1%gone\nnameserver 1.2.3\nnameservers 1.1.1.1\n\
             nameserver 10.0.0.1#53\nnameserver 10.0.0.2",
        );
        assert_eq!(conf.servers, vec!["10.0.0.2:53".parse::<SocketAddr>().unwrap()]);
    }

    #[test]
    fn the_last_search_list_counts_and_bad_domains_do_not() {
        let long = "a".repeat(64);
        let conf =
            parse(&format!("search one.test two.test\ndomain x..y corp.test. . {long} ü.test"));
        assert_eq!(conf.search, vec!["corp.test"]);
    }

    #[test]
    fn a_long_search_list_is_cut_between_domains() {
        let conf = parse("search corp.test lab.corp.test x.test");
        let (first, second) = (b"\x04corp\x04test\0", b"\x03lab\x04corp\x04test\0");
        assert_eq!(names::emit_list(&conf.search, 11), first);
        assert_eq!(names::emit_list(&conf.search, 10), b"");
        assert_eq!(names::emit_list(&conf.search, 30), [&first[..], second].concat());
    }

    #[test]
    fn a_replaced_file_is_read_again_and_a_removed_one_forgotten() {
        let dir = std::env::temp_dir().join(format!("minivmm-resolv-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let (path, next) = (dir.join("resolv.conf"), dir.join("next"));
        let mut now = Instant::now();
        let mut resolvers = Resolvers::new(&path);
        assert!(!resolvers.refresh(now));
        fs::write(&path, "nameserver 10.0.0.1").unwrap();
        assert!(!resolvers.refresh(now), "looked at twice in a second");
        now += CHECK_EVERY;
        assert!(resolvers.refresh(now));
        assert_eq!(resolvers.conf().servers[0], "10.0.0.1:53".parse().unwrap());
        fs::write(&next, "nameserver 10.0.0.2").unwrap();
        fs::rename(&next, &path).unwrap();
        now += CHECK_EVERY;
        assert!(resolvers.refresh(now));
        assert_eq!(resolvers.conf().servers[0], "10.0.0.2:53".parse().unwrap());
        fs::remove_dir_all(&dir).unwrap();
        now += CHECK_EVERY;
        assert!(resolvers.refresh(now));
        assert!(resolvers.conf().servers.is_empty());
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "((nameserver|search|domain|;)?[ \t%:.a-f0-9\\PC]{0,30}\n){0,8}") {
            let conf = parse(&text);
            prop_assert!(conf.servers.len() <= RESOLVERS_MAX && conf.search.len() <= SEARCH_MAX);
            for room in [0, 17, 255, SEARCH_MAX * 255] {
                prop_assert!(names::emit_list(&conf.search, room).len() <= room);
            }
            let all = conf.search.iter().map(|domain| domain.len() + 2).sum();
            prop_assert_eq!(names::emit_list(&conf.search, all).len(), all);
        }
    }
}
