//! CPU features by the names of `/proc/cpuinfo`, and the mask that hides some of them.

use std::collections::BTreeSet;
use std::str::FromStr;

use super::entry::CpuidEntry;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Register {
    Eax,
    Ebx,
    Ecx,
    Edx,
}
use Register::{Eax, Ebx, Ecx, Edx};

/// A register of a leaf and the names of its feature bits. A name may stand in several places.
struct Word {
    function: u32,
    index: u32,
    register: Register,
    bits: &'static [(u8, &'static str)],
}

const fn word(
    function: u32,
    index: u32,
    register: Register,
    bits: &'static [(u8, &'static str)],
) -> Word {
    Word { function, index, register, bits }
}

/// The `hypervisor` bit and topology bits are not here: they are not the user's to hide.
#[rustfmt::skip]
const WORDS: &[Word] = &[
    word(1, 0, Ecx, &[
        (0, "pni"), (1, "pclmulqdq"), (3, "monitor"), (5, "vmx"), (9, "ssse3"), (12, "fma"),
        (13, "cx16"), (15, "pdcm"), (17, "pcid"), (19, "sse4_1"), (20, "sse4_2"), (21, "x2apic"),
        (22, "movbe"), (23, "popcnt"), (24, "tsc_deadline_timer"), (25, "aes"), (26, "xsave"),
        (28, "avx"), (29, "f16c"), (30, "rdrand"),
    ]),
    word(1, 0, Edx, &[
        (0, "fpu"), (1, "vme"), (2, "de"), (3, "pse"), (4, "tsc"), (5, "msr"), (6, "pae"),
        (7, "mce"), (8, "cx8"), (9, "apic"), (11, "sep"), (12, "mtrr"), (13, "pge"), (14, "mca"),
        (15, "cmov"), (16, "pat"), (17, "pse36"), (19, "clflush"), (23, "mmx"), (24, "fxsr"),
        (25, "sse"), (26, "sse2"), (27, "ss"),
    ]),
    word(6, 0, Eax, &[(2, "arat")]),
    word(7, 0, Ebx, &[
        (0, "fsgsbase"), (1, "tsc_adjust"), (3, "bmi1"), (4, "hle"), (5, "avx2"), (7, "smep"),
        (8, "bmi2"), (9, "erms"), (10, "invpcid"), (11, "rtm"), (14, "mpx"), (16, "avx512f"),
        (17, "avx512dq"), (18, "rdseed"), (19, "adx"), (20, "smap"), (21, "avx512ifma"),
        (23, "clflushopt"), (24, "clwb"), (26, "avx512pf"), (27, "avx512er"), (28, "avx512cd"),
        (29, "sha_ni"), (30, "avx512bw"), (31, "avx512vl"),
    ]),
    word(7, 0, Ecx, &[
        (1, "avx512vbmi"), (2, "umip"), (3, "pku"), (5, "waitpkg"), (6, "avx512_vbmi2"),
        (7, "user_shstk"), (8, "gfni"), (9, "vaes"), (10, "vpclmulqdq"), (11, "avx512_vnni"),
        (12, "avx512_bitalg"), (14, "avx512_vpopcntdq"), (16, "la57"), (22, "rdpid"),
        (24, "bus_lock_detect"), (25, "cldemote"), (27, "movdiri"), (28, "movdir64b"),
    ]),
    word(7, 0, Edx, &[
        (2, "avx512_4vnniw"), (3, "avx512_4fmaps"), (4, "fsrm"), (8, "avx512_vp2intersect"),
        (10, "md_clear"), (14, "serialize"), (16, "tsxldtrk"), (20, "ibt"), (22, "amx_bf16"),
        (23, "avx512_fp16"), (24, "amx_tile"), (25, "amx_int8"), (26, "ibrs"), (26, "ibpb"),
        (27, "stibp"), (28, "flush_l1d"), (29, "arch_capabilities"), (31, "ssbd"),
    ]),
    word(7, 1, Eax, &[
        (4, "avx_vnni"), (5, "avx512_bf16"), (10, "fzrm"), (11, "fsrs"), (12, "fsrc"),
        (21, "amx_fp16"), (23, "avx_ifma"),
    ]),
    word(0xD, 1, Eax, &[(0, "xsaveopt"), (1, "xsavec"), (2, "xgetbv1"), (3, "xsaves")]),
    word(0x8000_0001, 0, Ecx, &[
        (0, "lahf_lm"), (2, "svm"), (3, "extapic"), (4, "cr8_legacy"), (5, "abm"), (6, "sse4a"),
        (7, "misalignsse"), (8, "3dnowprefetch"), (9, "osvw"), (11, "xop"), (16, "fma4"),
        (21, "tbm"), (23, "perfctr_core"), (24, "perfctr_nb"), (29, "mwaitx"),
    ]),
    word(0x8000_0001, 0, Edx, &[
        (11, "syscall"), (20, "nx"), (22, "mmxext"), (25, "fxsr_opt"), (26, "pdpe1gb"),
        (27, "rdtscp"), (29, "lm"), (30, "3dnowext"), (31, "3dnow"),
    ]),
    word(0x8000_0007, 0, Edx, &[(8, "nonstop_tsc")]),
    word(0x8000_0008, 0, Ebx, &[
        (0, "clzero"), (2, "xsaveerptr"), (9, "wbnoinvd"), (12, "ibpb"), (14, "ibrs"),
        (15, "stibp"), (24, "ssbd"), (25, "virt_ssbd"),
    ]),
];

/// Features that do not work without another one, which goes first. Chains are followed.
#[rustfmt::skip]
const REQUIRED_BY: &[(&str, &[&str])] = &[
    ("fxsr", &["sse", "fxsr_opt", "xsave"]),
    ("sse", &["sse2"]),
    ("sse2", &["pni"]),
    ("pni", &["ssse3"]),
    ("ssse3", &["sse4_1"]),
    ("sse4_1", &["sse4_2"]),
    ("xsave", &["avx", "xsaveopt", "xsavec", "xgetbv1", "xsaveerptr", "pku", "mpx", "amx_tile"]),
    ("xsavec", &["xsaves"]),
    ("avx", &["avx2", "fma", "f16c", "fma4", "xop", "vaes", "vpclmulqdq"]),
    ("avx2", &["avx512f", "avx_vnni", "avx_ifma"]),
    ("avx512f", &[
        "avx512dq", "avx512ifma", "avx512pf", "avx512er", "avx512cd", "avx512bw", "avx512vl",
        "avx512vbmi", "avx512_vbmi2", "avx512_vnni", "avx512_bitalg", "avx512_vpopcntdq",
        "avx512_4vnniw", "avx512_4fmaps", "avx512_vp2intersect", "avx512_fp16", "avx512_bf16",
    ]),
    ("amx_tile", &["amx_bf16", "amx_int8", "amx_fp16"]),
];

/// Other names in use for the same feature.
const ALIASES: &[(&str, &str)] = &[
    ("sse3", "pni"),
    ("tsc_deadline", "tsc_deadline_timer"),
    ("lzcnt", "abm"),
    ("cmpxchg16b", "cx16"),
    ("sha", "sha_ni"),
    ("spec_ctrl", "ibrs"),
];

/// What every 64-bit guest relies on: it would triple-fault at its first instructions, and say
/// nothing.
#[rustfmt::skip]
const NEEDED: &[&str] = &[
    "apic", "cmov", "cx8", "fpu", "fxsr", "lm", "msr", "pae", "sse", "sse2", "syscall",
];

/// State components of XCR0 (leaf 0xD, sub-leaf 0, EAX) and the feature that needs them.
const STATE_COMPONENTS: &[(&str, u32)] = &[
    ("avx", 1 << 2),
    ("mpx", 1 << 3 | 1 << 4),
    ("avx512f", 1 << 5 | 1 << 6 | 1 << 7),
    ("pku", 1 << 9),
    ("amx_tile", 1 << 17 | 1 << 18),
];
/// Bytes of the XSAVE area that always are: legacy region and header.
const XSAVE_MIN: u32 = 576;
/// Leaf 1, ECX: set by the guest's own CR4.OSXSAVE.
const ECX_OSXSAVE: u32 = 1 << 27;
/// Bits of leaf 1, EDX that AMD repeats in leaf 0x8000_0001.
const AMD_MIRROR: u32 = 0x0183_F3FF;

/// Why a feature list was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MaskError {
    /// No such feature.
    #[error("unknown CPU feature '{0}' (use the names that 'grep -m1 flags /proc/cpuinfo' shows)")]
    Unknown(String),
    /// No guest would start.
    #[error("the CPU feature '{0}' can't be taken away: every 64-bit guest needs it")]
    Needed(String),
}

/// CPU features hidden from the guest, parsed from a comma-separated list of names.
///
/// Hiding a feature hides what does not work without it. Hyphens and dots count as underscores.
///
/// ```
/// use minivmm_boot::cpuid::Mask;
/// let mask: Mask = "avx2, cx16".parse()?;
/// assert!(mask.hides("avx512f"));
/// assert_eq!(
///     "avx3".parse::<Mask>().unwrap_err().to_string(),
///     "unknown CPU feature 'avx3' (use the names that 'grep -m1 flags /proc/cpuinfo' shows)"
/// );
/// # Ok::<(), minivmm_boot::cpuid::MaskError>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mask(BTreeSet<&'static str>);

impl Mask {
    /// Every name that a mask may have, in alphabetical order.
    pub fn names() -> impl Iterator<Item = &'static str> {
        let all: BTreeSet<_> = WORDS.iter().flat_map(|w| w.bits).map(|&(_, name)| name).collect();
        all.into_iter().filter(|name| !NEEDED.contains(name))
    }

    /// Whether the feature is hidden, by name or as it needs one that is.
    #[must_use]
    pub fn hides(&self, name: &str) -> bool {
        self.0.contains(name)
    }

    fn hide(&mut self, name: &'static str) {
        if self.0.insert(name) {
            let needs = REQUIRED_BY.iter().filter(|(first, _)| *first == name);
            needs.flat_map(|(_, then)| *then).for_each(|next| self.hide(next));
        }
    }

    pub(super) fn apply(&self, entries: &mut [CpuidEntry], amd: bool) {
        if self.0.is_empty() {
            return;
        }
        for word in WORDS {
            let bits = (word.bits.iter())
                .filter(|(_, name)| self.hides(name))
                .fold(0, |bits, (bit, _)| bits | 1 << bit);
            let leaf = |e: &&mut CpuidEntry| e.function == word.function && e.index == word.index;
            for e in entries.iter_mut().filter(leaf) {
                clear(e, word.register, bits);
            }
            if amd && (word.function, word.register) == (1, Edx) {
                for e in entries.iter_mut().filter(|e| e.function == 0x8000_0001) {
                    e.edx &= !(bits & AMD_MIRROR);
                }
            }
        }
        self.apply_xsave(entries);
    }

    /// Leaf 0xD says which state there is to save; it must agree with the features.
    fn apply_xsave(&self, entries: &mut [CpuidEntry]) {
        if self.hides("xsave") {
            for e in entries.iter_mut() {
                match e.function {
                    1 => e.ecx &= !ECX_OSXSAVE,
                    0xD => (e.eax, e.ebx, e.ecx, e.edx) = (0, 0, 0, 0),
                    _ => {}
                }
            }
            return;
        }
        let hidden = (STATE_COMPONENTS.iter())
            .filter(|(name, _)| self.hides(name))
            .fold(0, |bits, (_, components)| bits | components);
        if hidden == 0 {
            return;
        }
        let mut size = XSAVE_MIN;
        for e in entries.iter_mut().filter(|e| e.function == 0xD && e.index >= 2) {
            if 1u32.checked_shl(e.index).is_some_and(|bit| hidden & bit != 0) {
                (e.eax, e.ebx, e.ecx, e.edx) = (0, 0, 0, 0);
            } else if e.ecx & 1 == 0 {
                // A user state component: size and offset in the standard format.
                size = size.max(e.eax.saturating_add(e.ebx));
            }
        }
        for e in entries.iter_mut().filter(|e| e.function == 0xD && e.index == 0) {
            e.eax &= !hidden;
            (e.ebx, e.ecx) = (e.ebx.min(size), e.ecx.min(size));
        }
    }
}

fn clear(e: &mut CpuidEntry, register: Register, bits: u32) {
    let register = match register {
        Eax => &mut e.eax,
        Ebx => &mut e.ebx,
        Ecx => &mut e.ecx,
        Edx => &mut e.edx,
    };
    *register &= !bits;
}

impl FromStr for Mask {
    type Err = MaskError;

    fn from_str(list: &str) -> Result<Self, MaskError> {
        let mut mask = Self::default();
        for given in list.split(',').map(str::trim).filter(|name| !name.is_empty()) {
            let name = given.to_ascii_lowercase().replace(['-', '.'], "_");
            let name = ALIASES.iter().find(|(a, _)| *a == name).map_or(&*name, |&(_, n)| n);
            if NEEDED.contains(&name) {
                return Err(MaskError::Needed(given.to_owned()));
            }
            let known = Self::names().find(|&n| n == name);
            mask.hide(known.ok_or_else(|| MaskError::Unknown(given.to_owned()))?);
        }
        Ok(mask)
    }
}
