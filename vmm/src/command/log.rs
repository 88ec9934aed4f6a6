//! Messages on standard error: a line each, as text or as JSON.
//!
//! A reader that has stopped must not stop us: a message of a running machine that can't be written
//! at once is dropped and counted. The last ones wait, as the console's output does.

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use minivmm::console::Destination;
use minivmm::control::LogFile;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use rustix::io::Errno;

use serde_json::{Value, json};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

use super::{stream, terminal};

/// How long a message waits for the reader where the user has ended the machine.
pub(crate) const LINGER: Duration = Duration::from_millis(200);
/// What a pipe that is ready takes whole (`PIPE_BUF`).
const PART: usize = 4096;

/// Messages that were dropped and not yet told of.
static LOST: AtomicU64 = AtomicU64::new(0);
/// The user has ended the machine.
static HURRIED: AtomicBool = AtomicBool::new(false);

/// Where messages go that have no reader any more: those of a detached machine.
static FILE: Mutex<Option<LogFile>> = Mutex::new(None);

/// From now on messages go to a file, in place of standard error.
pub fn keep(file: LogFile) {
    *FILE.lock().unwrap_or_else(PoisonError::into_inner) = Some(file);
}

/// How messages are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// `minivmm: text`.
    Text,
    /// One object a line.
    Json,
}

/// Writes one message, as one line whatever is in it, and waits until it has been taken.
pub fn message(style: Style, level: &str, text: &str) {
    send(style, &format_message(style, level, text), wait());
}

/// Writes one object; `fields` come after its kind.
pub fn event(kind: &str, fields: &[(&str, Value)]) {
    let mut object = serde_json::Map::new();
    object.insert("event".into(), kind.into());
    object.extend(fields.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
    send(Style::Json, &Value::Object(object).to_string(), wait());
}

/// From now on nothing waits longer than [`LINGER`]: the user has ended the machine.
pub(crate) fn hurry() {
    HURRIED.store(true, Ordering::Relaxed);
}

/// Says how many messages were dropped, if that has not been said.
pub fn settle(style: Style) {
    if LOST.load(Ordering::Relaxed) > 0 {
        send(style, "", wait());
    }
}

fn wait() -> Option<Duration> {
    HURRIED.load(Ordering::Relaxed).then_some(LINGER)
}

fn format_message(style: Style, level: &str, text: &str) -> String {
    match style {
        Style::Text if level == "error" || level == "info" => format!("minivmm: {text}"),
        Style::Text => format!("minivmm: {level}: {text}"),
        Style::Json => json!({ "event": "message", "level": level, "message": text }).to_string(),
    }
}

/// Writes a line, behind word of those that were lost before it. It waits for `patience` where the
/// reader does not keep up, or for as long as it takes.
fn send(style: Style, text: &str, patience: Option<Duration>) {
    let lost = LOST.swap(0, Ordering::Relaxed);
    let mut lines = String::new();
    if lost > 0 {
        let notice = format!("{lost} messages were lost: standard error did not take them");
        line(&mut lines, &format_message(style, "warn", &notice));
    }
    if !text.is_empty() {
        line(&mut lines, text);
    }
    if let Some(file) = &mut *FILE.lock().unwrap_or_else(PoisonError::into_inner) {
        // There is nobody to tell of a full disk.
        let _ = file.put(lines.as_bytes());
        return;
    }
    if !write(stderr(), lines.as_bytes(), patience) {
        LOST.fetch_add(lost + u64::from(!text.is_empty()), Ordering::Relaxed);
    }
}

/// Names of files and interfaces may hold anything.
fn line(lines: &mut String, text: &str) {
    for c in text.chars() {
        if c.is_control() {
            lines.extend(c.escape_default());
        } else {
            lines.push(c);
        }
    }
    lines.push_str(terminal::line_end());
}

fn stderr() -> BorrowedFd<'static> {
    static OWN: OnceLock<Option<OwnedFd>> = OnceLock::new();
    let inherited = rustix::stdio::stderr();
    OWN.get_or_init(|| stream::reopen(inherited, OFlags::WRONLY))
        .as_ref()
        .map_or(inherited, AsFd::as_fd)
}

/// False where `out` did not take all of it in time. In parts of what a pipe takes whole, so that
/// one which is ready does not block, whether or not it was set not to.
fn write(out: BorrowedFd<'_>, bytes: &[u8], patience: Option<Duration>) -> bool {
    let end = patience.map(|patience| Instant::now() + patience);
    for mut part in bytes.chunks(PART) {
        while !part.is_empty() {
            let left = end.map(|end| end.saturating_duration_since(Instant::now()));
            let timeout = left.and_then(|left| Timespec::try_from(left).ok());
            match poll(&mut [PollFd::new(&out, PollFlags::OUT)], timeout.as_ref()) {
                Err(Errno::INTR) => continue,
                Ok(0) => return false,
                Ok(_) | Err(_) => {}
            }
            match rustix::io::write(out, part) {
                Ok(n) => part = &part[n..],
                Err(Errno::INTR) => {}
                // Somebody else was quicker.
                Err(Errno::AGAIN) if left != Some(Duration::ZERO) => {}
                Err(Errno::AGAIN) => return false,
                // There is nobody left to tell where standard error is closed or full.
                Err(_) => return true,
            }
        }
    }
    true
}

struct Lines {
    style: Style,
    max: Level,
}

impl<S: Subscriber> Layer<S> for Lines {
    fn enabled(&self, metadata: &tracing::Metadata<'_>, _: Context<'_, S>) -> bool {
        *metadata.level() <= self.max
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut text = Text(String::new());
        event.record(&mut text);
        let level = event.metadata().level().as_str().to_ascii_lowercase();
        send(self.style, &format_message(self.style, &level, &text.0), Some(Duration::ZERO));
    }
}

/// An event's message with its other fields behind it.
struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        use fmt::Write;
        // Writing to a string can't fail.
        let _ = if field.name() == "message" {
            let message = format!("{value:?}");
            self.0.insert_str(0, &message);
            Ok(())
        } else {
            write!(self.0, " {}={value:?}", field.name())
        };
    }
}

/// Sends what the crates log through `tracing` to standard error: warnings and errors, with
/// `verbose` 1 information and with 2 debugging too.
pub fn init(style: Style, verbose: u8) {
    let max = match verbose {
        0 => Level::WARN,
        1 => Level::INFO,
        _ => Level::DEBUG,
    };
    // Fails only where a library user has set a subscriber, which then stands.
    let _ = tracing_subscriber::registry().with(Lines { style, max }).try_init();
}
