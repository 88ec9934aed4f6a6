//! Type 0 configuration space (PCI Local Bus 3.0 §6): bytes, and which of their bits the guest
//! may write. BAR sizing follows from the write mask alone.

/// Bytes of conventional configuration space; beyond, PCI Express space reads as zero.
pub const CONFIG_SIZE: usize = 256;

/// Offsets in the header.
pub mod reg {
    /// Vendor and device ids.
    pub const ID: usize = 0x00;
    /// Command register.
    pub const COMMAND: usize = 0x04;
    /// Status register.
    pub const STATUS: usize = 0x06;
    /// Revision and class code.
    pub const REVISION: usize = 0x08;
    /// First base address register.
    pub const BAR0: usize = 0x10;
    /// Subsystem vendor and device ids.
    pub const SUBSYSTEM: usize = 0x2c;
    /// First capability.
    pub const CAPABILITIES: usize = 0x34;
    /// Interrupt line; a scratch byte, as there is no interrupt pin.
    pub const INTERRUPT_LINE: usize = 0x3c;
}

/// Command: the function answers memory accesses.
pub const COMMAND_MEMORY: u16 = 1 << 1;
/// Command: the function may read and write memory.
pub const COMMAND_BUS_MASTER: u16 = 1 << 2;
const COMMAND_PARITY: u16 = 1 << 6;
const COMMAND_SERR: u16 = 1 << 8;
const COMMAND_NO_INTX: u16 = 1 << 10;
const STATUS_CAPABILITIES: u16 = 1 << 4;
const FIRST_CAPABILITY: usize = 0x40;

/// What a function says it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// Vendor id.
    pub vendor: u16,
    /// Device id.
    pub device: u16,
    /// Subsystem vendor id.
    pub subsystem_vendor: u16,
    /// Subsystem id.
    pub subsystem: u16,
    /// Class, subclass and programming interface, 24 bits.
    pub class: u32,
    /// Revision.
    pub revision: u8,
}

/// The configuration space of one function.
#[derive(Debug, Clone)]
pub struct ConfigSpace {
    bytes: [u8; CONFIG_SIZE],
    writable: [u8; CONFIG_SIZE],
    /// Where the pointer to the next capability goes.
    last_pointer: usize,
    next_free: usize,
}

impl ConfigSpace {
    /// A function without BARs and capabilities, decoding nothing.
    pub fn new(id: &Identity) -> Self {
        let mut c = Self {
            bytes: [0; CONFIG_SIZE],
            writable: [0; CONFIG_SIZE],
            last_pointer: reg::CAPABILITIES,
            next_free: FIRST_CAPABILITY,
        };
        c.set(reg::ID, &id.vendor.to_le_bytes());
        c.set(reg::ID + 2, &id.device.to_le_bytes());
        c.set(reg::REVISION, &(id.class << 8 | u32::from(id.revision)).to_le_bytes());
        c.set(reg::SUBSYSTEM, &id.subsystem_vendor.to_le_bytes());
        c.set(reg::SUBSYSTEM + 2, &id.subsystem.to_le_bytes());
        let command =
            COMMAND_MEMORY | COMMAND_BUS_MASTER | COMMAND_PARITY | COMMAND_SERR | COMMAND_NO_INTX;
        c.set_writable(reg::COMMAND, &command.to_le_bytes());
        c.set_writable(reg::INTERRUPT_LINE, &[0xff]);
        c
    }

    /// Makes BAR `index` a 32-bit memory BAR of `size` bytes.
    ///
    /// # Panics
    /// If there is no such BAR or `size` is not a power of two from 16 up.
    pub fn add_bar(&mut self, index: usize, size: u32) {
        assert!(index < 6 && size.is_power_of_two() && size >= 16);
        self.set_writable(reg::BAR0 + 4 * index, &(!(size - 1)).to_le_bytes());
    }

    /// Puts BAR `index` at `address`, as firmware would.
    pub fn set_bar(&mut self, index: usize, address: u32) {
        self.set(reg::BAR0 + 4 * index, &address.to_le_bytes());
    }

    /// Where BAR `index` answers: `None` while memory decoding is off.
    pub fn bar(&self, index: usize) -> Option<u32> {
        (self.u16_at(reg::COMMAND) & COMMAND_MEMORY != 0)
            .then(|| self.u32_at(reg::BAR0 + 4 * index) & !0xf)
    }

    /// Appends a capability: id, link and `body`. Returns its offset.
    ///
    /// # Panics
    /// If there is no room left, a mistake of the device's author.
    pub fn add_capability(&mut self, id: u8, body: &[u8]) -> usize {
        let at = self.next_free;
        let end = at + 2 + body.len();
        assert!(end <= CONFIG_SIZE, "capabilities exceed configuration space");
        self.set(at, &[id, 0]);
        self.set(at + 2, body);
        let link = u8::try_from(at).expect("below 256");
        self.set(self.last_pointer, &[link]);
        self.last_pointer = at + 1;
        self.next_free = end.next_multiple_of(4);
        let status = self.u16_at(reg::STATUS) | STATUS_CAPABILITIES;
        self.set(reg::STATUS, &status.to_le_bytes());
        at
    }

    /// Lets the guest write the bits of `mask` from `offset` on.
    pub fn set_writable(&mut self, offset: usize, mask: &[u8]) {
        self.writable[offset..offset + mask.len()].copy_from_slice(mask);
    }

    /// Sets bytes, whatever the mask says.
    pub fn set(&mut self, offset: usize, bytes: &[u8]) {
        self.bytes[offset..offset + bytes.len()].copy_from_slice(bytes);
    }

    /// Two bytes at `offset`; zero beyond the end.
    pub fn u16_at(&self, offset: usize) -> u16 {
        let mut b = [0; 2];
        self.read(offset, &mut b);
        u16::from_le_bytes(b)
    }

    /// Four bytes at `offset`; zero beyond the end.
    pub fn u32_at(&self, offset: usize) -> u32 {
        let mut b = [0; 4];
        self.read(offset, &mut b);
        u32::from_le_bytes(b)
    }

    /// A read by the guest; beyond the end are zeros.
    pub fn read(&self, offset: usize, data: &mut [u8]) {
        data.fill(0);
        let rest = self.bytes.get(offset..).unwrap_or_default();
        for (to, from) in data.iter_mut().zip(rest) {
            *to = *from;
        }
    }

    /// A write by the guest: bits that the mask does not name stay.
    pub fn write(&mut self, offset: usize, data: &[u8]) {
        let offset = offset.min(CONFIG_SIZE);
        let bytes = self.bytes[offset..].iter_mut().zip(&self.writable[offset..]);
        for ((byte, mask), new) in bytes.zip(data) {
            *byte = *byte & !mask | new & mask;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: Identity = Identity {
        vendor: 0x1af4,
        device: 0x1041,
        subsystem_vendor: 0x1af4,
        subsystem: 0x1041,
        class: 0x02_00_00,
        revision: 1,
    };

    #[test]
    fn identity_is_read_only() {
        let mut c = ConfigSpace::new(&ID);
        c.write(0, &[0xff; 4]);
        assert_eq!(c.u32_at(0), 0x1041_1af4);
        assert_eq!(c.u32_at(8), 0x0200_0001);
        // Header type 0, no interrupt pin.
        assert_eq!((c.u32_at(0xc), c.u16_at(0x3c)), (0, 0));
    }

    #[test]
    fn a_bar_is_sized_and_moved() {
        let mut c = ConfigSpace::new(&ID);
        c.add_bar(0, 0x8000);
        c.set_bar(0, 0xc000_0000);
        assert_eq!(c.bar(0), None);
        c.write(reg::COMMAND, &[0x06, 0x00]);
        assert_eq!(c.bar(0), Some(0xc000_0000));
        c.write(reg::BAR0, &[0xff; 4]);
        assert_eq!(c.u32_at(reg::BAR0), 0xffff_8000);
        c.write(reg::BAR0 + 3, &[0xc1]);
        c.write(reg::BAR0, &[0, 0, 0x10]);
        assert_eq!(c.bar(0), Some(0xc110_0000));
        // The absent ones size to nothing.
        c.write(reg::BAR0 + 4, &[0xff; 4]);
        assert_eq!(c.u32_at(reg::BAR0 + 4), 0);
    }

    #[test]
    fn io_decoding_cannot_be_enabled() {
        let mut c = ConfigSpace::new(&ID);
        c.write(reg::COMMAND, &[0xff, 0xff]);
        assert_eq!(c.u16_at(reg::COMMAND), 0x0546);
    }

    #[test]
    fn capabilities_form_a_list() {
        let mut c = ConfigSpace::new(&ID);
        assert_eq!(c.u16_at(reg::STATUS), 0);
        let a = c.add_capability(9, &[1, 2, 3]);
        let b = c.add_capability(0x11, &[4]);
        assert_eq!(c.u16_at(reg::STATUS), STATUS_CAPABILITIES);
        assert_eq!((a, b), (0x40, 0x48));
        assert_eq!(c.u16_at(reg::CAPABILITIES), 0x40);
        assert_eq!(c.u32_at(0x40), 0x0201_4809);
        assert_eq!(c.u32_at(0x48), 0x0004_0011);
    }

    #[test]
    fn accesses_over_the_end_are_cut() {
        let mut c = ConfigSpace::new(&ID);
        let mut data = [1; 8];
        c.read(0xfe, &mut data);
        assert_eq!(data, [0; 8]);
        c.read(0x1000, &mut data);
        c.write(0xfe, &data);
        c.write(usize::MAX, &data);
    }
}
