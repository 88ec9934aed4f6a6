//! Ports that stand in for those of clients that the guest can't be shown as they are.

/// The first port that stands in for a client's own where that is taken; the last is the last there
/// is (RFC 6335 §6).
const FIRST: u16 = 49152;

/// The ports, one after the other for ever: one that was given back is not the next, for the guest
/// may still remember who had it.
#[derive(Debug)]
pub struct StandIns {
    next: u16,
}

impl Default for StandIns {
    fn default() -> Self {
        Self { next: FIRST }
    }
}

impl Iterator for StandIns {
    type Item = u16;

    fn next(&mut self) -> Option<u16> {
        let port = self.next;
        self.next = port.checked_add(1).unwrap_or(FIRST);
        Some(port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn behind_the_last_comes_the_first() {
        let mut ports = StandIns::default();
        assert_eq!(ports.next(), Some(FIRST));
        ports.next = u16::MAX;
        let ports: Vec<_> = ports.take(2).collect();
        assert_eq!(ports, [u16::MAX, FIRST]);
    }
}
