//! A user's machines, in a runtime folder of the test's own.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use minivmm_tests::cli::binary;
use serde_json::Value;

/// The probe, which answers for as long as it is asked.
pub const SERVE: [&str; 4] = ["--net", "nat", "--cmdline", "probe=serve"];

/// A runtime folder, which is empty again at the end.
pub struct Host {
    dir: tempfile::TempDir,
}

impl Host {
    pub fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("minivmm").tempdir_in("/tmp").unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o700)).unwrap();
        Self { dir }
    }

    /// A command, to be run with its arguments.
    pub fn command<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(binary().unwrap());
        command.args(args).env("XDG_RUNTIME_DIR", self.dir.path());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs a command to its end.
    pub fn run<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Output {
        self.command(args).output().unwrap()
    }

    /// The same for one that is to succeed; what it printed.
    pub fn text<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> String {
        let output = self.run(args);
        assert!(output.status.success(), "{output:?}");
        assert!(output.stderr.is_empty(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// The same as objects, one a line.
    pub fn objects<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Vec<Value> {
        self.text(args).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Starts a machine that serves.
    pub fn start(&self, name: &str) {
        let words = ["run", "-d", "--name", name];
        assert_eq!(self.text(words.iter().chain(&SERVE)), format!("{name}\n"));
    }

    /// The same, and waits until it serves.
    pub fn start_ready(&self, name: &str) {
        self.start(name);
        let until = Instant::now() + Duration::from_secs(20);
        while !self.text(["logs", name]).contains("ready") {
            assert!(Instant::now() < until, "{}", self.text(["logs", name]));
        }
    }

    /// Starts `count` machines, all at once, and returns their names.
    pub fn start_many(&self, count: usize) -> Vec<String> {
        let names: Vec<_> = (0..count).map(|i| format!("vm{i}")).collect();
        std::thread::scope(|scope| {
            for name in &names {
                scope.spawn(|| self.start(name));
            }
        });
        names
    }

    /// The names of those that run.
    pub fn names(&self) -> Vec<String> {
        let machines = self.objects(["ps", "--json"]);
        machines.iter().map(|machine| machine["name"].as_str().unwrap().to_owned()).collect()
    }

    /// The process of a machine.
    pub fn pid(&self, name: &str) -> i32 {
        let info: Value = serde_json::from_str(&self.text(["inspect", name])).unwrap();
        i32::try_from(info["pid"].as_u64().unwrap()).unwrap()
    }

    pub fn machines(&self) -> PathBuf {
        self.dir.path().join("minivmm/machines")
    }

    pub fn socket(&self, name: &str) -> PathBuf {
        self.machines().join(name).join("api.sock")
    }

    /// Checks that all processes of machines have gone, or go, and that nothing of them is left.
    pub fn is_empty(&self) {
        let until = Instant::now() + Duration::from_secs(10);
        while let Some(pid) = self.processes().first() {
            assert!(Instant::now() < until, "process {pid} is left");
            std::thread::sleep(Duration::from_millis(5));
        }
        // A process that is ending loses its environment before its locks.
        while !self.names().is_empty() {
            assert!(Instant::now() < until, "{:?} are left", self.names());
            std::thread::sleep(Duration::from_millis(5));
        }
        let left: Vec<_> = fs::read_dir(self.dir.path()).unwrap().collect();
        assert!(left.is_empty(), "{left:?}");
    }

    /// Processes with this folder in their environment, but for those that have ended.
    fn processes(&self) -> Vec<i32> {
        let mark = format!("XDG_RUNTIME_DIR={}", self.dir.path().display());
        let marked = |process: &Path| {
            let environment = fs::read(process.join("environ")).unwrap_or_default();
            environment.split(|byte| *byte == 0).any(|variable| variable == mark.as_bytes())
        };
        let all = fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().path());
        let pid = |process: PathBuf| process.file_name()?.to_str()?.parse().ok();
        all.filter(|process| marked(process)).filter_map(pid).collect()
    }
}

impl Drop for Host {
    /// Of a test that failed, nothing is to go on.
    fn drop(&mut self) {
        for pid in self.processes() {
            if let Some(pid) = rustix::process::Pid::from_raw(pid) {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
    }
}
