//! A DNS stub resolver's two halves: one question out (RFC 1035 §4.1), one answer in.

use core::fmt::{self, Display};
use core::net::Ipv4Addr;

/// EDNS(0): root, OPT, 1232 bytes of payload, nothing else (RFC 6891 §6.1.2). Who is asked with it may say why there is no answer.
const OPT: [u8; 11] = [0, 0, 41, 0x04, 0xd0, 0, 0, 0, 0, 0, 0];
/// The option in it that says so (RFC 8914 §2).
const EXTENDED_ERROR: u16 = 15;

/// Room for any question with a name of at most 255 bytes.
pub const MAX_QUERY: usize = 12 + 256 + 4 + OPT.len();

/// Writes a recursive query for the A record of `name`. `None` if the name is not a valid one.
pub fn query(id: u16, name: &str, out: &mut [u8; MAX_QUERY]) -> Option<usize> {
    let mut used = 0;
    let mut put = |bytes: &[u8]| {
        out.get_mut(used..used + bytes.len())?.copy_from_slice(bytes);
        used += bytes.len();
        Some(())
    };
    put(&id.to_be_bytes())?;
    put(&[1, 0, 0, 1, 0, 0, 0, 0, 0, 1])?;
    let name = name.strip_suffix('.').unwrap_or(name);
    if name.is_empty() || name.len() > 253 {
        return None;
    }
    for label in name.split('.') {
        let length = u8::try_from(label.len()).ok().filter(|n| (1..=63).contains(n))?;
        put(&[length])?;
        put(label.as_bytes())?;
    }
    put(&[0, 0, 1, 0, 1])?;
    put(&OPT)?;
    Some(used)
}

/// Whether a name can be asked for.
pub fn is_name(name: &str) -> bool {
    query(0, name, &mut [0; MAX_QUERY]).is_some()
}

/// What came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Response code: 0 no error, 2 server failure, 3 no such name, 5 refused.
    pub code: u8,
    /// The first A record.
    pub address: Option<Ipv4Addr>,
    /// Why there is none, in the resolver's words.
    pub reason: Reason,
}

/// The text of an extended error (RFC 8914), perhaps empty; of one that is longer the beginning.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Reason {
    bytes: [u8; 192],
    used: usize,
}

impl Reason {
    /// No reason given.
    const NONE: Self = Self { bytes: [0; 192], used: 0 };

    /// What is no printable ASCII is left out.
    fn new(source: &[u8]) -> Self {
        let mut reason = Self::NONE;
        let printable = source.iter().filter(|byte| matches!(byte, b' '..=b'~'));
        for (slot, byte) in reason.bytes.iter_mut().zip(printable) {
            *slot = *byte;
            reason.used += 1;
        }
        reason
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        self.bytes.get(..self.used).and_then(|b| core::str::from_utf8(b).ok()).unwrap_or_default()
    }
}

impl fmt::Debug for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

/// An answer without an address, for people: `example.com` in front of it makes a sentence.
pub struct Without<'a>(pub &'a Answer);

impl Display for Without<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (code, reason) = (self.0.code, self.0.reason.as_str());
        f.write_str(match code {
            0 => "has no IPv4 address",
            3 => "does not exist",
            _ => "is not resolved",
        })?;
        write!(f, " ({})", code_name(code))?;
        if reason.is_empty() { Ok(()) } else { write!(f, ": {reason}") }
    }
}

/// Reads a response to query `id`. `None` if it is none or broken.
pub fn answer(id: u16, packet: &[u8]) -> Option<Answer> {
    let word = |at: usize| Some(u16::from_be_bytes([*packet.get(at)?, *packet.get(at + 1)?]));
    let flags = word(2)?;
    if word(0)? != id || flags & 0x8000 == 0 {
        return None;
    }
    let code = (flags & 15) as u8;
    let mut at = 12;
    for _ in 0..word(4)? {
        at = skip_name(packet, at)? + 4;
    }
    let mut address = None;
    for _ in 0..word(6)? {
        at = skip_name(packet, at)?;
        let (kind, length) = (word(at)?, usize::from(word(at + 8)?));
        let data = packet.get(at + 10..at + 10 + length)?;
        if let (1, Ok(bytes), None) = (kind, <[u8; 4]>::try_from(data), address) {
            address = Some(Ipv4Addr::from(bytes));
        }
        at += 10 + length;
    }
    let others = word(8)?.saturating_add(word(10)?);
    let reason = reason(packet, at, others).unwrap_or(Reason::NONE);
    Some(Answer { code, address, reason })
}

/// The extended error among `count` records that begin at `at`.
fn reason(packet: &[u8], mut at: usize, count: u16) -> Option<Reason> {
    let word = |at: usize| Some(u16::from_be_bytes([*packet.get(at)?, *packet.get(at + 1)?]));
    for _ in 0..count {
        at = skip_name(packet, at)?;
        let (kind, length) = (word(at)?, usize::from(word(at + 8)?));
        let (mut option, end) = (at + 10, at + 10 + length);
        while kind == 41 && option + 4 <= end {
            let (code, length) = (word(option)?, usize::from(word(option + 2)?));
            let data = packet.get(option + 4..option + 4 + length)?;
            if code == EXTENDED_ERROR {
                // Two bytes of a code are in front of the text.
                return data.get(2..).map(Reason::new);
            }
            option += 4 + length;
        }
        at = end;
    }
    None
}

/// The offset after a name. Pointers end it; they are never followed.
fn skip_name(packet: &[u8], mut at: usize) -> Option<usize> {
    loop {
        let length = usize::from(*packet.get(at)?);
        match length {
            0 => return Some(at + 1),
            192.. => return Some(at + 2),
            1..=63 => at += 1 + length,
            _ => return None,
        }
    }
}

/// The name of a response code.
pub fn code_name(code: u8) -> &'static str {
    match code {
        0 => "NOERROR",
        1 => "FORMERR",
        2 => "SERVFAIL",
        3 => "NXDOMAIN",
        4 => "NOTIMP",
        5 => "REFUSED",
        _ => "error",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question() {
        let mut out = [0; MAX_QUERY];
        let n = query(0x1234, "a.test.", &mut out).expect("valid");
        assert_eq!(
            &out[..n],
            b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x01\x01a\x04test\x00\x00\x01\x00\x01\
              \x00\x00\x29\x04\xd0\x00\x00\x00\x00\x00\x00"
        );
        for bad in ["", ".", "a..b", &"x".repeat(64), &"abc.".repeat(80)] {
            assert_eq!(query(1, bad, &mut out), None, "{bad}");
            assert!(!is_name(bad), "{bad}");
        }
    }

    #[test]
    fn an_answer() {
        let mut packet =
            b"\x12\x34\x81\x80\x00\x01\x00\x02\x00\x00\x00\x00\x01a\x04test\x00\x00\x01\x00\x01"
                .to_vec();
        packet.extend(b"\xc0\x0c\x00\x05\x00\x01\x00\x00\x00\x01\x00\x02\xc0\x0c");
        packet.extend(b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x01\x00\x04\x0a\x01\x02\x03");
        let address = Some(Ipv4Addr::new(10, 1, 2, 3));
        let expected = Answer { code: 0, address, reason: Reason::NONE };
        assert_eq!(answer(0x1234, &packet), Some(expected));
        assert_eq!(answer(0x1235, &packet), None);
        for end in 0..packet.len() {
            assert_eq!(answer(0x1234, &packet[..end]), None, "cut at {end}");
        }
        packet[3] = 0x83;
        assert_eq!(answer(0x1234, &packet).map(|a| code_name(a.code)), Some("NXDOMAIN"));
    }

    #[test]
    fn a_reason() {
        let mut packet =
            b"\x12\x34\x81\x82\x00\x01\x00\x00\x00\x01\x00\x01\x01a\x04test\x00\x00\x01\x00\x01"
                .to_vec();
        // Another record, and another option before ours.
        packet.extend(b"\x00\x00\x06\x00\x01\x00\x00\x00\x01\x00\x01x");
        packet.extend(b"\x00\x00\x29\x04\xd0\x00\x00\x00\x00\x00\x15");
        packet.extend(b"\x00\x03\x00\x01z\x00\x0f\x00\x0c\x00\x16no\x1b server");
        let got = answer(0x1234, &packet).expect("an answer");
        assert_eq!(got.reason.as_str(), "no server");
        assert_eq!(Without(&got).to_string(), "is not resolved (SERVFAIL): no server");
        for end in 23..packet.len() {
            let cut = answer(0x1234, &packet[..end]).expect("an answer");
            assert_eq!((cut.code, cut.reason.as_str()), (2, ""), "cut at {end}");
        }
        for (code, said) in [(0, "has no IPv4 address"), (3, "does not exist")] {
            let text = Without(&Answer { code, ..got }).to_string();
            assert_eq!(text, format!("{said} ({}): no server", code_name(code)));
        }
    }
}
