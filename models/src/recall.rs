//! Recall notices: a signed word of a vendor, or of the safety role, that bundles must never run again.
//!
//! ```toml
//! schema = 1
//! model = "lightbox-phantom-detector"  # model.id
//! digests = ["…"]                      # of bundles, 64 hex digits each; none: every version of the model
//! reason = "Misses disks near the edge."
//! ```
//!
//! A notice that cannot be read is not passed over: whoever holds it must say so until it can be.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::document::{self, Fault};
use crate::manifest::is_sha256;
use crate::problem::Problem;

/// The one schema of notices.
const SCHEMA: u32 = 1;
/// Longest notice.
pub const NOTICE_BYTES_MAX: u64 = 1 << 20;

/// Longest reason that is published, in characters: it stands in lists, logs of decisions and on a page.
pub const REASON_LENGTH_MAX: usize = 1000;

/// A notice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Notice {
    /// 1.
    pub schema: u32,
    /// `model.id` of what is recalled.
    pub model: String,
    /// Digests of bundles, in lower case; none: every version of the model.
    #[serde(default)]
    pub digests: Vec<String>,
    /// Why, for people.
    pub reason: String,
}

impl Notice {
    /// Reads a notice from its bytes.
    pub fn read(file: &Path, bytes: &[u8]) -> Result<Notice, Problem> {
        let problem = |problem: &str, remedy: &str| Problem {
            file: file.to_owned(),
            line: None,
            key: String::new(),
            problem: problem.to_owned(),
            remedy: remedy.to_owned(),
        };
        if bytes.len() as u64 > NOTICE_BYTES_MAX {
            return Err(problem("longer than 1 MiB", "give the reason in a few sentences"));
        }
        let text = str::from_utf8(bytes)
            .map_err(|_| problem("not UTF-8 text", "write the notice as TOML in UTF-8"))?;
        let other = |_| "write schema = 1, or give the box the release that knows this schema";
        let mut notice: Notice = document::read(file, text, SCHEMA, other, faults)?;
        // The box's own digests are in lower case; whoever copies one may have it otherwise.
        for digest in &mut notice.digests {
            digest.make_ascii_lowercase();
        }
        Ok(notice)
    }

    /// A notice of this schema; what is wrong with it and what to do, where it cannot be one.
    pub fn new(model: &str, digests: &[String], reason: &str) -> Result<Notice, String> {
        let notice = Notice {
            schema: SCHEMA,
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

    /// Whether it names a bundle. Its digest alone decides where the notice gives digests: a slip in the
    /// model's name must not leave a recalled bundle running. `model` is the `model.id`, none where the
    /// bundle's manifest cannot be read any more: then it may be the one, and stopping is the safe side.
    pub fn names(&self, digest: &str, model: Option<&str>) -> bool {
        match self.digests.is_empty() {
            false => self.digests.iter().any(|named| named.eq_ignore_ascii_case(digest)),
            true => model.is_none_or(|model| model == self.model),
        }
    }
}

fn faults(notice: &Notice) -> Vec<Fault> {
    let mut faults = Vec::new();
    if notice.model.trim().is_empty() {
        faults.push(("model".into(), "no model is named".into(), "give the model.id of the bundles"));
    }
    if notice.reason.trim().is_empty() {
        faults.push(("reason".into(), "no reason is given".into(), "say why, for the people at the box"));
    }
    for (at, digest) in notice.digests.iter().enumerate() {
        if digest.len() != 64 || !digest.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            faults.push((
                "digests".into(),
                format!("entry {} is no bundle's digest: not 64 hex digits", at + 1),
                "copy the digests whole, as `lightbox bundle inspect` shows them",
            ));
        }
    }
    faults
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

    fn read(text: &str) -> Result<Notice, Problem> {
        Notice::read(Path::new("notice.toml"), text.as_bytes())
    }

    #[test]
    fn a_notice_is_read_strictly() {
        let good = "schema = 1\nmodel = \"m\"\nreason = \"why\"\n";
        assert!(read(good).is_ok_and(|notice| notice.digests.is_empty()));
        let digest = "AB".repeat(32);
        let upper = read(&format!("{good}digests = [\"{digest}\"]\n")).unwrap();
        assert_eq!(upper.digests, [digest.to_lowercase()]);
        for (bad, told) in [
            (String::new(), "schema"),
            (good.replace("= 1", "= 2"), "schema 2"),
            (good.replace("why", " "), "no reason"),
            (good.replace("\"m\"", "\"\""), "no model"),
            (format!("{good}more = 1\n"), "more"),
            (format!("{good}digest = []\n"), "digest"),
            (format!("{good}digests = [\"{}\"]\n", &digest[..16]), "not 64 hex digits"),
            (format!("{good}digests = [\"{digest}\", \"{}\"]\n", "g".repeat(64)), "entry 2"),
            (format!("{good}digests = \"{digest}\"\n"), "expected"),
        ] {
            let problem = read(&bad).unwrap_err().to_string();
            assert!(problem.contains(told), "{bad}: {problem}");
        }
        assert!(Notice::read(Path::new("x"), b"schema = 1\nmodel = \"\xff\"\n").is_err());
        assert!(Notice::read(Path::new("x"), &vec![b'\n'; (1 << 20) + 1]).is_err());
    }

    #[test]
    fn a_digest_decides_alone_and_a_model_only_without_one() {
        let (one, other) = ("ab".repeat(32), "cd".repeat(32));
        let digests = format!("schema = 1\nmodel = \"typo\"\nreason = \"why\"\ndigests = [\"{one}\"]\n");
        let by_digest = read(&digests).unwrap();
        assert!(by_digest.names(&one, Some("m")) && by_digest.names(&one, None));
        assert!(!by_digest.names(&other, Some("typo")) && !by_digest.names(&other, None));
        let by_model = read("schema = 1\nmodel = \"m\"\nreason = \"why\"\n").unwrap();
        assert!(by_model.names(&one, Some("m")) && !by_model.names(&one, Some("n")));
        assert!(by_model.names(&one, None), "it may be the one");
    }
}
