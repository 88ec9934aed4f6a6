//! Tables for people, lines for programs.

use std::io::{self, Write};

use minivmm::Error;
use rustix::termios::{isatty, tcgetwinsize};
use serde_json::Value;

use super::error::CommandError;

/// Rows of words below a head.
#[derive(Debug)]
pub struct Table<const N: usize> {
    rows: Vec<[String; N]>,
}

impl<const N: usize> Table<N> {
    /// A table with a head alone.
    pub fn new(head: [&str; N]) -> Self {
        Self { rows: vec![head.map(str::to_owned)] }
    }

    /// Adds a row.
    pub fn row(&mut self, row: [String; N]) {
        self.rows.push(row);
    }

    /// Writes it to standard output. On a terminal each line ends where that does.
    ///
    /// # Errors
    /// Those of writing.
    pub fn print(&self) -> Result<(), CommandError> {
        let stdout = io::stdout();
        let width = isatty(&stdout).then(|| tcgetwinsize(&stdout).ok()).flatten();
        let width = width.map(|size| usize::from(size.ws_col)).filter(|width| *width > 0);
        write(&self.text(width.unwrap_or(usize::MAX)))
    }

    fn text(&self, width: usize) -> String {
        let widest = |column: usize| {
            self.rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<_> = (0..N).map(widest).collect();
        let mut text = String::new();
        for row in &self.rows {
            let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}  "));
            let line: String = cells.collect();
            text.extend(line.trim_end().chars().take(width));
            text.push('\n');
        }
        text
    }
}

/// Writes one object as a line.
///
/// # Errors
/// Those of writing.
pub fn line(object: &Value) -> Result<(), CommandError> {
    write(&format!("{object}\n"))
}

/// Writes text to standard output.
///
/// # Errors
/// Those of writing.
pub fn write(text: &str) -> Result<(), CommandError> {
    let mut out = io::stdout();
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    written.map_err(|e| Error::host("write to standard output")(e).into())
}

/// A time in seconds, by its two largest units.
pub fn time(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m{:02}s", seconds % 60),
        (0, _, _) => format!("{hours}h{:02}m", minutes % 60),
        _ => format!("{days}d{:02}h", hours % 24),
    }
}

/// Bytes, by the largest binary unit that leaves a whole number.
pub fn bytes(n: u64) -> String {
    const UNITS: [&str; 4] = ["B", "KiB", "MiB", "GiB"];
    let unit = (0..UNITS.len()).rev().find(|unit| n >> (10 * unit) > 0).unwrap_or(0);
    let value = n as f64 / (1_u64 << (10 * unit)) as f64;
    match unit {
        0 => format!("{n}B"),
        _ => format!("{value:.1}{}", UNITS[unit]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_stand_below_each_other_and_fit() {
        let mut table = Table::new(["NAME", "PID"]);
        table.row(["a-long-name".into(), "7".into()]);
        table.row(["x".into(), "12345".into()]);
        assert_eq!(table.text(80), "NAME         PID\na-long-name  7\nx            12345\n");
        assert_eq!(table.text(8), "NAME    \na-long-n\nx       \n");
    }

    #[test]
    fn figures_are_short() {
        let times = [(0, "0s"), (59, "59s"), (61, "1m01s"), (3661, "1h01m"), (90_000, "1d01h")];
        for (seconds, text) in times {
            assert_eq!(time(seconds), text);
        }
        let sizes = [(0, "0B"), (1023, "1023B"), (1536, "1.5KiB"), (5 << 40, "5120.0GiB")];
        for (n, text) in sizes {
            assert_eq!(bytes(n), text);
        }
    }
}
