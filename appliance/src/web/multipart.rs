//! `multipart/related` (RFC 2046 §5.1, RFC 2387), taken apart as its bytes come.
//!
//! The reader holds the part of the body that it has not given out: at most one delimiter's length and
//! what was pushed last. A part needs no name (`Content-Disposition`), as in PS3.18 §8.6.1. Line ends
//! are CR LF only, for a part's bytes are binary.

use bytes::{Bytes, BytesMut};
use memchr::memmem;
use thiserror::Error;

/// Longest boundary (RFC 2046 §5.1.1).
pub const BOUNDARY_MAX: usize = 70;
/// Longest header block of a part, in bytes.
pub const HEADERS_MAX: usize = 8 * 1024;
/// Most header lines of a part.
const LINES_MAX: usize = 32;
/// Longest text before the first delimiter, which means nothing.
const PREAMBLE_MAX: usize = 8 * 1024;
/// Most blanks behind a delimiter (transport padding).
const PADDING_MAX: usize = 64;

/// A body that is no multipart body, or goes beyond a bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Malformed {
    /// No delimiter at the start.
    #[error("the body does not begin with the boundary of its Content-Type")]
    NoDelimiter,
    /// Something else behind a delimiter than a line end or `--`.
    #[error("a delimiter line of the body holds more than the boundary")]
    Delimiter,
    /// A part's headers are too long, too many, or none.
    #[error("the headers of a part cannot be read, or are longer than {HEADERS_MAX} bytes")]
    Headers,
    /// The body ends before its closing delimiter.
    #[error("the body ends before its closing delimiter")]
    Truncated,
}

/// The headers of a part. Names are in lower case.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Headers(Vec<(String, String)>);

impl Headers {
    /// The value of the first header of that name (in lower case).
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    fn parse(block: &[u8]) -> Result<Self, Malformed> {
        let text = std::str::from_utf8(block).map_err(|_| Malformed::Headers)?;
        let mut all: Vec<(String, String)> = Vec::new();
        for line in text.split("\r\n").filter(|line| !line.is_empty()) {
            if all.len() == LINES_MAX {
                return Err(Malformed::Headers);
            }
            match (line.starts_with([' ', '\t']), all.last_mut()) {
                // A folded line goes on with the value above.
                (true, Some((_, value))) => {
                    value.push(' ');
                    value.push_str(line.trim());
                }
                _ => {
                    let (name, value) = line.split_once(':').ok_or(Malformed::Headers)?;
                    if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_graphic()) {
                        return Err(Malformed::Headers);
                    }
                    all.push((name.to_ascii_lowercase(), value.trim().to_owned()));
                }
            }
        }
        Ok(Headers(all))
    }
}

/// What the next bytes of a body are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A part begins.
    Part(Headers),
    /// Bytes of the part.
    Data(Bytes),
    /// The part is whole.
    PartEnd,
    /// The closing delimiter: what follows means nothing.
    End,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Preamble,
    Delimiter,
    Headers,
    Body,
    Epilogue,
}

/// A body in the reading.
#[derive(Debug)]
pub struct Reader {
    delimiter: memmem::Finder<'static>,
    length: usize,
    buffer: BytesMut,
    state: State,
    skipped: usize,
    /// At the first byte of a part, with the line end before it.
    at_start: bool,
}

impl Reader {
    /// For a boundary, without its quotes; `None` where it is none (RFC 2046 §5.1.1).
    pub fn new(boundary: &str) -> Option<Self> {
        let valid = (1..=BOUNDARY_MAX).contains(&boundary.len())
            && boundary.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"'()+_,-./:=? ".contains(&byte))
            && !boundary.ends_with(' ');
        let delimiter = format!("\r\n--{boundary}");
        valid.then(|| Reader {
            length: delimiter.len(),
            delimiter: memmem::Finder::new(delimiter.as_bytes()).into_owned(),
            // The first delimiter needs no line before it.
            buffer: BytesMut::from(&b"\r\n"[..]),
            state: State::Preamble,
            skipped: 0,
            at_start: false,
        })
    }

    /// Takes the next bytes of the body.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.state != State::Epilogue {
            self.buffer.extend_from_slice(bytes);
        }
    }

    /// The body ends here: an error unless its closing delimiter has come.
    pub fn end(&self) -> Result<(), Malformed> {
        match self.state {
            State::Epilogue => Ok(()),
            State::Preamble => Err(Malformed::NoDelimiter),
            _ => Err(Malformed::Truncated),
        }
    }

    /// The next event; `None` where more bytes are needed, and after [`Event::End`].
    pub fn event(&mut self) -> Result<Option<Event>, Malformed> {
        loop {
            match self.state {
                State::Preamble => match self.delimiter.find(&self.buffer) {
                    Some(at) => {
                        drop(self.buffer.split_to(at + self.length));
                        self.state = State::Delimiter;
                    }
                    None => {
                        let skip = self.buffer.len().saturating_sub(self.length - 1);
                        self.skipped += skip;
                        if self.skipped > PREAMBLE_MAX {
                            return Err(Malformed::NoDelimiter);
                        }
                        drop(self.buffer.split_to(skip));
                        return Ok(None);
                    }
                },
                State::Delimiter => {
                    if self.buffer.starts_with(b"--") {
                        self.buffer.clear();
                        self.state = State::Epilogue;
                        return Ok(Some(Event::End));
                    }
                    let padding = self.buffer.iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
                    if padding > PADDING_MAX {
                        return Err(Malformed::Delimiter);
                    }
                    let rest = &self.buffer[padding..];
                    if rest.starts_with(b"\r\n") {
                        // The line end stays: a part without headers begins with an empty line.
                        drop(self.buffer.split_to(padding));
                        self.state = State::Headers;
                    } else if b"\r\n".starts_with(rest) || (padding == 0 && rest == b"-") {
                        return Ok(None);
                    } else {
                        return Err(Malformed::Delimiter);
                    }
                }
                State::Headers => {
                    let looked_at = self.buffer.len().min(HEADERS_MAX + 4);
                    let Some(at) = memmem::find(&self.buffer[..looked_at], b"\r\n\r\n") else {
                        if self.buffer.len() > HEADERS_MAX {
                            return Err(Malformed::Headers);
                        }
                        return Ok(None);
                    };
                    // The last line end stays: it may begin the delimiter of a part without a body.
                    let headers = Headers::parse(&self.buffer[..at])?;
                    drop(self.buffer.split_to(at + 2));
                    self.at_start = true;
                    self.state = State::Body;
                    return Ok(Some(Event::Part(headers)));
                }
                State::Body => {
                    if self.at_start {
                        if self.buffer.len() < self.length {
                            return Ok(None);
                        }
                        self.at_start = false;
                        if !self.buffer.starts_with(self.delimiter.needle()) {
                            drop(self.buffer.split_to(2));
                        }
                    }
                    if let Some(at) = self.delimiter.find(&self.buffer) {
                        if at > 0 {
                            return Ok(Some(Event::Data(self.buffer.split_to(at).freeze())));
                        }
                        drop(self.buffer.split_to(self.length));
                        self.state = State::Delimiter;
                        return Ok(Some(Event::PartEnd));
                    }
                    let sure = self.buffer.len().saturating_sub(self.length - 1);
                    if sure == 0 {
                        return Ok(None);
                    }
                    return Ok(Some(Event::Data(self.buffer.split_to(sure).freeze())));
                }
                State::Epilogue => return Ok(None),
            }
        }
    }
}

/// A media type with its parameters (RFC 9110 §8.3.1). Names are in lower case, and so is the type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MediaType {
    /// `type/subtype`.
    pub essence: String,
    parameters: Vec<(String, String)>,
}

impl MediaType {
    /// Reads e.g. `multipart/related; type="application/dicom"; boundary=x`.
    pub fn parse(text: &str) -> Option<Self> {
        let (essence, mut rest) = match text.split_once(';') {
            Some((essence, rest)) => (essence, rest),
            None => (text, ""),
        };
        let essence = essence.trim().to_ascii_lowercase();
        let (kind, subtype) = essence.split_once('/')?;
        if !is_token(kind) || !is_token(subtype) {
            return None;
        }
        let mut parameters = Vec::new();
        loop {
            rest = rest.trim_start_matches([' ', '\t', ';']);
            if rest.is_empty() {
                return Some(MediaType { essence, parameters });
            }
            let (name, after) = rest.split_once('=')?;
            let name = name.trim().to_ascii_lowercase();
            let (value, after) = value(after)?;
            if !is_token(&name) || parameters.len() == LINES_MAX {
                return None;
            }
            parameters.push((name, value));
            rest = after.trim_start_matches([' ', '\t']);
            if !rest.is_empty() && !rest.starts_with(';') {
                return None;
            }
        }
    }

    /// A parameter by its name in lower case, without quotes.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }
}

/// `token`, and `*` in a media range.
fn is_token(text: &str) -> bool {
    !text.is_empty()
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

/// A token or a quoted string at the start, and what follows it.
fn value(text: &str) -> Option<(String, &str)> {
    let text = text.trim_start_matches([' ', '\t']);
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([';', ' ', '\t']).unwrap_or(text.len());
        let (value, rest) = text.split_at(end);
        return Some((value.to_owned(), rest));
    };
    let mut value = String::new();
    let mut escaped = false;
    for (at, letter) in quoted.char_indices() {
        match letter {
            _ if escaped => {
                value.push(letter);
                escaped = false;
            }
            '\\' => escaped = true,
            '"' => return Some((value, &quoted[at + 1..])),
            _ => value.push(letter),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The parts of a body that comes in pieces of this length.
    fn parts(boundary: &str, body: &[u8], piece: usize) -> Result<Vec<(Headers, Vec<u8>)>, Malformed> {
        let mut reader = Reader::new(boundary).expect("a boundary");
        let (mut parts, mut whole) = (Vec::new(), 0);
        for bytes in body.chunks(piece.max(1)) {
            reader.push(bytes);
            while let Some(event) = reader.event()? {
                match event {
                    Event::Part(headers) => parts.push((headers, Vec::new())),
                    Event::Data(bytes) => parts.last_mut().expect("a part").1.extend(bytes),
                    Event::PartEnd => whole += 1,
                    Event::End => assert_eq!(whole, parts.len()),
                }
            }
        }
        reader.end().map(|()| parts)
    }

    #[test]
    fn parts_come_out_as_they_were_put_in() {
        let body = b"preamble\r\n--b\r\nContent-Type: application/dicom;\r\n x=1\r\n\r\n\0\r\n--\r\n-b\r\n--b  \r\n\r\nsecond\r\n--b--\r\nepilogue\r\n--b";
        for piece in 1..body.len() {
            let found = parts("b", body, piece).expect("parts");
            assert_eq!(found[0].0.get("content-type"), Some("application/dicom; x=1"));
            assert_eq!(found[0].1, b"\0\r\n--\r\n-b");
            assert_eq!((found[1].0.clone(), &found[1].1[..]), (Headers::default(), &b"second"[..]));
            assert_eq!(found.len(), 2);
        }
    }

    #[test]
    fn what_is_no_multipart_body_is_refused() {
        let fault = |body: &[u8]| parts("b", body, 7).expect_err("refused");
        assert_eq!(fault(b""), Malformed::NoDelimiter);
        assert_eq!(fault(&[b'x'; 20_000]), Malformed::NoDelimiter);
        assert_eq!(fault(b"--bee\r\n\r\nx\r\n--bee--"), Malformed::Delimiter);
        assert_eq!(fault(b"--b\r\n\r\nx\r\n"), Malformed::Truncated);
        assert_eq!(fault(b"--b\r\nno colon\r\n\r\nx\r\n--b--"), Malformed::Headers);
        assert_eq!(fault(&[b"--b\r\n".as_slice(), &[b'h'; 20_000]].concat()), Malformed::Headers);
        let many = "a: 1\r\n".repeat(LINES_MAX + 1);
        assert_eq!(fault(format!("--b\r\n{many}\r\nx\r\n--b--").as_bytes()), Malformed::Headers);
    }

    #[test]
    fn boundaries_are_what_the_standard_allows() {
        assert!(Reader::new("").is_none() && Reader::new(&"x".repeat(71)).is_none());
        assert!(Reader::new("a\r\nb").is_none() && Reader::new("a ").is_none());
        assert!(Reader::new(&"x".repeat(70)).is_some() && Reader::new("=_?(a b)").is_some());
    }

    #[test]
    fn media_types_are_read_with_their_parameters() {
        let text = "Multipart/Related; type=\"application/dicom\"; boundary=\"a \\\"b\"; Start=x";
        let found = MediaType::parse(text).expect("a media type");
        assert_eq!(found.essence, "multipart/related");
        assert_eq!(found.parameter("type"), Some("application/dicom"));
        assert_eq!(found.parameter("boundary"), Some("a \"b"));
        assert_eq!(found.parameter("start"), Some("x"));
        for text in ["", "text", "a/b; c", "a/b; c=\"d", "a b/c", "a/b; c=\"d\" e"] {
            assert_eq!(MediaType::parse(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_parts_survive_any_cutting(
            bodies in prop::collection::vec(prop::collection::vec(prop_oneof![Just(b'\r'), Just(b'\n'), Just(b'-'), any::<u8>()], 0..300), 1..5),
            piece in 1_usize..80,
        ) {
            // A boundary of 30 letters that the bodies cannot hold by chance.
            let boundary = "bOuNdArY-0123456789-qwertzuiop";
            let mut body = Vec::new();
            for part in &bodies {
                body.extend(format!("\r\n--{boundary}\r\nContent-Type: application/dicom\r\n\r\n").as_bytes());
                body.extend(part);
            }
            body.extend(format!("\r\n--{boundary}--").as_bytes());
            let found: Vec<Vec<u8>> =
                parts(boundary, &body, piece).expect("whole").into_iter().map(|(_, bytes)| bytes).collect();
            prop_assert_eq!(found, bodies);
        }

        #[test]
        fn nothing_panics(body in prop::collection::vec(any::<u8>(), 0..400), piece in 1_usize..50, text in ".{0,80}") {
            drop(parts("b", &body, piece));
            drop(MediaType::parse(&text));
        }
    }
}
