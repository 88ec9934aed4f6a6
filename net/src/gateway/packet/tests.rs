use proptest::prelude::*;

use super::*;
use crate::wire::checksum::checksum;

fn frame(head: &[u8], len: usize) -> TxFrame<'_> {
    TxFrame { head, tail: &[], len, offload: Offload::default() }
}

fn parse<'a>(frame: &TxFrame<'a>) -> Result<Packet<'a>, DropReason> {
    Packet::parse(&EthernetHeader::parse(frame.head)?, frame)
}

fn v4(extra: &[u8], total: u16, flags: u16) -> Vec<u8> {
    let mut f = vec![0; 12];
    f[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 9]);
    f.extend([8, 0, 0x45, 0]);
    f.extend(total.to_be_bytes());
    f.extend([0xab, 0xcd]);
    f.extend(flags.to_be_bytes());
    f.extend([64, 17, 0, 0, 10, 0, 2, 15, 10, 0, 2, 2]);
    let sum = checksum(&f[14..34]);
    f[24..26].copy_from_slice(&sum.to_be_bytes());
    f.extend(extra);
    f
}

#[test]
fn link_padding_is_no_payload() {
    let f = v4(&[7; 26], 20 + 3, 0);
    let p = parse(&frame(&f, f.len())).unwrap();
    assert_eq!((p.len, p.head), (3, &[7, 7, 7][..]));
    assert_eq!(p.src, "10.0.2.15".parse::<IpAddr>().unwrap());
    assert_eq!(p.src_mac, MacAddr([2, 0, 0, 0, 0, 9]));
    assert_eq!(p.fragment, None);
}

#[test]
fn fragments_are_told() {
    let f = v4(&[1; 8], 28, 0x2003);
    let p = parse(&frame(&f, f.len())).unwrap();
    assert_eq!(p.fragment, Some(Fragment { id: 0xabcd, offset: 24, more: true }));
}

#[test]
fn lengths_are_checked_against_the_frame() {
    let f = v4(&[1; 8], 29, 0);
    assert_eq!(parse(&frame(&f, f.len())).unwrap_err(), DropReason::Truncated);
    let mut f = v4(&[1; 8], 28, 0);
    f[30] ^= 1;
    assert_eq!(parse(&frame(&f, f.len())).unwrap_err(), DropReason::BadChecksum);
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(mut bytes: Vec<u8>, six: bool, extra in 0usize..70000, skip in 0usize..80) {
        if bytes.len() > 14 {
            bytes[12..14].copy_from_slice(&if six { [0x86, 0xdd] } else { [8, 0] });
            bytes[14] = if six { 0x60 } else { 0x45 };
        }
        bytes.truncate(180);
        let len = bytes.len() + extra;
        if let Ok(p) = parse(&frame(&bytes, len)) {
            prop_assert!(p.head.len() <= p.len);
            if let Ok(payload) = p.payload(skip) {
                prop_assert!(payload.head.len() <= payload.len);
            }
        }
    }
}
