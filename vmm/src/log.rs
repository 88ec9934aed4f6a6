//! Messages on standard error: a line each, as text or as JSON.

use std::fmt;
use std::io::{self, Write};

use serde_json::{Value, json};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

use crate::terminal;

/// How messages are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// `minivmm: text`.
    Text,
    /// One object a line.
    Json,
}

/// Writes one message, as one line whatever is in it.
pub fn message(style: Style, level: &str, text: &str) {
    match style {
        Style::Text if level == "error" || level == "info" => line(&format!("minivmm: {text}")),
        Style::Text => line(&format!("minivmm: {level}: {text}")),
        Style::Json => {
            line(&json!({ "event": "message", "level": level, "message": text }).to_string());
        }
    }
}

/// Writes one object; `fields` come after its kind.
pub fn event(kind: &str, fields: &[(&str, Value)]) {
    let mut object = serde_json::Map::new();
    object.insert("event".into(), kind.into());
    object.extend(fields.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
    line(&Value::Object(object).to_string());
}

/// Names of files and interfaces may hold anything.
fn line(text: &str) {
    let mut line = String::with_capacity(text.len() + 2);
    for c in text.chars() {
        if c.is_control() {
            line.extend(c.escape_default());
        } else {
            line.push(c);
        }
    }
    line.push_str(terminal::line_end());
    // There is nobody left to tell where standard error is closed or full.
    let _ = io::stderr().write_all(line.as_bytes());
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
        message(self.style, &level, &text.0);
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
