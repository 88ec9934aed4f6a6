use proptest::prelude::*;

use super::*;

fn fragments(id_max: u32) -> impl Strategy<Value = Option<Fragment>> {
    let fragment = (0..=id_max, 0u32..8192, any::<bool>())
        .prop_map(|(id, unit, more)| Fragment { id, offset: unit * FRAGMENT_UNIT as u32, more })
        .prop_filter("one that is none", Fragment::is_part);
    prop::option::of(fragment)
}

prop_compose! {
    fn header4()(
        src: [u8; 4], dst: [u8; 4], protocol: u8, hop_limit: u8, traffic_class: u8,
        dont_fragment: bool, fragment in fragments(0xffff), payload_len in 0usize..65516,
    ) -> Ipv4Header {
        let (src, dst) = (src.into(), dst.into());
        Ipv4Header { src, dst, protocol, hop_limit, traffic_class, dont_fragment, fragment, payload_len }
    }
}

prop_compose! {
    fn header6()(
        src: [u8; 16], dst: [u8; 16], next_header: u8, hop_limit: u8, traffic_class: u8,
        payload_len in 0usize..65536,
    ) -> Ipv6Header {
        let (src, dst) = (src.into(), dst.into());
        Ipv6Header { src, dst, next_header, hop_limit, traffic_class, payload_len }
    }
}

proptest! {
    #[test]
    fn an_ipv4_header_comes_back_as_it_went(header in header4(), before: [u8; IPV4_LEN], less in 1usize..50) {
        // Whatever lay there does not matter.
        let mut bytes = before;
        header.emit(&mut bytes);
        let total = IPV4_LEN + header.payload_len;
        prop_assert_eq!(Ipv4Header::parse(&bytes, total), Ok((header, IPV4_LEN)));
        if let Some(total) = total.checked_sub(less) {
            prop_assert_eq!(Ipv4Header::parse(&bytes, total), Err(DropReason::Truncated));
        }
    }

    #[test]
    fn a_flipped_bit_of_an_ipv4_header_is_seen(header in header4(), bit in 0..IPV4_LEN * 8) {
        let mut bytes = [0; IPV4_LEN];
        header.emit(&mut bytes);
        bytes[bit / 8] ^= 1 << (bit % 8);
        prop_assert!(Ipv4Header::parse(&bytes, 70000).is_err());
    }

    #[test]
    fn an_ipv6_header_comes_back_as_it_went(header in header6(), before: [u8; IPV6_LEN]) {
        let mut bytes = before;
        header.emit(&mut bytes);
        let total = IPV6_LEN + header.payload_len;
        prop_assert_eq!(Ipv6Header::parse(&bytes, total), Ok(header));
        prop_assert_eq!(Ipv6Header::parse(&bytes, total - 1), Err(DropReason::Truncated));
    }

    #[test]
    fn a_fragment_header_comes_back_as_it_went(
        header in header6(), fragment in fragments(u32::MAX), next: u8,
    ) {
        // Extensions behind an atomic fragment's header would be read on.
        prop_assume!(fragment.is_some());
        let fragment = fragment.unwrap();
        let mut bytes = [0; IPV6_LEN + FRAGMENT_LEN];
        Ipv6Header { next_header: protocol::FRAGMENT, ..header }.emit(&mut bytes);
        fragment.emit(next, &mut bytes[IPV6_LEN..]);
        let got = Extensions::parse(&bytes);
        let (end, protocol_at) = (IPV6_LEN + FRAGMENT_LEN, IPV6_LEN);
        prop_assert_eq!(got, Ok(Extensions { protocol: next, protocol_at, end, fragment: Some(fragment) }));
    }

    #[test]
    fn no_bytes_make_it_panic(mut bytes: Vec<u8>, six: bool, total in 0usize..70000) {
        if let Some(first) = bytes.first_mut() {
            *first = if six { 0x60 } else { 0x40 | *first & 0xf };
        }
        if let Ok((header, len)) = Ipv4Header::parse(&bytes, total) {
            prop_assert!(len <= bytes.len() && len + header.payload_len <= total);
        }
        if let Ok(header) = Ipv6Header::parse(&bytes, total) {
            prop_assert!(IPV6_LEN + header.payload_len <= total);
            if let Ok(extensions) = Extensions::parse(&bytes) {
                prop_assert!(extensions.end <= bytes.len());
                prop_assert_eq!(bytes[extensions.protocol_at], extensions.protocol);
            }
        }
    }

    #[test]
    fn any_chain_of_extensions_ends(chain in prop::collection::vec((0usize..4, 0u8..3), 0..12)) {
        const KINDS: [u8; 4] = [
            protocol::HOP_BY_HOP, protocol::ROUTING, protocol::FRAGMENT, protocol::DESTINATION_OPTIONS,
        ];
        let mut bytes = vec![0; IPV6_LEN];
        let mut named_at = field::v6::NEXT_HEADER;
        for (kind, units) in &chain {
            bytes[named_at] = KINDS[*kind];
            named_at = bytes.len();
            // A fragment's header has one length, and this is an atomic one.
            let units = if KINDS[*kind] == protocol::FRAGMENT { 0 } else { *units };
            bytes.extend([0, units, 0, 0, 0, 0, 0, 0]);
            bytes.resize(bytes.len() + usize::from(units) * 8, 0);
        }
        bytes[named_at] = protocol::UDP;
        let again = |kind| chain.iter().skip(1).any(|(k, _)| KINDS[*k] == kind);
        let fragments = chain.iter().filter(|(k, _)| KINDS[*k] == protocol::FRAGMENT).count();
        match Extensions::parse(&bytes) {
            Ok(it) => {
                prop_assert_eq!((it.protocol, it.protocol_at, it.end), (protocol::UDP, named_at, bytes.len()));
                prop_assert!(chain.len() <= EXTENSIONS_MAX && fragments <= 1);
            }
            Err(DropReason::Malformed) => prop_assert!(again(protocol::HOP_BY_HOP) || fragments > 1),
            Err(reason) => {
                prop_assert_eq!(reason, DropReason::HeadersTooLong);
                prop_assert!(chain.len() > EXTENSIONS_MAX);
            }
        }
    }
}
