//! What the documentation names must exist: files, functions, options, networks, configuration
//! keys and drop reasons. What there is must be named: seams, exit statuses, members of JSON lines.
#![expect(clippy::unwrap_used, reason = "a test fails by it")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use minivmm::config::{About, MODES, MachineConfig, NetConfig, PublishConfig};
use minivmm::exit;
use minivmm_net::DropReason;
use minivmm_tests::cli::{self, Minivmm, Outcome};
use rustix::process::Signal;
use serde_json::Value;

/// Folders of the repository that paths in the documentation begin with.
const FOLDERS: [&str; 9] =
    [".ci/", "boot/", "devices/", "docs/", "net/", "resources/", "tests/", "vmm/", "src/"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The documentation: name from the repository's root, and text.
fn pages() -> Vec<(String, String)> {
    let mut names = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "resources/probe/README.md"]
        .map(str::to_owned)
        .to_vec();
    for entry in fs::read_dir(root().join("docs")).expect("there is a folder docs").flatten() {
        names.push(format!("docs/{}", entry.file_name().to_string_lossy()));
    }
    names.retain(|name| name.ends_with(".md"));
    assert!(names.len() >= 8, "{names:?}");
    let read = |name: String| {
        let text = fs::read_to_string(root().join(&name)).expect("the page is text");
        (name, text)
    };
    names.into_iter().map(read).collect()
}

/// A line of a page, and whether it is in a block of code of that language.
struct Line<'a> {
    text: &'a str,
    language: Option<&'a str>,
}

fn lines(page: &str) -> Vec<Line<'_>> {
    let mut language = None;
    let mut lines = Vec::new();
    for text in page.lines() {
        match (text.trim_start().strip_prefix("```"), language) {
            (Some(word), None) => language = Some(word.trim()),
            (Some(_), Some(_)) => language = None,
            (None, language) => lines.push(Line { text, language }),
        }
    }
    lines
}

/// What stands between backticks in a line.
fn spans(line: &str) -> impl Iterator<Item = &str> {
    line.split('`').skip(1).step_by(2)
}

/// A word as it is written without the punctuation around it.
fn bare(word: &str) -> &str {
    word.trim_matches(|c: char| !c.is_ascii_alphanumeric() && !"./-_".contains(c))
        .trim_end_matches(['.', '-'])
}

/// The files that a line names, from the root or, as links are, from the page.
fn files(line: &str) -> Vec<&str> {
    let words = line.split(|c: char| c.is_whitespace() || "`()[]|:,;*\"'<>#".contains(c)).map(bare);
    let names_file = |word: &&str| {
        let known = FOLDERS.iter().any(|folder| word.starts_with(folder));
        let ending = [".rs", ".md", ".s", ".toml"].iter().any(|e| word.ends_with(e));
        let absolute = word.starts_with('/') || word.contains("//") || word.contains("..");
        word.contains('/') && (known || ending) && !absolute
    };
    words.filter(names_file).collect()
}

#[test]
fn files_exist() {
    let mut missing = BTreeSet::new();
    let mut found = 0;
    for (name, text) in pages() {
        let folder = root().join(Path::new(&name).parent().unwrap());
        for file in text.lines().flat_map(files) {
            found += 1;
            if !root().join(file).exists() && !folder.join(file).exists() {
                missing.insert(format!("{name}: {file}"));
            }
        }
    }
    assert!(missing.is_empty(), "{missing:#?}");
    assert!(found > 100, "only {found} files are named: the search is broken");
}

/// What a heading's link is called.
fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.collect::<String>().to_lowercase().replace(' ', "-")
}

#[test]
fn links_lead_somewhere() {
    let mut broken = BTreeSet::new();
    let mut found = 0;
    for (name, text) in pages() {
        let folder = root().join(Path::new(&name).parent().unwrap());
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if link.contains("://") {
                continue;
            }
            found += 1;
            let (file, part) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() { root().join(&name) } else { folder.join(file) };
            let leads = match (target.exists(), part) {
                (exists, "") => exists,
                (false, _) => false,
                (true, part) => fs::read_to_string(&target)
                    .unwrap()
                    .lines()
                    .filter_map(|line| line.strip_prefix('#'))
                    .any(|heading| anchor(heading.trim_start_matches('#').trim()) == part),
            };
            if !leads {
                broken.insert(format!("{name}: {link}"));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
    assert!(found > 20, "only {found} links: the search is broken");
}

/// Names in backticks right behind a file's are those of items in it.
#[test]
fn items_are_where_they_are_said_to_be() {
    let mut missing = BTreeSet::new();
    let mut found = 0;
    let page = fs::read_to_string(root().join("docs/architecture.md")).unwrap();
    for line in lines(&page).iter().filter(|l| l.language.is_none()) {
        let mut source = None;
        let parts: Vec<&str> = line.text.split('`').collect();
        for pair in parts.chunks_exact(2) {
            let [between, span] = pair else { continue };
            if span.ends_with(".rs") && span.contains('/') {
                source = Some((*span, fs::read_to_string(root().join(span)).unwrap_or_default()));
                continue;
            }
            if !matches!(between.trim(), "" | ",") {
                source = None;
            }
            let Some((file, text)) = &source else { continue };
            let words: BTreeSet<_> =
                text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').collect();
            found += 1;
            if !span.split("::").all(|part| words.contains(part)) {
                missing.insert(format!("{file}: {span}"));
            }
        }
    }
    assert!(missing.is_empty(), "{missing:#?}");
    assert!(found > 50, "only {found} items are named: the search is broken");
}

/// The words of each `minivmm run` in a page, and single options in its text.
fn commands(page: &str) -> Vec<Vec<&str>> {
    let mut commands = Vec::new();
    for line in lines(page) {
        let code: Vec<&str> = match line.language {
            Some(_) => vec![line.text],
            None => spans(line.text).collect(),
        };
        for code in code {
            let code = code.split(" # ").next().unwrap_or_default();
            let options = ["minivmm run ", " -- run "]
                .iter()
                .find_map(|start| code.split_once(start))
                .map(|(_, options)| options)
                .or_else(|| Some(code).filter(|c| line.language.is_none() && c.starts_with("--")));
            commands.extend(options.map(|o| o.split_whitespace().map(unquoted).collect()));
        }
    }
    commands
}

/// A word without the quotes of the command that it ends.
fn unquoted(word: &str) -> &str {
    word.trim_matches('\'')
}

/// True where the value of some key is a word for what goes there.
fn is_pattern(value: &str) -> bool {
    let is_placeholder = |v: &str| !v.is_empty() && v.chars().all(|c| c.is_ascii_uppercase());
    value.contains(['…', '['])
        || value.split(',').filter_map(|p| p.split_once('=')).any(|(_, v)| is_placeholder(v))
}

#[test]
fn options_exist() {
    let help = |words: &[&str]| {
        let output = Command::new(cli::binary().unwrap()).args(words).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let mut all = help(&["--help"]);
    // A line for each command, below a head.
    let (_, commands_help) = all.split_once("Commands:\n").expect("help has commands");
    let names: Vec<String> = commands_help
        .lines()
        .map_while(|line| line.strip_prefix("  "))
        .filter_map(|line| line.split_whitespace().next().map(str::to_owned))
        .collect();
    for name in &names {
        all.push_str(&help(&[name, "--help"]));
    }
    assert!(names.iter().any(|name| name == "run") && names.len() > 5, "{names:?}");
    let known: BTreeSet<&str> = all
        .split(|c: char| c.is_whitespace() || c == ',' || c == '.')
        .filter(|word| word.starts_with('-'))
        .collect();
    assert!(known.contains("--kernel") && known.contains("-p"), "{known:?}");
    let mut wrong = BTreeSet::new();
    let mut found = 0;
    for (name, text) in pages() {
        for command in commands(&text) {
            let mut words = command.iter().copied().peekable();
            while let Some(word) = words.next() {
                if word == "|" || word.starts_with('>') {
                    break;
                }
                let option = word.split('=').next().unwrap_or_default();
                if option.starts_with('-') && option != "-" {
                    found += 1;
                    if !known.contains(option) {
                        wrong.insert(format!("{name}: {option} is no option"));
                    }
                }
                let Some(value) = words.peek().filter(|v| !is_pattern(v)) else { continue };
                if option == "--net"
                    && let Err(e) = value.parse::<NetConfig>()
                {
                    wrong.insert(format!("{name}: --net {value}: {e}"));
                }
                if matches!(option, "-p" | "--publish")
                    && let Err(e) = value.parse::<PublishConfig>()
                {
                    wrong.insert(format!("{name}: -p {value}: {e}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(found > 10, "only {found} options are named: the search is broken");
}

#[test]
fn configuration_files_are_taken() {
    let mut found = 0;
    for (name, text) in pages() {
        let toml: Vec<&str> =
            lines(&text).iter().filter(|l| l.language == Some("toml")).map(|l| l.text).collect();
        if toml.is_empty() {
            continue;
        }
        found += 1;
        let config = MachineConfig::from_text(Path::new(&name), &toml.join("\n"));
        config.and_then(|c| c.validate()).unwrap_or_else(|e| panic!("{name}: {e}"));
    }
    assert!(found > 0);
}

/// The tables of keys are those that the parser and help have.
#[test]
fn every_key_of_a_network_has_its_row() {
    let page = fs::read_to_string(root().join("docs/networking.md")).unwrap();
    let mut rest = &page[..];
    for mode in MODES {
        let head = format!("| key of `{}` | says | default |\n|---|---|---|\n", mode.word);
        let (_, table) = rest.split_once(&head).unwrap_or_else(|| panic!("no table: {head}"));
        let rows: Vec<&str> = table.lines().take_while(|line| line.starts_with('|')).collect();
        // A bar would end a cell.
        let cell = |text: &str| text.replace('|', "\\|");
        let row = |key: &About| {
            format!("| `{}` | {} | {} |", cell(&key.usage()), cell(key.help), cell(key.default))
        };
        let want: Vec<String> = mode.keys().iter().map(row).collect();
        assert_eq!(rows, want, "{} has:\n{}", mode.word, want.join("\n"));
        rest = table;
    }
}

#[test]
fn every_drop_reason_is_explained() {
    let page = fs::read_to_string(root().join("docs/networking.md")).unwrap();
    for reason in DropReason::ALL {
        let row = format!("| `{}` |", reason.name());
        assert!(page.contains(&row), "no row for {}", reason.name());
    }
}

/// The rows of a page's tables: the names in the first cell, and all that is in backticks.
fn rows(page: &str) -> Vec<(Vec<&str>, BTreeSet<&str>)> {
    let table = page.lines().filter(|line| line.starts_with("| `"));
    table
        .map(|row| (spans(row.split('|').nth(1).unwrap()).collect(), spans(row).collect()))
        .collect()
}

/// The probe's lines and the monitor's, by runs that make every kind of them.
fn every_json_line() -> Vec<Outcome> {
    let run = |args: &[&str], cmdline: &str| {
        Minivmm::run().args(args).args(["--json", "--cmdline", cmdline])
    };
    let nat = ["--net", "nat"];
    let mut outcomes: Vec<Outcome> = [
        run(&[&nat[..], &["--timings", "-v"]].concat(), ""),
        // Nobody is at that port.
        run(&nat, "probe.peer=10.255.255.1:1 probe.nonsense"),
        run(&nat, "probe.ip=10.255.255.2/24,10.255.255.1 probe.without=dhcp"),
        // The loopback is down, of which there is a message.
        run(&nat, "").under(&["unshare", "--user", "--map-root-user", "--net"]),
        run(&["--nonsense"], ""),
    ]
    .map(|run| run.finish().unwrap())
    .into();
    let mut holding = run(&nat, "probe=hold").start().unwrap();
    holding.wait_for("\"ready\"").unwrap();
    holding.signal(Signal::TERM).unwrap();
    outcomes.push(holding.finish().unwrap());
    outcomes
}

#[test]
fn members_of_json_lines_are_explained() {
    let page = |name: &str| fs::read_to_string(root().join(name)).unwrap();
    let (readme, probes) = (page("README.md"), page("resources/probe/README.md"));
    let mut seen = BTreeSet::new();
    let mut wrong = BTreeSet::new();
    for outcome in every_json_line() {
        for (stream, kind, common, pages) in [
            (&outcome.stdout, "check", &["check", "state", "detail"][..], &[&readme, &probes][..]),
            (&outcome.stderr, "event", &["event"], &[&readme]),
        ] {
            for line in stream.lines() {
                let object: Value = serde_json::from_str(line).expect("a line of JSON");
                let name = object[kind].as_str().expect("a line says what it is");
                seen.insert(name.to_owned());
                for page in pages {
                    let found = rows(page).into_iter().find(|(names, _)| names.contains(&name));
                    let Some((_, explained)) = found else {
                        wrong.insert(format!("no row for {name}"));
                        continue;
                    };
                    let members = object.as_object().expect("an object").keys();
                    for member in members.filter(|m| !common.contains(&m.as_str())) {
                        if !explained.contains(member.as_str()) {
                            wrong.insert(format!("{name}: {member} is not explained"));
                        }
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    let all = "boot link lease gateway mtu dns udp tcp latency upload download ipv6 device ready \
               cmdline summary message timings exit";
    for name in all.split_whitespace() {
        assert!(seen.contains(name), "{name} was not among {seen:?}");
    }
    // Members that only a broken network brings about.
    let mut files = Vec::new();
    sources(&root().join("resources/probe/src/checks"), &mut files);
    let source: String = files.iter().map(|file| fs::read_to_string(file).unwrap()).collect();
    let mut found = 0;
    for member in source.split("(\"").skip(1).filter_map(|rest| rest.split_once("\", ")) {
        let (member, value) = member;
        if value.starts_with("Value::") || value.starts_with("text(") {
            found += 1;
            assert!(readme.contains(&format!("`{member}`")), "{member} is not explained");
        }
    }
    assert!(found > 20, "only {found} members: the search is broken");
}

#[test]
fn exit_statuses_are_the_same_everywhere() {
    let output = Command::new(cli::binary().unwrap()).args(["run", "--help"]).output().unwrap();
    let help = String::from_utf8(output.stdout).unwrap();
    let (_, help) = help.split_once("Exit status:\n").expect("help has statuses");
    let helped: BTreeSet<&str> = help
        .lines()
        .filter_map(|line| line.strip_prefix("  "))
        // A line that goes on is further in.
        .filter(|line| !line.starts_with(' '))
        .filter_map(|line| line.split_whitespace().next())
        .filter(|word| *word != "N")
        .collect();
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let (_, table) = readme.split_once("| status | meaning |\n|---|---|\n").expect("the table");
    let rows = table.lines().map_while(|line| line.strip_prefix("| "));
    let written: BTreeSet<&str> = rows.filter_map(|row| row.split(" |").next()).collect();
    assert_eq!(helped, written);
    let codes = [
        exit::OK,
        exit::CHECK_FAILED,
        exit::CONFIG,
        exit::NO_MACHINE,
        exit::TIMED_OUT,
        exit::KILLED,
        exit::STOPPED,
        exit::NO_VIRTUALIZATION,
        exit::GUEST_CRASH,
        exit::HOST,
        exit::NO_PERMISSION,
    ];
    let mut codes: BTreeSet<String> = codes.iter().map(u8::to_string).collect();
    codes.insert("128+N".into());
    assert_eq!(written, codes.iter().map(String::as_str).collect());
}

fn sources(folder: &Path, all: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            if !path.ends_with("testing") {
                sources(&path, all);
            }
        } else if path.extension().is_some_and(|e| e == "rs") {
            all.push(path);
        }
    }
}

#[test]
fn every_trait_is_a_seam_that_is_named() {
    let page = fs::read_to_string(root().join("docs/architecture.md")).unwrap();
    let mut files = Vec::new();
    for name in ["boot/src", "devices/src", "net/src", "vmm/src"] {
        sources(&root().join(name), &mut files);
    }
    let mut found = 0;
    for file in files {
        for line in fs::read_to_string(&file).unwrap().lines() {
            let Some(name) = line.strip_prefix("pub trait ") else { continue };
            let name = name.split(|c: char| !c.is_ascii_alphanumeric()).next().unwrap();
            found += 1;
            assert!(page.contains(&format!("`{name}`")), "{name} of {}", file.display());
        }
    }
    assert!(found >= 8, "only {found} traits: the search is broken");
}
