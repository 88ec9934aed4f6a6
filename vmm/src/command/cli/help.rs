//! The part of `minivmm run --help` that is no option's.

use std::fmt::Write as _;

use minivmm::config::{About, MODES};

/// Where the lines of help end, as clap's do.
const WIDTH: usize = 100;
/// Where the explanations begin.
const COLUMN: usize = 24;

/// What stands below the options.
pub fn below() -> String {
    format!("{}\n{BELOW}", networks())
}

/// The modes and their keys.
fn networks() -> String {
    let mut text = String::from("Networks (--net, once for each interface):\n");
    for mode in MODES {
        entry(&mut text, &format!("  {}", mode.usage), mode.help);
        for key in mode.keys() {
            let About { help, default, .. } = key;
            let label = format!("      {}", key.usage());
            entry(&mut text, &label, &format!("{help} [default: {default}]"));
        }
    }
    text
}

/// A name and its explanation, in lines of their width.
fn entry(text: &mut String, label: &str, help: &str) {
    let mut line = format!("{label:COLUMN$}");
    if !line.ends_with(' ') {
        text.push_str(&line);
        text.push('\n');
        line = " ".repeat(COLUMN);
    }
    for word in help.split_whitespace() {
        if line.chars().count() + word.chars().count() > WIDTH {
            // Writing to a string can't fail.
            let _ = writeln!(text, "{}", line.trim_end());
            line = " ".repeat(COLUMN);
        }
        line.push_str(word);
        line.push(' ');
    }
    let _ = writeln!(text, "{}", line.trim_end());
}

const BELOW: &str = "\
Published ports (-p, once for each; they lead to the first NAT interface):
  8080:80               TCP port 8080 of every address of the host, to the guest's port 80
  127.0.0.1:8080:80     of this address only; IPv6 in brackets: [::1]:8080:80
  localhost:8080:80     of 127.0.0.1 and ::1
  5353:53/udp           UDP; /tcp may be said as well
  8000-8010:9000-9010   ranges of the same length
  0:80                  a port that the host chooses: minivmm inspect says which

The console is the guest's first serial port, ttyS0:
  tty                   on the terminal, in raw mode: Ctrl-A x ends the machine, Ctrl-A Ctrl-A
                        sends a Ctrl-A, every other key is the guest's
  pipe                  plain bytes on standard input and output; Ctrl-C ends the machine, and so
                        does a reader that has gone
  none                  nowhere

Messages go to standard error; those that it does not take while the machine runs are dropped and
counted. With --json each is an object, by its member event:
  message               level, message
  timings               milliseconds (--timings): monitor_start, memory_and_devices, kernel_load,
                        guest_boot (to the first byte on the console), total
  exit                  status, reason: always the last
The probe then reports by objects on standard output.

Examples:
  minivmm run --net nat                                 try the network with the built-in probe
  minivmm run --kernel vmlinux --net nat                boot a kernel with a working network
  minivmm run --kernel bzImage --initrd rd.cpio --cmdline quiet --net nat -p 8080:80
  minivmm run --config vm.toml --memory 1G              a machine from a file, with more memory

Exit status:
  0     the guest powered off, or asked for a reset; Ctrl-A x
  1     the probe's report has a failed check
  N     what the guest wrote to I/O port 0xF4 before it ended
  2     the configuration was refused
  68    (commands other than run) no machine has that name
  69    no virtualization (/dev/kvm is missing or unusable)
  70    the guest crashed: kernel panic (Linux 5.2 or later), triple fault, or what KVM can't run
  71    the host refused a resource, or did not take what the guest wrote (a full disk)
  77    a privilege is missing
  124   its time was over (--timeout)
  137   ended by minivmm kill
  143   ended by minivmm stop, where the guest did not power off
  128+N ended by signal N (SIGINT, SIGTERM, SIGHUP, SIGQUIT); 141 if stdout's reader has gone";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_has_its_line() {
        let text = below();
        for mode in MODES {
            assert!(text.contains(&format!("\n  {} ", mode.usage)), "{text}");
            for key in mode.keys() {
                assert!(text.contains(&format!("\n      {}", key.usage())), "{text}");
            }
        }
        let long = text.lines().find(|line| line.chars().count() > WIDTH);
        assert_eq!(long, None);
    }
}
