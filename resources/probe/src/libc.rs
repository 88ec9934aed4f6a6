//! The memory functions that compiled code calls and that nobody else provides here.
#![expect(unsafe_code, reason = "these are the C memory functions")]

use core::arch::asm;
use core::arch::x86_64::{_mm_cmpeq_epi8, _mm_loadu_si128, _mm_movemask_epi8};

/// C `memcpy`.
///
/// # Safety
/// As in C.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn memcpy(dst: *mut u8, src: *const u8, n: usize) -> *mut u8 {
    // SAFETY: the caller promises both ranges; DF is clear by the ABI.
    unsafe {
        asm!("rep movsb", inout("rdi") dst => _, inout("rsi") src => _, inout("rcx") n => _,
            options(nostack, preserves_flags));
    }
    dst
}

/// C `memmove`.
///
/// # Safety
/// As in C.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn memmove(dst: *mut u8, src: *const u8, n: usize) -> *mut u8 {
    if (dst as usize).wrapping_sub(src as usize) >= n {
        // SAFETY: a forward copy is right when dst is not inside src.
        return unsafe { memcpy(dst, src, n) };
    }
    // SAFETY: dst is inside src, so copy from the end; n > 0 here.
    unsafe {
        asm!("std", "rep movsb", "cld", inout("rdi") dst.add(n - 1) => _, inout("rsi") src.add(n - 1) => _,
            inout("rcx") n => _, options(nostack));
    }
    dst
}

/// C `memset`.
///
/// # Safety
/// As in C.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn memset(dst: *mut u8, byte: i32, n: usize) -> *mut u8 {
    // SAFETY: the caller promises the range.
    unsafe {
        asm!("rep stosb", inout("rdi") dst => _, in("al") byte as u8, inout("rcx") n => _,
            options(nostack, preserves_flags));
    }
    dst
}

/// C `memcmp`. Sixteen bytes at a time, as contents of bulk transfers are compared by it. Single reads are volatile so that
/// the loop is not turned into a call to itself.
///
/// # Safety
/// As in C.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn memcmp(a: *const u8, b: *const u8, n: usize) -> i32 {
    let mut i = 0;
    while i + 16 <= n {
        // SAFETY: i + 16 <= n, and the caller promises n bytes each; loads need no alignment.
        let equal = unsafe {
            _mm_movemask_epi8(_mm_cmpeq_epi8(
                _mm_loadu_si128(a.add(i).cast()),
                _mm_loadu_si128(b.add(i).cast()),
            ))
        };
        if equal != 0xffff {
            break;
        }
        i += 16;
    }
    while i < n {
        // SAFETY: i < n, and the caller promises n bytes each.
        let (x, y) = unsafe { (a.add(i).read_volatile(), b.add(i).read_volatile()) };
        if x != y {
            return i32::from(x) - i32::from(y);
        }
        i += 1;
    }
    0
}

/// C `bcmp`.
///
/// # Safety
/// As in C.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bcmp(a: *const u8, b: *const u8, n: usize) -> i32 {
    // SAFETY: the caller's.
    unsafe { memcmp(a, b, n) }
}

/// Named by code that was compiled for unwinding; with `panic = "abort"` never called.
#[unsafe(no_mangle)]
pub extern "C" fn rust_eh_personality() {}
