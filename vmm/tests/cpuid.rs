//! What `--cpu-mask` takes away is gone for the guest.
#![expect(clippy::unwrap_used, reason = "a test fails by it")]

mod common;

use common::{Code, check, run};

/// CMPXCHG16B, in leaf 1's ECX: also a KVM in software lets it be masked, unlike others.
const CX16: u32 = 1 << 13;

#[test]
fn a_masked_feature_is_gone() {
    // cpuid; mov eax, ecx; and eax, imm32.
    let code = Code::new().mov_eax(1).raw(&[0x0f, 0xa2, 0x89, 0xc8, 0x25]);
    let code = code.raw(&CX16.to_le_bytes()).expect_eax(CX16).power_off();
    check(&run(&code, &[]), 0, "yes\n");
    check(&run(&code, &["--cpu-mask", "avx,cx16"]), 0, "no\n");
    check(&run(&code, &["--cpu-mask", "avx"]), 0, "yes\n");
}
