//! ACPI tables, as far as the probe needs them. Access to memory is a closure so that this can be tested.
//!
//! ACPI 6.5: §5.2.5 RSDP, §5.2.7 RSDT, §5.2.8 XSDT, §5.2.9 FADT, §5.2.12 MADT; PCI Firmware 3.3 §4.1.2 MCFG.

/// What was found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Sleep control register of hardware-reduced ACPI.
    pub sleep: Option<Register>,
    /// Reset register and the value to write.
    pub reset: Option<(Register, u8)>,
    /// Configuration space of PCI segment 0: address and first bus.
    pub ecam: Option<(u64, u8)>,
    /// IOAPICs: address and first GSI.
    pub ioapics: [Option<(u32, u32)>; 2],
    /// Address and length of the DSDT.
    pub dsdt: Option<(u64, u64)>,
}

/// A byte-wide register (generic address structure).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Register {
    /// In memory.
    Memory(u64),
    /// An I/O port.
    Port(u16),
}

/// Physical memory: `read(address, buffer)` fills the buffer; unmapped addresses read as 0.
pub trait Memory {
    /// Fills `buffer` from `address`.
    fn read(&self, address: u64, buffer: &mut [u8]);

    /// A little-endian number of `N` bytes, at most 8.
    fn number<const N: usize>(&self, address: u64) -> u64 {
        let mut bytes = [0; 8];
        self.read(address, bytes.get_mut(..N).unwrap_or_default());
        u64::from_le_bytes(bytes)
    }
}

/// Follows the root pointer. `rsdp` 0 looks for it in the BIOS area.
pub fn walk(memory: &impl Memory, rsdp: u64) -> Facts {
    let mut facts = Facts::default();
    let rsdp = if rsdp == 0 { scan(memory) } else { rsdp };
    if rsdp == 0 || !signature(memory, rsdp, b"RSD PTR ") {
        return facts;
    }
    let xsdt = memory.number::<8>(rsdp + 24);
    let (root, width) = if memory.number::<1>(rsdp + 15) >= 2 && xsdt != 0 {
        (xsdt, 8)
    } else {
        (memory.number::<4>(rsdp + 16), 4)
    };
    let length = memory.number::<4>(root + 4).clamp(36, 4096);
    for entry in 0..(length - 36) / width {
        let at = root + 36 + entry * width;
        let table = if width == 8 { memory.number::<8>(at) } else { memory.number::<4>(at) };
        if signature(memory, table, b"FACP") {
            fadt(memory, table, &mut facts);
        } else if signature(memory, table, b"APIC") {
            madt(memory, table, &mut facts);
        } else if signature(memory, table, b"MCFG") && facts.ecam.is_none() {
            let first_bus = memory.number::<1>(table + 44 + 10) as u8;
            facts.ecam = Some((memory.number::<8>(table + 44), first_bus));
        }
    }
    facts
}

fn scan(memory: &impl Memory) -> u64 {
    (0xe_0000..0x10_0000).step_by(16).find(|at| signature(memory, *at, b"RSD PTR ")).unwrap_or(0)
}

fn signature<const N: usize>(memory: &impl Memory, at: u64, name: &[u8; N]) -> bool {
    let mut bytes = [0; N];
    memory.read(at, &mut bytes);
    bytes == *name
}

fn register(memory: &impl Memory, at: u64) -> Option<Register> {
    let address = memory.number::<8>(at + 4);
    match memory.number::<1>(at) {
        _ if address == 0 => None,
        0 => Some(Register::Memory(address)),
        1 => u16::try_from(address).ok().map(Register::Port),
        _ => None,
    }
}

fn fadt(memory: &impl Memory, table: u64, facts: &mut Facts) {
    const RESET_SUPPORTED: u64 = 1 << 10;
    const HARDWARE_REDUCED: u64 = 1 << 20;
    let length = memory.number::<4>(table + 4);
    let wide = if length >= 148 { memory.number::<8>(table + 140) } else { 0 };
    let dsdt = if wide == 0 { memory.number::<4>(table + 40) } else { wide };
    if signature(memory, dsdt, b"DSDT") {
        facts.dsdt = Some((dsdt, memory.number::<4>(dsdt + 4)));
    }
    let flags = memory.number::<4>(table + 112);
    if length >= 129 && flags & RESET_SUPPORTED != 0 {
        let value = memory.number::<1>(table + 128) as u8;
        facts.reset = register(memory, table + 116).map(|register| (register, value));
    }
    if length >= 256 && flags & HARDWARE_REDUCED != 0 {
        facts.sleep = register(memory, table + 244);
    }
}

/// The virtio-mmio devices (hardware ID `LNRO0005`) of the DSDT: base address and GSI of each. This is not an AML
/// interpreter: it takes the memory and interrupt descriptors (ACPI 6.5 §6.4.3) that follow the hardware ID.
pub fn virtio_mmio<const N: usize>(
    memory: &impl Memory,
    dsdt: (u64, u64),
) -> [Option<(u64, u32)>; N] {
    let mut found = [None; N];
    let mut free = found.iter_mut();
    let (start, length) = dsdt;
    let mut pending = None;
    let mut named = false;
    // A window of 12 bytes slides over the table in chunks.
    let mut chunk = [0u8; 512];
    let mut at = 36;
    while at < length.min(1 << 20) {
        memory.read(start + at, &mut chunk);
        for window in chunk.windows(12) {
            if window.starts_with(b"LNRO0005") {
                (named, pending) = (true, None);
            } else if let ([0x86, 9, 0, _, a, b, c, d, ..], true) = (window, named) {
                pending = Some(u32::from_le_bytes([*a, *b, *c, *d]));
            } else if let ([0x89, 6, 0, _, 1, a, b, c, d, ..], Some(base)) = (window, pending) {
                if let Some(slot) = free.next() {
                    *slot = Some((base.into(), u32::from_le_bytes([*a, *b, *c, *d])));
                }
                (named, pending) = (false, None);
            }
        }
        at += 512 - 11;
    }
    found
}

fn madt(memory: &impl Memory, table: u64, facts: &mut Facts) {
    let end = table + memory.number::<4>(table + 4).min(4096);
    let mut at = table + 44;
    let mut free = facts.ioapics.iter_mut();
    while at + 2 <= end {
        let length = memory.number::<1>(at + 1);
        if length < 2 {
            break;
        }
        if memory.number::<1>(at) == 1
            && let Some(slot) = free.next()
        {
            *slot = Some((memory.number::<4>(at + 4) as u32, memory.number::<4>(at + 8) as u32));
        }
        at += length;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fake(Vec<u8>);

    impl Memory for Fake {
        fn read(&self, address: u64, buffer: &mut [u8]) {
            for (i, byte) in buffer.iter_mut().enumerate() {
                *byte = self.0.get(address as usize + i).copied().unwrap_or(0);
            }
        }
    }

    fn put(memory: &mut [u8], at: usize, bytes: &[u8]) {
        memory[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn tables() -> Fake {
        let mut m = vec![0; 0x10_0000];
        put(&mut m, 0xe_0040, b"RSD PTR ");
        m[0xe_0040 + 15] = 2;
        put(&mut m, 0xe_0040 + 24, &0x1000u64.to_le_bytes());
        put(&mut m, 0x1000, b"XSDT");
        put(&mut m, 0x1004, &(36u32 + 24).to_le_bytes());
        for (i, table) in [0x2000u64, 0x3000, 0x4000].into_iter().enumerate() {
            put(&mut m, 0x1024 + 8 * i, &table.to_le_bytes());
        }
        put(&mut m, 0x2000, b"FACP");
        put(&mut m, 0x2004, &276u32.to_le_bytes());
        put(&mut m, 0x2000 + 112, &(1u32 << 20 | 1 << 10).to_le_bytes());
        m[0x2000 + 116] = 1;
        put(&mut m, 0x2000 + 120, &0x604u64.to_le_bytes());
        m[0x2000 + 128] = 7;
        m[0x2000 + 244] = 1;
        put(&mut m, 0x2000 + 248, &0x600u64.to_le_bytes());
        put(&mut m, 0x3000, b"APIC");
        put(&mut m, 0x3004, &(44u32 + 8 + 12).to_le_bytes());
        put(&mut m, 0x3000 + 44, &[0, 8]);
        put(&mut m, 0x3000 + 52, &[1, 12, 0, 0, 0, 0, 0xc0, 0xfe, 0, 0, 0, 0]);
        put(&mut m, 0x4000, b"MCFG");
        put(&mut m, 0x4004, &60u32.to_le_bytes());
        put(&mut m, 0x4000 + 44, &0xb000_0000u64.to_le_bytes());
        Fake(m)
    }

    #[test]
    fn finds_all_it_needs() {
        let facts = walk(&tables(), 0);
        assert_eq!(facts.sleep, Some(Register::Port(0x600)));
        assert_eq!(facts.reset, Some((Register::Port(0x604), 7)));
        assert_eq!(facts.ecam, Some((0xb000_0000, 0)));
        assert_eq!(facts.ioapics, [Some((0xfec0_0000, 0)), None]);
        assert_eq!(walk(&tables(), 0xe_0040), facts);
    }

    #[test]
    fn virtio_mmio_devices_of_the_dsdt() {
        let mut m = vec![0; 0x10_0000];
        put(&mut m, 0x5000, b"DSDT");
        // Across the first chunk's end, and a second device.
        for (at, base) in [(0x5000 + 36 + 505, 0xfeb0_0000u32), (0x5400, 0xfeb0_0200)] {
            put(&mut m, at, b"LNRO0005");
            put(&mut m, at + 20, &[0x86, 9, 0, 1]);
            put(&mut m, at + 24, &base.to_le_bytes());
            put(&mut m, at + 32, &[0x89, 6, 0, 1, 1, 24, 0, 0, 0]);
        }
        let found = virtio_mmio::<3>(&Fake(m), (0x5000, 0x600));
        assert_eq!(found, [Some((0xfeb0_0000, 24)), Some((0xfeb0_0200, 24)), None]);
    }

    #[test]
    fn no_or_broken_tables() {
        assert_eq!(walk(&Fake(vec![0; 16]), 0), Facts::default());
        let mut broken = tables();
        put(&mut broken.0, 0x1004, &u32::MAX.to_le_bytes());
        put(&mut broken.0, 0x3000 + 45, &[0]);
        assert_eq!(walk(&broken, 0).ioapics, [None, None]);
    }
}
