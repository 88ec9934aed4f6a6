//! What to say of arguments that are wrong: in one line, with the word that was meant.

use std::ffi::OsString;
use std::path::Path;

use clap::CommandFactory;
use clap::error::{ContextKind, ContextValue, ErrorKind};

use super::definition::Cli;

/// Commands of a later version.
const COMMANDS_NOT_YET: [&str; 5] = ["exec", "net", "port", "capture", "doctor"];
/// Options of `minivmm run` in a later version.
const OPTIONS_NOT_YET: [&str; 4] = ["--disk", "--rootfs", "--vsock", "--isolation"];

/// What other monitors call it, and what it is here.
const ELSEWHERE: [(&[&str], &str); 8] = [
    (&["--append", "-append", "--args", "--cmd"], "--cmdline WORDS"),
    (&["-smp", "--smp", "--vcpus", "--vcpu", "--ncpus"], "--cpus N"),
    (&["--mem", "--ram", "--mem-size"], "--memory SIZE"),
    (
        &["--nic", "-nic", "-netdev", "--netdev", "--network", "--net-iface", "-net"],
        "--net nat, --net tap=NAME",
    ),
    (&["--initramfs", "-initrd"], "--initrd FILE"),
    (&["-kernel", "--firmware", "-bios"], "--kernel FILE"),
    (&["-daemonize", "--daemon", "--daemonize"], "-d"),
    (&["--config-file"], "--config FILE"),
];

/// What is no disk here.
const DISKS: [&str; 6] = ["--drive", "-drive", "-hda", "--blk", "--rootfs-file", "-cdrom"];

/// What to say of a word that is right, but too early, or elsewhere.
pub fn hint(error: &clap::Error, args: &[OsString]) -> Option<String> {
    let word = |kind| match error.get(kind) {
        Some(ContextValue::String(word)) => Some(word.as_str()),
        _ => None,
    };
    match error.kind() {
        ErrorKind::InvalidSubcommand => {
            let word = word(ContextKind::InvalidSubcommand)?;
            if COMMANDS_NOT_YET.contains(&word) {
                return Some(not_yet(&format!("the command {word}")));
            }
            is_file(word)
                .then(|| format!("{word} is no command (to boot it: minivmm run --kernel {word})"))
        }
        ErrorKind::UnknownArgument => {
            let word = word(ContextKind::InvalidArg)?;
            // A word of one hyphen is reported by its first letter.
            let whole = args
                .iter()
                .filter_map(|arg| arg.to_str())
                .find(|arg| arg.starts_with(word) && arg.len() > word.len() && word.len() == 2)
                .unwrap_or(word);
            let name = whole.split('=').next().unwrap_or(whole);
            unknown(name, args)
        }
        _ => None,
    }
}

fn unknown(word: &str, args: &[OsString]) -> Option<String> {
    let runs = args.get(1).is_some_and(|arg| arg == "run");
    if OPTIONS_NOT_YET.contains(&word) {
        return Some(not_yet(word));
    }
    if DISKS.contains(&word) {
        return Some(format!(
            "{word}: disks are not in this version; an initial RAM disk is --initrd FILE"
        ));
    }
    if let Some((_, ours)) = ELSEWHERE.iter().find(|(words, _)| words.contains(&word)) {
        return Some(format!(
            "{word} is no option here; {ours} is what it may be (minivmm run --help)"
        ));
    }
    if args.get(1).is_some_and(|arg| arg.to_string_lossy().starts_with('-')) {
        return Some(format!(
            "{word} comes behind a command: minivmm run {word} … (what there is: minivmm --help)"
        ));
    }
    if runs && args.iter().any(|arg| arg == "--") {
        return Some(not_yet("a command for the guest (--)"));
    }
    if runs && !word.starts_with('-') {
        return Some(format!("{word} is not expected here (to boot a kernel: --kernel {word})"));
    }
    None
}

fn not_yet(what: &str) -> String {
    format!("{what} is not in this version (what there is: minivmm --help, minivmm run --help)")
}

fn is_file(word: &str) -> bool {
    Path::new(word).is_file()
}

/// Clap's message without its usage and hints, which `--help` shows in full.
pub fn one_line(error: &clap::Error, args: &[OsString]) -> String {
    let text = error.render().to_string();
    let mut parts = Vec::new();
    for part in text.lines().take_while(|l| !l.starts_with("Usage:")).map(str::trim) {
        let part = part.strip_prefix("error: ").unwrap_or(part);
        if part.is_empty() || part.starts_with("For more information") {
            continue;
        }
        match part.strip_prefix("tip: ") {
            Some(tip) => parts.push(format!("; {tip}")),
            None if parts.is_empty() => parts.push(part.to_owned()),
            None => parts.push(format!(" {part}")),
        }
    }
    let command = args.get(1).and_then(|arg| arg.to_str()).filter(|arg| is_command(arg));
    let help = command.map_or("minivmm --help".into(), |name| format!("minivmm {name} --help"));
    format!("{} (see {help})", parts.concat())
}

fn is_command(word: &str) -> bool {
    Cli::command().find_subcommand(word).is_some()
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    fn said(words: &[&str]) -> String {
        let args: Vec<OsString> =
            ["minivmm"].iter().chain(words).map(|&word| word.into()).collect();
        let error = Cli::try_parse_from(&args).unwrap_err();
        let line = hint(&error, &args).unwrap_or_else(|| one_line(&error, &args));
        assert!(!line.contains('\n') && line.len() < 250, "{words:?}: {line}");
        line
    }

    #[test]
    fn mistakes_take_one_line() {
        for words in [
            &["run", "--cpus", "x"][..],
            &["run", "--nonsense"],
            &["run", "--net"],
            &["run", "-p", "80"],
            &["walk"],
            &["run", "--console", "x"],
            &["run", "--cpus", "-1"],
            &["run", "--memory", "-1"],
            &["stop"],
            &["stop", "-t", "x", "a"],
        ] {
            said(words);
        }
    }

    #[test]
    fn a_tip_is_a_sentence() {
        let line = said(&["run", "--memroy", "5"]);
        let want = "unexpected argument '--memroy' found; a similar argument exists: '--memory' \
                    (see minivmm run --help)";
        assert_eq!(line, want);
        assert!(said(&["stop", "--jsno", "a"]).ends_with("(see minivmm stop --help)"));
        assert!(said(&["sotp"]).contains("'sotp'; a similar subcommand exists: 'stop'"));
    }

    #[test]
    fn what_comes_later_is_said_to() {
        for command in COMMANDS_NOT_YET {
            let line = said(&[command, "x"]);
            assert!(line.contains(&format!("command {command} is not in this version")), "{line}");
        }
        for words in [&["--disk", "d"][..], &["--disk=d"], &["--rootfs", "d"], &["--", "ls"]] {
            let line = said(&[&["run"], words].concat());
            assert!(line.contains("not in this version"), "{line}");
        }
        assert!(!said(&["walk"]).contains("not in this version"));
    }

    #[test]
    fn words_of_others_name_ours() {
        for (words, want) in [
            (&["run", "--append", "quiet"][..], "--cmdline"),
            (&["run", "-append", "quiet"], "--cmdline"),
            (&["run", "-smp", "2"], "--cpus"),
            (&["run", "--mem=512"], "--memory"),
            (&["run", "--nic", "user"], "--net nat"),
            (&["run", "-netdev", "user,id=n"], "--net nat"),
            (&["run", "--drive", "file=x"], "disks are not in this version"),
            (&["run", "vmlinux"], "to boot a kernel: --kernel vmlinux"),
            (&["--net", "nat"], "minivmm run --net"),
            (&["--kernel", "vmlinux"], "minivmm run --kernel"),
        ] {
            let line = said(words);
            assert!(line.contains(want), "{words:?}: {line}");
        }
    }
}
