//! Cases by an attribute.

use std::collections::BTreeMap;

/// The indices of the cases that share a value, by value; cases without one are left out.
pub fn slices<'a>(values: impl IntoIterator<Item = Option<&'a str>>) -> BTreeMap<&'a str, Vec<usize>> {
    let mut found: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (at, value) in values.into_iter().enumerate() {
        if let Some(value) = value {
            found.entry(value).or_default().push(at);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cases_without_the_attribute_belong_to_no_slice() {
        let found = slices([Some("F"), None, Some("M"), Some("F")]);
        assert_eq!(found, BTreeMap::from([("F", vec![0, 3]), ("M", vec![2])]));
    }
}
