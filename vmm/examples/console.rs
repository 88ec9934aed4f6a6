//! Boots a kernel, shows what it writes to its console, and ends it after ten seconds.
//!
//! `cargo run -p minivmm --example console -- vmlinux`

use std::error::Error;
use std::io::{self, Read, Write};
use std::time::Duration;

use minivmm::Machine;
use minivmm::config::Size;

fn main() -> Result<(), Box<dyn Error>> {
    // Without a kernel it is the built-in probe.
    let mut builder = Machine::builder().memory(Size::mib(128)).console_stream();
    if let Some(kernel) = std::env::args_os().nth(1) {
        builder = builder.kernel(kernel);
    }
    let mut machine = builder.start()?;
    let mut console = machine.take_console().ok_or("a console was asked for")?;
    // The console ends with the machine.
    let reader = std::thread::spawn(move || -> io::Result<()> {
        let mut bytes = [0; 4096];
        loop {
            match console.read(&mut bytes)? {
                0 => return Ok(()),
                n => io::stdout().write_all(&bytes[..n])?,
            }
        }
    });
    let ended = machine.wait_timeout(Duration::from_secs(10));
    let outcome = ended.unwrap_or_else(|| machine.stop(Duration::from_secs(5)));
    // With it goes the writing end of the console.
    drop(machine);
    reader.join().map_err(|_| "the reader has panicked")??;
    println!("{}", outcome.reason());
    Ok(())
}
