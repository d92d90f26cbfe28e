//! Text values in their Specific Character Set (0008,0005): PS3.5 §6.1, PS3.3 §C.12.1.1.2.
//!
//! Results copy header elements byte for byte; decoding is for what speaks another encoding: HL7
//! and the operator's page. Nothing here fails: bytes that mean nothing in their set become U+FFFD,
//! because a broken name must not keep a result from the ward.

use encoding_rs::{
    EUC_JP, EUC_KR, Encoding, GB18030, GBK, ISO_8859_2, ISO_8859_3, ISO_8859_4, ISO_8859_5, ISO_8859_6,
    ISO_8859_7, ISO_8859_8, ISO_8859_15, UTF_8, WINDOWS_874, WINDOWS_1252, WINDOWS_1254,
};

const ESCAPE: u8 = 0x1B;
const REPLACEMENT: char = '\u{FFFD}';

/// A person name (VR PN) by its component groups, PS3.5 §6.2.1. Each group has five components:
/// family, given, middle, prefix, suffix. A group without any text is `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PersonName {
    /// First group: usually Latin letters, or half-width katakana.
    pub alphabetic: Option<[String; 5]>,
    /// Second group, e.g. kanji, hanja, hanzi.
    pub ideographic: Option<[String; 5]>,
    /// Third group, e.g. hiragana, hangul.
    pub phonetic: Option<[String; 5]>,
}

/// Decodes the raw bytes of one text element. `character_sets` are the values of (0008,0005) in
/// order, empty where it is absent. Trailing padding (spaces, NULs) is dropped. A backslash stays
/// in the text, so a multi-valued element is split by the caller, after decoding.
pub fn decode(bytes: &[u8], character_sets: &[String]) -> String {
    decode_with(bytes, character_sets, b"\\")
}

/// Decodes the first value of a PN element into its groups and components.
///
/// Bytes are decoded first and split after, so the trail byte of a two-byte character (0x5E or
/// 0x5C in GBK, 0x3D in JIS X 0208) is never taken for a delimiter.
pub fn person_name_groups(bytes: &[u8], character_sets: &[String]) -> PersonName {
    let text = decode_with(bytes, character_sets, b"\\^=");
    let first_value = text.split('\\').next().unwrap_or_default();
    let mut groups = first_value.splitn(3, '=').map(components);
    PersonName {
        alphabetic: groups.next().flatten(),
        ideographic: groups.next().flatten(),
        phonetic: groups.next().flatten(),
    }
}

fn components(group: &str) -> Option<[String; 5]> {
    let mut parts: [String; 5] = Default::default();
    for (slot, part) in parts.iter_mut().zip(group.splitn(5, '^')) {
        *slot = part.trim_matches([' ', '\0']).to_owned();
    }
    parts.iter().any(|part| !part.is_empty()).then_some(parts)
}

/// What bytes of one half of the code table mean (ISO 2022: G0 for 0x21..0x7E, G1 for 0xA0..0xFF).
#[derive(Clone, Copy)]
enum Set {
    /// ISO 646 and the Romaji half of JIS X 0201, whose 0x5C is read as a backslash because that
    /// is what separates values whatever the set.
    Ascii,
    /// The katakana half of JIS X 0201, in G1.
    Katakana,
    /// The upper half of a one-byte encoding, in G1.
    OneByte(&'static Encoding),
    /// A 94×94 set. Decoded as `prefix`, then both bytes with the high bit set, in an EUC encoding.
    TwoByte(&'static Encoding, &'static [u8]),
}

#[derive(Clone, Copy)]
struct State {
    g0: Set,
    g1: Option<Set>,
}

fn decode_with(bytes: &[u8], character_sets: &[String], delimiters: &[u8]) -> String {
    let padding = bytes.iter().rev().take_while(|byte| matches!(byte, b' ' | 0)).count();
    let bytes = &bytes[..bytes.len() - padding];
    let names: Vec<String> = character_sets.iter().map(|name| normalise(name)).collect();
    if let Some(encoding) = names.iter().find(|name| !name.is_empty()).and_then(|name| stand_alone(name)) {
        return encoding.decode_without_bom_handling(bytes).0.into_owned();
    }
    decode_iso2022(bytes, initial(names.first().map_or("", String::as_str)), delimiters)
}

/// Upper case, with `-`, `_` and runs of spaces as one space: senders write `ISO-IR 100` too.
fn normalise(name: &str) -> String {
    let spaced = name.to_ascii_uppercase().replace(['-', '_', '\0'], " ");
    spaced.split_ascii_whitespace().collect::<Vec<_>>().join(" ")
}

/// Encodings that allow no code extensions (PS3.3 Table C.12-5).
fn stand_alone(name: &str) -> Option<&'static Encoding> {
    match name {
        "ISO IR 192" | "UTF 8" | "UTF8" => Some(UTF_8),
        "GB18030" => Some(GB18030),
        "GBK" | "ISO 2022 GBK" => Some(GBK),
        _ => None,
    }
}

/// The state that the first value of (0008,0005) invokes (PS3.3 Tables C.12-2 to C.12-4).
fn initial(name: &str) -> State {
    let number = name.rsplit(' ').next().unwrap_or_default();
    let g1 = match number {
        "13" => Some(Set::Katakana),
        "149" => Some(Set::TwoByte(EUC_KR, &[])),
        "58" => Some(Set::TwoByte(GBK, &[])),
        "100" => one_byte(b'A'),
        "101" => one_byte(b'B'),
        "109" => one_byte(b'C'),
        "110" => one_byte(b'D'),
        "126" => one_byte(b'F'),
        "127" => one_byte(b'G'),
        "138" => one_byte(b'H'),
        "144" => one_byte(b'L'),
        "148" => one_byte(b'M'),
        "166" => one_byte(b'T'),
        "203" => one_byte(b'b'),
        _ => None,
    };
    State { g0: Set::Ascii, g1 }
}

/// The 96-character set that `ESC - final` puts into G1.
fn one_byte(final_byte: u8) -> Option<Set> {
    let encoding = match final_byte {
        b'A' => WINDOWS_1252, // ISO 8859-1 in 0xA0..0xFF, the only half that is asked for
        b'B' => ISO_8859_2,
        b'C' => ISO_8859_3,
        b'D' => ISO_8859_4,
        b'F' => ISO_8859_7,
        b'G' => ISO_8859_6,
        b'H' => ISO_8859_8,
        b'L' => ISO_8859_5,
        b'M' => WINDOWS_1254, // ISO 8859-9 likewise
        b'T' => WINDOWS_874,  // TIS 620 likewise
        b'b' => ISO_8859_15,
        _ => return None,
    };
    Some(Set::OneByte(encoding))
}

/// Applies the escape sequence at the start of `rest` (after the ESC) and returns its length.
/// Escape sequences work whether or not (0008,0005) announces them: senders forget to.
fn escape(rest: &[u8], state: &mut State) -> Option<usize> {
    match rest {
        [b'(', b'B' | b'J', ..] => state.g0 = Set::Ascii,
        [b')', b'I', ..] => state.g1 = Some(Set::Katakana),
        [b'-', byte, ..] => state.g1 = Some(one_byte(*byte)?),
        [b'$', b'B' | b'@', ..] => state.g0 = Set::TwoByte(EUC_JP, &[]),
        [b'$', b'(', b'D', ..] => state.g0 = Set::TwoByte(EUC_JP, &[0x8F]),
        [b'$', b')', b'C', ..] => state.g1 = Some(Set::TwoByte(EUC_KR, &[])),
        [b'$', b')', b'A', ..] => state.g1 = Some(Set::TwoByte(GBK, &[])),
        _ => return None,
    }
    Some(if rest[0] == b'$' && matches!(rest[1], b'(' | b')') { 3 } else { 2 })
}

fn decode_iso2022(bytes: &[u8], initial: State, delimiters: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    let mut state = initial;
    let mut rest = bytes;
    while let [byte, tail @ ..] = rest {
        rest = match *byte {
            ESCAPE => match escape(tail, &mut state) {
                Some(length) => &tail[length..],
                None => {
                    text.push(REPLACEMENT);
                    tail
                }
            },
            // Controls and the space belong to no set; ends of line and page and the tab bring
            // the first value's sets back (PS3.5 §6.1.2.5.3).
            control @ (0..=0x20 | 0x7F) => {
                if matches!(control, b'\t' | b'\n' | 0x0C | b'\r') {
                    state = initial;
                }
                text.push(char::from(control));
                tail
            }
            low @ 0x21..=0x7E => match state.g0 {
                Set::TwoByte(encoding, prefix) => {
                    two_bytes(&mut text, encoding, prefix, low, tail, 0x21..=0x7E)
                }
                _ => {
                    if delimiters.contains(&low) {
                        state = initial;
                    }
                    text.push(char::from(low));
                    tail
                }
            },
            0x80..=0x9F => {
                text.push(REPLACEMENT);
                tail
            }
            high @ 0xA0..=0xFF => match state.g1 {
                Some(Set::TwoByte(encoding, prefix)) => {
                    two_bytes(&mut text, encoding, prefix, high, tail, 0xA1..=0xFE)
                }
                Some(Set::OneByte(encoding)) => {
                    text.push_str(&encoding.decode_without_bom_handling(&[high]).0);
                    tail
                }
                Some(Set::Katakana) if (0xA1..=0xDF).contains(&high) => {
                    let offset = u32::from(high - 0xA1);
                    text.push(char::from_u32(0xFF61 + offset).unwrap_or(REPLACEMENT));
                    tail
                }
                _ => {
                    text.push(REPLACEMENT);
                    tail
                }
            },
        };
    }
    text
}

/// Decodes one character of two bytes; a lead byte without its trail byte is replaced alone, so
/// that what follows is still read.
fn two_bytes<'a>(
    text: &mut String,
    encoding: &'static Encoding,
    prefix: &[u8],
    lead: u8,
    tail: &'a [u8],
    range: std::ops::RangeInclusive<u8>,
) -> &'a [u8] {
    match tail {
        [trail, after @ ..] if range.contains(&lead) && range.contains(trail) => {
            let mut euc = prefix.to_vec();
            euc.extend([lead | 0x80, trail | 0x80]);
            text.push_str(&encoding.decode_without_bom_handling(&euc).0);
            after
        }
        _ => {
            text.push(REPLACEMENT);
            tail
        }
    }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) use tests::Random;
