//! Markers that stand for a patient's data, and a search for them in every form in which they may leak.

use std::fmt::Write as _;

/// One marker, in the forms that are searched for, all in lower case.
#[derive(Clone, Debug)]
struct Marker {
    name: String,
    forms: Vec<(&'static str, String)>,
}

/// The markers of a test.
#[derive(Clone, Debug, Default)]
pub struct Canaries(Vec<Marker>);

const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

fn base64(bytes: &[u8]) -> String {
    let mut out = String::new();
    for three in bytes.chunks(3) {
        let at = |index: usize| u32::from(three.get(index).copied().unwrap_or_default());
        let bits = at(0) << 16 | at(1) << 8 | at(2);
        for shift in [18, 12, 6, 0] {
            out.push(char::from(BASE64[(bits >> shift) as usize & 63]));
        }
    }
    out
}

/// What stays of a text's base64 wherever it stands in what was encoded: three forms, one for each place in
/// a group of three bytes, without the letters at either end that depend on the neighbours.
fn base64_anywhere(text: &str) -> Vec<String> {
    (0..3)
        .map(|offset| {
            let padded = [&vec![0; offset], text.as_bytes()].concat();
            let whole = padded.len() * 8 / 6;
            let first = (offset * 8).div_ceil(6);
            base64(&padded)[first..whole].to_owned()
        })
        .collect()
}

impl Canaries {
    /// Adds a marker. It must be so long and odd that it does not come up by chance.
    pub fn add(&mut self, text: &str) {
        assert!(text.len() >= 8, "{text:?} may come up by chance");
        let mut forms = vec![("as it is", text.to_lowercase())];
        // Encoded letters do not lose their case, so each case is a form of its own.
        for text in [text.to_owned(), text.to_lowercase(), text.to_uppercase()] {
            let (mut hex, mut percent) = (String::new(), String::new());
            for byte in text.bytes() {
                let _ = write!(hex, "{byte:02x}");
                let _ = write!(percent, "%{byte:02x}");
            }
            let numbers: Vec<String> = text.bytes().map(|byte| byte.to_string()).collect();
            forms.push(("in hex", hex));
            forms.push(("percent-encoded", percent));
            forms.push(("as a list of bytes", numbers.join(", ")));
            // What is searched is in lower case; base64 stays odd enough.
            forms.extend(base64_anywhere(&text).into_iter().map(|form| ("in base64", form.to_lowercase())));
        }
        forms.sort();
        forms.dedup();
        self.0.push(Marker { name: text.into(), forms });
    }

    /// Which markers a text holds, each with its form and what stands around it.
    pub fn found(&self, text: &str) -> Vec<String> {
        let text = text.to_lowercase();
        let mut found = Vec::new();
        for marker in &self.0 {
            for (form, needle) in &marker.forms {
                if let Some(at) = text.find(needle.as_str()) {
                    let mut from = at.saturating_sub(200);
                    let mut to = (at + 300).min(text.len());
                    while !text.is_char_boundary(from) {
                        from -= 1;
                    }
                    while !text.is_char_boundary(to) {
                        to -= 1;
                    }
                    found.push(format!("{} {form}: …{}…", marker.name, &text[from..to]));
                }
            }
        }
        found
    }

    /// Markers that are not found in a text in any form.
    pub fn missing(&self, text: &str) -> Vec<String> {
        let text = text.to_lowercase();
        let absent = |marker: &&Marker| !marker.forms.iter().any(|(_, form)| text.contains(form.as_str()));
        self.0.iter().filter(absent).map(|marker| marker.name.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_marker_is_found_in_every_form_and_only_there() {
        let mut canaries = Canaries::default();
        canaries.add("Quetzalcoatl");
        for text in [
            "a QUETZALCOATL b",
            "name=quetzalcoatl&",
            "517565747a",
            "x 51756574 7A616C636F61746C y",
            "x 517565747A616C636F61746C y",
            "%71%75%65%74%7A%61%6c%63%6f%61%74%6c",
            "[81, 117, 101, 116, 122, 97, 108, 99, 111, 97, 116, 108]",
            "UXVldHphbGNvYXRs",
            "eFF1ZXR6YWxjb2F0bHg=",
            "eHhRdWV0emFsY29hdGx4",
        ] {
            let is_one = text != "517565747a" && !text.contains("74 7A");
            assert_eq!(canaries.found(text).len(), usize::from(is_one), "{text}");
        }
        assert!(canaries.missing("Quetzalcoatl").is_empty());
        assert_eq!(canaries.missing("nobody"), ["Quetzalcoatl"]);
    }
}
