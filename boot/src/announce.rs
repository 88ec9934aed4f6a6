//! How a kernel without ACPI learns where the virtio-mmio devices are: by its command line.
//!
//! Linux finds them by the DSDT or by `virtio_mmio.device=`
//! (`Documentation/admin-guide/kernel-parameters.txt`), and would have each twice, the second time
//! with an error, if it were told in both ways. So which way is to be taken is decided from what
//! is certain: the command line says `acpi=off`, or the kernel holds no code that looks for ACPI.

use std::ops::Range;

use memchr::memmem::Finder;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use crate::cmdline::VIRTIO_MMIO;
use crate::kernel::Loaded;
use crate::{BootError, BootSpec, Cmdline};

/// What the RSDP begins with (ACPI 6.5 §5.2.5.3). Whoever looks for one compares with it, so every
/// kernel with ACPI has these bytes among its constants.
const RSDP_SIGNATURE: &[u8] = b"RSD PTR ";
/// Bytes that are searched at a time.
const WINDOW: usize = 64 << 10;

/// The command line of `spec`, and in front of it the devices that `kernel` would not find by itself;
/// none where the command line names some already.
pub(crate) fn cmdline(
    mem: &GuestMemoryMmap,
    spec: &BootSpec<'_>,
    kernel: &Loaded,
) -> Result<Cmdline, BootError> {
    let devices = &spec.platform.virtio_mmio;
    let words = || spec.cmdline.as_str().split_ascii_whitespace().take_while(|word| *word != "--");
    let told = devices.is_empty() || words().any(|word| word.starts_with(VIRTIO_MMIO));
    if told || !(acpi_is_off(words()) || has_no_acpi(mem, &kernel.constants)?) {
        return Ok(spec.cmdline.clone());
    }
    let mut line = Cmdline::default();
    line.push_virtio_mmio(devices)?;
    line.push(spec.cmdline.as_str())?;
    Ok(line)
}

/// Whether the last `acpi=` that switches it says so.
fn acpi_is_off<'a>(words: impl Iterator<Item = &'a str>) -> bool {
    let switches = words.filter_map(|word| word.strip_prefix("acpi="));
    switches.filter(|value| ["off", "on", "force"].contains(value)).last() == Some("off")
}

/// Whether a kernel with these `constants` knows nothing of ACPI. Nothing is known of one that
/// unpacks itself in the guest, which has none to be seen: most have it.
fn has_no_acpi(mem: &GuestMemoryMmap, constants: &[Range<u64>]) -> Result<bool, BootError> {
    if constants.is_empty() {
        return Ok(false);
    }
    let finder = Finder::new(RSDP_SIGNATURE);
    let mut window = vec![0; WINDOW];
    for part in constants {
        let mut at = part.start;
        while at < part.end {
            let len = (part.end - at).min(WINDOW as u64) as usize;
            mem.read_slice(&mut window[..len], GuestAddress(at))?;
            if finder.find(&window[..len]).is_some() {
                return Ok(false);
            }
            // One that lies across the end of this window begins in the next one.
            let step = if len == WINDOW { WINDOW - (RSDP_SIGNATURE.len() - 1) } else { len };
            at += step as u64;
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::{self, Compression, Protocol};
    use crate::layout::{self, MIB};
    use crate::testing::{BzImage, Elf};
    use crate::{Platform, Source};

    /// The line that a kernel of `image` gets with one device.
    fn line(image: &[u8], words: &str) -> String {
        let mem = GuestMemoryMmap::from_ranges(&layout::ram_regions(16 * MIB)).unwrap();
        let source = Source::Bytes(image);
        let mut spec = BootSpec::new(source);
        spec.cmdline = Cmdline::new(words).unwrap();
        spec.platform = Platform {
            virtio_mmio: layout::virtio_mmio_slot(0).into_iter().collect(),
            ..Platform::default()
        };
        let loaded = kernel::load(source, &mem, Protocol::Auto, None).unwrap();
        cmdline(&mem, &spec, &loaded).unwrap().to_string()
    }

    /// A kernel that has the signature at `at`.
    fn with_acpi(at: usize) -> Vec<u8> {
        let mut code = vec![0x90; 3 * WINDOW];
        code[at..at + 8].copy_from_slice(RSDP_SIGNATURE);
        Elf::new(MIB, &code).build()
    }

    const DEVICE: &str = "virtio_mmio.device=4K@0xd0000000:5";

    #[test]
    fn a_kernel_without_acpi_is_told_first() {
        let plain = Elf::new(MIB, &[0x90; 3 * WINDOW]).build();
        assert_eq!(line(&plain, "quiet -- x"), format!("{DEVICE} quiet -- x"));
        let packed = BzImage::new(&plain, Compression::Gzip).unwrap().build();
        assert_eq!(line(&packed, ""), DEVICE);
    }

    #[test]
    fn a_kernel_with_acpi_is_not() {
        for at in [0, 70_000, WINDOW - 8, WINDOW - 7, WINDOW - 1, WINDOW, 3 * WINDOW - 8] {
            assert_eq!(line(&with_acpi(at), "quiet"), "quiet", "{at}");
        }
        // It unpacks itself: what is in it can't be seen.
        let opaque = BzImage::with_payload(b"BZh9 whatever".to_vec(), 1 << 20).build();
        assert_eq!(line(&opaque, "quiet"), "quiet");
    }

    #[test]
    fn sections_say_where_its_constants_are() {
        const CODE: u64 = 6;
        const CONSTANTS: u64 = 3;
        for (what, flags, part, told) in [
            ("the signature is among the constants", CONSTANTS, 64..128, false),
            ("it is not", CONSTANTS, 128..256, true),
            ("nothing is said of constants", CODE, 64..128, false),
            ("the section is empty", CONSTANTS, 70..70, false),
            ("the section ends outside", CONSTANTS, 0..1 << 20, false),
        ] {
            let mut code = vec![0x90; 1024];
            code[80..88].copy_from_slice(RSDP_SIGNATURE);
            let mut elf = Elf::new(MIB, &code);
            elf.sections = vec![(CODE, 0..1024), (flags, part)];
            assert_eq!(line(&elf.build(), "quiet").starts_with(DEVICE), told, "{what}");
        }
    }

    #[test]
    fn unless_its_command_line_takes_acpi_away() {
        let image = with_acpi(100);
        for (words, told) in [
            ("acpi=off", true),
            ("quiet acpi=off x", true),
            ("acpi=off acpi=noirq", true),
            ("acpi=off acpi=force", false),
            ("acpi=force acpi=off", true),
            ("acpi=noirq", false),
            ("xacpi=off", false),
            ("quiet -- acpi=off", false),
        ] {
            assert_eq!(line(&image, words).starts_with(DEVICE), told, "{words}");
        }
    }

    #[test]
    fn what_the_user_names_is_all() {
        let plain = Elf::new(MIB, &[0x90; 100]).build();
        let words = "acpi=off virtio_mmio.device=4K@0xd0001000:6";
        assert_eq!(line(&plain, words), words);
    }
}
