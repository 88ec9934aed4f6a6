//! Gives back what only the start needed of the program's code and constants.
//!
//! Reading the command line, a configuration and a kernel takes more code than running a machine,
//! and what was touched once stays resident. It comes back from the file where it is needed after
//! all, so nothing is lost.
#![expect(unsafe_code, reason = "advice is given by address")]

use std::fs;
use std::io;

use rustix::mm::{Advice, madvise};

/// A mapping of the process, by `/proc/self/smaps` (proc(5)).
#[derive(Debug, Default, PartialEq, Eq)]
struct Mapping {
    start: usize,
    len: usize,
    /// It is of a file, and can't be written to.
    constant: bool,
    /// KiB that are no longer what the file has, as relocated addresses are.
    changed: u64,
}

/// Gives back the pages of the program and its libraries that are as their files have them. That it
/// can't be done is said with `-vv`.
pub fn give_back_code() {
    let done = fs::read_to_string("/proc/self/smaps").and_then(|smaps| give_back(&smaps));
    if let Err(e) = done {
        tracing::debug!("cannot give back the start's memory: {e}");
    }
}

fn give_back(smaps: &str) -> io::Result<()> {
    for mapping in parse(smaps).iter().filter(|m| m.constant && m.changed == 0) {
        // SAFETY: all of that range is one mapping of a file that nobody can write to and nobody has
        // written to: what is dropped is read again from the file when it is next touched.
        unsafe {
            let start = std::ptr::without_provenance_mut(mapping.start);
            madvise(start, mapping.len, Advice::LinuxDontNeed)?;
        }
    }
    Ok(())
}

fn parse(smaps: &str) -> Vec<Mapping> {
    let mut mappings: Vec<Mapping> = Vec::new();
    for line in smaps.lines() {
        let mut words = line.split_ascii_whitespace();
        match words.next() {
            // Not `Private_Dirty:`, which has pages of a file that was written a moment ago too.
            Some("Anonymous:") => {
                let kib = words.next().and_then(|kib| kib.parse().ok());
                if let (Some(mapping), Some(kib)) = (mappings.last_mut(), kib) {
                    mapping.changed = kib;
                }
            }
            Some(range) if !range.ends_with(':') => mappings.extend(header(range, words)),
            _ => {}
        }
    }
    mappings
}

/// A mapping's first line: range, permissions, offset, device, inode and path.
fn header<'a>(range: &str, mut words: impl Iterator<Item = &'a str>) -> Option<Mapping> {
    let (start, end) = range.split_once('-')?;
    let start = usize::from_str_radix(start, 16).ok()?;
    let len = usize::from_str_radix(end, 16).ok()?.checked_sub(start)?;
    let permissions = words.next()?;
    let of_file = words.nth(2)? != "0";
    let constant = of_file && matches!(permissions, "r-xp" | "r--p");
    Some(Mapping { start, len, constant, changed: 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMAPS: &str = "\
55d0c0000000-55d0c00e6000 r--p 00000000 fe:00 1234                       /usr/bin/mini vmm
Rss:                 660 kB
Private_Dirty:         0 kB
Anonymous:             0 kB
55d0c00e6000-55d0c0334000 r-xp 000e6000 fe:00 1234                       /usr/bin/mini vmm
Private_Dirty:        64 kB
Anonymous:             0 kB
55d0c0334000-55d0c0348000 r--p 00333000 fe:00 1234                       /usr/bin/mini vmm
Private_Dirty:        84 kB
Anonymous:            84 kB
55d0c0348000-55d0c0349000 rw-p 00347000 fe:00 1234                       /usr/bin/mini vmm
Private_Dirty:         0 kB
7f0000000000-7f0000021000 r--p 00000000 00:00 0\x20
VmFlags: rd mr mw me ac sd
";

    #[test]
    fn only_what_the_file_has_is_given_back() {
        let mappings = parse(SMAPS);
        let constant: Vec<_> = mappings.iter().map(|m| (m.constant, m.changed)).collect();
        let want = [(true, 0), (true, 0), (true, 84), (false, 0), (false, 0)];
        assert_eq!(constant, want);
        assert_eq!((mappings[1].start, mappings[1].len), (0x55d0_c00e_6000, 0x24_e000));
    }

    /// Resident KiB of this program's code.
    fn resident() -> u64 {
        let smaps = fs::read_to_string("/proc/self/smaps").unwrap();
        let mut code = false;
        let mut kib = 0;
        for line in smaps.lines() {
            let words: Vec<_> = line.split_ascii_whitespace().collect();
            match words[..] {
                [_, permissions, _, _, inode, ..] if line.contains('-') => {
                    code = permissions == "r-xp" && inode != "0";
                }
                ["Rss:", n, _] if code => kib += n.parse::<u64>().unwrap(),
                _ => {}
            }
        }
        kib
    }

    #[test]
    fn the_program_goes_on_without_it() {
        let before = resident();
        give_back_code();
        let after = resident();
        assert!(after < before, "{after} KiB of {before}");
        // What reads constants and calls libraries does so as before.
        assert_eq!(format!("{:?}", parse(SMAPS).len()), "5");
    }
}
