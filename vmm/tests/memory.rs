//! Where guest memory lies, and on what pages. Alone in its program: other threads that map memory
//! of their own at the same moment can take the place.
#![expect(clippy::unwrap_used, reason = "a test fails by it")]

use std::fs;

use minivmm::{Backing, memory};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryRegion};

const HUGE_PAGE: u64 = 2 << 20;

/// KiB of a figure of `/proc/self/smaps`, for the mapping that has `address`.
fn smaps(address: u64, figure: &str) -> u64 {
    let maps = fs::read_to_string("/proc/self/smaps").unwrap();
    let has_it = |line: &&str| {
        let range = line.split(' ').next().and_then(|range| range.split_once('-'));
        let range = range.map(|(from, to)| [from, to].map(|at| u64::from_str_radix(at, 16)));
        matches!(range, Some([Ok(from), Ok(to)]) if (from..to).contains(&address))
    };
    let mapping = maps.lines().skip_while(|line| !has_it(line));
    let line = mapping.skip(1).find_map(|line| line.strip_prefix(figure)).unwrap();
    line.trim_end_matches("kB").trim().parse().unwrap()
}

#[test]
fn guest_memory_is_aligned_for_huge_pages_and_has_them() {
    let enabled = fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled");
    let enabled = enabled.is_ok_and(|setting| !setting.contains("[never]"));
    // With a region above the hole, and of sizes that are no multiple of a huge page: those Linux
    // does not align by itself, or none before 6.7.
    for mib in [16, 33, 257, (4 << 10) + 1] {
        for backing in [Backing::Anonymous, Backing::Memfd] {
            let memory = memory::create(mib << 20, backing).unwrap();
            for region in memory.iter() {
                let (host, guest) = (region.as_ptr() as u64, region.start_addr().0);
                assert_eq!(host % HUGE_PAGE, guest % HUGE_PAGE, "{mib} MiB, {backing}, {guest:x}");
            }
            if backing == Backing::Memfd {
                continue;
            }
            memory.write_obj(1u8, GuestAddress(HUGE_PAGE + 5)).unwrap();
            let host = memory.find_region(GuestAddress(0)).unwrap().as_ptr() as u64;
            let (resident, huge) = (smaps(host, "Rss:"), smaps(host, "AnonHugePages:"));
            // A host with no huge page to spare gives a small one.
            assert!(resident <= 2048, "{resident} KiB for a byte");
            assert!(huge == 0 || enabled);
            println!("{mib} MiB, {backing}: {resident} KiB resident, {huge} KiB of them huge");
        }
    }
    // All at once would be strange, unless the host is full.
    let memory = memory::create(64 << 20, Backing::Anonymous).unwrap();
    for page in 0..8 {
        memory.write_obj(1u8, GuestAddress(page * HUGE_PAGE)).unwrap();
    }
    let host = memory.find_region(GuestAddress(0)).unwrap().as_ptr() as u64;
    assert_eq!(smaps(host, "AnonHugePages:") > 0, enabled, "the host's setting and what it gave");
}
