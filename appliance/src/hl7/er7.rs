//! A message of HL7 v2 in ER7 encoding (HL7 v2.5.1 §2.6, §2.7) taken apart: segments, fields, repetitions,
//! components, escapes. It judges no content. Memory grows with the message alone, which the frame bounds.

use encoding_rs::{Encoding, UTF_8, WINDOWS_1252};
use thiserror::Error;

use crate::phi::Phi;

/// Segments that a message may have.
pub const SEGMENTS_MAX: usize = 2000;

/// Why bytes are no message. Names no value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Fault {
    /// The first segment is not MSH.
    #[error("the message does not begin with an MSH segment")]
    NoHeader,
    /// MSH-1 and MSH-2 are not five different separators.
    #[error("MSH-1 and MSH-2 do not name the separators")]
    Separators,
    /// Too many segments.
    #[error("the message has more than {SEGMENTS_MAX} segments")]
    TooManySegments,
    /// A byte that frames MLLP, or NUL.
    #[error("the message holds a control byte that HL7 does not allow")]
    ControlByte,
}

#[derive(Clone, Copy, Debug)]
struct Separators {
    field: char,
    component: char,
    repetition: char,
    escape: char,
    subcomponent: char,
}

/// A message.
#[derive(Clone)]
pub struct Message {
    text: Phi<String>,
    separators: Separators,
}

impl std::fmt::Debug for Message {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Message([redacted])")
    }
}

/// A segment.
#[derive(Clone, Copy)]
pub struct Segment<'a> {
    text: &'a str,
    separators: Separators,
}

impl Message {
    /// Takes a message apart. Segments may end in CR, LF or both. The text is decoded by MSH-18; without
    /// one, as UTF-8 where it is that, else as Windows-1252, which holds Latin-1.
    pub fn parse(bytes: &[u8]) -> Result<Self, Fault> {
        let start = bytes.iter().position(|byte| !matches!(byte, b'\r' | b'\n' | b' ')).unwrap_or_default();
        let bytes = &bytes[start..];
        if !bytes.starts_with(b"MSH") {
            return Err(Fault::NoHeader);
        }
        if bytes.iter().any(|byte| matches!(byte, 0 | 0x0b | 0x1c)) {
            return Err(Fault::ControlByte);
        }
        let separators = separators(bytes)?;
        let text = encoding(bytes, separators).decode_without_bom_handling(bytes).0.into_owned();
        let segments = text.split(['\r', '\n']).filter(|line| !line.trim().is_empty()).count();
        if segments > SEGMENTS_MAX {
            return Err(Fault::TooManySegments);
        }
        Ok(Message { text: Phi::new(text), separators })
    }

    /// The message as decoded text.
    pub fn text(&self) -> &Phi<String> {
        &self.text
    }

    /// All segments, in order.
    pub fn segments(&self) -> impl Iterator<Item = Segment<'_>> {
        let separators = self.separators;
        self.text
            .expose()
            .split(['\r', '\n'])
            .map(str::trim_start)
            .filter(|line| !line.is_empty())
            .map(move |text| Segment { text, separators })
    }

    /// The first segment of that name.
    pub fn first(&self, name: &str) -> Option<Segment<'_>> {
        self.segments().find(|segment| segment.name() == name)
    }

    /// The first component of a header field: `header(10)` is MSH-10.
    pub fn header(&self, field: usize) -> Phi<String> {
        self.first("MSH").map(|msh| msh.get(field, 1)).unwrap_or_default()
    }

    /// Everything behind the MSH segment: what a repeat of the message has in common with it, whatever
    /// time its header names.
    pub fn body(&self) -> &str {
        let text = self.text.expose();
        text.find(['\r', '\n']).map_or("", |end| &text[end..])
    }
}

impl<'a> Segment<'a> {
    /// Its name.
    pub fn name(&self) -> &'a str {
        self.text.split(self.separators.field).next().unwrap_or_default()
    }

    /// A field as it stands. In MSH, the separator itself is field 1.
    fn field(&self, number: usize) -> &'a str {
        let index = match (self.name(), number) {
            ("MSH", 0 | 1) => return "",
            ("MSH", number) => number - 1,
            (_, number) => number,
        };
        self.text.split(self.separators.field).nth(index).unwrap_or_default()
    }

    /// A component (from 1) of a field's first repetition, its first sub-component, unescaped and
    /// trimmed. HL7's explicit null (`""`) is empty.
    pub fn get(&self, field: usize, component: usize) -> Phi<String> {
        self.repetitions(field, component).next().unwrap_or_default()
    }

    /// The same of each repetition.
    pub fn repetitions(&self, field: usize, component: usize) -> impl Iterator<Item = Phi<String>> + 'a {
        let separators = self.separators;
        self.field(field).split(separators.repetition).map(move |repetition| {
            let value = repetition
                .split(separators.component)
                .nth(component.saturating_sub(1))
                .and_then(|component| component.split(separators.subcomponent).next())
                .unwrap_or_default()
                .trim();
            Phi::new(if value == "\"\"" { String::new() } else { unescape(value, separators) })
        })
    }
}

fn separators(bytes: &[u8]) -> Result<Separators, Fault> {
    let all: Vec<char> = bytes.get(3..8).unwrap_or_default().iter().copied().map(char::from).collect();
    let [field, component, repetition, escape, mut subcomponent] = all[..] else {
        return Err(Fault::Separators);
    };
    // Some senders name no sub-component separator.
    if subcomponent == field {
        subcomponent = '&';
    }
    let named = [field, component, repetition, escape, subcomponent];
    let plain = |c: &char| c.is_ascii_punctuation();
    let distinct = (1..named.len()).all(|at| !named[..at].contains(&named[at]));
    if !named.iter().all(plain) || !distinct {
        return Err(Fault::Separators);
    }
    Ok(Separators { field, component, repetition, escape, subcomponent })
}

/// The encoding that MSH-18 names (HL7 table 0211).
fn encoding(bytes: &[u8], separators: Separators) -> &'static Encoding {
    let header = bytes.split(|byte| matches!(byte, b'\r' | b'\n')).next().unwrap_or_default();
    let ascii = String::from_utf8_lossy(header);
    let named = ascii.split(separators.field).nth(17).unwrap_or_default();
    let named = named.split(separators.repetition).next().unwrap_or_default().trim().to_ascii_uppercase();
    let by_label = match named.as_str() {
        "UNICODE UTF-8" | "UTF-8" => Some(UTF_8),
        "ISO IR87" | "ISO IR159" => Encoding::for_label(b"iso-2022-jp"),
        "GB 18030-2000" => Encoding::for_label(b"gb18030"),
        "KS X 1001" => Encoding::for_label(b"euc-kr"),
        other => other
            .strip_prefix("8859/")
            .and_then(|part| Encoding::for_label(format!("iso-8859-{part}").as_bytes())),
    };
    by_label.unwrap_or(if std::str::from_utf8(bytes).is_ok() { UTF_8 } else { WINDOWS_1252 })
}

/// Puts separators and characters in the place of their escape sequences (HL7 v2.5.1 §2.7.1). A sequence
/// that is none, or only about layout, is dropped.
fn unescape(value: &str, separators: Separators) -> String {
    if !value.contains(separators.escape) {
        return value.to_owned();
    }
    let mut out = String::with_capacity(value.len());
    let mut rest = value;
    while let Some((before, after)) = rest.split_once(separators.escape) {
        out.push_str(before);
        let Some((sequence, after)) = after.split_once(separators.escape) else {
            // A lone escape character is text.
            out.push(separators.escape);
            rest = after;
            continue;
        };
        match sequence {
            "F" => out.push(separators.field),
            "S" => out.push(separators.component),
            "T" => out.push(separators.subcomponent),
            "R" => out.push(separators.repetition),
            "E" => out.push(separators.escape),
            ".br" => out.push(' '),
            other => out.push_str(&hex(other).unwrap_or_default()),
        }
        rest = after;
    }
    out.push_str(rest);
    out.retain(|c| !c.is_control());
    out
}

/// `Xhh…`: bytes of UTF-8.
fn hex(sequence: &str) -> Option<String> {
    let digits = sequence.strip_prefix('X').filter(|digits| digits.len() % 2 == 0 && digits.is_ascii())?;
    let bytes: Option<Vec<u8>> = (0..digits.len())
        .step_by(2)
        .map(|at| digits.get(at..at + 2).and_then(|pair| u8::from_str_radix(pair, 16).ok()))
        .collect();
    String::from_utf8(bytes?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(text: &str) -> Message {
        Message::parse(text.as_bytes()).expect("a message")
    }

    #[test]
    fn fields_components_repetitions_and_escapes() {
        let read = message(
            "MSH|^~\\&|RIS|HOSP|LIGHTBOX||20260101||ORM^O01|M1|P|2.3.1\rPID|||A\\T\\B&C^^^HOSP~D^^^OTHER||X\\X41\\\\.br\\Y|\"\"\r",
        );
        let msh = read.first("MSH").unwrap();
        assert_eq!(msh.get(1, 1).expose(), "");
        assert_eq!((msh.get(9, 1).expose().as_str(), msh.get(9, 2).expose().as_str()), ("ORM", "O01"));
        assert_eq!(read.header(10).expose(), "M1");
        let pid = read.first("PID").unwrap();
        assert_eq!(pid.get(3, 1).expose(), "A&B");
        let issuers: Vec<Phi<String>> = pid.repetitions(3, 4).collect();
        assert_eq!(issuers, [Phi::from("HOSP"), Phi::from("OTHER")]);
        assert_eq!(pid.get(5, 1).expose(), "XA Y");
        assert_eq!(pid.get(6, 1).expose(), "");
        assert_eq!(pid.get(99, 7).expose(), "");
    }

    #[test]
    fn other_separators_and_line_ends() {
        let read = message("\r\nMSH$*!?%$RIS\nPID$$$7*8\r\n");
        assert_eq!(read.first("PID").unwrap().get(3, 2).expose(), "8");
        let read = message("MSH|^~\\|RIS\rPID|||1");
        assert_eq!(read.first("PID").unwrap().get(3, 1).expose(), "1");
    }

    #[test]
    fn text_is_decoded_by_its_header() {
        let latin = b"MSH|^~\\&|A||||||ORM^O01|1|P|2.5||||||8859/1\rPID|||M\xfcller";
        assert_eq!(Message::parse(latin).unwrap().first("PID").unwrap().get(3, 1).expose(), "M\u{fc}ller");
        let unnamed = b"MSH|^~\\&|A\rPID|||M\xfcller";
        assert_eq!(Message::parse(unnamed).unwrap().first("PID").unwrap().get(3, 1).expose(), "M\u{fc}ller");
        let utf8 = "MSH|^~\\&|A\rPID|||M\u{fc}ller";
        assert_eq!(message(utf8).first("PID").unwrap().get(3, 1).expose(), "M\u{fc}ller");
    }

    #[test]
    fn what_is_no_message_is_refused() {
        for (bytes, fault) in [
            (&b""[..], Fault::NoHeader),
            (b"PID|||1", Fault::NoHeader),
            (b"MSH", Fault::Separators),
            (b"MSH|^~", Fault::Separators),
            (b"MSH|||||", Fault::Separators),
            (b"MSHabcdef", Fault::Separators),
            (b"MSH|^~\\&|A\x1c\rPID", Fault::ControlByte),
            (b"MSH|^~\\&|A\0\rPID", Fault::ControlByte),
        ] {
            assert_eq!(Message::parse(bytes).unwrap_err(), fault, "{bytes:?}");
        }
        let many = format!("MSH|^~\\&|A\r{}", "NTE\r".repeat(SEGMENTS_MAX));
        assert_eq!(Message::parse(many.as_bytes()).unwrap_err(), Fault::TooManySegments);
    }

    #[test]
    fn nothing_is_shown_by_debug() {
        assert_eq!(format!("{:?}", message("MSH|^~\\&|A\rPID|||DOE")), "Message([redacted])");
    }

    #[test]
    fn a_body_is_what_follows_the_header() {
        let one = message("MSH|^~\\&|A||||2026||ORM^O01|1\rPID|||1");
        let two = message("MSH|^~\\&|A||||2027||ORM^O01|1\rPID|||1");
        assert_eq!(one.body(), two.body());
    }
}
