//! Little-endian fields at fixed offsets of a header whose length was checked.

pub(crate) fn bytes<const N: usize>(b: &[u8], at: usize) -> [u8; N] {
    b.get(at..).and_then(|b| b.first_chunk()).copied().unwrap_or([0; N])
}
pub(crate) fn u16(b: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes(b, at))
}
pub(crate) fn u32(b: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes(b, at))
}
pub(crate) fn u64(b: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes(b, at))
}
