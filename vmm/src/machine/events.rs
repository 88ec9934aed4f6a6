//! What happens to a machine, told to whoever listens.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, SystemTime};

use rustix::event::{EventfdFlags, eventfd};
use serde::{Deserialize, Serialize};

/// Events that wait for one listener. The oldest go where there are more, and are counted.
const WAITING_MAX: usize = 256;

/// Something that happened to a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// When, in milliseconds since 1970-01-01 UTC.
    pub time_ms: u64,
    /// What.
    #[serde(flatten)]
    pub what: What,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum What {
    /// The guest's processors began to run.
    Started,
    /// They were stopped at an instruction boundary.
    Paused,
    /// They run again.
    Resumed,
    /// The guest was asked to power off.
    StopRequested,
    /// The machine has ended. It is the last event.
    Ended {
        /// The exit status of a command that ran it.
        status: u8,
        /// Why, in words.
        reason: String,
    },
    /// The listener was too slow, and has missed events.
    Lost {
        /// How many.
        count: u64,
    },
}

impl Event {
    fn now(what: What) -> Self {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self { time_ms: u64::try_from(now.as_millis()).unwrap_or(u64::MAX), what }
    }
}

/// Where events come from.
#[derive(Debug, Default)]
pub(crate) struct Hub(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    listeners: Vec<Weak<Queue>>,
    /// The last event, once it has come: whoever listens later gets it too.
    ended: Option<Event>,
}

impl Hub {
    /// Tells all who listen. Nothing is told after the end.
    pub(crate) fn tell(&self, what: What) {
        let event = Event::now(what);
        let mut state = self.lock();
        if state.ended.is_some() {
            return;
        }
        state.listeners.retain(|listener| match listener.upgrade() {
            Some(queue) => {
                queue.push(event.clone());
                true
            }
            None => false,
        });
        if matches!(event.what, What::Ended { .. }) {
            state.ended = Some(event);
            state.listeners.clear();
        }
    }

    /// A listener to all that happens from now on.
    ///
    /// # Errors
    /// Those of `eventfd(2)`.
    pub(crate) fn listen(&self) -> io::Result<Events> {
        let queue = Arc::new(Queue {
            waiting: Mutex::default(),
            came: Condvar::new(),
            event: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
        });
        let mut state = self.lock();
        match &state.ended {
            Some(ended) => queue.push(ended.clone()),
            None => state.listeners.push(Arc::downgrade(&queue)),
        }
        Ok(Events { queue, over: false })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug)]
struct Queue {
    waiting: Mutex<Waiting>,
    came: Condvar,
    event: OwnedFd,
}

#[derive(Debug, Default)]
struct Waiting {
    events: VecDeque<Event>,
    lost: u64,
    /// Who awaits the next.
    task: Option<Waker>,
}

impl Queue {
    fn push(&self, event: Event) {
        let mut waiting = self.lock();
        if waiting.events.len() == WAITING_MAX {
            waiting.events.pop_front();
            waiting.lost += 1;
        }
        waiting.events.push_back(event);
        // Fails only when it has been signalled 2^64 - 2 times already.
        let _ = rustix::io::write(&self.event, &1u64.to_ne_bytes());
        let task = waiting.task.take();
        drop(waiting);
        if let Some(task) = task {
            task.wake();
        }
        self.came.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    fn pop(&mut self) -> Option<Event> {
        match std::mem::take(&mut self.lost) {
            0 => self.events.pop_front(),
            count => Some(Event::now(What::Lost { count })),
        }
    }
}

/// The events of a machine, in order, from the moment it was asked for. The last is
/// [`What::Ended`].
///
/// As an iterator it waits for the next. Its descriptor is readable while one waits; reading it is
/// this type's own affair.
#[derive(Debug)]
pub struct Events {
    queue: Arc<Queue>,
    over: bool,
}

impl Events {
    /// The next event, if one waits.
    pub fn try_next(&mut self) -> Option<Event> {
        let mut waiting = self.queue.lock();
        let event = waiting.pop();
        if waiting.events.is_empty() {
            // Reading only resets the counter; nothing depends on its value.
            let _ = rustix::io::read(&self.queue.event, &mut [0; 8]);
        }
        drop(waiting);
        self.seen(event)
    }

    /// The next event, if one comes within `timeout`.
    pub fn next_timeout(&mut self, timeout: Duration) -> Option<Event> {
        if self.over {
            return None;
        }
        let empty = |w: &mut Waiting| w.events.is_empty();
        let waiting = self.queue.lock();
        let result = self.queue.came.wait_timeout_while(waiting, timeout, empty);
        drop(result.unwrap_or_else(PoisonError::into_inner));
        self.try_next()
    }

    /// The next event, for any asynchronous runtime: `std::future::poll_fn` makes a future of it.
    /// `None` after the last.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        if self.over {
            return Poll::Ready(None);
        }
        {
            let mut waiting = self.queue.lock();
            if waiting.events.is_empty() {
                waiting.task = Some(cx.waker().clone());
                return Poll::Pending;
            }
        }
        Poll::Ready(self.try_next())
    }

    /// Whether the last event has been taken.
    pub fn is_over(&self) -> bool {
        self.over
    }

    fn seen(&mut self, event: Option<Event>) -> Option<Event> {
        self.over |= matches!(event, Some(Event { what: What::Ended { .. }, .. }));
        event
    }
}

impl Iterator for Events {
    type Item = Event;

    fn next(&mut self) -> Option<Event> {
        while !self.over {
            if let Some(event) = self.next_timeout(Duration::from_secs(3600)) {
                return Some(event);
            }
        }
        None
    }
}

impl AsFd for Events {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.queue.event.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended() -> What {
        What::Ended { status: 3, reason: "it was time".into() }
    }

    fn words(events: Events) -> Vec<What> {
        events.map(|event| event.what).collect()
    }

    #[test]
    fn whoever_listens_hears_all_until_the_end() {
        let hub = Hub::default();
        let early = hub.listen().unwrap();
        hub.tell(What::Started);
        let late = hub.listen().unwrap();
        hub.tell(What::Paused);
        hub.tell(ended());
        hub.tell(What::Resumed);
        assert_eq!(words(early), [What::Started, What::Paused, ended()]);
        assert_eq!(words(late), [What::Paused, ended()]);
        assert_eq!(words(hub.listen().unwrap()), [ended()]);
    }

    #[test]
    fn who_does_not_read_loses_the_oldest() {
        let hub = Hub::default();
        let events = hub.listen().unwrap();
        for _ in 0..300 {
            hub.tell(What::Paused);
        }
        hub.tell(ended());
        let words = words(events);
        assert_eq!(words[0], What::Lost { count: 301 - WAITING_MAX as u64 });
        assert_eq!(words.len(), WAITING_MAX + 1);
        assert_eq!(words.last(), Some(&ended()));
    }

    #[test]
    fn one_that_has_gone_is_forgotten() {
        let hub = Hub::default();
        drop(hub.listen().unwrap());
        hub.tell(What::Started);
        assert!(hub.lock().listeners.is_empty());
    }

    #[test]
    fn an_event_is_one_flat_object() {
        let event = Event { time_ms: 5, what: ended() };
        let text = serde_json::to_string(&event).unwrap();
        assert_eq!(text, r#"{"time_ms":5,"event":"ended","status":3,"reason":"it was time"}"#);
        assert_eq!(serde_json::from_str::<Event>(&text).unwrap(), event);
    }
}
