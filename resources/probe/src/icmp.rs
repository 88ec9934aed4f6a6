//! What routers and hosts say of packets that they did not deliver: ICMP errors (RFC 792, RFC 4443 §3), which the IP stack
//! does not hand to TCP.

use core::fmt::{self, Display};
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Protocol number of TCP.
pub const TCP: u8 = 6;
/// Protocol number of UDP.
pub const UDP: u8 = 17;

const ETHERNET: usize = 14;
const IPV6: usize = 40;
/// Bytes of an ICMP header; the packet that it is about follows.
const ICMP: usize = 8;

/// What was said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// No route leads there.
    Network,
    /// Nobody answers at that address.
    Host,
    /// The protocol is not spoken there.
    Protocol,
    /// Nobody listens on the port.
    Port,
    /// Forbidden by somebody on the way.
    Prohibited,
    /// The hop limit was used up on the way.
    HopLimit,
    /// Another reason to be unreachable.
    Other,
}

impl Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Network => "no route",
            Self::Host => "host unreachable",
            Self::Protocol => "protocol unreachable",
            Self::Port => "port unreachable",
            Self::Prohibited => "prohibited",
            Self::HopLimit => "hop limit exceeded",
            Self::Other => "unreachable",
        })
    }
}

/// An error about a packet of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What is wrong.
    pub why: Why,
    /// Who says so.
    pub from: IpAddr,
    /// The packet's protocol.
    pub protocol: u8,
    /// The port that the packet came from: ours.
    pub port: u16,
}

/// An error about what was tried, for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Told {
    /// What is wrong, and who says so.
    pub refusal: Refusal,
    /// It is the gateway that says so.
    pub gateway: bool,
    /// How long after the first try, microseconds.
    pub after: u64,
}

impl Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, says ", self.refusal.why)?;
        if self.gateway {
            f.write_str("the gateway")?;
        } else {
            write!(f, "{}", self.refusal.from)?;
        }
        // A route says so at once; that nobody is there takes its time to be found.
        match self.after / 100_000 {
            0 => Ok(()),
            tenths => write!(f, " after {}.{} s", tenths / 10, tenths % 10),
        }
    }
}

/// Reads a frame's ICMP error. `None` if it is none, is about another protocol than TCP and UDP, or says only that a packet is
/// too big, which ends nothing.
pub fn refusal(frame: &[u8]) -> Option<Refusal> {
    match *frame.get(12..ETHERNET)? {
        [8, 0] => refusal4(frame.get(ETHERNET..)?),
        [0x86, 0xdd] => refusal6(frame.get(ETHERNET..)?),
        _ => None,
    }
}

fn refusal4(packet: &[u8]) -> Option<Refusal> {
    let (protocol, message) = payload4(packet)?;
    let why = match (protocol, *message.first()?, *message.get(1)?) {
        (1, 3, code) => match code {
            0 | 6 | 11 => Why::Network,
            1 | 7 | 8 | 12 => Why::Host,
            2 => Why::Protocol,
            3 => Why::Port,
            4 => return None,
            9 | 10 | 13 => Why::Prohibited,
            _ => Why::Other,
        },
        (1, 11, 0) => Why::HopLimit,
        _ => return None,
    };
    let from = Ipv4Addr::from(<[u8; 4]>::try_from(packet.get(12..16)?).ok()?);
    let (protocol, segment) = payload4(message.get(ICMP..)?)?;
    about(why, from.into(), protocol, segment)
}

fn refusal6(packet: &[u8]) -> Option<Refusal> {
    let message = packet.get(IPV6..)?;
    let why = match (*packet.get(6)?, *message.first()?, *message.get(1)?) {
        (58, 1, code) => match code {
            0 => Why::Network,
            1 | 5 | 6 => Why::Prohibited,
            3 => Why::Host,
            4 => Why::Port,
            _ => Why::Other,
        },
        (58, 3, 0) => Why::HopLimit,
        (58, 4, 1) => Why::Protocol,
        _ => return None,
    };
    let from = Ipv6Addr::from(<[u8; 16]>::try_from(packet.get(8..24)?).ok()?);
    let quote = message.get(ICMP..)?;
    about(why, from.into(), *quote.get(6)?, quote.get(IPV6..)?)
}

/// Protocol and payload of an IPv4 packet.
fn payload4(packet: &[u8]) -> Option<(u8, &[u8])> {
    let header = usize::from(packet.first()? & 15) * 4;
    Some((*packet.get(9)?, packet.get(header..)?))
}

fn about(why: Why, from: IpAddr, protocol: u8, segment: &[u8]) -> Option<Refusal> {
    let port = u16::from_be_bytes([*segment.first()?, *segment.get(1)?]);
    matches!(protocol, TCP | UDP).then_some(Refusal { why, from, protocol, port })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUTER4: [u8; 4] = [10, 0, 2, 2];

    fn error4(kind: u8, code: u8, protocol: u8) -> Vec<u8> {
        let mut frame = vec![0; 12];
        frame.extend([8, 0]);
        frame.extend([0x45, 0, 0, 56, 0, 0, 0, 0, 64, 1, 0, 0]);
        frame.extend(ROUTER4);
        frame.extend([10, 0, 2, 15]);
        frame.extend([kind, code, 0, 0, 0, 0, 0, 0]);
        // With options.
        frame.extend([0x46, 0, 0, 52, 0, 0, 0, 0, 64, protocol, 0, 0]);
        frame.extend([10, 0, 2, 15, 198, 51, 100, 1, 1, 1, 1, 1]);
        frame.extend([0xc0, 0x01, 0, 7, 0, 0, 0, 0]);
        frame
    }

    fn error6(kind: u8, code: u8) -> Vec<u8> {
        let ip = |next: u8, from: u8| {
            let mut header = vec![0x60, 0, 0, 0, 0, 56, next, 64];
            header.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, from]);
            header.extend([0; 16]);
            header
        };
        let mut frame = vec![0; 12];
        frame.extend([0x86, 0xdd]);
        frame.extend(ip(58, 1));
        frame.extend([kind, code, 0, 0, 0, 0, 0, 0]);
        frame.extend(ip(TCP, 2));
        frame.extend([0xc0, 0x01, 0, 7, 0, 0, 0, 0]);
        frame
    }

    #[test]
    fn what_is_said() {
        for (kind, code, why) in [
            (3, 0, Some(Why::Network)),
            (3, 1, Some(Why::Host)),
            (3, 2, Some(Why::Protocol)),
            (3, 3, Some(Why::Port)),
            (3, 4, None),
            (3, 5, Some(Why::Other)),
            (3, 13, Some(Why::Prohibited)),
            (11, 0, Some(Why::HopLimit)),
            (11, 1, None),
            (0, 0, None),
        ] {
            let want = why.map(|why| Refusal {
                why,
                from: IpAddr::from(ROUTER4),
                protocol: UDP,
                port: 0xc001,
            });
            assert_eq!(refusal(&error4(kind, code, UDP)), want, "{kind}/{code}");
        }
        for (kind, code, why) in [
            (1, 0, Some(Why::Network)),
            (1, 1, Some(Why::Prohibited)),
            (1, 2, Some(Why::Other)),
            (1, 3, Some(Why::Host)),
            (1, 4, Some(Why::Port)),
            (2, 0, None),
            (3, 0, Some(Why::HopLimit)),
            (4, 1, Some(Why::Protocol)),
            (129, 0, None),
        ] {
            let from = "fd00::1".parse().expect("an address");
            let want = why.map(|why| Refusal { why, from, protocol: TCP, port: 0xc001 });
            assert_eq!(refusal(&error6(kind, code)), want, "{kind}/{code} over IPv6");
        }
    }

    #[test]
    fn for_people() {
        let refusal = refusal(&error4(3, 1, TCP)).expect("an error");
        let text = |gateway, after| Told { refusal, gateway, after }.to_string();
        assert_eq!(text(true, 99_999), "host unreachable, says the gateway");
        assert_eq!(text(false, 3_080_000), "host unreachable, says 10.0.2.2 after 3.0 s");
    }

    #[test]
    fn what_is_cut_short_or_of_others_says_nothing() {
        assert_eq!(refusal(&error4(3, 1, 1)), None, "about a ping");
        for frame in [error4(3, 1, TCP), error6(1, 3)] {
            let whole = frame.len() - 6;
            for end in 0..whole {
                assert_eq!(refusal(&frame[..end]), None, "cut at {end}");
            }
            assert!(refusal(&frame[..whole]).is_some());
        }
    }
}
