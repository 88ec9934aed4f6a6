//! What was meant by a word that is nearly one.

/// The nearest of `words`, if one is near: a slip of one or two keys, not of half the word.
pub fn nearest<'a>(word: &str, words: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let lower = word.to_lowercase();
    let distance = |other: &'a str| (strsim::damerau_levenshtein(&lower, other), other);
    let (slips, near) = words.into_iter().map(distance).min()?;
    (near != word && slips <= (near.chars().count() / 2).min(2)).then_some(near)
}

/// The question that names it, to be put behind a word that is wrong.
pub(super) fn question<'a>(word: &str, words: impl IntoIterator<Item = &'a str>) -> String {
    nearest(word, words).map(|near| format!("; did you mean {near:?}?")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_is_seen_and_another_word_is_not() {
        let words = ["memory", "cpus", "net", "mtu"];
        for (word, want) in [
            ("memry", Some("memory")),
            ("mmeory", Some("memory")),
            ("Memory", Some("memory")),
            ("cpu", Some("cpus")),
            ("nte", Some("net")),
            ("mut", Some("mtu")),
            ("memory", None),
            ("colour", None),
            ("x", None),
            ("", None),
        ] {
            assert_eq!(nearest(word, words), want, "{word}");
        }
        assert_eq!(nearest("word", []), None);
        assert_eq!(question("cpu", words), "; did you mean \"cpus\"?");
        assert_eq!(question("colour", words), "");
    }
}
