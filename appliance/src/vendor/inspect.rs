//! What a bundle or a repository holds.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, anyhow};
use lightbox_models::pack::Packed;
use lightbox_models::trust::{Folder, Known, Override, verify};
use serde::Serialize;
use serde_json::Value;
use time::OffsetDateTime;

/// A bundle.
#[derive(Debug, Serialize)]
pub struct BundleSummary {
    kind: &'static str,
    digest: String,
    bytes: u64,
    manifest: lightbox_models::Manifest,
}

impl BundleSummary {
    /// Of a bundle that was checked.
    pub fn of(bundle: Packed) -> BundleSummary {
        BundleSummary {
            kind: "bundle",
            digest: bundle.digest,
            bytes: bundle.manifest.bytes(),
            manifest: bundle.manifest,
        }
    }

    /// For people: each line's heading and contents.
    pub fn lines(&self) -> Vec<(String, String)> {
        let (model, manifest) = (&self.manifest.model, &self.manifest);
        let heading = |heading: &str, text: String| (heading.to_owned(), text);
        let mut lines = vec![
            heading("model", format!("{} ({})", model.name, model.id)),
            heading("version", format!("{}, release {}", model.version, model.release)),
            heading("vendor", model.vendor.clone()),
            heading("for clinical use", if model.not_for_clinical_use { "no" } else { "yes" }.to_owned()),
            heading("devices", manifest.device.udi_di.join(", ")),
            heading("submission", manifest.regulatory.submission.clone().unwrap_or_else(|| "none".into())),
            heading("intended use", model.intended_use.split_whitespace().collect::<Vec<_>>().join(" ")),
            heading("digest", self.digest.clone()),
        ];
        for file in &manifest.file {
            lines.push((
                format!("file, {}", file.role.name()),
                format!("{}, {} bytes, SHA-256 {}", file.path, file.size, file.sha256),
            ));
        }
        for case in &manifest.golden {
            lines.push(heading("golden case", format!("{}: {}", case.name, case.input)));
        }
        for label in &manifest.label {
            let text = match (label.reported_min, label.flagged_min) {
                (Some(reported), Some(flagged)) => {
                    format!("{}: reported from {reported}, flagged from {flagged}", label.name)
                }
                _ => format!("{}: no finding", label.name),
            };
            lines.push(heading("label", text));
        }
        lines
    }
}

/// Headings, and rows of as many cells.
pub type Rows = (Vec<&'static str>, Vec<Vec<String>>);

/// A repository.
#[derive(Debug, Serialize)]
pub struct RepositorySummary {
    kind: &'static str,
    root_sha256: String,
    expires: String,
    late: Vec<String>,
    roles: Vec<RoleSummary>,
    targets: Vec<TargetSummary>,
}

/// Who signs a role.
#[derive(Debug, Serialize)]
struct RoleSummary {
    role: String,
    version: u64,
    expires: String,
    threshold: u64,
    keys: Vec<String>,
}

/// A file that is vouched for.
#[derive(Debug, Serialize)]
struct TargetSummary {
    name: String,
    by: String,
    length: u64,
    sha256: String,
    custom: BTreeMap<String, Value>,
}

impl RepositorySummary {
    /// Verifies a repository and says what is in it. `root`: the trusted root; none: its own first
    /// one, which proves that it is of one piece and nothing about whose it is.
    pub async fn of(
        folder: &Path,
        root: Option<&Path>,
        now: OffsetDateTime,
    ) -> anyhow::Result<RepositorySummary> {
        let root = root.map_or_else(|| folder.join("metadata/1.root.json"), Path::to_owned);
        let trusted = fs::read(&root)
            .with_context(|| format!("{}: cannot be read; remedy: name the trusted root", root.display()))?;
        // Dates are told, not judged.
        let looking = Override { who: "inspect".into(), why: "shows dates".into() };
        let verified =
            verify(Arc::new(Folder::new(folder)), &trusted, &Known::FirstUse, now, Some(&looking)).await?;
        let late = verified.overridden().map(|used| used.refusals.iter().map(ToString::to_string).collect());
        let seen = verified.seen();
        let newest: Value = serde_json::from_str(seen.root())?;
        let version = newest["signed"]["version"].as_u64().unwrap_or_default();
        let mut roles = vec![role(
            "root",
            version,
            &newest["signed"]["expires"],
            &newest["signed"]["roles"]["root"],
            &newest["signed"]["keys"],
        )];
        let read = |name: &str| -> anyhow::Result<Value> {
            let path = folder.join("metadata").join(name);
            let bytes = fs::read(&path).with_context(|| format!("{}: cannot be read", path.display()))?;
            serde_json::from_slice(&bytes).map_err(|error| anyhow!("{}: {error}", path.display()))
        };
        let top = seen.roles().get("targets").map_or(0, |seen| seen.version);
        let top = read(&format!("{top}.targets.json"))?;
        let delegations = &top["signed"]["delegations"];
        for (name, seen) in seen.roles() {
            let file = if name == "timestamp" {
                "timestamp.json".to_owned()
            } else {
                format!("{}.{name}.json", seen.version)
            };
            let expires = read(&file)?["signed"]["expires"].clone();
            let delegated = delegations["roles"]
                .as_array()
                .into_iter()
                .flatten()
                .find(|role| role["name"] == name.as_str());
            roles.push(match delegated {
                Some(found) => role(name, seen.version, &expires, found, &delegations["keys"]),
                None => role(
                    name,
                    seen.version,
                    &expires,
                    &newest["signed"]["roles"][name],
                    &newest["signed"]["keys"],
                ),
            });
        }
        let targets = verified.targets().map(|target| TargetSummary {
            name: target.name.clone(),
            by: target.role.to_string(),
            length: target.length,
            sha256: target.sha256.clone(),
            custom: target.custom.clone(),
        });
        Ok(RepositorySummary {
            kind: "repository",
            root_sha256: super::hash(&root)?.1,
            expires: verified.expires().to_string(),
            late: late.unwrap_or_default(),
            roles,
            targets: targets.collect(),
        })
    }

    /// For people: headings and rows of the roles, then of the targets.
    pub fn tables(&self) -> [Rows; 2] {
        let roles = self.roles.iter().map(|role| {
            let holders = format!("{} of {}", role.threshold, role.keys.len());
            let keys: Vec<&str> = role.keys.iter().map(|key| key.get(..8).unwrap_or(key)).collect();
            vec![role.role.clone(), role.version.to_string(), role.expires.clone(), holders, keys.join(" ")]
        });
        let targets = self.targets.iter().map(|target| {
            vec![target.name.clone(), target.by.clone(), target.length.to_string(), target.sha256.clone()]
        });
        [
            (vec!["ROLE", "VERSION", "EXPIRES", "KEYS THAT MUST SIGN", "KEYS"], roles.collect()),
            (vec!["TARGET", "VOUCHED FOR BY", "BYTES", "SHA-256"], targets.collect()),
        ]
    }

    /// The digest of the root that it was verified with, and what is past its date.
    pub fn notes(&self) -> Vec<String> {
        let mut notes = vec![
            format!("verified with the root of SHA-256 {}", self.root_sha256),
            format!("the first date passes on {}", self.expires),
        ];
        notes.extend(self.late.iter().cloned());
        notes
    }
}

fn role(name: &str, version: u64, expires: &Value, role: &Value, keys: &Value) -> RoleSummary {
    let ids = role["keyids"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let public = |id: &str| keys[id]["keyval"]["public"].as_str().unwrap_or(id).to_owned();
    RoleSummary {
        role: name.to_owned(),
        version,
        expires: expires.as_str().unwrap_or_default().to_owned(),
        threshold: role["threshold"].as_u64().unwrap_or_default(),
        keys: ids.map(public).collect(),
    }
}
