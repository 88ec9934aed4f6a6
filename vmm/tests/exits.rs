//! Every way in which a guest leaves KVM, with guests of a few instructions.
#![expect(clippy::unwrap_used, reason = "a test fails by it")]

mod common;

use common::{Code, DATA, SERIAL, check, command, finish, kernel, run, signal, text, wait_for};
use rustix::process::Signal;

#[test]
fn power_off() {
    check(&run(&Code::new().print("hello\n").power_off(), &[]), 0, "hello\n");
}

#[test]
fn acpi_reset() {
    check(&run(&Code::new().out(0x602, 1).halt(), &[]), 0, "");
}

#[test]
fn keyboard_controller_reset() {
    check(&run(&Code::new().raw(&[0xb0, 0xfe, 0xe6, 0x64]).halt(), &[]), 0, "");
}

/// As Linux resets where it has panicked; a status it left before counts no more.
#[test]
fn a_panic_then_a_reset() {
    let panicked = || Code::new().out(0xf4, 0).mov_eax(0x1234).store_eax(0x472);
    for reset in [panicked().out(0x602, 1), panicked().raw(&[0xb0, 0xfe, 0xe6, 0x64])] {
        let output = run(&reset.halt(), &[]);
        check(&output, 70, "");
        let line = "minivmm: the guest's kernel panicked; its console says why\n";
        assert_eq!(text(&output.stderr), line);
    }
    check(&run(&panicked().power_off(), &[]), 0, "");
}

/// The byte that a guest leaves at port 0xF4 is the exit status, and a crash outweighs it.
#[test]
fn the_guests_own_status() {
    check(&run(&Code::new().out(0xf4, 7).power_off(), &[]), 7, "");
    check(&run(&Code::new().out(0xf4, 7).no_idt().raw(&[0x0f, 0x0b]), &[]), 70, "");
}

#[test]
fn triple_fault() {
    let output = run(&Code::new().print("going\n").no_idt().raw(&[0x0f, 0x0b]), &[]);
    check(&output, 70, "going\n");
    assert_eq!(text(&output.stderr), "minivmm: the guest crashed: triple fault\n");
}

/// On a KVM without hardware virtualization this can't be emulated; others run it, and then there
/// is no IDT.
#[test]
fn int3_in_ring_0() {
    let output = run(&Code::new().no_idt().raw(&[0xcc]).halt(), &[]);
    check(&output, 70, "");
    let stderr = text(&output.stderr);
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    let at = format!("{:#x}", Code::new().no_idt().here());
    let emulated = stderr.contains("can't emulate the instruction at")
        && stderr.contains(&at)
        && stderr.contains("(ring 0): cc fa f4 eb fd")
        && stderr.contains("int3")
        && stderr.contains("hardware virtualization");
    assert!(emulated || stderr.contains("triple fault"), "{stderr}");
}

#[test]
fn crashes_in_json() {
    let output = run(&Code::new().no_idt().raw(&[0x0f, 0x0b]), &["--json", "--timings"]);
    check(&output, 70, "");
    let lines: Vec<serde_json::Value> =
        text(&output.stderr).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert_eq!(lines[0]["event"], "timings");
    for phase in ["monitor_start", "memory_and_devices", "kernel_load", "total"] {
        assert!(lines[0]["milliseconds"][phase].as_f64().is_some_and(|ms| ms > 0.0), "{phase}");
    }
    assert_eq!(lines[1]["event"], "exit");
    assert_eq!(lines[1]["status"], 70);
    assert_eq!(lines[1]["reason"], "the guest crashed: triple fault");
}

/// A halted CPU with interrupts off is stopped at once.
#[test]
fn signals_end_a_halted_guest() {
    for (number, status) in [(Signal::TERM, 143), (Signal::INT, 130), (Signal::HUP, 129)] {
        for cpus in ["1", "32"] {
            let (_dir, path) = kernel(&Code::new().print("up\n").halt());
            let mut child = command(&path).args(["--cpus", cpus]).spawn().unwrap();
            wait_for(&mut child, "up\n");
            signal(&child, number);
            check(&finish(child), status, "");
        }
    }
}

/// So is one that never stops, in code or in one string instruction.
#[test]
fn signals_end_a_busy_guest() {
    let spin = Code::new().print("up\n").raw(&[0xeb, 0xfe]);
    let outs = Code::new().print("up\n").outs(0x80, DATA, u32::MAX).halt();
    let stos = Code::new()
        .print("up\n")
        .mov_ecx(u32::MAX)
        .raw(&[0xbf, 0, 0, 0, 0xe8])
        .raw(&[0xfc, 0xf3, 0xaa])
        .halt();
    for code in [spin, outs, stos] {
        let (_dir, path) = kernel(&code);
        let mut child = command(&path).spawn().unwrap();
        wait_for(&mut child, "up\n");
        signal(&child, Signal::TERM);
        check(&finish(child), 143, "");
    }
}

/// What was ignored when the process began stays so, as `nohup` means it.
#[test]
fn ignored_signals_stay_ignored() {
    let (_dir, path) = kernel(&Code::new().print("up\n").halt());
    let mut child = std::process::Command::new("sh")
        .args(["-c", "trap '' HUP INT; exec \"$@\"", "sh", env!("CARGO_BIN_EXE_minivmm")])
        .args(["run", "--kernel"])
        .arg(&path)
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    wait_for(&mut child, "up\n");
    signal(&child, Signal::HUP);
    signal(&child, Signal::INT);
    std::thread::sleep(std::time::Duration::from_millis(100));
    assert!(child.try_wait().unwrap().is_none());
    signal(&child, Signal::TERM);
    check(&finish(child), 143, "");
}

/// Whatever signals the parent had blocked: the guest can be stopped.
#[test]
fn blocked_signals_do_no_harm() {
    let (_dir, path) = kernel(&Code::new().print("up\n").raw(&[0xeb, 0xfe]));
    for number in [libc::SIGTERM, vmm_sys_util::signal::SIGRTMIN()] {
        vmm_sys_util::signal::block_signal(number).unwrap();
    }
    let mut child = command(&path).args(["--cpus", "2"]).spawn().unwrap();
    wait_for(&mut child, "up\n");
    signal(&child, Signal::TERM);
    check(&finish(child), 143, "");
}

/// Guest memory has no file that a limit of file sizes (`ulimit -f`) could be about.
#[test]
fn a_limit_of_file_sizes() {
    let (_dir, path) = kernel(&Code::new().power_off());
    check(&finish(limited("-f 1000", &path)), 0, "");
}

/// Guest memory over the limit of the address space is refused with a line.
#[test]
fn a_limit_of_the_address_space() {
    let (_dir, path) = kernel(&Code::new().power_off());
    let output = finish(limited("-v 200000", &path));
    check(&output, 71, "");
    let stderr = text(&output.stderr);
    assert!(stderr.lines().count() == 1 && stderr.contains("less memory"), "{stderr}");
}

/// Runs a kernel under a limit of the shell's.
fn limited(limit: &str, kernel: &std::path::Path) -> std::process::Child {
    std::process::Command::new("sh")
        .args(["-c", &format!("ulimit {limit}; exec \"$@\""), "sh", env!("CARGO_BIN_EXE_minivmm")])
        .args(["run", "--kernel"])
        .arg(kernel)
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap()
}

/// Nobody answers there: reads are all ones, writes are dropped.
#[test]
fn mmio_to_nowhere() {
    let nowhere = 0xe800_0000;
    let code = Code::new()
        .mov_eax(0x1234_5678)
        .store_eax(nowhere)
        .load_eax(nowhere)
        .expect_eax(u32::MAX)
        .power_off();
    check(&run(&code, &[]), 0, "yes\n");
    // The same for ports: in eax, dx.
    let code = Code::new().mov_edx(0x5555).raw(&[0xed]).expect_eax(u32::MAX).power_off();
    check(&run(&code, &[]), 0, "yes\n");
}

/// An MSR that KVM knows keeps its value.
#[test]
fn known_msr() {
    const FS_BASE: u32 = 0xc000_0100;
    let code = Code::new()
        .mov_ecx(FS_BASE)
        .mov_eax(0x1234_5000)
        .mov_edx(0)
        .raw(&[0x0f, 0x30])
        .mov_eax(0)
        .raw(&[0x0f, 0x32])
        .expect_eax(0x1234_5000)
        .power_off();
    check(&run(&code, &[]), 0, "yes\n");
}

/// One that it does not know is a #GP in the guest, and no exit.
#[test]
fn unknown_msr() {
    // A gate for vector 13, in an IDT at DATA + 0x1000.
    let idt = DATA + 0x1000;
    let handler = Code::new().print("#GP\n").power_off();
    let body = |target: u32| {
        Code::new()
            .mov_eax(0x0008_0000 | (target & 0xffff))
            .store_eax(idt + 13 * 8)
            .mov_eax((target & 0xffff_0000) | 0x8e00)
            .store_eax(idt + 13 * 8 + 4)
            // The table's limit and base.
            .mov_eax(((idt & 0xffff) << 16) | 0x7ff)
            .store_eax(DATA)
            .mov_eax(idt >> 16)
            .store_eax(DATA + 4)
            .raw(&[0x0f, 0x01, 0x1d])
            .raw(&DATA.to_le_bytes())
            // A stack.
            .raw(&[0xbc])
            .raw(&(DATA + 0x3000).to_le_bytes())
            // The boot code segment's selector, whichever it is.
            .raw(&[0x66, 0x8c, 0x0d])
            .raw(&(idt + 13 * 8 + 2).to_le_bytes())
            .mov_ecx(0x4b56_ffff)
            .raw(&[0x0f, 0x32])
            .print("no exception\n")
            .power_off()
    };
    let target = body(0).here();
    let code = body(target).raw(handler_at(&handler, target).bytes());
    check(&run(&code, &[]), 0, "#GP\n");
}

/// The handler's code for its place: its text is addressed absolutely.
fn handler_at(handler: &Code, at: u32) -> Code {
    let pad = (at - common::CODE) as usize;
    let placed = Code::new().raw(&vec![0x90; pad]).print("#GP\n").power_off();
    let code = Code::new().raw(&placed.bytes()[pad..]);
    assert_eq!(code.bytes().len(), handler.bytes().len());
    code
}

/// One instruction that writes much to a port: all of it arrives, in order.
#[test]
fn long_string_output() {
    let line: String = (0..).map(|i| char::from(b'a' + (i % 26) as u8)).take(9_999).collect();
    let code = Code::new().print(&format!("{line}\n")).power_off();
    check(&run(&code, &[]), 0, &format!("{line}\n"));
}

/// A string instruction that reads a port: each byte of it is read.
#[test]
fn long_string_input() {
    let code = Code::new()
        .raw(&[0xbf])
        .raw(&DATA.to_le_bytes())
        .mov_ecx(5000)
        .mov_edx(0x5555)
        // rep insb; then the last four bytes
        .raw(&[0xfc, 0xf3, 0x6c])
        .load_eax(DATA + 4996)
        .expect_eax(u32::MAX)
        .load_eax(DATA + 5000)
        .expect_eax(0)
        .power_off();
    check(&run(&code, &[]), 0, "yes\nyes\n");
}

/// Whatever its width, it is one port that a string instruction reads, not those beside it.
#[test]
fn string_input_of_one_port() {
    let ins = |port: u32, opcode: &[u8]| {
        Code::new().raw(&[0xbf]).raw(&DATA.to_le_bytes()).mov_edx(port).mov_ecx(4).raw(opcode)
    };
    // The serial port's scratch register, the last of its ports.
    let code = Code::new()
        .out(SERIAL + 7, 0x5a)
        .raw(ins(u32::from(SERIAL) + 7, &[0xfc, 0xf3, 0x6c]).bytes())
        .load_eax(DATA)
        .expect_eax(0x5a5a_5a5a)
        .power_off();
    check(&run(&code, &[]), 0, "yes\n");
    // The identity of the host bridge.
    let code = Code::new()
        .mov_edx(0xcf8)
        .mov_eax(0x8000_0000)
        .raw(&[0xef])
        .raw(ins(0xcfc, &[0xfc, 0xf3, 0x6d]).bytes())
        .load_eax(DATA)
        .expect_eax(0x0008_1b36)
        .load_eax(DATA + 12)
        .expect_eax(0x0008_1b36)
        .power_off();
    check(&run(&code, &[]), 0, "yes\nyes\n");
}

/// Memory above the hole is there, and was not touched before the guest did.
#[test]
fn memory_around_the_hole() {
    let code = Code::new()
        // The last words below the hole.
        .load_eax(0xbfff_fffc)
        .expect_eax(0)
        .mov_eax(0x5a5a_5a5a)
        .store_eax(0xbfff_fffc)
        .load_eax(0xbfff_fffc)
        .expect_eax(0x5a5a_5a5a)
        .power_off();
    check(&run(&code, &["--memory", "5G"]), 0, "yes\nyes\n");
}

/// A serial line without its end is shown while the guest goes on.
#[test]
fn unfinished_line() {
    let (_dir, path) = kernel(&Code::new().out(SERIAL, b'>').halt());
    let mut child = command(&path).spawn().unwrap();
    wait_for(&mut child, ">");
    signal(&child, Signal::TERM);
    check(&finish(child), 143, "");
}
