//! A plain epoll loop with typed tokens.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};

/// What kind of source an event is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Source {
    /// The segment's own control messages.
    Control,
    /// The port; what `id` means is its own affair.
    Port,
    /// The backend; the tag, below 128, is its own affair.
    Backend(u8),
}

impl Source {
    const BACKEND: u8 = 0x80;

    const fn pack(self) -> u8 {
        match self {
            Self::Control => 0,
            Self::Port => 1,
            Self::Backend(tag) => {
                debug_assert!(tag < Self::BACKEND);
                Self::BACKEND | tag
            }
        }
    }

    const fn unpack(raw: u8) -> Self {
        match raw {
            0 => Self::Control,
            1..Self::BACKEND => Self::Port,
            Self::BACKEND.. => Self::Backend(raw & !Self::BACKEND),
        }
    }
}

/// An event source's name: its kind, an index among these, and a generation that tells a reused
/// index from the one an old event was for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Token {
    /// Its kind.
    pub source: Source,
    /// Counts the uses of `id`; only the low 24 bits are kept.
    pub generation: u32,
    /// The index.
    pub id: u32,
}

impl Token {
    /// A token of generation 0.
    pub const fn new(source: Source, id: u32) -> Self {
        Self { source, generation: 0, id }
    }

    /// A token whose `id` is used again and again.
    pub const fn with_generation(source: Source, id: u32, generation: u32) -> Self {
        Self { source, generation: generation & 0xff_ffff, id }
    }

    const fn pack(self) -> u64 {
        (self.source.pack() as u64) << 56 | (self.generation as u64) << 32 | self.id as u64
    }

    fn unpack(raw: u64) -> Self {
        Self {
            source: Source::unpack((raw >> 56) as u8),
            generation: (raw >> 32) as u32 & 0xff_ffff,
            id: raw as u32,
        }
    }
}

/// What a source is watched for, and what was seen.
pub type Ready = EventFlags;

/// The epoll instance of a segment's worker.
pub struct Poller {
    epoll: OwnedFd,
    events: Vec<Event>,
}

impl std::fmt::Debug for Poller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Poller").field("epoll", &self.epoll).finish_non_exhaustive()
    }
}

impl Poller {
    /// # Errors
    /// Those of `epoll_create1(2)`.
    pub fn new() -> io::Result<Self> {
        Ok(Self::from_fd(epoll::create(CreateFlags::CLOEXEC)?))
    }

    /// One with what an epoll instance watches already; the tokens are this type's.
    pub(crate) fn from_fd(epoll: OwnedFd) -> Self {
        Self { epoll, events: Vec::with_capacity(256) }
    }

    /// Its epoll instance, to be handed to another thread.
    pub(crate) fn into_fd(self) -> OwnedFd {
        self.epoll
    }

    /// Watches `fd` for `interest` (add [`Ready::ET`] for edges).
    ///
    /// # Errors
    /// Those of `epoll_ctl(2)`.
    pub fn add(&self, fd: impl AsFd, token: Token, interest: Ready) -> io::Result<()> {
        Ok(epoll::add(&self.epoll, fd, EventData::new_u64(token.pack()), interest)?)
    }

    /// Changes what `fd` is watched for.
    ///
    /// # Errors
    /// Those of `epoll_ctl(2)`.
    pub fn modify(&self, fd: impl AsFd, token: Token, interest: Ready) -> io::Result<()> {
        Ok(epoll::modify(&self.epoll, fd, EventData::new_u64(token.pack()), interest)?)
    }

    /// Stops watching `fd`. To be called before `fd` is closed where it may have duplicates.
    ///
    /// # Errors
    /// Those of `epoll_ctl(2)`.
    pub fn remove(&self, fd: impl AsFd) -> io::Result<()> {
        Ok(epoll::delete(&self.epoll, fd)?)
    }

    /// Waits until something is ready or `timeout` has passed, in whole milliseconds rounded up
    /// (`None`: for ever), and returns how many events there are; [`event`](Self::event) gives
    /// each.
    ///
    /// # Errors
    /// Those of `epoll_pwait(2)`; an interrupting signal is no error but 0 events.
    pub fn wait(&mut self, timeout: Option<Duration>) -> io::Result<usize> {
        let timeout = timeout.map(|t| rustix::event::Timespec {
            tv_sec: i64::try_from(t.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: t.subsec_nanos().into(),
        });
        self.events.clear();
        match epoll::wait(&self.epoll, spare_capacity(&mut self.events), timeout.as_ref()) {
            Ok(n) => Ok(n),
            Err(rustix::io::Errno::INTR) => Ok(0),
            Err(e) => Err(e.into()),
        }
    }

    /// The `i`th event of the last wait.
    pub fn event(&self, i: usize) -> (Token, Ready) {
        let event = &self.events[i];
        // Copied out of a packed struct.
        let (data, flags) = (event.data, event.flags);
        (Token::unpack(data.u64()), flags)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_round_trip() {
        for source in [Source::Control, Source::Port, Source::Backend(0), Source::Backend(127)] {
            let token = Token::with_generation(source, u32::MAX - 1, 0x12_3456);
            assert_eq!(Token::unpack(token.pack()), token);
        }
    }

    #[test]
    fn a_ready_source_is_named() {
        let mut poller = Poller::new().unwrap();
        let (a, b) = std::os::unix::net::UnixStream::pair().unwrap();
        let token = Token::new(Source::Backend(1), 7);
        poller.add(&a, token, Ready::IN).unwrap();
        assert_eq!(poller.wait(Some(Duration::ZERO)).unwrap(), 0);
        rustix::io::write(&b, b"x").unwrap();
        assert_eq!(poller.wait(Some(Duration::from_secs(5))).unwrap(), 1);
        assert_eq!(poller.event(0), (token, Ready::IN));
    }
}
