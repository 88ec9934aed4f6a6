//! Guests of a few instructions, and the command that runs them.
#![allow(dead_code, clippy::allow_attributes, reason = "each test uses a part of it")]

pub mod session;

use std::fs;
use std::io::{PipeReader, PipeWriter, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// Where a guest's code is loaded and entered, in 32-bit protected mode without paging.
pub const CODE: u32 = 0x10_0000;
/// Zeroed memory for a guest's use.
pub const DATA: u32 = 0x20_0000;

/// Ends the run by a failure where a machine takes longer.
const PATIENCE: Duration = Duration::from_secs(30);

/// 32-bit x86 code under construction.
#[derive(Debug, Default, Clone)]
pub struct Code(Vec<u8>);

impl Code {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    fn word(self, opcode: &[u8], value: u32) -> Self {
        self.raw(opcode).raw(&value.to_le_bytes())
    }

    /// The address of what comes next.
    pub fn here(&self) -> u32 {
        CODE + self.0.len() as u32
    }

    pub fn mov_eax(self, value: u32) -> Self {
        self.word(&[0xb8], value)
    }

    pub fn mov_ecx(self, value: u32) -> Self {
        self.word(&[0xb9], value)
    }

    pub fn mov_edx(self, value: u32) -> Self {
        self.word(&[0xba], value)
    }

    pub fn load_eax(self, address: u32) -> Self {
        self.word(&[0xa1], address)
    }

    pub fn store_eax(self, address: u32) -> Self {
        self.word(&[0xa3], address)
    }

    pub fn inc(self, address: u32) -> Self {
        self.word(&[0xff, 0x05], address)
    }

    pub fn jump(self, target: u32) -> Self {
        let next = self.here() + 5;
        self.word(&[0xe9], target.wrapping_sub(next))
    }

    /// Writes `value` to a port.
    pub fn out(self, port: u16, value: u8) -> Self {
        self.mov_edx(port.into()).raw(&[0xb0, value, 0xee])
    }

    /// `rep outsb`: `count` bytes from `address` to a port.
    pub fn outs(self, port: u16, address: u32, count: u32) -> Self {
        self.word(&[0xbe], address).mov_ecx(count).mov_edx(port.into()).raw(&[0xfc, 0xf3, 0x6e])
    }

    /// `rep movsb`.
    pub fn copy(self, from: u32, to: u32, count: u32) -> Self {
        self.word(&[0xbe], from).word(&[0xbf], to).mov_ecx(count).raw(&[0xfc, 0xf3, 0xa4])
    }

    /// Writes a line to the serial port.
    pub fn print(self, text: &str) -> Self {
        let bytes = text.as_bytes();
        // Over the text: jmp, then its bytes.
        let (at, after) = (self.here() + 5, self.here() + 5 + bytes.len() as u32);
        self.jump(after).raw(bytes).outs(SERIAL, at, bytes.len() as u32)
    }

    /// Writes `yes` or `no` as EAX is `value` or not.
    pub fn expect_eax(self, value: u32) -> Self {
        let yes = Self::new().print("yes\n").0.len() as u32;
        let no = Self::new().print("no\n").0.len() as u32;
        let code = self.word(&[0x3d], value).word(&[0x0f, 0x85], yes + 5).print("yes\n");
        let after = code.here() + 5 + no;
        code.jump(after).print("no\n")
    }

    /// ACPI S5.
    pub fn power_off(self) -> Self {
        self.out(0x600, 0x34).halt()
    }

    /// Stops for ever, interrupts off.
    pub fn halt(self) -> Self {
        self.raw(&[0xfa, 0xf4, 0xeb, 0xfd])
    }

    /// Makes the next exception a triple fault.
    pub fn no_idt(self) -> Self {
        self.word(&[0x0f, 0x01, 0x1d], DATA)
    }

    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// A static ELF with a PVH note (Xen's `PHYS32_ENTRY`) that starts with the code.
    pub fn elf(&self) -> Vec<u8> {
        const HEADERS: u64 = 64 + 3 * 56;
        let note: Vec<u8> = [4u32, 4, 18]
            .iter()
            .flat_map(|n| n.to_le_bytes())
            .chain(*b"Xen\0")
            .chain(CODE.to_le_bytes())
            .collect();
        let code_at = HEADERS + note.len() as u64;
        let mut elf = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let half = |elf: &mut Vec<u8>, n: u16| elf.extend(n.to_le_bytes());
        let long = |elf: &mut Vec<u8>, n: u64| elf.extend(n.to_le_bytes());
        half(&mut elf, 2); // ET_EXEC
        half(&mut elf, 62); // EM_X86_64
        elf.extend(1u32.to_le_bytes());
        long(&mut elf, CODE.into());
        long(&mut elf, 64); // program headers
        long(&mut elf, 0);
        elf.extend(0u32.to_le_bytes());
        for n in [64, 56, 3, 64, 0, 0] {
            half(&mut elf, n);
        }
        let len = self.0.len() as u64;
        let note_len = note.len() as u64;
        // Type, flags, offset, address, bytes in the file, bytes in memory.
        for (kind, flags, offset, address, file, memory) in [
            (4u32, 4u32, HEADERS, 0, note_len, note_len),
            (1, 7, code_at, CODE.into(), len, len),
            (1, 6, code_at, DATA.into(), 0, 1 << 20),
        ] {
            elf.extend(kind.to_le_bytes());
            elf.extend(flags.to_le_bytes());
            for n in [offset, address, address, file, memory, 4] {
                long(&mut elf, n);
            }
        }
        elf.extend(note);
        elf.extend_from_slice(&self.0);
        elf
    }
}

/// What ends [`echo`].
pub const END: u8 = 4;

/// Says that it is up, then sends back what it is sent, until [`END`].
pub fn echo() -> Code {
    let code = Code::new().print("up\n").mov_edx(0x3fd);
    let again = code.here();
    let back = |from: u32| again.wrapping_sub(from + 2) as u8;
    // in al, dx; test al, 1; jz again
    let code = code.raw(&[0xec, 0xa8, 1]);
    let code = code.clone().raw(&[0x74, back(code.here())]);
    // mov dl, f8; in al, dx; out dx, al; mov dl, fd; cmp al, END; jne again
    let code = code.raw(&[0xb2, 0xf8, 0xec, 0xee, 0xb2, 0xfd, 0x3c, END]);
    code.clone().raw(&[0x75, back(code.here())]).power_off()
}

/// Writes for ever.
pub fn talker() -> Code {
    let code = Code::new();
    let again = code.here();
    code.print("0123456789abcdef0123456789abcdef0123456789abcdef\n").jump(again)
}

/// A pipe that holds one page.
pub fn small_pipe() -> (PipeReader, PipeWriter) {
    let (reader, writer) = std::io::pipe().unwrap();
    rustix::pipe::fcntl_setpipe_size(&writer, 4096).unwrap();
    (reader, writer)
}

/// The serial port.
pub const SERIAL: u16 = 0x3f8;

/// A directory with a kernel of `code` in it, and its path.
pub fn kernel(code: &Code) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("kernel");
    fs::write(&path, code.elf()).unwrap();
    (dir, path)
}

/// `minivmm run` of the kernel at `path`; the console is a pipe, with no input.
pub fn command(path: &Path) -> Command {
    assert!(Path::new("/dev/kvm").exists(), "/dev/kvm is missing: this test can't run without it");
    let mut command = Command::new(env!("CARGO_BIN_EXE_minivmm"));
    command
        .args(["run", "--kernel"])
        .arg(path)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// Runs `code` to its end.
pub fn run(code: &Code, args: &[&str]) -> Output {
    let (_dir, path) = kernel(code);
    let child = command(&path).args(args).spawn().unwrap();
    finish(child)
}

/// Waits for the end and gathers what was written.
pub fn finish(mut child: Child) -> Output {
    fn gather(pipe: Option<impl Read + Send + 'static>) -> thread::JoinHandle<Vec<u8>> {
        thread::spawn(move || {
            let mut all = Vec::new();
            if let Some(mut pipe) = pipe {
                pipe.read_to_end(&mut all).unwrap();
            }
            all
        })
    }
    let (stdout, stderr) = (gather(child.stdout.take()), gather(child.stderr.take()));
    let status = wait(&mut child);
    Output { status, stdout: stdout.join().unwrap(), stderr: stderr.join().unwrap() }
}

/// Waits for the end; kills it, and fails, where that takes too long.
pub fn wait(child: &mut Child) -> std::process::ExitStatus {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if start.elapsed() > PATIENCE {
            child.kill().unwrap();
            child.wait().unwrap();
            panic!("the machine did not end in {PATIENCE:?}");
        }
        thread::sleep(Duration::from_millis(2));
    }
}

/// Waits until the guest has printed `text`, the next that it prints; kills it, and fails, where that
/// takes too long.
#[track_caller]
pub fn wait_for(child: &mut Child, text: &str) {
    let (start, mut got) = (Instant::now(), Vec::new());
    while got.len() < text.len() && start.elapsed() < PATIENCE {
        let stdout = child.stdout.as_mut().unwrap();
        let mut ready = [PollFd::new(stdout, PollFlags::IN)];
        let second = Timespec { tv_sec: 1, tv_nsec: 0 };
        if poll(&mut ready, Some(&second)).unwrap() > 0 {
            let mut part = vec![0; text.len() - got.len()];
            let n = stdout.read(&mut part).unwrap();
            got.extend_from_slice(&part[..n]);
            if n == 0 {
                break;
            }
        }
    }
    if got != text.as_bytes() {
        child.kill().unwrap();
        child.wait().unwrap();
        panic!("not {text:?} in {PATIENCE:?}, but {:?}", String::from_utf8_lossy(&got));
    }
}

/// Waits for `condition`.
#[track_caller]
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "not in {PATIENCE:?}: {what}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// Sends a signal.
pub fn signal(child: &Child, signal: rustix::process::Signal) {
    rustix::process::kill_process(rustix::process::Pid::from_child(child), signal).unwrap();
}

/// The text of an output's stream.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[track_caller]
pub fn check(output: &Output, status: i32, stdout: &str) {
    assert!(
        output.status.code() == Some(status) && text(&output.stdout) == stdout,
        "{output:?} is not {status} with {stdout:?}"
    );
}
