//! The report: one line per check, as a table or as JSON.

use core::fmt::{self, Arguments, Display, Write};

use minivmm_probe::cmdline::Options;
use minivmm_probe::json::Object;
use minivmm_probe::names::Names;

use crate::console::Line;

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It works.
    Ok,
    /// There is nothing to check, and nothing said that there should be.
    Absent,
    /// It should work and does not.
    Failed,
}

/// A member of a check's JSON object.
#[derive(Clone, Copy)]
pub enum Value<'a> {
    /// A number.
    Number(u64),
    /// A text.
    Text(&'a dyn Display),
    /// A boolean.
    Bool(bool),
    /// Left out.
    None,
}

impl Value<'_> {
    /// A number, left out if there is none.
    pub fn optional(number: Option<u64>) -> Self {
        number.map_or(Self::None, Self::Number)
    }
}

/// Counts and prints checks.
pub struct Report {
    json: bool,
    expected: Names,
    /// Those that were made.
    checks: u32,
    failed: u32,
    absent: u32,
    /// What ended as `ok` or failed.
    settled: Names,
}

impl Report {
    /// An empty report.
    pub fn new(options: &Options<'_>) -> Self {
        Self {
            json: options.json,
            expected: options.expected(),
            checks: 0,
            failed: 0,
            absent: 0,
            settled: Names::NONE,
        }
    }

    /// Whether nothing failed.
    pub fn ok(&self) -> bool {
        self.failed == 0
    }

    /// Adds and prints a check. One that is expected fails if it is absent.
    pub fn check(
        &mut self,
        name: &str,
        state: State,
        detail: Arguments<'_>,
        members: &[(&str, Value<'_>)],
    ) {
        let state =
            if state == State::Absent && self.expected.has(name) { State::Failed } else { state };
        self.failed += u32::from(state == State::Failed);
        if state == State::Absent {
            self.absent += 1;
        } else {
            self.checks += 1;
            self.settled.add(name);
        }
        self.print(name, state, detail, members);
    }

    /// Adds checks for which there is nothing to do.
    pub fn absent(&mut self, names: &[&str], why: Arguments<'_>) {
        for name in names {
            self.check(name, State::Absent, why, &[]);
        }
    }

    /// Prints a line that is not counted as a check, though it may be expected.
    pub fn note(&mut self, name: &str, detail: Arguments<'_>, members: &[(&str, Value<'_>)]) {
        self.met(name);
        self.print(name, State::Ok, detail, members);
    }

    /// What is said otherwise holds.
    pub fn met(&mut self, name: &str) {
        self.settled.add(name);
    }

    /// Fails what is expected and did not come up. To be called when nothing more will.
    pub fn settle(&mut self) {
        for name in self.expected.without(self.settled).iter() {
            self.check(name, State::Failed, format_args!("expected, but not checked"), &[]);
        }
    }

    fn print(
        &self,
        name: &str,
        state: State,
        detail: Arguments<'_>,
        members: &[(&str, Value<'_>)],
    ) {
        let mut line = Line::new();
        // Writing to a `Line` cannot fail.
        let _ = if self.json {
            json(&mut line, name, state, detail, members)
        } else {
            let word = match state {
                State::Ok => "ok",
                State::Absent => "absent",
                State::Failed => "FAILED",
            };
            writeln!(line, "{name:<9} {word:<7} {detail}")
        };
    }

    /// The last line.
    pub fn summary(&mut self, micros: u64) {
        self.settle();
        let mut line = Line::new();
        let ok = self.ok();
        let (made, failed, absent) = (self.checks, self.failed, self.absent);
        // Writing to a `Line` cannot fail.
        let _ = if self.json {
            let members = [
                ("checks", made.into()),
                ("failed", failed.into()),
                ("absent", absent.into()),
                ("total_us", micros),
            ];
            summary(&mut line, ok, &members)
        } else {
            table(&mut line, made, failed, absent, micros / 1000)
        };
    }
}

fn table(line: &mut Line, made: u32, failed: u32, absent: u32, millis: u64) -> fmt::Result {
    let word = if made == 1 { "check" } else { "checks" };
    match failed {
        0 => write!(line, "probe: ok, {made} {word}")?,
        _ => write!(line, "probe: FAILED, {failed} of {made} {word}")?,
    }
    if absent > 0 {
        write!(line, ", {absent} absent")?;
    }
    writeln!(line, ", in {millis} ms")
}

fn json(
    line: &mut Line,
    name: &str,
    state: State,
    detail: Arguments<'_>,
    members: &[(&str, Value<'_>)],
) -> fmt::Result {
    let mut object = Object::new(line)?;
    object.text("check", format_args!("{name}"))?;
    let state = match state {
        State::Ok => "ok",
        State::Absent => "absent",
        State::Failed => "failed",
    };
    object.text("state", format_args!("{state}"))?;
    for (key, value) in members {
        match value {
            Value::Number(number) => object.number(key, *number)?,
            Value::Text(text) => object.text(key, format_args!("{text}"))?,
            Value::Bool(value) => object.boolean(key, *value)?,
            Value::None => {}
        }
    }
    object.text("detail", detail)?;
    object.finish()?;
    line.write_char('\n')
}

fn summary(line: &mut Line, ok: bool, members: &[(&str, u64)]) -> fmt::Result {
    let mut object = Object::new(line)?;
    object.text("check", format_args!("summary"))?;
    object.boolean("ok", ok)?;
    for (key, value) in members {
        object.number(key, *value)?;
    }
    object.finish()?;
    line.write_char('\n')
}
