//! The network engine: frames, segments, the NAT gateway and TAP ports.
