//! Who made the tables.

pub const OEM_ID: [u8; 6] = *b"MINVMM";
pub const OEM_TABLE_ID: [u8; 8] = *b"MINIVMM ";
pub const OEM_REVISION: u32 = 1;
