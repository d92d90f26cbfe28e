//! Recall notices: a signed word of a vendor, or of the safety role, that a model must never run again.
//!
//! ```toml
//! schema = 1
//! model = "lightbox-phantom-detector"  # model.id
//! digests = ["…"]                      # of bundles; empty: every version
//! reason = "Misses disks near the edge."
//! ```

use serde::{Deserialize, Serialize};

use crate::manifest::is_sha256;

/// Longest reason, in characters: it stands in lists, logs of decisions and on a page.
pub const REASON_LENGTH_MAX: usize = 1000;

/// A notice, schema 1.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Notice {
    /// Version of this format: 1.
    pub schema: u32,
    /// The `model.id` of what is recalled.
    pub model: String,
    /// Digests of bundles, 64 lower-case hex digits each; none: every version, those to come included.
    #[serde(default)]
    pub digests: Vec<String>,
    /// Why, for the people at the boxes.
    pub reason: String,
}

impl Notice {
    /// A notice of this schema; what is wrong with it and what to do, where it cannot be one.
    pub fn new(model: &str, digests: &[String], reason: &str) -> Result<Notice, String> {
        let notice = Notice {
            schema: 1,
            model: model.to_owned(),
            digests: digests.to_vec(),
            reason: reason.trim().to_owned(),
        };
        if model.trim().is_empty() {
            return Err("model: empty; remedy: write the model.id of the bundle's manifest".into());
        }
        if notice.reason.is_empty() {
            return Err("reason: empty; remedy: say why, for the people whose studies wait".into());
        }
        if notice.reason.chars().count() > REASON_LENGTH_MAX || notice.reason.chars().any(char::is_control) {
            return Err(format!(
                "reason: above {REASON_LENGTH_MAX} characters, or not one line; remedy: write it shorter, and refer to a document"
            ));
        }
        if let Some(digest) = digests.iter().find(|digest| !is_sha256(digest)) {
            return Err(format!(
                "digests: {digest:?} is not a bundle's digest; remedy: write the 64 lower-case hex digits that `lightbox bundle inspect` shows"
            ));
        }
        Ok(notice)
    }

    /// The notice's text.
    pub fn to_toml(&self) -> Result<String, toml::ser::Error> {
        toml::to_string(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_notice_names_digests_and_a_reason() {
        let digest = "ab".repeat(32);
        let notice = Notice::new("m", std::slice::from_ref(&digest), " misses disks ").unwrap();
        assert_eq!(
            notice.to_toml().unwrap(),
            format!("schema = 1\nmodel = \"m\"\ndigests = [\"{digest}\"]\nreason = \"misses disks\"\n")
        );
        let long = "x".repeat(REASON_LENGTH_MAX + 1);
        for (digests, reason, said) in [
            (vec![digest.clone()], " ", "reason: empty"),
            (vec![digest.clone()], long.as_str(), "above 1000"),
            (vec![digest.clone()], "two\nlines", "not one line"),
            (vec!["ab".into()], "why", "digests: \"ab\""),
            (vec![digest.to_uppercase()], "why", "lower-case"),
        ] {
            let refused = Notice::new("m", &digests, reason).unwrap_err();
            assert!(refused.contains(said) && refused.contains("remedy: "), "{refused}");
        }
        assert!(Notice::new(" ", &[], "why").is_err());
    }
}
