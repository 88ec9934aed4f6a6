//! The shape of the code: who imports from whom.
//!
//! An arrow goes from a file that names an item (in a `use`, in a path, in a macro's words) to the
//! file that defines it. So a parent's `mod child;` is none, nor is a re-export: whoever takes an
//! item by it has an arrow to the file behind it, and `use super::Item` is an arrow to the parent
//! only where that defines the item itself. Test code has no arrows.

mod circles;
mod sources;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use self::circles::circles;
use self::sources::{Arrows, arrows};

/// The product's crates: how others name them, and their roots. A program is a crate of its own that
/// nobody names.
const CRATES: [(&str, &str); 7] = [
    ("minivmm_boot", "boot/src/lib.rs"),
    ("minivmm_devices", "devices/src/lib.rs"),
    ("minivmm_net", "net/src/lib.rs"),
    ("minivmm", "vmm/src/lib.rs"),
    ("", "vmm/src/main.rs"),
    ("minivmm_probe", "resources/probe/src/lib.rs"),
    ("", "resources/probe/src/main.rs"),
];

/// The file that wires the gateway, and the folder of what it wires.
const GATEWAY: (&str, &str) = ("net/src/gateway/mod.rs", "net/src/gateway/");

fn product() -> Arrows {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    arrows(&CRATES, &|path: &Path| std::fs::read_to_string(root.join(path)).ok())
}

/// Arrows as lines: who, to whom, for what.
fn lines<'a>(arrows: impl IntoIterator<Item = (&'a Path, &'a Path, &'a str)>) -> String {
    let line = |(from, to, what): (&Path, &Path, &str)| {
        format!("  {} -> {} ({what})\n", from.display(), to.display())
    };
    arrows.into_iter().map(line).collect()
}

#[test]
fn no_file_imports_in_a_circle() {
    let arrows = product();
    let found = circles(&arrows);
    let told: Vec<_> = found
        .iter()
        .map(|circle| {
            let next = circle.iter().cycle().skip(1);
            lines(circle.iter().zip(next).map(|(from, to)| {
                let what = &arrows[from][to];
                (from.as_path(), to.as_path(), what.as_str())
            }))
        })
        .collect();
    assert!(told.is_empty(), "{} import circles:\n{}", told.len(), told.join("\n"));
}

#[test]
fn nothing_in_the_gateway_imports_from_the_file_that_wires_it() {
    let arrows = product();
    let (wires, folder) = GATEWAY;
    let back =
        arrows.iter().filter(|(from, _)| from.starts_with(folder)).filter_map(|(from, to)| {
            to.get_key_value(Path::new(wires))
                .map(|(to, what)| (from.as_path(), to.as_path(), &**what))
        });
    let told = lines(back);
    assert!(told.is_empty(), "arrows back up:\n{told}");
}

/// The test sees the product: its crates, their files, and arrows that are known to be there.
#[test]
fn the_products_arrows_are_seen() {
    let arrows = product();
    let has = |from: &str, to: &str| arrows[Path::new(from)].contains_key(Path::new(to));
    assert!(has("vmm/src/machine/open.rs", "vmm/src/kvm/mod.rs"));
    assert!(has("vmm/src/machine/nic.rs", "net/src/segment.rs"));
    assert!(has("devices/src/virtio/net/port.rs", "net/src/port.rs"));
    assert!(has("boot/src/mptable.rs", "boot/src/layout.rs"));
    assert!(has("vmm/src/main.rs", "vmm/src/error.rs"));
    assert!(!arrows.keys().any(|file| file.ends_with("tests.rs")));
    let files: BTreeMap<_, _> = [("boot", 15), ("devices", 25), ("net", 50), ("vmm", 35)].into();
    for (folder, least) in files {
        let count = arrows.keys().filter(|file| file.starts_with(folder)).count();
        assert!(count >= least, "{folder}: {count} files");
    }
}

/// The circles of sources that are given as `(file, text)`; the crates are those with a `lib.rs`.
fn planted(files: &[(&str, &str)]) -> Vec<Vec<PathBuf>> {
    let crates: Vec<_> = files
        .iter()
        .filter_map(|(file, _)| Some((file.strip_suffix("/src/lib.rs")?, *file)))
        .collect();
    let read = |path: &Path| {
        files.iter().find(|(file, _)| Path::new(file) == path).map(|(_, text)| (*text).to_owned())
    };
    circles(&arrows(&crates, &read))
}

#[test]
fn a_planted_circle_is_found() {
    for (what, lib, a, b) in [
        (
            "by use",
            "mod a; mod b;",
            "use crate::b::B; pub struct A;",
            "use super::a::A; pub struct B;",
        ),
        (
            "by paths",
            "mod a; mod b;",
            "pub fn a() { crate::b::b() }",
            "pub fn b() { super::a::a() }",
        ),
        (
            "in macros",
            "mod a; mod b;",
            "pub fn a() { x!(f(crate::b::b)) }",
            "use crate::a; pub fn b() { a::a() }",
        ),
        (
            "by re-exports",
            "mod a; mod b; pub use a::A; pub use self::b::*;",
            "use crate::B as Other; pub struct A;",
            "use crate::{A}; pub struct B;",
        ),
        (
            "in a group",
            "mod a; mod b;",
            "use crate::{b::{self, B}}; pub struct A;",
            "pub struct B(crate::a::A);",
        ),
        (
            "in an inline module",
            "mod a; mod b;",
            "pub mod inner { use crate::b::B; pub struct A; }",
            "use crate::a::inner::A; pub struct B;",
        ),
        (
            "by globs",
            "mod a; mod b;",
            "use crate::b::*; pub struct A;",
            "use crate::a::*; pub struct B;",
        ),
    ] {
        let found = planted(&[("c/src/lib.rs", lib), ("c/src/a.rs", a), ("c/src/b.rs", b)]);
        let want = ["c/src/a.rs", "c/src/b.rs"].map(PathBuf::from);
        assert_eq!(found, [want], "{what}");
    }
}

#[test]
fn a_circle_of_parent_and_child_or_of_more_files_is_found() {
    let parent = planted(&[
        ("c/src/lib.rs", "mod a; pub fn f() { a::g() }"),
        ("c/src/a.rs", "use super::f; pub fn g() { f() }"),
    ]);
    assert_eq!(parent, [["c/src/a.rs", "c/src/lib.rs"].map(PathBuf::from)]);
    let three = planted(&[
        ("c/src/lib.rs", "mod a; mod b; mod d;"),
        ("c/src/a/mod.rs", "pub use inner::A; mod inner;"),
        ("c/src/a/inner.rs", "use crate::b::B; pub struct A;"),
        ("c/src/b.rs", "use crate::d::D; pub struct B;"),
        ("c/src/d.rs", "use crate::a::A; pub struct D;"),
    ]);
    assert_eq!(three, [["c/src/a/inner.rs", "c/src/b.rs", "c/src/d.rs"].map(PathBuf::from)]);
}

#[test]
fn a_circle_between_crates_is_found() {
    let found = planted(&[
        ("one/src/lib.rs", "pub use two::Two as Again; pub struct One(Again);"),
        ("two/src/lib.rs", "use one::One; pub struct Two;"),
    ]);
    assert_eq!(found, [["one/src/lib.rs", "two/src/lib.rs"].map(PathBuf::from)]);
}

#[test]
fn what_is_no_circle_is_none() {
    for (what, lib, a, b) in [
        ("one way", "mod a; mod b;", "use crate::b::B;", "pub struct B;"),
        (
            "re-exports alone",
            "mod a; mod b; pub use a::A; pub struct L;",
            "use super::L; pub struct A;",
            "",
        ),
        (
            "tests",
            "mod a; mod b;",
            "use crate::b::B; pub struct A;",
            "pub struct B; #[cfg(test)] mod tests { use crate::a::A; } #[cfg(test)] use crate::a::A;",
        ),
        (
            "for tests of others",
            "mod a; mod b;",
            "use crate::b::B; pub struct A;",
            "pub struct B; #[cfg(any(test, feature = \"test-utils\"))] pub fn b() { crate::a::A; }",
        ),
        (
            "a module that is named only",
            "mod a; mod b;",
            "use crate::b; pub struct A;",
            "use crate::a::A;",
        ),
        (
            "the library's names",
            "mod a; mod b;",
            "use std::fmt; pub use std::io::Error;",
            "use crate::a::Error;",
        ),
    ] {
        let found = planted(&[("c/src/lib.rs", lib), ("c/src/a.rs", a), ("c/src/b.rs", b)]);
        assert!(found.is_empty(), "{what}: {found:?}");
    }
}
