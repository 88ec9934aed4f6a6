//! What the peer's sink answers: `COUNT`, or `COUNT differs at PLACE`, and a newline.

/// The answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// How many bytes arrived.
    pub count: u64,
    /// The first of them that was not what it should be.
    pub differs: Option<u64>,
}

/// The line as it comes, in parts.
pub struct Line {
    bytes: [u8; 64],
    used: usize,
}

impl Line {
    /// Nothing yet.
    pub const fn new() -> Self {
        Self { bytes: [0; 64], used: 0 }
    }

    /// Room for what comes next.
    pub fn room(&mut self) -> &mut [u8] {
        self.bytes.get_mut(self.used..).unwrap_or_default()
    }

    /// So many bytes were put into the room.
    pub fn add(&mut self, count: usize) {
        self.used = (self.used + count).min(self.bytes.len());
    }

    /// Whether all of it is there, or more than it may be.
    pub fn complete(&self) -> bool {
        self.used == self.bytes.len() || self.text().contains(&b'\n')
    }

    /// What it says. `None` if that is no answer.
    pub fn answer(&self) -> Option<Answer> {
        let text = core::str::from_utf8(self.text()).ok()?.strip_suffix('\n')?;
        let (count, differs) = match text.split_once(" differs at ") {
            Some((count, place)) => (count, Some(place.parse().ok()?)),
            None => (text, None),
        };
        Some(Answer { count: count.parse().ok()?, differs })
    }

    fn text(&self) -> &[u8] {
        self.bytes.get(..self.used).unwrap_or_default()
    }
}

impl Default for Line {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(parts: &[&[u8]]) -> Line {
        let mut line = Line::new();
        for part in parts {
            assert!(!line.complete());
            line.room()[..part.len()].copy_from_slice(part);
            line.add(part.len());
        }
        line
    }

    #[test]
    fn answers() {
        let answer = line(&[b"12", b"34\n"]).answer();
        assert_eq!(answer, Some(Answer { count: 1234, differs: None }));
        let answer = line(&[b"1234 differs", b" at 7\n"]).answer();
        assert_eq!(answer, Some(Answer { count: 1234, differs: Some(7) }));
        for bad in [
            &b"\n"[..],
            b"1 2\n",
            b"1\n2\n",
            b"x\n",
            b"1 differs at\n",
            b"1",
            b"\xff\n",
            &[b'1'; 64],
        ] {
            assert_eq!(line(&[bad]).answer(), None, "{bad:?}");
        }
        assert!(line(&[b"1\n"]).complete() && line(&[&[b'1'; 64]]).complete());
    }
}
