//! Two machines at once, in one process: one of them is paused while the other ends.
//!
//! `cargo run -p minivmm --example pair`

use std::error::Error;

use minivmm::{Machine, Nic, State};

fn main() -> Result<(), Box<dyn Error>> {
    let start =
        |name: &str| Machine::builder().name(name).nic(Nic::nat()).cmdline("probe=serve").start();
    let (one, two) = (start("one")?, start("two")?);
    let events = one.events()?;
    one.pause();
    assert_eq!((one.handle().state(), two.handle().state()), (State::Paused, State::Running));
    println!("two: {}", two.kill().reason());
    one.resume();
    println!("one has left guest code {:?} times", one.stats().exits);
    println!("one: {}", one.kill().reason());
    for event in events {
        println!("one: {:?}", event.what);
    }
    Ok(())
}
