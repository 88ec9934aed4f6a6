//! The `minivmm` command.

mod command;

use std::process::ExitCode;

use clap::CommandFactory;
use minivmm::exit::{self, Exit, Outcome};
use minivmm::{Error, ProcessStart, Timings};
use serde_json::json;

use self::command::cli::{self, Asked, Command, ManArgs, OrderArgs, RunArgs};
use self::command::error::CommandError;
use self::command::log::{self, Style};
use self::command::machines::{self, Order, StatsStyle};
use self::command::monitor::{self, RunOptions};
use self::command::{detach, runtime, table, terminal};

fn main() -> ExitCode {
    let start = ProcessStart::now();
    terminal::restore_on_panic();
    let command = match cli::parse() {
        Ok(Asked::For(command)) => command,
        Ok(Asked::Text(text)) => return say(&text).into(),
        Err(line) => {
            let json = std::env::args_os().any(|arg| arg == "--json");
            return refuse(style(json), &line, exit::CONFIG).into();
        }
    };
    let status = match &*command {
        Command::Run(args) if args.detach && !args.detached => return detach(args).into(),
        Command::Run(args) => run(args, start),
        Command::Completions(args) => return say(&args.text(cli::Cli::command())).into(),
        Command::Man(args) => return pages(args).into(),
        other => ask(other),
    };
    runtime::tidy();
    status.into()
}

fn run(args: &RunArgs, start: ProcessStart) -> u8 {
    let style = style(args.json);
    if args.detached {
        detach::leave();
    }
    log::init(style, args.verbose);
    let options =
        RunOptions { json: args.json, detached: args.detached, timeout: args.timeout, start };
    let show = |timings: &Timings| {
        if args.timings {
            show_timings(style, timings);
        }
    };
    let (origin, config) = args.config();
    let config = config.map_err(Error::from).map_err(CommandError::from);
    let result = config.and_then(|config| monitor::run(&config, options, show));
    log::settle(style);
    match result {
        Ok(outcome) => end(style, args.verbose, &outcome),
        Err(e) => refuse(style, &e.words(&origin), e.status()),
    }
}

/// Runs a machine in another process, which goes on.
fn detach(args: &RunArgs) -> u8 {
    let style = style(args.json);
    let started = detach::start().map_err(CommandError::host("start a process"));
    let told = started.and_then(|started| match started {
        Ok(running) if args.json => table::line(&json!(running)).map(|()| exit::OK),
        Ok(running) => table::write(&format!("{}\n", running.name)).map(|()| exit::OK),
        Err(status) => Ok(status),
    });
    told.unwrap_or_else(|e| refuse(style, &e.to_string(), e.status()))
}

/// Prints what was asked for.
fn say(text: &str) -> u8 {
    match table::write(text) {
        Ok(()) => exit::OK,
        Err(e) => refuse(Style::Text, &e.to_string(), e.status()),
    }
}

/// Writes the manual.
fn pages(args: &ManArgs) -> u8 {
    match args.write(cli::Cli::command()).map_err(CommandError::host("write manual pages")) {
        Ok(()) => exit::OK,
        Err(e) => refuse(Style::Text, &e.to_string(), e.status()),
    }
}

/// Speaks with machines that run.
fn ask(command: &Command) -> u8 {
    let asked = runtime::registry().map_err(CommandError::from).and_then(|registry| {
        let order =
            |args: &OrderArgs, order| machines::order(&registry, &args.names, order, args.json);
        match command {
            Command::Run(_) | Command::Completions(_) | Command::Man(_) => {
                unreachable!("it is no question")
            }
            Command::Ps(args) => machines::ps(&registry, args.json),
            Command::Inspect(args) => machines::inspect(&registry, &args.names),
            Command::Stop(args) => {
                machines::order(&registry, &args.names, Order::Stop(args.timeout), args.json)
            }
            Command::Kill(args) => order(args, Order::Kill),
            Command::Pause(args) => order(args, Order::Pause),
            Command::Resume(args) => order(args, Order::Resume),
            Command::Wait(args) => machines::wait(&registry, &args.name, args.json),
            Command::Events(args) => machines::events(&registry, &args.name),
            Command::Stats(args) => {
                let style = match (args.json, args.prometheus) {
                    (true, _) => StatsStyle::Json,
                    (_, true) => StatsStyle::Prometheus,
                    _ => StatsStyle::Table,
                };
                machines::stats(&registry, args.name.as_deref(), style, args.watch)
            }
            Command::Logs(args) => {
                machines::logs(&registry, &args.name, args.messages, args.follow)
            }
        }
    });
    asked.unwrap_or_else(|e| refuse(Style::Text, &e.to_string(), e.status()))
}

fn style(json: bool) -> Style {
    if json { Style::Json } else { Style::Text }
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
