//! The `minivmm` command.

use std::process::ExitCode;
use std::time::Instant;

use minivmm::cli::{self, Command, RunArgs};
use minivmm::exit::{self, Exit};
use minivmm::log::{self, Style};
use minivmm::monitor::{self, RunOptions};
use minivmm::{terminal, timings::Timings};
use serde_json::json;

fn main() -> ExitCode {
    let started = Instant::now();
    terminal::restore_on_panic();
    let cli = match cli::parse() {
        Ok(cli) => cli,
        Err(line) => {
            log::message(Style::Text, "error", &line);
            return exit::CONFIG.into();
        }
    };
    let Command::Run(args) = cli.command;
    run(&args, started).into()
}

fn run(args: &RunArgs, started: Instant) -> u8 {
    let style = if args.json { Style::Json } else { Style::Text };
    log::init(style, args.verbose);
    let options = RunOptions { json: args.json, started };
    let show = |timings: &Timings| {
        if args.timings {
            show_timings(style, timings);
        }
    };
    let result = args.config().map_err(Into::into).and_then(|c| monitor::run(&c, options, show));
    let outcome = match result {
        Ok(outcome) => outcome,
        Err(e) => {
            log::message(style, "error", &e.to_string());
            return e.status();
        }
    };
    let status = outcome.status();
    match (&outcome.exit, style) {
        (exit, Style::Json) => {
            eprintln!(
                "{}",
                json!({ "event": "exit", "status": status, "reason": exit.to_string() })
            );
        }
        (Exit::Crash(_), Style::Text) => log::message(style, "error", &outcome.exit.to_string()),
        (exit, Style::Text) if args.verbose > 0 => log::message(style, "info", &exit.to_string()),
        _ => {}
    }
    status
}

fn show_timings(style: Style, timings: &Timings) {
    match style {
        Style::Text => log::message(style, "info", &timings.to_string()),
        Style::Json => {
            let phases: serde_json::Map<_, _> = timings
                .phases()
                .into_iter()
                .map(|(name, d)| (name.replace(' ', "_"), json!(d.as_secs_f64() * 1e3)))
                .collect();
            eprintln!("{}", json!({ "event": "timings", "milliseconds": phases }));
        }
    }
}
