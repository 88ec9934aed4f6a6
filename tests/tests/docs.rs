//! What the documentation names must exist: files, functions, options, networks, configuration
//! keys and drop reasons.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use minivmm::config::{MachineConfig, NetConfig, PublishConfig};
use minivmm_net::stats::DropReason;
use minivmm_tests::cli;

/// Folders of the repository that paths in the documentation begin with.
const FOLDERS: [&str; 9] =
    [".ci/", "boot/", "devices/", "docs/", "net/", "resources/", "tests/", "vmm/", "src/"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The documentation: name from the repository's root, and text.
fn pages() -> Vec<(String, String)> {
    let mut names = vec!["README.md".to_owned(), "CONTRIBUTING.md".to_owned()];
    for entry in fs::read_dir(root().join("docs")).expect("there is a folder docs").flatten() {
        names.push(format!("docs/{}", entry.file_name().to_string_lossy()));
    }
    names.retain(|name| name.ends_with(".md") && root().join(name).exists());
    assert!(names.len() >= 5, "{names:?}");
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
    let output = Command::new(cli::binary().unwrap()).args(["run", "--help"]).output().unwrap();
    let help = String::from_utf8(output.stdout).unwrap();
    let known: BTreeSet<&str> = help
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
        let config = MachineConfig::from_toml(Path::new(&name), &toml.join("\n"));
        config.and_then(|c| c.validate()).unwrap_or_else(|e| panic!("{name}: {e}"));
    }
    assert!(found > 0);
}

#[test]
fn every_drop_reason_is_explained() {
    let page = fs::read_to_string(root().join("docs/networking.md")).unwrap();
    for reason in DropReason::ALL {
        let row = format!("| `{}` |", reason.name());
        assert!(page.contains(&row), "no row for {}", reason.name());
    }
}
