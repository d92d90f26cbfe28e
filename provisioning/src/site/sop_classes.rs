//! The words by which a site file may name groups of storage SOP classes.

/// What every standard storage SOP class of images and documents begins with.
const STORAGE: &str = "1.2.840.10008.5.1.4.1.1.";

/// Word, and what follows [`STORAGE`] in the UIDs of its classes; a `.` at the end takes all below.
const GROUPS: &[(&str, &[&str])] = &[
    ("cr", &["1"]),
    ("ct", &["2", "2.1", "2.2"]),
    ("dx", &["1.1", "1.1.1"]),
    ("mg", &["1.2", "1.2.1", "13.1.3", "13.1.4", "13.1.5"]),
    ("mr", &["4", "4.1", "4.2", "4.3", "4.4"]),
    ("nm", &["20"]),
    ("pet", &["128", "128.1", "130"]),
    ("rt", &["481."]),
    ("sc", &["7", "7.1", "7.2", "7.3", "7.4"]),
    ("seg", &["66.4", "66.5", "66.7"]),
    ("sr", &["88."]),
    ("us", &["3", "3.1", "6", "6.1", "6.2"]),
    ("xa", &["12.1", "12.1.1", "12.2", "12.2.1", "13.1.1", "13.1.2"]),
];

/// The words, for messages.
pub fn sop_class_words() -> String {
    let words: Vec<&str> = GROUPS.iter().map(|(word, _)| *word).collect();
    format!("{}, private", words.join(", "))
}

/// Whether an entry of `sop_classes` is a word of ours or has a UID's form (PS3.5 §9.1).
pub fn is_sop_class_entry(entry: &str) -> bool {
    let word = entry == "private" || GROUPS.iter().any(|(word, _)| *word == entry);
    word || is_uid(entry)
}

/// Whether a text has a UID's form.
pub(super) fn is_uid(text: &str) -> bool {
    let part = |part: &str| {
        !part.is_empty()
            && part.bytes().all(|byte| byte.is_ascii_digit())
            && (part.len() == 1 || !part.starts_with('0'))
    };
    text.len() <= 64 && text.contains('.') && text.split('.').all(part)
}

/// Whether an entry of `sop_classes` lets the SOP class in.
pub fn sop_class_fits(entry: &str, uid: &str) -> bool {
    if entry == "private" {
        return !uid.starts_with("1.2.840.10008.");
    }
    let Some((_, ends)) = GROUPS.iter().find(|(word, _)| *word == entry) else { return entry == uid };
    let Some(end) = uid.strip_prefix(STORAGE) else { return false };
    ends.iter().any(|known| if known.ends_with('.') { end.starts_with(known) } else { end == *known })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_uids_let_in_what_they_name_and_no_more() {
        for (entry, uid, fits) in [
            ("ct", "1.2.840.10008.5.1.4.1.1.2", true),
            ("ct", "1.2.840.10008.5.1.4.1.1.20", false),
            ("sr", "1.2.840.10008.5.1.4.1.1.88.34", true),
            ("private", "1.3.12.2.1107.5.9.1", true),
            ("private", "1.2.840.10008.5.1.4.1.1.2", false),
            ("1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.5.1.4.1.1.4", true),
            ("1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.5.1.4.1.1.4.1", false),
        ] {
            assert_eq!(sop_class_fits(entry, uid), fits, "{entry} {uid}");
        }
        for (entry, right) in
            [("ct", true), ("private", true), ("1.2.3", true), ("CT", false), ("1..2", false)]
        {
            assert_eq!(is_sop_class_entry(entry), right, "{entry}");
        }
    }
}
