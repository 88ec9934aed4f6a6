//! DHCP messages (RFC 2131 §2, options RFC 2132).

use std::net::Ipv4Addr;

use crate::addr::MacAddr;
use crate::stats::DropReason;
use crate::wire::{u16_at, u32_at};

/// Bytes before the options, magic cookie included.
const FIXED_LEN: usize = 240;
/// What every client takes: an IP datagram of 576 bytes (RFC 2131 §2).
pub const REPLY_MAX: usize = 576 - 28;
/// The shortest message (RFC 951 §3, which BOOTP relays and old clients insist on).
const REPLY_MIN: usize = 300;

const COOKIE: [u8; 4] = [99, 130, 83, 99];
const BOOT_REQUEST: u8 = 1;
const BOOT_REPLY: u8 = 2;
const ETHERNET: u8 = 1;

/// Option codes.
pub mod option {
    pub const PAD: u8 = 0;
    pub const SUBNET_MASK: u8 = 1;
    pub const ROUTER: u8 = 3;
    pub const DNS: u8 = 6;
    pub const HOST_NAME: u8 = 12;
    pub const DOMAIN_NAME: u8 = 15;
    pub const MTU: u8 = 26;
    pub const BROADCAST: u8 = 28;
    pub const REQUESTED_ADDRESS: u8 = 50;
    pub const LEASE_TIME: u8 = 51;
    pub const OVERLOAD: u8 = 52;
    pub const MESSAGE_TYPE: u8 = 53;
    pub const SERVER_ID: u8 = 54;
    pub const PARAMETERS: u8 = 55;
    pub const T1: u8 = 58;
    pub const T2: u8 = 59;
    pub const CLIENT_ID: u8 = 61;
    pub const DOMAIN_SEARCH: u8 = 119;
    pub const END: u8 = 255;
}

/// DHCP message types (RFC 2132 §9.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    Discover = 1,
    Offer,
    Request,
    Decline,
    Ack,
    Nak,
    Release,
    Inform,
}

impl Kind {
    fn from_client(raw: u8) -> Option<Self> {
        Some(match raw {
            1 => Self::Discover,
            3 => Self::Request,
            4 => Self::Decline,
            7 => Self::Release,
            8 => Self::Inform,
            _ => return None,
        })
    }
}

/// A client's message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DhcpRequest<'a> {
    /// Its type.
    pub kind: Kind,
    /// Transaction id, to be echoed.
    pub xid: [u8; 4],
    /// Answers are to be broadcast.
    pub broadcast: bool,
    /// The address the client has; unspecified while it has none.
    pub ciaddr: Ipv4Addr,
    /// The client's link-layer address, which names it here.
    pub chaddr: MacAddr,
    /// Option 50.
    pub requested: Option<Ipv4Addr>,
    /// Option 54.
    pub server: Option<Ipv4Addr>,
    /// Option 61, to be echoed (RFC 6842 §3).
    pub client_id: Option<&'a [u8]>,
    /// Option 55: the options the client wants.
    pub parameters: Option<&'a [u8]>,
}

impl<'a> DhcpRequest<'a> {
    /// Reads a UDP payload.
    ///
    /// # Errors
    /// The reason to drop it. Relayed messages are malformed here: there is no relay on the link.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, DropReason> {
        if bytes.len() < FIXED_LEN {
            return Err(DropReason::Truncated);
        }
        let mut chaddr = MacAddr::default();
        chaddr.0.copy_from_slice(&bytes[28..34]);
        if bytes[0] != BOOT_REQUEST
            || bytes[1..3] != [ETHERNET, 6]
            || chaddr.is_multicast()
            || chaddr == MacAddr::default()
            || bytes[24..28] != [0; 4]
            || bytes[236..240] != COOKIE
        {
            return Err(DropReason::Malformed);
        }
        let mut request = Self {
            kind: Kind::Discover,
            xid: [bytes[4], bytes[5], bytes[6], bytes[7]],
            broadcast: u16_at(bytes, 10) & 0x8000 != 0,
            ciaddr: Ipv4Addr::from(u32_at(bytes, 12)),
            chaddr,
            requested: None,
            server: None,
            client_id: None,
            parameters: None,
        };
        let (mut kind, mut overload) = (None, 0);
        request.options(&bytes[FIXED_LEN..], &mut kind, &mut overload)?;
        // Options may go on in the fields `file` and `sname` (RFC 2131 §4.1).
        for (bit, field) in [(1, 108..236), (2, 44..108)] {
            if overload & bit != 0 {
                request.options(&bytes[field], &mut kind, &mut 0)?;
            }
        }
        request.kind = kind.and_then(Kind::from_client).ok_or(DropReason::Malformed)?;
        Ok(request)
    }

    fn options(
        &mut self,
        mut rest: &'a [u8],
        kind: &mut Option<u8>,
        overload: &mut u8,
    ) -> Result<(), DropReason> {
        while let [code, after @ ..] = rest {
            match *code {
                option::PAD => {
                    rest = after;
                    continue;
                }
                option::END => break,
                _ => {}
            }
            let (len, after) = after.split_first().ok_or(DropReason::Malformed)?;
            let (value, after) =
                after.split_at_checked(usize::from(*len)).ok_or(DropReason::Malformed)?;
            rest = after;
            let address = || {
                let octets = <[u8; 4]>::try_from(value).map_err(|_| DropReason::Malformed)?;
                Ok(Some(Ipv4Addr::from(octets)))
            };
            let byte = || match value {
                [byte] => Ok(*byte),
                _ => Err(DropReason::Malformed),
            };
            match *code {
                option::MESSAGE_TYPE => *kind = Some(byte()?),
                option::OVERLOAD => *overload = byte()?,
                option::REQUESTED_ADDRESS => self.requested = address()?,
                option::SERVER_ID => self.server = address()?,
                option::CLIENT_ID => self.client_id = Some(value),
                option::PARAMETERS => self.parameters = Some(value),
                _ => {}
            }
        }
        Ok(())
    }

    /// True if the client wants option `code`, or has not said what it wants.
    pub fn wants(&self, code: u8) -> bool {
        self.parameters.is_none_or(|list| list.contains(&code))
    }
}

/// A message to a client, in the making.
#[derive(Debug)]
pub struct DhcpReply {
    bytes: [u8; REPLY_MAX],
    len: usize,
}

impl DhcpReply {
    /// The answer of type `kind` to `request`.
    pub fn new(kind: Kind, request: &DhcpRequest<'_>) -> Self {
        let mut bytes = [0; REPLY_MAX];
        bytes[0..3].copy_from_slice(&[BOOT_REPLY, ETHERNET, 6]);
        bytes[4..8].copy_from_slice(&request.xid);
        bytes[10] = if request.broadcast { 0x80 } else { 0 };
        bytes[28..34].copy_from_slice(&request.chaddr.0);
        bytes[236..240].copy_from_slice(&COOKIE);
        let mut reply = Self { bytes, len: FIXED_LEN };
        reply.put(option::MESSAGE_TYPE, &[kind as u8]);
        reply
    }

    /// The address that the client has already.
    pub fn ciaddr(&mut self, address: Ipv4Addr) {
        self.bytes[12..16].copy_from_slice(&address.octets());
    }

    /// The address that the client is given.
    pub fn yiaddr(&mut self, address: Ipv4Addr) {
        self.bytes[16..20].copy_from_slice(&address.octets());
    }

    /// How long the value of another option may be.
    pub fn room(&self) -> usize {
        // Code and length before it, the end mark behind it.
        (REPLY_MAX - self.len).saturating_sub(3).min(255)
    }

    /// Adds an option if there is room for it.
    pub fn put(&mut self, code: u8, value: &[u8]) {
        let end = self.len + 2 + value.len();
        if value.is_empty() || value.len() > self.room() {
            return;
        }
        self.bytes[self.len] = code;
        self.bytes[self.len + 1] = value.len() as u8;
        self.bytes[self.len + 2..end].copy_from_slice(value);
        self.len = end;
    }

    /// The whole message.
    pub fn finish(&mut self) -> &[u8] {
        self.bytes[self.len] = option::END;
        &self.bytes[..(self.len + 1).max(REPLY_MIN)]
    }
}
