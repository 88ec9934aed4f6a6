//! The `minivmm` command.

mod command;

use std::process::ExitCode;

use minivmm::exit::{self, Exit, Outcome};
use minivmm::{Error, ProcessStart, Timings};
use serde_json::json;

use self::command::cli::{self, Command, RunArgs};
use self::command::log::{self, Style};
use self::command::monitor::{self, RunOptions};
use self::command::terminal;

fn main() -> ExitCode {
    let start = ProcessStart::now();
    terminal::restore_on_panic();
    let cli = match cli::parse() {
        Ok(cli) => cli,
        Err(line) => {
            let json = std::env::args_os().any(|arg| arg == "--json");
            return refuse(if json { Style::Json } else { Style::Text }, &line, exit::CONFIG)
                .into();
        }
    };
    let Command::Run(args) = cli.command;
    run(&args, start).into()
}

fn run(args: &RunArgs, start: ProcessStart) -> u8 {
    let style = if args.json { Style::Json } else { Style::Text };
    log::init(style, args.verbose);
    let options = RunOptions { json: args.json, start };
    let show = |timings: &Timings| {
        if args.timings {
            show_timings(style, timings);
        }
    };
    let config = args.config().map_err(Error::from);
    let result = config.and_then(|config| monitor::run(&config, options, show));
    log::settle(style);
    match result {
        Ok(outcome) => end(style, args.verbose, &outcome),
        Err(e) => refuse(style, &e.to_string(), e.status()),
    }
}

/// Says how the machine ended, where that is to be said.
fn end(style: Style, verbose: u8, outcome: &Outcome) -> u8 {
    let status = outcome.status();
    let reason = outcome.reason();
    match (&outcome.exit, style) {
        (_, Style::Json) => show_exit(status, &reason),
        (Exit::Panic | Exit::Crash(_) | Exit::Refused(_), Style::Text) => {
            log::message(style, "error", &reason);
        }
        (_, Style::Text) if verbose > 0 => log::message(style, "info", &reason),
        _ => {}
    }
    status
}

/// Says why there is no machine.
fn refuse(style: Style, line: &str, status: u8) -> u8 {
    match style {
        Style::Text => log::message(style, "error", line),
        Style::Json => show_exit(status, line),
    }
    status
}

fn show_exit(status: u8, reason: &str) {
    log::event("exit", &[("status", json!(status)), ("reason", json!(reason))]);
}

fn show_timings(style: Style, timings: &Timings) {
    match style {
        Style::Text => log::message(style, "info", &timings.to_string()),
        Style::Json => {
            let milliseconds = |(name, took): (&str, std::time::Duration)| {
                (name.replace(' ', "_"), json!(took.as_secs_f64() * 1e3))
            };
            let phases: serde_json::Map<_, _> =
                timings.phases().into_iter().map(milliseconds).collect();
            log::event("timings", &[("milliseconds", json!(phases))]);
        }
    }
}
