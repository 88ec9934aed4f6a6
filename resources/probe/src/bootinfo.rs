//! What the VMM tells at boot: command line, ACPI root, memory map, by either protocol.

use minivmm_probe::acpi::Memory;
use minivmm_probe::crc::Crc32;

use crate::mem::{self, Physical};
use crate::ring0::BootFacts;

const START_INFO_MAGIC: u64 = 0x336e_c578;

/// Copied out of the VMM's structures, which may lie in memory that we use later.
pub struct BootInfo {
    cmdline: [u8; 2048],
    used: usize,
    /// ACPI root pointer, 0 if not told.
    pub rsdp: u64,
    /// End of the RAM that our image lies in.
    pub ram_end: u64,
    /// All RAM, wherever it lies, in bytes.
    pub ram_total: u64,
    /// The initial RAM disk, which PVH calls its first module.
    pub initrd: Option<Initrd>,
}

/// Where the initial RAM disk is. Nobody uses it; that it came whole can be seen.
#[derive(Clone, Copy)]
pub struct Initrd {
    at: u64,
    /// Its bytes.
    pub size: u64,
}

impl Initrd {
    fn new(at: u64, size: u64) -> Option<Self> {
        (at != 0 && size != 0).then_some(Self { at, size })
    }

    /// Reads it through. To be done before its memory is used for something else.
    pub fn crc32(self) -> u32 {
        let mut buffer = [0; 4096];
        let mut sum = Crc32::new();
        let mut done = 0;
        while done < self.size {
            let part = (self.size - done).min(buffer.len() as u64);
            let part = buffer.get_mut(..part as usize).unwrap_or_default();
            Physical.read(self.at.saturating_add(done), part);
            sum.add(part);
            done += part.len() as u64;
        }
        sum.value()
    }
}

impl BootInfo {
    /// Reads it.
    pub fn read(facts: &BootFacts) -> Self {
        let m = Physical;
        let at = facts.info;
        let mut info =
            Self { cmdline: [0; 2048], used: 0, rsdp: 0, ram_end: 0, ram_total: 0, initrd: None };
        if facts.linux {
            // boot_params: Documentation/arch/x86/zero-page.rst
            info.rsdp = m.number::<8>(at + 0x70);
            let pointer = m.number::<4>(at + 0x228) | m.number::<4>(at + 0xc8) << 32;
            info.read_cmdline(pointer);
            info.initrd = Initrd::new(
                m.number::<4>(at + 0x218) | m.number::<4>(at + 0xc0) << 32,
                m.number::<4>(at + 0x21c) | m.number::<4>(at + 0xc4) << 32,
            );
            for i in 0..m.number::<1>(at + 0x1e8) {
                info.add_range(at + 0x2d0 + 20 * i);
            }
        } else if m.number::<4>(at) == START_INFO_MAGIC {
            // hvm_start_info: xen/include/public/arch-x86/hvm/start_info.h
            info.read_cmdline(m.number::<8>(at + 24));
            info.rsdp = m.number::<8>(at + 32);
            if m.number::<4>(at + 12) > 0 {
                let module = m.number::<8>(at + 16);
                info.initrd = Initrd::new(m.number::<8>(module), m.number::<8>(module + 8));
            }
            if m.number::<4>(at + 4) >= 1 {
                let table = m.number::<8>(at + 40);
                for i in 0..m.number::<4>(at + 48).min(128) {
                    info.add_range(table + 24 * i);
                }
            }
        }
        if info.ram_end == 0 {
            // No map: the least that the probe needs.
            info.ram_end = 32 << 20;
        }
        info
    }

    /// The command line; what follows the first byte that is not UTF-8 is cut off.
    pub fn cmdline(&self) -> &str {
        let bytes = self.cmdline.get(..self.used).unwrap_or_default();
        match core::str::from_utf8(bytes) {
            Ok(text) => text,
            Err(error) => bytes
                .get(..error.valid_up_to())
                .and_then(|valid| core::str::from_utf8(valid).ok())
                .unwrap_or_default(),
        }
    }

    fn read_cmdline(&mut self, at: u64) {
        if at == 0 {
            return;
        }
        Physical.read(at, &mut self.cmdline);
        self.used = self.cmdline.iter().position(|b| *b == 0).unwrap_or(self.cmdline.len());
    }

    fn add_range(&mut self, entry: u64) {
        let m = Physical;
        let (start, size) = (m.number::<8>(entry), m.number::<8>(entry + 8));
        let end = start.saturating_add(size);
        let image = mem::end_of_image();
        if m.number::<4>(entry + 16) != 1 {
            return;
        }
        self.ram_total = self.ram_total.saturating_add(size);
        if start < image && image <= end {
            self.ram_end = end;
        }
    }
}
