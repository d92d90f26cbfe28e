//! The DICOM JSON model (PS3.18 Annex F), read as far as queries and responses need it.

use dicom_core::Tag;
use dicom_dictionary_std::tags;
use serde_json::{Map, Value};

use crate::dicom::data_set::DataSet;

/// Reads an array of data sets, or one alone; `None` where it is something else. The caller bounds the
/// bytes' number. Values become text in UTF-8.
pub fn data_sets(bytes: &[u8]) -> Option<Vec<DataSet>> {
    match serde_json::from_slice(bytes).ok()? {
        Value::Array(all) => all.iter().map(|one| Some(data_set(one.as_object()?))).collect(),
        Value::Object(one) => Some(vec![data_set(&one)]),
        _ => None,
    }
}

fn data_set(object: &Map<String, Value>) -> DataSet {
    let mut found = DataSet::new();
    for (name, attribute) in object {
        let Some(tag) = tag(name) else { continue };
        let values = attribute.get("Value").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        let vr = attribute.get("vr").and_then(Value::as_str).unwrap_or_default();
        found = match vr {
            "SQ" => found.with_items(tag, values.iter().filter_map(Value::as_object).map(data_set).collect()),
            "US" => {
                match values.first().and_then(Value::as_u64).and_then(|number| u16::try_from(number).ok()) {
                    Some(number) => found.with_u16(tag, number),
                    None => found,
                }
            }
            _ => {
                let texts: Vec<String> = values.iter().map(text).collect();
                found.with(tag, &texts.join("\\"))
            }
        };
    }
    found.with(tags::SPECIFIC_CHARACTER_SET, "ISO_IR 192")
}

fn tag(name: &str) -> Option<Tag> {
    let digits = name.len() == 8 && name.bytes().all(|byte| byte.is_ascii_hexdigit());
    let number = u32::from_str_radix(name, 16).ok().filter(|_| digits)?;
    Some(Tag((number >> 16) as u16, number as u16))
}

/// One value; a person's name has up to three groups of components (F.2.2).
fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        Value::Object(name) => {
            let group = |key| name.get(key).and_then(Value::as_str).unwrap_or_default();
            let groups = [group("Alphabetic"), group("Ideographic"), group("Phonetic")].join("=");
            groups.trim_end_matches('=').to_owned()
        }
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_answer_is_read_with_names_numbers_and_items() {
        let bytes = r#"[{"0020000D":{"vr":"UI","Value":["1.2"]},"00100010":{"vr":"PN","Value":[{"Alphabetic":"Müller^Ä","Phonetic":"x"}]},
            "00201208":{"vr":"IS","Value":[12]},"00080061":{"vr":"CS","Value":["CT","SR"]},"00080050":{"vr":"SH"},
            "00081198":{"vr":"SQ","Value":[{"00081197":{"vr":"US","Value":[42753]}}]},"nonsense":1}]"#;
        let found = &data_sets(bytes.as_bytes()).expect("an answer")[0];
        assert_eq!(found.uid(tags::STUDY_INSTANCE_UID).as_deref(), Some("1.2"));
        assert_eq!(found.text(tags::PATIENT_NAME).as_deref(), Some("Müller^Ä==x"));
        assert_eq!(found.number(tags::NUMBER_OF_STUDY_RELATED_INSTANCES), Some(12));
        assert_eq!(found.text(tags::MODALITIES_IN_STUDY).as_deref(), Some("CT\\SR"));
        assert_eq!(found.ascii(tags::ACCESSION_NUMBER), None);
        assert_eq!(found.items(tags::FAILED_SOP_SEQUENCE)[0].u16(tags::FAILURE_REASON), Some(0xA701));
    }

    #[test]
    fn what_is_no_answer_is_refused() {
        for text in ["", "[1]", "3", "{", &"[".repeat(100_000)] {
            assert!(data_sets(text.as_bytes()).is_none(), "{text:.20}");
        }
    }

    proptest! {
        #[test]
        fn nothing_panics(bytes in prop::collection::vec(any::<u8>(), 0..200), key in ".{0,12}", value in ".{0,12}") {
            drop(data_sets(&bytes));
            let made = serde_json::json!([{ key: { "vr": value, "Value": [value, {}, null, 70_000] } }]);
            drop(data_sets(made.to_string().as_bytes()));
        }
    }
}
