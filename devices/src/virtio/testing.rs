//! The driver side, for tests.
