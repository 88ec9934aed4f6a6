//! A DNS stub resolver's two halves: one question out (RFC 1035 §4.1), one answer in.

use core::net::Ipv4Addr;

/// Room for any question with a name of at most 255 bytes.
pub const MAX_QUERY: usize = 12 + 256 + 4;

/// Writes a recursive query for the A record of `name`. `None` if the name is not a valid one.
pub fn query(id: u16, name: &str, out: &mut [u8; MAX_QUERY]) -> Option<usize> {
    let mut used = 0;
    let mut put = |bytes: &[u8]| {
        out.get_mut(used..used + bytes.len())?.copy_from_slice(bytes);
        used += bytes.len();
        Some(())
    };
    put(&id.to_be_bytes())?;
    put(&[1, 0, 0, 1, 0, 0, 0, 0, 0, 0])?;
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
    Some(Answer { code, address })
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
            b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x01a\x04test\x00\x00\x01\x00\x01"
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
        let expected = Answer { code: 0, address: Some(Ipv4Addr::new(10, 1, 2, 3)) };
        assert_eq!(answer(0x1234, &packet), Some(expected));
        assert_eq!(answer(0x1235, &packet), None);
        for end in 0..packet.len() {
            assert_eq!(answer(0x1234, &packet[..end]), None, "cut at {end}");
        }
        packet[3] = 0x83;
        assert_eq!(answer(0x1234, &packet).map(|a| code_name(a.code)), Some("NXDOMAIN"));
    }
}
