//! TCP headers (RFC 9293 §3.1) and their options.

use super::bytes::{put, put_u16, u16_at, u32_at};
use super::seq::Seq;
use crate::stats::DropReason;

/// Bytes of a header without options.
pub const TCP_LEN: usize = 20;

/// Where in the header its checksum lies.
pub const CHECKSUM_AT: usize = field::CHECKSUM;

mod field {
    pub const SRC_PORT: usize = 0;
    pub const DST_PORT: usize = 2;
    pub const SEQ: usize = 4;
    pub const ACK: usize = 8;
    /// The header's length in units of 4 bytes, in the upper half.
    pub const DATA_OFFSET: usize = 12;
    pub const FLAGS: usize = 13;
    pub const WINDOW: usize = 14;
    pub const CHECKSUM: usize = 16;
    pub const URGENT: usize = 18;
}

/// No more data from the sender.
pub const FIN: u8 = 0x01;
/// Synchronise sequence numbers.
pub const SYN: u8 = 0x02;
/// Reset the connection.
pub const RST: u8 = 0x04;
/// Push.
pub const PSH: u8 = 0x08;
/// The acknowledgement field is significant.
pub const ACK: u8 = 0x10;
/// The urgent pointer is significant.
pub const URG: u8 = 0x20;

const OPT_END: u8 = 0;
const OPT_NOP: u8 = 1;
const OPT_MSS: u8 = 2;
const OPT_SCALE: u8 = 3;

/// The largest shift of a window scale (RFC 7323 §2.3).
pub const SCALE_MAX: u8 = 14;

/// Bytes of a SYN of ours with all its options.
pub const SYN_LEN: usize = TCP_LEN + 8;

/// A header's fixed fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fields {
    /// Source port.
    pub src_port: u16,
    /// Destination port.
    pub dst_port: u16,
    /// Sequence number.
    pub seq: Seq,
    /// Acknowledgement number.
    pub ack: Seq,
    /// [`FIN`] and so on.
    pub flags: u8,
    /// The window, not scaled.
    pub window: u16,
}

/// The options of a SYN that are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Options {
    /// The largest payload that the sender takes.
    pub mss: Option<u16>,
    /// The shift of the sender's windows.
    pub scale: Option<u8>,
}

/// A header of the guest's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Its fixed fields.
    pub fields: Fields,
    /// The sequence number of the urgent byte, the one before what the pointer names (RFC 6093 §4).
    pub urgent: Option<Seq>,
    /// Bytes, options included.
    pub len: usize,
    /// Its options, where it has SYN.
    pub options: Options,
}

impl Header {
    /// Parses the start of a segment of `total` bytes, of which `bytes` can be looked at.
    ///
    /// # Errors
    /// The reason to drop it.
    pub fn parse(bytes: &[u8], total: usize) -> Result<Self, DropReason> {
        if total < TCP_LEN {
            return Err(DropReason::Truncated);
        }
        if bytes.len() < TCP_LEN {
            return Err(DropReason::HeadersTooLong);
        }
        let len = usize::from(bytes[field::DATA_OFFSET] >> 4) * 4;
        if len < TCP_LEN {
            return Err(DropReason::Malformed);
        }
        if len > total {
            return Err(DropReason::Truncated);
        }
        let options = bytes.get(TCP_LEN..len).ok_or(DropReason::HeadersTooLong)?;
        let fields = Fields {
            src_port: u16_at(bytes, field::SRC_PORT),
            dst_port: u16_at(bytes, field::DST_PORT),
            seq: Seq::new(u32_at(bytes, field::SEQ)),
            ack: Seq::new(u32_at(bytes, field::ACK)),
            flags: bytes[field::FLAGS],
            window: u16_at(bytes, field::WINDOW),
        };
        let options =
            if fields.flags & SYN != 0 { Options::parse(options) } else { Options::default() };
        let pointer = if fields.flags & URG != 0 { u16_at(bytes, field::URGENT) } else { 0 };
        let urgent = u32::from(pointer).checked_sub(1).map(|n| fields.seq + n);
        Ok(Self { fields, urgent, len, options })
    }

    /// True if any of `flags` is set.
    pub fn has(&self, flags: u8) -> bool {
        self.fields.flags & flags != 0
    }
}

impl Options {
    /// Reads what is well-formed up to the first option that is not (RFC 9293 §3.2).
    fn parse(mut rest: &[u8]) -> Self {
        let mut options = Self::default();
        loop {
            match *rest {
                [OPT_NOP, ..] => rest = &rest[1..],
                [OPT_END, ..] | [] | [_] => return options,
                [kind, len, ..] => {
                    let len = usize::from(len);
                    if len < 2 || len > rest.len() {
                        return options;
                    }
                    match (kind, &rest[2..len]) {
                        (OPT_MSS, &[a, b]) => options.mss = Some(u16::from_be_bytes([a, b])),
                        (OPT_SCALE, &[shift]) => options.scale = Some(shift.min(SCALE_MAX)),
                        _ => {}
                    }
                    rest = &rest[len..];
                }
            }
        }
    }

    /// Writes the options to `to` and returns how many bytes they take, a multiple of 4.
    fn write(self, to: &mut [u8]) -> usize {
        let mut len = 0;
        if let Some(mss) = self.mss {
            let [a, b] = mss.to_be_bytes();
            to[..4].copy_from_slice(&[OPT_MSS, 4, a, b]);
            len += 4;
        }
        if let Some(shift) = self.scale {
            to[len..len + 4].copy_from_slice(&[OPT_NOP, OPT_SCALE, 3, shift]);
            len += 4;
        }
        len
    }
}

/// Says in `header` that the first byte behind it is urgent.
pub fn mark_urgent(header: &mut [u8]) {
    header[field::FLAGS] |= URG;
    put_u16(header, field::URGENT, 1);
}

impl Fields {
    /// The header without options, its checksum field 0.
    pub fn bytes(&self) -> [u8; TCP_LEN] {
        let mut h = [0; TCP_LEN];
        put_u16(&mut h, field::SRC_PORT, self.src_port);
        put_u16(&mut h, field::DST_PORT, self.dst_port);
        put(&mut h, field::SEQ, self.seq.bits().to_be_bytes());
        put(&mut h, field::ACK, self.ack.bits().to_be_bytes());
        h[field::DATA_OFFSET] = (TCP_LEN as u8 / 4) << 4;
        h[field::FLAGS] = self.flags;
        put_u16(&mut h, field::WINDOW, self.window);
        h
    }

    /// The header with options, its checksum field 0, and its length.
    pub fn with_options(&self, options: Options) -> ([u8; SYN_LEN], usize) {
        let mut h = [0; SYN_LEN];
        h[..TCP_LEN].copy_from_slice(&self.bytes());
        let len = TCP_LEN + options.write(&mut h[TCP_LEN..]);
        h[field::DATA_OFFSET] = (len as u8 / 4) << 4;
        (h, len)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A SYN of Linux: MSS 1460, SACK permitted, timestamps, NOP, window scale 7.
    const LINUX_SYN: [u8; 40] = [
        0xd4, 0x31, 0x00, 0x50, 0x12, 0x34, 0x56, 0x78, 0, 0, 0, 0, 0xa0, 0x02, 0xfa, 0xf0, 0, 0,
        0, 0, 2, 4, 0x05, 0xb4, 4, 2, 8, 10, 1, 2, 3, 4, 0, 0, 0, 0, 1, 3, 3, 7,
    ];

    #[test]
    fn a_syn_of_linux_is_understood() {
        let fields = Fields {
            src_port: 0xd431,
            dst_port: 80,
            seq: Seq::new(0x1234_5678),
            ack: Seq::new(0),
            flags: SYN,
            window: 0xfaf0,
        };
        let options = Options { mss: Some(1460), scale: Some(7) };
        assert_eq!(
            Header::parse(&LINUX_SYN, 40),
            Ok(Header { fields, urgent: None, len: 40, options })
        );
    }

    #[test]
    fn a_syn_of_ours_is_golden() {
        let fields = Fields {
            src_port: 80,
            dst_port: 0xd431,
            seq: Seq::new(1),
            ack: Seq::new(2),
            flags: SYN | ACK,
            window: 3,
        };
        let (h, len) = fields.with_options(Options { mss: Some(1460), scale: Some(7) });
        #[rustfmt::skip]
        assert_eq!(h[..len], [
            0, 80, 0xd4, 0x31, 0, 0, 0, 1, 0, 0, 0, 2, 0x70, 0x12, 0, 3, 0, 0, 0, 0,
            2, 4, 0x05, 0xb4, 1, 3, 3, 7,
        ]);
        let (h, len) = fields.with_options(Options { mss: None, scale: Some(7) });
        assert_eq!((len, h[12]), (24, 0x60));
        assert_eq!(Header::parse(&h[..len], len).unwrap().options.scale, Some(7));
    }

    #[test]
    fn lengths_are_checked() {
        assert_eq!(Header::parse(&LINUX_SYN[..19], 19), Err(DropReason::Truncated));
        assert_eq!(Header::parse(&LINUX_SYN[..39], 39), Err(DropReason::Truncated));
        assert_eq!(Header::parse(&LINUX_SYN[..30], 40), Err(DropReason::HeadersTooLong));
        let mut short = LINUX_SYN;
        short[12] = 0x40;
        assert_eq!(Header::parse(&short, 40), Err(DropReason::Malformed));
    }

    #[test]
    fn the_urgent_byte_is_before_what_the_pointer_names() {
        let mut h = LINUX_SYN;
        h[13] = ACK;
        h[18..20].copy_from_slice(&[0, 3]);
        assert_eq!(Header::parse(&h, 40).unwrap().urgent, None);
        h[13] = ACK | URG;
        assert_eq!(Header::parse(&h, 40).unwrap().urgent, Some(Seq::new(0x1234_567a)));
        h[4..8].fill(0xff);
        assert_eq!(Header::parse(&h, 40).unwrap().urgent, Some(Seq::new(1)));
        h[19] = 0;
        assert_eq!(Header::parse(&h, 40).unwrap().urgent, None);
    }

    proptest! {
        #[test]
        fn a_header_of_ours_comes_back_as_it_went(
            src_port: u16, dst_port: u16, seq: u32, ack: u32, flags: u8, window: u16,
            mss: Option<u16>, scale in prop::option::of(0..=SCALE_MAX), payload in 0usize..100,
        ) {
            let (seq, ack) = (Seq::new(seq), Seq::new(ack));
            let fields = Fields { src_port, dst_port, seq, ack, flags, window };
            let bytes = fields.bytes();
            let header = Header::parse(&bytes, TCP_LEN + payload).unwrap();
            prop_assert_eq!((header.fields, header.len), (fields, TCP_LEN));
            let options = Options { mss, scale };
            let (bytes, len) = fields.with_options(options);
            let header = Header::parse(&bytes[..len], len + payload).unwrap();
            prop_assert_eq!((header.fields, header.len), (fields, len));
            let want = if flags & SYN != 0 { options } else { Options::default() };
            prop_assert_eq!(header.options, want);
        }

        #[test]
        fn any_bytes_are_parsed_or_refused(mut bytes: Vec<u8>, syn: bool) {
            if let Some(flags) = bytes.get_mut(13) {
                *flags = if syn { SYN } else { *flags };
            }
            if let Ok(h) = Header::parse(&bytes, bytes.len()) {
                prop_assert!(h.len <= bytes.len());
                prop_assert!(h.options.scale.is_none_or(|s| s <= SCALE_MAX));
            }
        }
    }
}
