//! Kernel formats, guest memory layout, ACPI, CPUID policy and first register state.
