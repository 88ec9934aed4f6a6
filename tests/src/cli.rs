//! Runs the `minivmm` command as a user would, bounded in time, and checks that nothing of it is
//! left afterwards.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use std::{env, process, thread};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::Value;

use crate::user;

/// Marks a run's processes in their environment, whatever group or session they move to.
const MARK: &str = "MINIVMM_TEST_RUN";
/// A run that takes longer is killed and counts as failed, unless it sets its own limit.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long the processes of a run that has ended may take to go.
const LINGER: Duration = Duration::from_secs(2);

/// The program under test: `$MINIVMM_BIN`, or what cargo built beside the running test.
///
/// # Errors
/// Where it is not built.
pub fn binary() -> Result<PathBuf> {
    if let Some(path) = env::var_os("MINIVMM_BIN") {
        return Ok(path.into());
    }
    let me = env::current_exe()?;
    me.ancestors()
        .skip(1)
        .take(2)
        .map(|dir| dir.join("minivmm"))
        .find(|path| path.is_file())
        .context("minivmm is not built (cargo build -p minivmm, with the profile of the tests)")
}

/// A run of `minivmm` to be made.
#[derive(Debug)]
pub struct Minivmm {
    prefix: Vec<String>,
    args: Vec<String>,
    env: Vec<(String, String)>,
    patience: Duration,
    stdin: Stdio,
    as_user: bool,
    limits: Vec<String>,
}

impl Minivmm {
    /// `minivmm run`.
    pub fn run() -> Self {
        Self {
            prefix: vec![],
            args: vec!["run".into()],
            env: vec![],
            patience: PATIENCE,
            stdin: Stdio::null(),
            as_user: false,
            limits: vec![],
        }
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.args.extend(args.into_iter().map(|a| a.as_ref().to_string_lossy().into_owned()));
        self
    }

    /// Runs it by another program: `minivmm` and its arguments are put behind these words.
    #[must_use]
    pub fn under(mut self, prefix: &[&str]) -> Self {
        self.prefix = prefix.iter().map(|&word| word.to_owned()).collect();
        self
    }

    /// Runs it as an ordinary user, whoever runs the tests.
    #[must_use]
    pub fn as_user(mut self) -> Self {
        self.as_user = true;
        self
    }

    /// Sets resource limits of it alone, by options of `prlimit(1)`, such as `--nproc=6`: it runs as
    /// an ordinary user, in a user namespace of its own, where no other process counts.
    #[must_use]
    pub fn limits(mut self, options: &[&str]) -> Self {
        let words = ["unshare", "--user", "--map-current-user", "prlimit"].iter().chain(options);
        self.limits = words.map(|&word| word.to_owned()).collect();
        self.as_user()
    }

    /// Sets a variable of its environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// Kills it after this time, where the usual minute does not fit.
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// What it reads; nothing by default.
    #[must_use]
    pub fn stdin(mut self, stdin: Stdio) -> Self {
        self.stdin = stdin;
        self
    }

    /// Starts it.
    ///
    /// # Errors
    /// Where it can't be started.
    pub fn start(self) -> Result<Running> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let mark = format!("{}.{number}", process::id());
        let dir = tempfile::tempdir()?;
        let runtime = dir.path().join("runtime");
        fs::create_dir(&runtime)?;
        // A run as another user must be able to write there, or nothing could be left behind.
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o777);
        fs::set_permissions(&runtime, open)?;
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(dir.path(), open)?;
        let files = (dir.path().join("stdout"), dir.path().join("stderr"));
        let devices = network_devices()?;

        let (mut words, mut program) = (self.prefix, binary()?);
        if self.as_user {
            let (prefix, path) = user::ordinary(&program)?;
            words.extend(prefix);
            program = path;
        }
        words.extend(self.limits);
        words.push(program.to_string_lossy().into_owned());
        words.extend(self.args);
        let mut command = Command::new(&words[0]);
        command
            .args(&words[1..])
            .envs(self.env)
            .env(MARK, &mark)
            .env("XDG_RUNTIME_DIR", &runtime)
            .env("TMPDIR", &runtime)
            .stdin(self.stdin)
            .stdout(File::create(&files.0)?)
            .stderr(File::create(&files.1)?)
            .process_group(0);
        let child = command.spawn().with_context(|| format!("cannot run {}", words[0]))?;
        let (start, line) = (Instant::now(), words.join(" "));
        Ok(Running { child, line, dir, files, mark, devices, start, patience: self.patience })
    }

    /// Runs it to its end, and checks that nothing is left behind.
    ///
    /// # Errors
    /// Where it can't be started, does not end in time, or leaves something behind.
    pub fn finish(self) -> Result<Outcome> {
        self.start()?.finish()
    }
}

/// A run under way. Dropping it kills it.
#[derive(Debug)]
pub struct Running {
    child: Child,
    line: String,
    dir: tempfile::TempDir,
    files: (PathBuf, PathBuf),
    mark: String,
    devices: Vec<String>,
    start: Instant,
    patience: Duration,
}

impl Running {
    /// Its process, or that of the program it runs under.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has printed so far.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn stdout(&self) -> Result<String> {
        Ok(String::from_utf8_lossy(&fs::read(&self.files.0)?).into_owned())
    }

    /// Waits until it has printed `text`.
    ///
    /// # Errors
    /// Where it ends, or its time is over, before that.
    pub fn wait_for(&mut self, text: &str) -> Result<()> {
        loop {
            let ended = self.child.try_wait()?.is_some();
            if self.stdout()?.contains(text) {
                return Ok(());
            }
            let late = self.start.elapsed() > self.patience;
            ensure!(!ended && !late, "{}: never printed {text:?}: {}", self.line, self.stdout()?);
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Sends a signal to it.
    ///
    /// # Errors
    /// Where it has ended.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        Ok(rustix::process::kill_process(Pid::from_child(&self.child), signal)?)
    }

    /// Waits for its end, and checks that nothing is left behind.
    ///
    /// # Errors
    /// Where it does not end in time, or leaves something behind.
    pub fn finish(mut self) -> Result<Outcome> {
        let status = loop {
            if let Some(status) = self.child.try_wait()? {
                break status;
            }
            if self.start.elapsed() > self.patience {
                let said = self.stdout()? + &fs::read_to_string(&self.files.1)?;
                bail!("{}: not finished after {:?}: {said}", self.line, self.patience);
            }
            thread::sleep(Duration::from_millis(2));
        };
        let outcome = Outcome {
            line: self.line.clone(),
            status: status.code(),
            signal: status.signal(),
            stdout: self.stdout()?,
            stderr: String::from_utf8_lossy(&fs::read(&self.files.1)?).into_owned(),
            elapsed: self.start.elapsed(),
        };
        if outcome.signal == Some(Signal::KILL.as_raw()) {
            // Its name is left, for the next command to find.
            let runtime = self.dir.path().join("runtime");
            Command::new(binary()?).arg("ps").env("XDG_RUNTIME_DIR", runtime).output()?;
        }
        self.check_leftovers().with_context(|| format!("{outcome}"))?;
        Ok(outcome)
    }

    fn check_leftovers(&self) -> Result<()> {
        let since = Instant::now();
        loop {
            let left = self.processes()?;
            if left.is_empty() {
                break;
            }
            ensure!(since.elapsed() < LINGER, "left processes behind: {left:?}");
            thread::sleep(Duration::from_millis(5));
        }
        let runtime = self.dir.path().join("runtime");
        let files: Vec<_> = fs::read_dir(runtime)?.flatten().map(|e| e.file_name()).collect();
        ensure!(files.is_empty(), "left files behind: {files:?}");
        let new: Vec<_> =
            network_devices()?.into_iter().filter(|d| !self.devices.contains(d)).collect();
        ensure!(new.is_empty(), "left network devices behind: {new:?}");
        Ok(())
    }

    /// The processes of this run, by the mark in their environment.
    fn processes(&self) -> Result<Vec<String>> {
        let mark = format!("{MARK}={}", self.mark).into_bytes();
        let mut found = vec![];
        for entry in fs::read_dir("/proc")?.flatten() {
            let has_mark = fs::read(entry.path().join("environ"))
                .is_ok_and(|env| env.split(|b| *b == 0).any(|variable| variable == mark));
            if has_mark {
                let words = fs::read(entry.path().join("cmdline")).unwrap_or_default();
                found.push(String::from_utf8_lossy(&words).replace('\0', " "));
            }
        }
        Ok(found)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
            let _ = self.child.wait();
        }
    }
}

fn network_devices() -> Result<Vec<String>> {
    let names = fs::read_dir("/sys/class/net")?.flatten();
    Ok(names.map(|e| e.file_name().to_string_lossy().into_owned()).collect())
}

/// How a run ended.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The command line.
    pub line: String,
    /// Its exit status; none where a signal ended it.
    pub status: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// What it printed.
    pub stdout: String,
    /// Its messages.
    pub stderr: String,
    /// From its start to its end, or a few milliseconds more.
    pub elapsed: Duration,
}

impl Outcome {
    /// The JSON objects among the lines of standard output.
    pub fn json(&self) -> Vec<Value> {
        self.stdout.lines().filter_map(|line| serde_json::from_str(line.trim()).ok()).collect()
    }

    /// Checks the exit status.
    ///
    /// # Errors
    /// Everything there is to know about the run, where it is another.
    pub fn expect_status(self, status: i32) -> Result<Self> {
        ensure!(self.status == Some(status), "exit status is not {status}: {self}");
        Ok(self)
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { line, status, signal, stdout, stderr, elapsed } = self;
        write!(f, "{line}\nended after {elapsed:?} with {status:?}, by signal {signal:?}\n")?;
        write!(f, "--- stdout\n{stdout}\n--- stderr\n{stderr}")
    }
}
