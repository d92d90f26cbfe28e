//! The names are those of PS3.5 Annexes H, I, J and K, as pydicom 3.0.2's `charset_files` hold
//! them; the expected strings are what pydicom decodes.

use super::*;

fn sets(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// Bytes, Specific Character Set values, text.
const VALUES: &[(&[u8], &[&str], &str)] = &[
    (b"Buc^J\xe9r\xf4me", &["ISO_IR 100"], "Buc^Jérôme"),
    (b"Buc^J\xe9r\xf4me", &["iso-ir 100"], "Buc^Jérôme"),
    (b"\xc4neas^R\xfcdiger", &["ISO_IR 100"], "Äneas^Rüdiger"),
    (b"\xc4\xe9\xef\xed\xf5\xf3\xe9\xef\xf2", &["ISO_IR 126"], "Διονυσιος"),
    (b"\xe2\xc8\xc7\xe6\xea^\xe4\xe6\xd2\xc7\xd1", &["ISO_IR 127"], "قباني^لنزار"),
    (b"\xf9\xf8\xe5\xef^\xe3\xe1\xe5\xf8\xe4", &["ISO_IR 138"], "שרון^דבורה"),
    (b"\xbb\xee\xdace\xdc\xd1yp\xd3", &["ISO_IR 144"], "Люкceмбypг"),
    (b"\xc7avu\xfeo\xf0lu", &["ISO_IR 148"], "Çavuşoğlu"),
    (b"\xb9\xd2\xc2", &["ISO_IR 166"], "นาย"),
    (b"\xbcuvre\xa4", &["ISO_IR 203"], "Œuvre€"),
    (
        b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B=\x1b$B$d$^$@\x1b(B^\x1b$B$?$m$&\x1b(B",
        &["", "ISO 2022 IR 87"],
        "Yamada^Tarou=山田^太郎=やまだ^たろう",
    ),
    (
        b"\xd4\xcf\xc0\xde^\xc0\xdb\xb3=\x1b$B;3ED\x1b(J^\x1b$BB@O:\x1b(J=\x1b$B$d$^$@\x1b(J^\x1b$B$?$m$&\x1b(J",
        &["ISO 2022 IR 13", "ISO 2022 IR 87"],
        "ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎=やまだ^たろう",
    ),
    (
        b"Hong^Gildong=\x1b$)C\xfb\xf3^\x1b$)C\xd1\xce\xd4\xd7=\x1b$)C\xc8\xab^\x1b$)C\xb1\xe6\xb5\xbf",
        &["", "ISO 2022 IR 149"],
        "Hong^Gildong=洪^吉洞=홍^길동",
    ),
    (b"\x1b$)C\xb1\xe8\xc8\xf1\xc1\xdf", &["", "ISO 2022 IR 149"], "김희중"),
    (b"\x1b$)A\xd5\xc5^\x1b$)A\xd0\xa1\xb6\xab", &["", "ISO 2022 IR 58"], "张^小东"),
    (b"\x1b$(D0!0~\x1b(B", &["", "ISO 2022 IR 159"], "丂侄"),
    (b"Wang^XiaoDong=\xe7\x8e\x8b^\xe5\xb0\x8f\xe6\x9d\xb1=", &["ISO_IR 192"], "Wang^XiaoDong=王^小東="),
    (b"Wang^XiaoDong=\xcd\xf5^\xd0\xa1\xb6\xab=", &["GB18030"], "Wang^XiaoDong=王^小东="),
    (b"\x81\x30\x81\x30 \x81\x5e\x81\x5c", &["GBK"], "\u{80} 乛乗"),
    // Two one-byte sets in one value, and a line end that brings the first one back.
    (
        b"\xe9 \x1b-F\xc4 \x1b-L\xbb\r\n\xe9",
        &["ISO 2022 IR 100", "ISO 2022 IR 126", "ISO 2022 IR 144"],
        "é Δ Л\r\né",
    ),
    // Padding goes, whatever it is.
    (b"DOE^JANE \0", &[], "DOE^JANE"),
];

#[test]
fn values_of_the_standards_annexes_decode() {
    for (bytes, names, text) in VALUES {
        assert_eq!(&decode(bytes, &sets(names)), text, "{names:?}");
    }
}

#[test]
fn a_trail_byte_that_looks_like_a_delimiter_is_not_one() {
    // 0x5E and 0x5C as GBK trail bytes, 0x3D and 0x5E as JIS X 0208 trail bytes.
    let gbk = person_name_groups(b"A^B=\x81\x5e\x81\x5c^\x82\x5e", &sets(&["GBK"]));
    let ideographic = gbk.ideographic.unwrap();
    assert_eq!((ideographic[0].as_str(), ideographic[1].as_str()), ("乛乗", "俕"));
    let jis = person_name_groups(
        b"A^B=\x1b$B\x30\x3d\x30\x5e\x1b(B^\x1b$B\x30\x5c\x1b(B",
        &sets(&["", "ISO 2022 IR 87"]),
    );
    let ideographic = jis.ideographic.unwrap();
    assert_eq!((ideographic[0].as_str(), ideographic[1].as_str()), ("綾緯", "移"));
    assert_eq!(jis.phonetic, None);
}

#[test]
fn names_split_into_groups_and_components() {
    let name = person_name_groups(b"Adams^John Robert Quincy^^Rev.^B.A. M.Div.\\Other^One", &[]);
    assert_eq!(
        name.alphabetic.unwrap(),
        ["Adams", "John Robert Quincy", "", "Rev.", "B.A. M.Div."].map(str::to_owned)
    );
    assert_eq!((name.ideographic, name.phonetic), (None, None));
    assert_eq!(person_name_groups(b"^^^^", &[]), PersonName::default());
    let only_phonetic = person_name_groups("==やまだ".as_bytes(), &sets(&["ISO_IR 192"]));
    assert_eq!((only_phonetic.alphabetic, only_phonetic.ideographic), (None, None));
    assert_eq!(only_phonetic.phonetic.unwrap()[0], "やまだ");
}

#[test]
fn a_delimiter_in_a_name_brings_the_first_set_back() {
    // After `^` the Korean set is gone until it is announced again.
    let name = person_name_groups(b"\x1b$)C\xfb\xf3^\xfb\xf3", &sets(&["", "ISO 2022 IR 149"]));
    let parts = name.alphabetic.unwrap();
    assert_eq!((parts[0].as_str(), parts[1].as_str()), ("洪", "\u{FFFD}\u{FFFD}"));
    // In a text that is no name, `^` is a letter like any other.
    assert_eq!(decode(b"\x1b$)C\xfb\xf3^\xfb\xf3", &sets(&["", "ISO 2022 IR 149"])), "洪^洪");
}

#[test]
fn malformed_bytes_become_replacement_characters() {
    for (bytes, names, text) in [
        (&b"J\xe9r"[..], &[][..], "J\u{FFFD}r"),
        (b"A\x1bZB", &["ISO_IR 100"], "A\u{FFFD}ZB"),
        (b"\x1b$B;", &["", "ISO 2022 IR 87"], "\u{FFFD}"),
        (b"\x1b$)C\xfb^A", &["", "ISO 2022 IR 149"], "\u{FFFD}^A"),
        (b"\xff\xfeA", &["ISO_IR 192"], "\u{FFFD}\u{FFFD}A"),
        (b"\x1b", &["ISO_IR 100"], "\u{FFFD}"),
    ] {
        assert_eq!(decode(bytes, &sets(names)), text, "{bytes:x?}");
    }
}

#[test]
fn mutated_values_never_panic() {
    let mut random = Random(7);
    for _ in 0..20_000 {
        let (bytes, names, _) = VALUES[random.below(VALUES.len())];
        let mut bytes = bytes.to_vec();
        for _ in 0..1 + random.below(4) {
            let at = random.below(bytes.len());
            match random.below(4) {
                0 => bytes[at] = random.next() as u8,
                1 => bytes.truncate(at.max(1)),
                2 => bytes.insert(at, [0x1b, b'$', b'(', b'^', 0xff, b'=', b'\\', 0][random.below(8)]),
                _ => bytes.rotate_left(at),
            }
        }
        let names = sets(if random.below(4) == 0 { VALUES[random.below(VALUES.len())].1 } else { names });
        let text = decode(&bytes, &names);
        // One character never takes less than a byte, and no byte yields more than two characters.
        assert!(text.chars().count() <= 2 * bytes.len());
        person_name_groups(&bytes, &names);
    }
}

/// xorshift64: a seed replays a failure.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }
}
