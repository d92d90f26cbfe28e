//! A fault in a manifest, told so that it can be mended: file, line, key, what is wrong, what to do.

use std::fmt;
use std::path::PathBuf;

/// One fault in a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The manifest.
    pub file: PathBuf,
    /// Line, from 1; absent where the fault is that something is missing from the whole file.
    pub line: Option<usize>,
    /// Dotted key, e.g. `input.channels`; empty where the text is not TOML at all.
    pub key: String,
    /// What is wrong.
    pub problem: String,
    /// What to do about it.
    pub remedy: String,
}

impl std::error::Error for Problem {}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        if !self.key.is_empty() {
            write!(f, ": {}", self.key)?;
        }
        write!(f, ": {}; remedy: {}", self.problem, self.remedy)
    }
}

/// The line, from 1, of a byte offset in a text.
pub(crate) fn line_at(text: &str, offset: usize) -> usize {
    text.bytes().take(offset).filter(|byte| *byte == b'\n').count() + 1
}

/// The line of a dotted key such as `label[1].reported_min` in a TOML text; of the nearest table
/// above it where the key itself is absent.
pub fn line_of(text: &str, key: &str) -> Option<usize> {
    let document = toml::de::DeTable::parse(text).ok()?;
    let mut table = Some(document.get_ref());
    let mut offset = None;
    for part in key.split('.') {
        let (name, index) = match part.strip_suffix(']').and_then(|part| part.split_once('[')) {
            Some((name, index)) => (name, index.parse::<usize>().ok()),
            None => (part, None),
        };
        let Some((found_key, found)) = table.and_then(|table| table.get_key_value(name)) else { break };
        offset = Some(found_key.span().start);
        let mut value = found;
        if let Some(index) = index {
            let Some(item) = found.get_ref().as_array().and_then(|array| array.get(index)) else { break };
            offset = Some(item.span().start);
            value = item;
        }
        table = value.get_ref().as_table();
    }
    offset.map(|offset| line_at(text, offset))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_found_by_their_line() {
        let text = "schema = 1\n[input]\nchannels = 2\n[[label]]\nname = \"a\"\n[[label]]\nname = \"b\"\n";
        assert_eq!(line_of(text, "schema"), Some(1));
        assert_eq!(line_of(text, "input.channels"), Some(3));
        assert_eq!(line_of(text, "label[1].name"), Some(7));
        // An absent key is told by the table that should hold it.
        assert_eq!(line_of(text, "input.tensor"), Some(2));
        assert_eq!(line_of(text, "output"), None);
    }
}
