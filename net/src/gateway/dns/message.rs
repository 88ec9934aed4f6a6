//! DNS messages (RFC 1035 §4), as far as a forwarder must read them.

use crate::wire::u16_at;

/// Bytes of the header.
pub const HEADER_LEN: usize = 12;
/// The longest name (RFC 1035 §2.3.4).
const NAME_MAX: usize = 255;

/// QR: the message is a response.
pub const RESPONSE: u16 = 0x8000;
/// OPCODE.
pub const OPCODE: u16 = 0x7800;
/// AA: from an authority.
pub const AUTHORITATIVE: u16 = 0x0400;
/// TC: the rest did not fit.
pub const TRUNCATED: u16 = 0x0200;
/// RD: recursion is asked for.
pub const RECURSION_DESIRED: u16 = 0x0100;
/// RA: recursion is to be had.
pub const RECURSION_AVAILABLE: u16 = 0x0080;

/// Response codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Rcode {
    NoError = 0,
    FormErr = 1,
    ServFail = 2,
    NxDomain = 3,
    NotImp = 4,
    Refused = 5,
}

/// Resource record types.
pub mod rtype {
    pub const A: u16 = 1;
    pub const PTR: u16 = 12;
    pub const AAAA: u16 = 28;
    pub const OPT: u16 = 41;
    pub const ANY: u16 = 255;
}

/// The option of an OPT record that says why there is no answer (RFC 8914 §2).
const EXTENDED_ERROR: u16 = 15;

/// The class of the Internet.
pub const CLASS_IN: u16 = 1;

/// A query with one question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Query<'a> {
    /// Its id.
    pub id: u16,
    /// The header's second word.
    pub flags: u16,
    /// The name asked for, in wire form with its root label.
    pub name: &'a [u8],
    /// Name, type and class.
    pub question: &'a [u8],
    /// It has an OPT record (RFC 6891).
    pub edns: bool,
}

/// Why a query gets no further.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BadQuery {
    /// Not a query at all: nobody waits for an answer.
    Ignore,
    /// To be answered with this code.
    Answer(Rcode),
}

impl<'a> Query<'a> {
    /// Reads what the guest sent.
    ///
    /// # Errors
    /// [`BadQuery`].
    pub fn parse(bytes: &'a [u8]) -> Result<Self, BadQuery> {
        if bytes.len() < HEADER_LEN || u16_at(bytes, 2) & RESPONSE != 0 {
            return Err(BadQuery::Ignore);
        }
        let flags = u16_at(bytes, 2);
        if flags & OPCODE != 0 {
            return Err(BadQuery::Answer(Rcode::NotImp));
        }
        if u16_at(bytes, 4) != 1 || u16_at(bytes, 6) != 0 {
            return Err(BadQuery::Answer(Rcode::FormErr));
        }
        let end = question_end(bytes).ok_or(BadQuery::Answer(Rcode::FormErr))?;
        Ok(Self {
            id: u16_at(bytes, 0),
            flags,
            name: &bytes[HEADER_LEN..end - 4],
            question: &bytes[HEADER_LEN..end],
            edns: has_opt(bytes, end),
        })
    }

    /// The type asked for.
    pub fn qtype(&self) -> u16 {
        u16_at(self.question, self.name.len())
    }

    /// The class asked for.
    pub fn qclass(&self) -> u16 {
        u16_at(self.question, self.name.len() + 2)
    }
}

/// Where the first question of a message ends. `None` where there is none, or it is not one: a
/// name that points elsewhere has no place in a question.
fn question_end(bytes: &[u8]) -> Option<usize> {
    let mut at = HEADER_LEN;
    loop {
        let len = usize::from(*bytes.get(at)?);
        at += 1 + len;
        if len > 63 || at - HEADER_LEN > NAME_MAX {
            return None;
        }
        if len == 0 {
            break;
        }
    }
    (bytes.len() >= at + 4).then_some(at + 4)
}

/// True if the first additional record, which in a query is the first record at all, is an OPT.
fn has_opt(bytes: &[u8], at: usize) -> bool {
    u16_at(bytes, 8) == 0
        && u16_at(bytes, 10) != 0
        && bytes.get(at..at + 11).is_some_and(|r| r[0] == 0 && u16_at(r, 1) == rtype::OPT)
}

/// True if a resolver's failure, which has no records but an OPT, says why (RFC 8914).
pub fn is_explained(bytes: &[u8]) -> bool {
    let opt = question_end(bytes).filter(|&end| has_opt(bytes, end)).map(|end| &bytes[end..]);
    let Some(opt) = opt else { return false };
    let mut options = opt.get(11..).unwrap_or_default();
    while options.len() >= 4 {
        if u16_at(options, 0) == EXTENDED_ERROR {
            return true;
        }
        let len = 4 + usize::from(u16_at(options, 2));
        options = options.get(len..).unwrap_or_default();
    }
    false
}

/// What a resolver's datagram is to a query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reply {
    /// Nothing: another id, another question, not a response.
    Foreign,
    /// The answer, whole.
    Answer(u8),
    /// An error without the question, as some servers send.
    Bare(u8),
}

/// Judges a datagram from a resolver that was asked `question` under `id`.
pub fn judge(bytes: &[u8], id: u16, question: &[u8]) -> Reply {
    if bytes.len() < HEADER_LEN || u16_at(bytes, 0) != id {
        return Reply::Foreign;
    }
    let flags = u16_at(bytes, 2);
    if flags & (RESPONSE | OPCODE) != RESPONSE {
        return Reply::Foreign;
    }
    let rcode = (flags & 0xf) as u8;
    match u16_at(bytes, 4) {
        0 if rcode != 0 => Reply::Bare(rcode),
        // Letters may come back in another case; type and class have none.
        1 => match question_end(bytes).map(|end| &bytes[HEADER_LEN..end]) {
            Some(got) if got.eq_ignore_ascii_case(question) => Reply::Answer(rcode),
            _ => Reply::Foreign,
        },
        _ => Reply::Foreign,
    }
}

/// A response of our own, in the making.
#[derive(Debug)]
pub struct Response {
    bytes: Vec<u8>,
    edns: bool,
    reason: Option<(u16, String)>,
}

impl Response {
    /// One to `query`, with the question echoed as it was.
    pub fn new(query: &Query<'_>, rcode: Rcode) -> Self {
        let mut bytes = Vec::with_capacity(512);
        bytes.extend(query.id.to_be_bytes());
        let flags = RESPONSE
            | RECURSION_AVAILABLE
            | query.flags & (OPCODE | RECURSION_DESIRED)
            | u16::from(rcode as u8);
        bytes.extend(flags.to_be_bytes());
        bytes.extend([0, 1, 0, 0, 0, 0, 0, 0]);
        bytes.extend(query.question);
        Self { bytes, edns: query.edns, reason: None }
    }

    /// Sets `bits` of the header's flags.
    pub fn flag(&mut self, bits: u16) {
        let flags = u16_at(&self.bytes, 2) | bits;
        self.bytes[2..4].copy_from_slice(&flags.to_be_bytes());
    }

    /// Adds an answer about the name in the question.
    pub fn answer(&mut self, rtype: u16, ttl: u32, data: &[u8]) {
        let count = u16_at(&self.bytes, 6) + 1;
        self.bytes[6..8].copy_from_slice(&count.to_be_bytes());
        self.bytes.extend([0xc0, HEADER_LEN as u8]);
        self.bytes.extend(rtype.to_be_bytes());
        self.bytes.extend(CLASS_IN.to_be_bytes());
        self.bytes.extend(ttl.to_be_bytes());
        self.bytes.extend((data.len() as u16).to_be_bytes());
        self.bytes.extend(data);
    }

    /// Says why there is no answer, to a client that asked with EDNS: an INFO-CODE of RFC 8914 §4,
    /// and a text.
    pub fn explain(&mut self, code: u16, text: String) {
        self.reason = Some((code, text));
    }

    /// The whole message.
    pub fn finish(mut self) -> Vec<u8> {
        if self.edns {
            self.bytes[11] = 1;
            // Root, OPT, 1,232 bytes of payload, no extended code, version 0.
            self.bytes.extend([0, 0, rtype::OPT as u8, 0x04, 0xd0, 0, 0, 0, 0]);
            let text = self.reason.as_ref().map_or(0, |(_, text)| text.len() as u16);
            let option = if self.reason.is_some() { 6 + text } else { 0 };
            self.bytes.extend(option.to_be_bytes());
            if let Some((code, reason)) = self.reason {
                for word in [EXTENDED_ERROR, 2 + text, code] {
                    self.bytes.extend(word.to_be_bytes());
                }
                self.bytes.extend(reason.bytes());
            }
        }
        self.bytes
    }
}

/// The header of a response to a message whose question can't be read.
pub fn bare_response(request: &[u8], rcode: Rcode) -> [u8; HEADER_LEN] {
    let mut bytes = [0; HEADER_LEN];
    bytes[..2].copy_from_slice(&request[..2]);
    let flags = RESPONSE | u16_at(request, 2) & (OPCODE | RECURSION_DESIRED);
    bytes[2..4].copy_from_slice(&(flags | u16::from(rcode as u8)).to_be_bytes());
    bytes
}
