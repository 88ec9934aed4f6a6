//! An authoritative answer for a handful of names (RFC 1035 §4, RFC 3596).

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{IpAddr, TcpStream};

use crate::Result;

const A: u16 = 1;
const AAAA: u16 = 28;
const ANY_CLASS_IN: u16 = 1;
/// RFC 1035 §4.2.1: what a UDP answer may hold where the query has no EDNS.
const UDP_LIMIT: usize = 512;
const TTL: u32 = 60;

const NO_ERROR: u8 = 0;
const FORMAT_ERROR: u8 = 1;
const NAME_ERROR: u8 = 3;

/// Names, in lower case and without the last dot, and their addresses.
#[derive(Default)]
pub struct Zone(BTreeMap<String, Vec<IpAddr>>);

impl Zone {
    /// Adds "NAME,ADDR"; a name may come several times.
    pub fn add(&mut self, record: &str) -> Result<()> {
        let (name, address) = record.split_once(',').ok_or("a record is NAME,ADDR")?;
        self.0.entry(name.to_ascii_lowercase()).or_default().push(address.parse()?);
        Ok(())
    }

    /// The answer to a query; none where it is not even a header. Over UDP an answer that is too
    /// long comes truncated.
    pub fn answer(&self, query: &[u8], udp: bool) -> Option<Vec<u8>> {
        if query.len() < 12 || query[2] & 0x80 != 0 {
            return None;
        }
        let Some((name, end)) = question(query) else {
            return Some(message(query, 12, FORMAT_ERROR, false, &[]));
        };
        let kind = u16::from_be_bytes([query[end - 4], query[end - 3]]);
        let class = u16::from_be_bytes([query[end - 2], query[end - 1]]);
        let Some(addresses) = self.0.get(&name).filter(|_| class == ANY_CLASS_IN) else {
            return Some(message(query, end, NAME_ERROR, false, &[]));
        };
        let found: Vec<IpAddr> = addresses
            .iter()
            .copied()
            .filter(|a| kind == A && a.is_ipv4() || kind == AAAA && a.is_ipv6())
            .collect();
        let whole = message(query, end, NO_ERROR, false, &found);
        if udp && whole.len() > UDP_LIMIT {
            return Some(message(query, end, NO_ERROR, true, &[]));
        }
        Some(whole)
    }

    /// Answers the queries of one TCP connection (RFC 1035 §4.2.2).
    pub fn serve_tcp(&self, mut stream: &TcpStream) -> io::Result<()> {
        loop {
            let mut length = [0; 2];
            stream.read_exact(&mut length)?;
            let mut query = vec![0; usize::from(u16::from_be_bytes(length))];
            stream.read_exact(&mut query)?;
            let answer = self.answer(&query, false).ok_or(io::ErrorKind::InvalidData)?;
            let length = u16::try_from(answer.len()).map_err(io::Error::other)?;
            stream.write_all(&[&length.to_be_bytes()[..], &answer].concat())?;
        }
    }
}

/// The name of the first question and where that question ends.
fn question(query: &[u8]) -> Option<(String, usize)> {
    if u16::from_be_bytes([query[4], query[5]]) == 0 {
        return None;
    }
    let (mut at, mut labels) = (12, Vec::new());
    loop {
        let length = usize::from(*query.get(at)?);
        at += 1;
        if length == 0 {
            break;
        }
        // Compression has no use in a question.
        let label = (length < 64).then(|| query.get(at..at + length)).flatten()?;
        labels.push(String::from_utf8_lossy(label).to_ascii_lowercase());
        at += length;
    }
    query.get(at..at + 4)?;
    Some((labels.join("."), at + 4))
}

fn message(query: &[u8], end: usize, code: u8, truncated: bool, found: &[IpAddr]) -> Vec<u8> {
    let mut out = query[..end].to_vec();
    // QR, AA, TC and the query's own RD; RA, so that stub resolvers are content.
    out[2] = 0x84 | u8::from(truncated) << 1 | query[2] & 0x01;
    out[3] = 0x80 | code;
    out[4..6].copy_from_slice(&u16::from(end > 12).to_be_bytes());
    out[6..8].copy_from_slice(&(found.len() as u16).to_be_bytes());
    out[8..12].fill(0);
    for address in found {
        let (kind, data) = match address {
            IpAddr::V4(v4) => (A, v4.octets().to_vec()),
            IpAddr::V6(v6) => (AAAA, v6.octets().to_vec()),
        };
        // The name is the question's, by pointer.
        out.extend([0xc0, 12]);
        out.extend(kind.to_be_bytes());
        out.extend(ANY_CLASS_IN.to_be_bytes());
        out.extend(TTL.to_be_bytes());
        out.extend((data.len() as u16).to_be_bytes());
        out.extend(data);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::Zone;

    fn query(name: &str, kind: u8) -> Vec<u8> {
        let mut out = vec![0x12, 0x34, 0x01, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in name.split('.') {
            out.push(label.len() as u8);
            out.extend(label.as_bytes());
        }
        out.extend([0, 0, kind, 0, 1]);
        out
    }

    fn zone() -> Zone {
        let mut zone = Zone::default();
        zone.add("peer.test,203.0.113.10").unwrap();
        zone.add("peer.test,2001:db8::10").unwrap();
        for last in 1..100 {
            zone.add(&format!("many.test,203.0.113.{last}")).unwrap();
        }
        zone
    }

    #[test]
    fn answers_by_type() {
        let v4 = zone().answer(&query("PEER.test", 1), true).unwrap();
        assert_eq!((v4[3] & 15, v4[7]), (0, 1));
        assert!(v4.ends_with(&[0, 4, 203, 0, 113, 10]));
        let v6 = zone().answer(&query("peer.test", 28), true).unwrap();
        assert!(v6.ends_with(&[0, 16, 0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10]));
        let mx = zone().answer(&query("peer.test", 15), true).unwrap();
        assert_eq!((mx[3] & 15, mx[7]), (0, 0));
    }

    #[test]
    fn unknown_and_broken() {
        assert_eq!(zone().answer(&query("nope.test", 1), true).unwrap()[3] & 15, 3);
        let mut cut = query("peer.test", 1);
        cut.truncate(20);
        assert_eq!(zone().answer(&cut, true).unwrap()[3] & 15, 1);
        assert!(zone().answer(&cut[..11], true).is_none());
    }

    #[test]
    fn long_answers_need_tcp() {
        let udp = zone().answer(&query("many.test", 1), true).unwrap();
        assert_eq!((udp[2] & 2, udp[7]), (2, 0));
        let tcp = zone().answer(&query("many.test", 1), false).unwrap();
        assert_eq!((tcp[2] & 2, tcp[7]), (0, 99));
    }
}
