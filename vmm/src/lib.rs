//! An embedded, minimal virtual machine monitor for Linux/KVM with networking built in.
