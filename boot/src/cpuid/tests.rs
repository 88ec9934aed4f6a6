use super::*;
use proptest::prelude::*;

fn vendor(name: &[u8; 12], max: u32) -> CpuidEntry {
    let word = |i: usize| u32::from_le_bytes(name[i..i + 4].try_into().unwrap());
    CpuidEntry { eax: max, ebx: word(0), edx: word(4), ecx: word(8), ..Default::default() }
}

fn leaf(function: u32, index: u32, r: [u32; 4]) -> CpuidEntry {
    let flags = if matches!(function, 4 | 7 | 0xB | 0xD | 0x8000_001D) { FLAG_INDEX } else { 0 };
    CpuidEntry { function, index, flags, eax: r[0], ebx: r[1], ecx: r[2], edx: r[3] }
}

fn intel() -> Vec<CpuidEntry> {
    vec![
        vendor(b"GenuineIntel", 0x1F),
        leaf(1, 0, [0x50657, 0x0740_0800, 0x7ED8_3223, 0x1FA9_FBFF]),
        leaf(4, 0, [0x1C00_4121, 0x01C0_003F, 0x3F, 0]),
        leaf(4, 3, [0x1C03_C163, 0x0280_003F, 0xDFFF, 4]),
        leaf(4, 4, [0, 0, 0, 0]),
        leaf(7, 0, [1, u32::MAX, u32::MAX, u32::MAX]),
        leaf(0xB, 0, [0; 4]),
        leaf(0xD, 0, [0x2E7, 2696, 2696, 0]),
        leaf(0xD, 1, [0xF, 0, 0, 0]),
        leaf(0xD, 2, [256, 576, 0, 0]),
        leaf(0xD, 5, [64, 1088, 0, 0]),
        leaf(0xD, 6, [512, 1152, 0, 0]),
        leaf(0xD, 7, [1024, 1664, 0, 0]),
        leaf(0xD, 9, [8, 2688, 0, 0]),
        leaf(0x4000_0000, 0, [0x4000_0001, 0x4B4D_564B, 0x564B_4D56, 0x4D]),
        leaf(0x4000_0001, 0, [0x0100_7EFB, 0, 0, 0]),
    ]
}

fn amd() -> Vec<CpuidEntry> {
    vec![
        vendor(b"AuthenticAMD", 0x10),
        leaf(1, 0, [0x0083_0F10, 0x0910_0800, 0xFED8_3203, 0x0789_FBFF]),
        leaf(0x8000_0001, 0, [0x0083_0F10, 0, 0x0040_03F7, 0x2FD3_FBFF]),
        leaf(0x8000_0008, 0, [0x3030, 0x1000, 0x503F, 0]),
        leaf(0x8000_000A, 0, [1, 16, 0, 0x1_000B]),
        leaf(0x8000_001D, 0, [0x0000_4121, 0x01C0_003F, 0x3F, 0]),
        leaf(0x8000_001D, 3, [0x0001_C163, 0x03C0_003F, 0x3FFF, 1]),
        leaf(0x8000_001E, 0, [9, 0x104, 0x300, 0]),
        leaf(0x8000_0026, 0, [1, 2, 3, 4]),
    ]
}

fn get(entries: &[CpuidEntry], function: u32, index: u32) -> CpuidEntry {
    let mut found = entries.iter().filter(|e| e.function == function && e.index == index);
    let first = *found.next().unwrap();
    assert!(found.next().is_none(), "leaf 0x{function:x} twice");
    first
}

#[test]
fn leaf_1_names_the_cpu() {
    let e = get(&policy(&intel(), 5, 6, &Mask::default()), 1, 0);
    assert_eq!(e.ebx, 0x0508_0800, "APIC ID 5, room for 8 IDs, CLFLUSH 64, brand 0");
    assert_eq!(e.ecx & (1 << 31 | 1 << 24), 1 << 31 | 1 << 24);
    assert_eq!(e.edx & 1 << 28, 1 << 28);
    let e = get(&policy(&intel(), 0, 1, &Mask::default()), 1, 0);
    assert_eq!((e.ebx, e.edx & 1 << 28), (0x0001_0800, 0));
    let e = get(&policy(&amd(), 2, 6, &Mask::default()), 1, 0);
    assert_eq!(e.ebx, 0x0206_0800, "AMD counts cores");
}

#[test]
fn extended_topology_is_one_socket() {
    for function in [0xB, 0x1F] {
        let got = policy(&intel(), 3, 6, &Mask::default());
        let levels = [0, 1, 2].map(|i| {
            let e = get(&got, function, i);
            assert_eq!(e.flags, FLAG_INDEX);
            [e.eax, e.ebx, e.ecx, e.edx]
        });
        assert_eq!(levels, [[0, 1, 0x100, 3], [3, 6, 0x201, 3], [0, 0, 2, 3]]);
    }
    let got = policy(&amd(), 3, 6, &Mask::default());
    assert_eq!(get(&got, 0xB, 1).ebx, 6);
    assert!(got.iter().all(|e| e.function != 0x1F && e.function != 0x8000_0026));
}

#[test]
fn no_topology_leaf_past_the_last_leaf() {
    let mut old = intel();
    old[0].eax = 0xA;
    let got = policy(&old, 0, 2, &Mask::default());
    assert!(got.iter().all(|e| e.function != 0xB && e.function != 0x1F));
}

#[test]
fn intel_caches() {
    let got = policy(&intel(), 0, 6, &Mask::default());
    assert_eq!(get(&got, 4, 0).eax, 7 << 26 | 0x121, "L1 of one thread, 8 core IDs");
    assert_eq!(get(&got, 4, 3).eax, 7 << 26 | 7 << 14 | 0x163, "L3 of all");
    assert_eq!(get(&got, 4, 4).eax, 0);
}

#[test]
fn amd_topology() {
    let got = policy(&amd(), 2, 6, &Mask::default());
    assert_eq!(get(&got, 0x8000_0001, 0).ecx & 2, 2, "CmpLegacy");
    assert_eq!(get(&got, 0x8000_0008, 0).ecx, 0x3005, "3 ID bits, 6 cores");
    assert_eq!(get(&got, 0x8000_001D, 0).eax >> 14 & 0xFFF, 0);
    assert_eq!(get(&got, 0x8000_001D, 3).eax >> 14 & 0xFFF, 5);
    let e = get(&got, 0x8000_001E, 0);
    assert_eq!([e.eax, e.ebx, e.ecx, e.edx], [2, 2, 0, 0]);
    let one = policy(&amd(), 0, 1, &Mask::default());
    assert_eq!(get(&one, 0x8000_0001, 0).ecx & 2, 0);
    assert_eq!(get(&one, 0x8000_0008, 0).ecx, 0);
}

#[test]
fn virtualization_is_not_passed_on() {
    let got = policy(&intel(), 0, 2, &Mask::default());
    assert_eq!(get(&got, 1, 0).ecx & 1 << 5, 0, "VMX");
    let got = policy(&amd(), 0, 2, &Mask::default());
    assert_eq!(get(&got, 0x8000_0001, 0).ecx & 1 << 2, 0, "SVM");
    assert!(got.iter().all(|e| e.function != 0x8000_000A));
}

#[test]
fn kvm_leaves_stay() {
    let got = policy(&intel(), 0, 2, &"avx".parse().unwrap());
    for f in [0x4000_0000, 0x4000_0001] {
        assert_eq!(get(&got, f, 0), get(&intel(), f, 0));
    }
}

#[test]
fn mask_clears_bits_and_what_needs_them() {
    let mask: Mask = "CX16,avx2".parse().unwrap();
    let got = policy(&intel(), 0, 1, &mask);
    assert_eq!(get(&got, 1, 0).ecx & (1 << 13), 0);
    assert_ne!(get(&got, 1, 0).ecx & (1 << 28), 0, "avx stays");
    let seven = get(&got, 7, 0);
    assert_eq!(seven.ebx & (1 << 5 | 1 << 16 | 1 << 30), 0);
    assert_ne!(seven.ebx & 1 << 3, 0, "bmi1 stays");
    // AVX-512 state is gone, PKRU at 2688 still needs its room.
    let d = get(&got, 0xD, 0);
    assert_eq!((d.eax, d.ecx), (0x207, 2696));
    assert_eq!(get(&got, 0xD, 6), leaf(0xD, 6, [0; 4]));
    let got = policy(&intel(), 0, 1, &"avx512f,pku".parse().unwrap());
    assert_eq!((get(&got, 0xD, 0).eax, get(&got, 0xD, 0).ecx), (7, 832));
}

#[test]
fn mask_of_xsave_takes_all_that_is_saved_by_it() {
    let got = policy(&intel(), 0, 1, &"xsave".parse().unwrap());
    assert_eq!(get(&got, 1, 0).ecx & (1 << 26 | 1 << 27 | 1 << 28 | 1 << 12), 0);
    assert_eq!(get(&got, 7, 0).ebx & 1 << 5, 0);
    assert!(got.iter().filter(|e| e.function == 0xD).all(|e| *e == leaf(0xD, e.index, [0; 4])));
}

#[test]
fn amd_mirror_follows() {
    let got = policy(&amd(), 0, 1, &"mmx".parse().unwrap());
    assert_eq!((get(&got, 1, 0).edx | get(&got, 0x8000_0001, 0).edx) & 1 << 23, 0);
    // Bits 18..22 of the extended leaf are AMD's own.
    let got = policy(&amd(), 0, 1, &"clflush".parse().unwrap());
    assert_eq!(get(&got, 0x8000_0001, 0).edx, amd()[2].edx);
}

#[test]
fn names() {
    assert_eq!("".parse(), Ok(Mask::default()));
    assert_eq!("sse4.1".parse::<Mask>(), "sse4_1".parse());
    assert_eq!("sse3".parse::<Mask>(), "pni".parse());
    assert_eq!("avx,foo".parse::<Mask>(), Err(MaskError::Unknown("foo".into())));
    assert_eq!("hypervisor".parse::<Mask>(), Err(MaskError::Unknown("hypervisor".into())));
    for name in ["lm", "SSE2"] {
        assert_eq!(name.parse::<Mask>(), Err(MaskError::Needed(name.into())));
    }
    for name in Mask::names() {
        assert!(name.parse::<Mask>().unwrap().hides(name));
    }
}

proptest! {
    #[test]
    fn any_input_keeps_its_leaves_and_masked_bits_stay_clear(
        regs in proptest::collection::vec(any::<[u32; 6]>(), 0..40),
        cpus in 1u32..=32, seed in any::<u32>(),
    ) {
        let entries: Vec<_> = regs.iter().map(|r| CpuidEntry {
            // Mostly leaves that the policy looks at.
            function: [0, 1, 4, 7, 0xB, 0xD, 0x1F, 0x8000_0001, 0x8000_0008, 0x8000_001D, r[0]]
                [r[0] as usize % 11],
            index: r[1] % 40, flags: 1, eax: r[2], ebx: r[3], ecx: r[4], edx: r[5],
        }).collect();
        let mask: Mask = "xsave,cx16".parse().unwrap();
        for cpu in [0, seed % cpus, cpus - 1] {
            let got = policy(&entries, cpu, cpus, &mask);
            prop_assert!(got.len() <= entries.len() + 6);
            for e in got.iter().filter(|e| e.function == 1 && e.index == 0) {
                prop_assert_eq!(e.ecx & (1 << 13 | 1 << 26 | 1 << 28), 0);
                prop_assert_eq!(e.ebx >> 24, cpu);
            }
        }
    }
}
