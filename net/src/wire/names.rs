//! Domain names as DNS and others carry them: labels without compression (RFC 1035 §3.1).

/// The name in `text`, a valid one.
pub fn emit(text: &str) -> Vec<u8> {
    let mut name = Vec::with_capacity(text.len() + 2);
    put(text, &mut name);
    name
}

/// The first of `domains`, as many as fit `room` bytes: how DHCP (RFC 3397, RFC 8415 §10) and router
/// advertisements (RFC 8106 §5.2) tell of search domains.
pub fn emit_list(domains: &[String], room: usize) -> Vec<u8> {
    let mut names = Vec::new();
    for domain in domains {
        // A length before each label for the dot, one for the first, one for the root.
        if names.len() + domain.len() + 2 > room {
            break;
        }
        put(domain, &mut names);
    }
    names
}

fn put(text: &str, to: &mut Vec<u8>) {
    for label in text.split('.') {
        to.push(label.len() as u8);
        to.extend(label.bytes());
    }
    to.push(0);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn domains() -> impl Strategy<Value = Vec<String>> {
        prop::collection::vec("[a-z]{1,63}(\\.[a-z]{1,20}){0,3}", 0..6)
    }

    #[test]
    fn a_golden_name() {
        assert_eq!(emit("a.example"), b"\x01a\x07example\0");
    }

    proptest! {
        #[test]
        fn a_list_is_whole_names_and_fits(domains in domains(), room in 0usize..400) {
            let names = emit_list(&domains, room);
            prop_assert!(names.len() <= room);
            let (mut want, mut count) = (Vec::new(), 0);
            while want.len() < names.len() {
                want.extend(emit(&domains[count]));
                count += 1;
            }
            prop_assert_eq!(&names, &want);
            if let Some(next) = domains.get(count) {
                prop_assert!(names.len() + emit(next).len() > room);
            }
        }
    }
}
