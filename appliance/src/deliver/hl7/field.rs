//! Fields: escaping (HL7 v2.5.1 §2.7), names (XPN), identifiers (CX) and time stamps (TS).

use crate::dicom::charset::PersonName;

/// Makes any text one component's text. Separators become their escape sequences, a line end
/// `\.br\`, and every other control character `\Xhh\`, so nothing in it can end a field, a segment
/// or an MLLP frame.
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '|' => escaped.push_str("\\F\\"),
            '^' => escaped.push_str("\\S\\"),
            '&' => escaped.push_str("\\T\\"),
            '~' => escaped.push_str("\\R\\"),
            '\\' => escaped.push_str("\\E\\"),
            '\r' | '\n' => {
                if character == '\r' && characters.peek() == Some(&'\n') {
                    characters.next();
                }
                escaped.push_str("\\.br\\");
            }
            // The two separators of Unicode that some readers take for line ends.
            '\u{2028}' | '\u{2029}' => escaped.push_str("\\.br\\"),
            control if control.is_control() => {
                let mut bytes = [0; 4];
                escaped.push_str("\\X");
                for byte in control.encode_utf8(&mut bytes).bytes() {
                    escaped.push_str(&format!("{byte:02X}"));
                }
                escaped.push('\\');
            }
            other => escaped.push(other),
        }
    }
    escaped
}

/// CX: id, assigning authority as a namespace, identifier type.
pub fn identifier(id: &str, authority: &str, kind: &str) -> String {
    format!("{}^^^{}^{}", escape(id), escape(authority), escape(kind))
}

/// PID-5: an XPN for each group of the name, with XPN-8 saying which it is (HL7 table 4000: `A`
/// alphabetic, `I` ideographic, `P` phonetic). DICOM has prefix before suffix, XPN after it. A
/// patient without a name gets XPN-7 `U` (unspecified), as the field is required.
pub fn person_name(name: &PersonName) -> String {
    let groups = [(&name.alphabetic, 'A'), (&name.ideographic, 'I'), (&name.phonetic, 'P')];
    let repetitions: Vec<String> = groups
        .into_iter()
        .filter_map(|(group, representation)| {
            let [family, given, middle, prefix, suffix] = group.as_ref()?.each_ref().map(|part| escape(part));
            Some(format!("{family}^{given}^{middle}^{suffix}^{prefix}^^L^{representation}"))
        })
        .collect();
    if repetitions.is_empty() { "^^^^^^U".to_owned() } else { repetitions.join("~") }
}

/// TS from the raw values of a DA and a TM element: `YYYYMMDD[HHMM[SS[.S…]]]`, in the sender's local
/// time. A malformed date gives nothing; a malformed time gives the date alone.
pub fn time_stamp(date: Option<&[u8]>, time: Option<&[u8]>) -> String {
    let Some(date) = date.and_then(date_digits) else { return String::new() };
    let time = time.and_then(time_digits).unwrap_or_default();
    format!("{date}{time}")
}

fn trimmed(raw: &[u8]) -> Option<&str> {
    std::str::from_utf8(raw).ok().map(|text| text.trim_matches([' ', '\0']))
}

fn number(text: &str, range: std::ops::RangeInclusive<u32>) -> Option<u32> {
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    text.parse().ok().filter(|number| range.contains(number))
}

/// `YYYYMMDD`, or the retired `YYYY.MM.DD`, of a day that exists.
fn date_digits(raw: &[u8]) -> Option<String> {
    let text = trimmed(raw)?;
    let digits = match text.len() {
        8 => text.to_owned(),
        10 if text.as_bytes().get(4) == Some(&b'.') && text.as_bytes().get(7) == Some(&b'.') => {
            text.replace('.', "")
        }
        _ => return None,
    };
    if digits.len() != 8 || !digits.is_ascii() {
        return None;
    }
    let year = number(&digits[..4], 1800..=9999)?;
    let month = u8::try_from(number(&digits[4..6], 1..=12)?).ok()?;
    let day = u8::try_from(number(&digits[6..], 1..=31)?).ok()?;
    time::Date::from_calendar_date(i32::try_from(year).ok()?, time::Month::try_from(month).ok()?, day)
        .ok()?;
    Some(digits)
}

/// `HHMM`, `HHMMSS` or `HHMMSS.ffff` (HL7 has no hours alone, and four fractional digits at most).
fn time_digits(raw: &[u8]) -> Option<String> {
    let text = trimmed(raw)?;
    let (whole, fraction) = match text.split_once('.') {
        Some((whole, fraction)) => (whole, Some(fraction)),
        None => (text, None),
    };
    if !matches!(whole.len(), 4 | 6) || !whole.is_ascii() || (fraction.is_some() && whole.len() != 6) {
        return None;
    }
    number(&whole[..2], 0..=23)?;
    number(&whole[2..4], 0..=59)?;
    if whole.len() == 6 {
        // A leap second is valid in DICOM but in no HL7 reader's table.
        number(&whole[4..], 0..=59)?;
    }
    let fraction = fraction.unwrap_or_default();
    if fraction.is_empty() {
        return Some(whole.to_owned());
    }
    number(fraction, 0..=999_999).filter(|_| fraction.len() <= 6)?;
    Some(format!("{whole}.{}", &fraction[..fraction.len().min(4)]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_escapes_from_a_field() {
        assert_eq!(escape("a|b^c&d~e\\f"), "a\\F\\b\\S\\c\\T\\d\\R\\e\\E\\f");
        assert_eq!(escape("a\r\nb\nc\rd\u{2028}e"), "a\\.br\\b\\.br\\c\\.br\\d\\.br\\e");
        assert_eq!(escape("\u{b}\u{1c}\0\u{85}"), "\\X0B\\\\X1C\\\\X00\\\\XC285\\");
        assert_eq!(escape("山田 é"), "山田 é");
    }

    #[test]
    fn only_valid_dates_and_times_are_written() {
        for (date, time, stamp) in [
            (&b"20260102"[..], Some(&b"101112.5 "[..]), "20260102101112.5"),
            (b"20260102", Some(b"101112.123456"), "20260102101112.1234"),
            (b"20260102", Some(b"1011"), "202601021011"),
            (b"2026.01.02", None, "20260102"),
            (b"20260102", Some(b"10"), "20260102"),
            (b"20260102", Some(b"256000"), "20260102"),
            (b"20260102", Some(b"10:11:12"), "20260102"),
            (b"20260102", Some(b"101112.+1"), "20260102"),
            (b"20260230", Some(b"101112"), ""),
            (b"+2260102", None, ""),
            (b"2026|102", None, ""),
            ("２026".as_bytes(), None, ""),
            ("2026.1é.2".as_bytes(), None, ""),
            (b"", None, ""),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff", None, ""),
        ] {
            assert_eq!(time_stamp(Some(date), time), stamp, "{date:?} {time:?}");
        }
        assert_eq!(time_stamp(None, Some(b"101112")), "");
    }
}
