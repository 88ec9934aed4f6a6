//! The virtio network device (Virtio 1.2 §5.1).
