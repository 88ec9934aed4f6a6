//! Each command, for one machine and for many.

use std::io::{BufRead, BufReader};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::host::{Host, SERVE};

#[test]
fn one_machine_from_its_start_to_its_end() {
    let host = Host::new();
    host.start_ready("one");
    let table = host.text(["ps"]);
    let lines: Vec<_> = table.lines().collect();
    assert!(lines[0].starts_with("NAME  PID") && lines[1].starts_with("one   "), "{table}");
    assert!(lines[1].contains("running  1     256M    nat      0"), "{table}");

    let info: Value = serde_json::from_str(&host.text(["inspect", "one"])).unwrap();
    assert_eq!(info["name"], "one");
    assert_eq!(info["ports"][0]["mode"], "nat");

    assert_eq!(host.text(["pause", "one"]), "one\n");
    assert!(host.text(["ps"]).contains("paused"));
    assert_eq!(host.text(["pause", "one"]), "one\n");
    let resumed = host.objects(["resume", "one", "--json"]);
    assert_eq!(resumed, [json!({ "name": "one", "state": "running" })]);

    let stats = host.objects(["stats", "one", "--json"]);
    assert_eq!(stats[0]["name"], "one");
    assert!(stats[0]["ports"][0]["tx_frames"].as_u64().unwrap() > 0, "{stats:?}");
    assert!(stats[0]["exits"]["pio"].as_u64().unwrap() > 0, "{stats:?}");
    assert!(host.text(["stats"]).lines().nth(1).unwrap().starts_with("one   net0"));

    assert_eq!(host.text(["logs", "one", "--messages"]), "");

    // The probe does not listen to the power button: it is not waited for.
    let start = Instant::now();
    let stopped = host.objects(["stop", "one", "--json", "-t", "600"]);
    assert_eq!(stopped, [json!({ "name": "one", "status": 143, "reason": "stopped by request" })]);
    assert!(start.elapsed() < Duration::from_secs(60));
    host.is_empty();
}

fn each_command_for(count: usize) {
    let host = Host::new();
    let names = host.start_many(count);
    let mut listed = host.names();
    listed.sort_by_key(|name| name[2..].parse::<usize>().unwrap());
    assert_eq!(listed, names);
    let to_all = |command: &str| {
        let mut words = vec![command.to_owned()];
        words.extend(names.iter().cloned());
        host.text(words)
    };
    let lines: String = names.iter().map(|name| format!("{name}\n")).collect();
    assert_eq!(to_all("pause"), lines);
    assert_eq!(host.text(["ps"]).matches("paused").count(), count);
    assert_eq!(to_all("resume"), lines);
    assert_eq!(to_all("inspect").matches("\"running\"").count(), count);
    assert_eq!(host.objects(["stats", "--json"]).len(), count);
    let waits: Vec<_> = names
        .iter()
        .map(|name| {
            let mut command = host.command(["wait", name, "--json"]);
            (name, command.spawn().unwrap())
        })
        .collect();
    let mut events: Vec<_> =
        names.iter().map(|name| host.command(["events", name]).spawn().unwrap()).collect();
    // They listen once a pause is heard by each.
    let heard: Vec<_> = events
        .iter_mut()
        .map(|child| BufReader::new(child.stdout.take().unwrap()).lines())
        .collect();
    std::thread::scope(|scope| {
        let readers: Vec<_> = heard
            .into_iter()
            .map(|mut lines| scope.spawn(move || (lines.next().unwrap().unwrap(), lines)))
            .collect();
        while !readers.iter().all(std::thread::ScopedJoinHandle::is_finished) {
            to_all("pause");
            to_all("resume");
        }
        assert_eq!(to_all("kill"), lines);
        for reader in readers {
            let (first, rest) = reader.join().unwrap();
            let first: Value = serde_json::from_str(&first).unwrap();
            assert!(["paused", "resumed"].contains(&first["event"].as_str().unwrap()), "{first}");
            let last: Value = serde_json::from_str(&rest.last().unwrap().unwrap()).unwrap();
            assert_eq!((&last["event"], &last["status"]), (&json!("ended"), &json!(137)));
        }
    });
    for (name, wait) in waits {
        let output = wait.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(137), "{output:?}");
        let end: Value = serde_json::from_slice(&output.stdout).unwrap();
        let want = json!({ "name": name, "status": 137, "reason": "killed by request" });
        assert_eq!(end, want);
    }
    for mut child in events {
        assert!(child.wait().unwrap().success());
    }
    host.is_empty();
}

#[test]
fn each_command_for_two() {
    each_command_for(2);
}

#[test]
fn each_command_for_fifty() {
    each_command_for(50);
}

#[test]
fn what_is_not_there_is_one_line_and_a_status() {
    let host = Host::new();
    for command in ["inspect", "stop", "kill", "pause", "resume", "wait", "events", "stats", "logs"]
    {
        for name in ["nobody", "../machines", ""] {
            let output = host.run([command, name]);
            assert_eq!(output.status.code(), Some(68), "{output:?}");
            assert!(output.stdout.is_empty());
            let line = String::from_utf8(output.stderr).unwrap();
            let want =
                format!("minivmm: no machine is named {name} (minivmm ps lists those that run)\n");
            assert_eq!(line, want);
        }
    }
}

/// The others are told all the same.
#[test]
fn one_that_is_not_there_keeps_no_other_from_its_end() {
    let host = Host::new();
    host.start("one");
    let output = host.run(["kill", "nobody", "one"]);
    assert_eq!(output.status.code(), Some(68));
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "one\n");
    host.is_empty();
}

#[test]
fn a_name_is_one_machines_at_a_time() {
    let host = Host::new();
    host.start("one");
    let pid = host.pid("one");
    for detach in [&["-d"][..], &[]] {
        let output = host.run(["run", "--name", "one"].iter().chain(detach).chain(&SERVE));
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        let line = String::from_utf8(output.stderr).unwrap();
        let want = format!(
            "minivmm: the name one is taken by a machine that runs, process {pid} (choose another \
             --name, or minivmm stop it)\n"
        );
        assert_eq!(line, want);
    }
    host.text(["kill", "one"]);
    host.start("one");
    host.text(["kill", "one"]);
    host.is_empty();
}

/// What a start fails by is what `run -d` says and returns.
#[test]
fn a_start_that_fails_is_said_to_who_waits() {
    let host = Host::new();
    let output = host.run(["run", "-d", "--kernel", "/nonexistent"]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(output.stdout.is_empty());
    let line = String::from_utf8(output.stderr).unwrap();
    assert!(line.starts_with("minivmm: --kernel: cannot open /nonexistent: "), "{line}");
    assert_eq!(line.lines().count(), 1);
    host.is_empty();
}

#[test]
fn without_a_name_one_is_made() {
    let host = Host::new();
    let running = host.objects(["run", "-d", "--json"].iter().chain(&SERVE));
    let name = running[0]["name"].as_str().unwrap();
    assert_eq!(host.names(), [name]);
    assert_eq!(running[0]["pid"], host.pid(name));
    host.text(["kill", name]);
    host.is_empty();
}

/// The status of a machine that ends by itself is what `wait` returns, also where nobody asked
/// before its end.
#[test]
fn a_machine_that_ends_by_itself() {
    let host = Host::new();
    let words = ["run", "-d", "--name", "one", "--cmdline", "probe=hold"];
    host.text(words);
    let wait = host.command(["wait", "one"]).spawn().unwrap();
    let pid = rustix::process::Pid::from_raw(host.pid("one")).unwrap();
    std::thread::sleep(Duration::from_millis(200));
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert_eq!(wait.wait_with_output().unwrap().status.code(), Some(143));
    host.is_empty();
}
