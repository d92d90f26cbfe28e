//! Finds the line of a key, so that an error about a value points at it.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Line (from 1) of a key like `peer[0].certificate`. If the key itself is absent, the line of the
/// nearest table above it that is there.
pub(crate) fn line_of(text: &str, key: &str) -> usize {
    let Ok(root) = DeTable::parse(text) else { return 1 };
    let mut offset = 0;
    let mut table = Some(root.get_ref());
    for part in key.split('.') {
        let (name, index) = match part.split_once('[') {
            Some((name, index)) => (name, index.trim_end_matches(']').parse::<usize>().ok()),
            None => (part, None),
        };
        let Some((found_key, value)) =
            table.and_then(|table| table.iter().find(|(candidate, _)| candidate.get_ref() == name))
        else {
            break;
        };
        offset = found_key.span().start;
        let mut value: &Spanned<DeValue<'_>> = value;
        if let (Some(index), DeValue::Array(items)) = (index, value.get_ref()) {
            let Some(item) = items.get(index) else { break };
            offset = item.span().start;
            value = item;
        }
        table = match value.get_ref() {
            DeValue::Table(inner) => Some(inner),
            _ => None,
        };
    }
    line_at(text, offset)
}

/// Line (from 1) of a byte offset.
pub(crate) fn line_at(text: &str, offset: usize) -> usize {
    text.as_bytes().iter().take(offset).filter(|byte| **byte == b'\n').count() + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str =
        "[appliance]\nname = \"a\"\n\n[[peer]]\nname = \"x\"\n\n[[peer]]\nname = \"y\"\nae_title = \"Y\"\n";

    #[test]
    fn points_at_keys_tables_and_the_nearest_table_above() {
        assert_eq!(line_of(TEXT, "appliance.name"), 2);
        assert_eq!(line_of(TEXT, "peer[1].ae_title"), 9);
        assert_eq!(line_of(TEXT, "peer[1].certificate"), 7);
        assert_eq!(line_of(TEXT, "peer[0].name"), 5);
    }
}
