//! Network namespaces held by parked threads.
#![expect(unsafe_code, reason = "unshare(2) has no safe wrapper")]

use std::fs::File;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::thread::{
    LinkNameSpaceType, UnshareFlags, gettid, move_into_link_name_space, unshare_unsafe,
};

use super::finish;

/// Commands that take longer have failed.
const PATIENCE: Duration = Duration::from_secs(60);

/// A network namespace of this process.
#[derive(Debug)]
pub struct Netns {
    file: File,
    thread: i32,
}

impl Netns {
    /// The one that the calling thread is in.
    ///
    /// # Errors
    /// Those of opening it.
    pub fn current() -> Result<Self> {
        let file = File::open("/proc/thread-self/ns/net")?;
        Ok(Self { file, thread: gettid().as_raw_nonzero().get() })
    }

    /// A new one with nothing but a loopback interface that is down. It lives as long as the
    /// process.
    ///
    /// # Errors
    /// Those of `unshare(2)`.
    pub fn new() -> Result<Self> {
        let (tell, told) = mpsc::channel();
        thread::spawn(move || {
            // SAFETY: a network namespace of its own changes no memory and no descriptors that
            // this thread shares with others.
            let made = unsafe { unshare_unsafe(UnshareFlags::NEWNET) }
                .map_err(anyhow::Error::from)
                .and_then(|()| Self::current());
            let _ = tell.send(made);
            // `ip link set … netns` wants a task that lives in the namespace.
            loop {
                thread::park();
            }
        });
        told.recv()?.context("cannot make a network namespace")
    }

    /// Another handle to the same one.
    ///
    /// # Errors
    /// Those of `dup(2)`.
    pub fn try_clone(&self) -> Result<Self> {
        Ok(Self { file: self.file.try_clone()?, thread: self.thread })
    }

    /// The thread that lives in it, for tools that want a PID.
    pub fn holder(&self) -> i32 {
        self.thread
    }

    /// Runs `f` in the namespace; sockets and children that it makes stay there.
    ///
    /// # Errors
    /// Those of `setns(2)`.
    pub fn run<R: Send>(&self, f: impl FnOnce() -> R + Send) -> Result<R> {
        thread::scope(|scope| {
            let thread = scope.spawn(|| {
                move_into_link_name_space(self.file.as_fd(), Some(LinkNameSpaceType::Network))?;
                anyhow::Ok(f())
            });
            thread.join().map_err(|panic| {
                let text = panic.downcast_ref::<String>().cloned();
                anyhow::anyhow!("panic in a namespace: {}", text.unwrap_or_default())
            })?
        })
    }

    /// Starts a program in the namespace.
    ///
    /// # Errors
    /// Where it can't be started.
    pub fn spawn(&self, command: &mut Command) -> Result<Child> {
        self.run(|| command.spawn().with_context(|| format!("cannot run {command:?}")))?
    }

    /// Starts a shell with `script` in the namespace, its output piped.
    ///
    /// # Errors
    /// Where it can't be started.
    pub fn start_sh(&self, script: &str) -> Result<Child> {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]).stdin(Stdio::null());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        self.spawn(&mut command)
    }

    /// Runs a shell script, which must succeed, and returns what it printed.
    ///
    /// # Errors
    /// Where it fails: what it printed.
    pub fn sh(&self, script: &str) -> Result<String> {
        let output = finish(self.start_sh(script)?, script, PATIENCE)?;
        let out = String::from_utf8_lossy(&output.stdout).into_owned();
        let err = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{script}: {}\n{out}{err}", output.status);
        Ok(out)
    }

    /// Runs a shell script and returns whether it succeeded and all it printed.
    ///
    /// # Errors
    /// Where it does not end.
    pub fn try_sh(&self, script: &str) -> Result<(bool, String)> {
        let output = finish(self.start_sh(script)?, script, PATIENCE)?;
        let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.push_str(&String::from_utf8_lossy(&output.stderr));
        Ok((output.status.success(), text))
    }

    /// Sets a sysctl of the namespace.
    ///
    /// # Errors
    /// Those of writing it.
    pub fn sysctl(&self, name: &str, value: &str) -> Result<()> {
        let path = PathBuf::from("/proc/sys").join(name);
        self.run(|| std::fs::write(&path, value))?
            .with_context(|| format!("cannot write {value:?} to {}", path.display()))
    }
}
