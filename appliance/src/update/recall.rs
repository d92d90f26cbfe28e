//! What the repository's recall notices ([`Notice`]) do here: a version that one names never runs again.
//!
//! It fails closed. A notice that is listed and cannot be had, or cannot be read, may recall what runs here: then
//! the look fails with a clause of its own, installs nothing, and says so wherever people look, at each look
//! until the notice is there. The active version goes on; people decide about it.

use std::path::Path;

use lightbox_models::life_cycle::{Duties, Event, Facts, State};
use lightbox_models::recall::{NOTICE_BYTES_MAX, Notice};
use lightbox_models::trust::{Clause, Delegate, Examined, Refusal, Target};
use sha2::{Digest, Sha256};

use super::{Managed, Updates, manifest};
use crate::audit::chain::hex;
use crate::store::ledger::LedgerError;
use crate::store::models::{self, Actor, Recall, VersionRow};

/// What the note of a notice ends with that could not be obeyed and is listed no more.
const UNLISTED: &str = " (the repository lists it no more)";

/// Whether who signed a notice may recall this model: a vendor its own, the safety role any.
fn may_recall(role: &Delegate, model: &Managed) -> bool {
    match role {
        Delegate::Safety => true,
        Delegate::Vendor(name) => model.target.starts_with(&format!("vendors/{name}/")),
        Delegate::Regulatory => false,
    }
}

/// The versions on this box that a notice names, whatever became of them.
fn named<'a>(
    notice: &Notice,
    role: &Delegate,
    models: &[Managed],
    versions: &'a [VersionRow],
) -> Vec<&'a VersionRow> {
    let may = |version: &VersionRow| {
        models.iter().any(|model| model.name == version.slot && may_recall(role, model))
    };
    let versions = versions.iter().filter(|version| may(version));
    versions.filter(|version| notice.names(&version.digest, model_id(version).as_deref())).collect()
}

/// A version's `model.id`, also where a later release cannot read its manifest any more.
fn model_id(version: &VersionRow) -> Option<String> {
    if let Ok(manifest) = manifest(version) {
        return Some(manifest.model.id);
    }
    let table: toml::Table = version.manifest.parse().ok()?;
    Some(table.get("model")?.get("id")?.as_str()?.to_owned())
}

/// What a sound notice says, and whom it meets here.
fn told(notice: &Notice, matched: usize) -> String {
    let what = match notice.digests.len() {
        0 => format!("every version of {}", notice.model),
        1 => format!("1 version of {}", notice.model),
        count => format!("{count} versions of {}", notice.model),
    };
    let here = match matched {
        0 => "none on this box".to_owned(),
        1 => "matched 1 version".to_owned(),
        count => format!("matched {count} versions"),
    };
    format!("recalls {what}: {}; {here}", notice.reason)
}

fn unreadable(target: &str, why: impl std::fmt::Display) -> Refusal {
    Refusal { clause: Clause::RecallUnreadable, subject: target.to_owned(), detail: format!(": {why}") }
}

impl Updates {
    /// Hears every notice of the repository and acts on it. Yields those that cannot be obeyed and may concern
    /// this box.
    pub(super) async fn recalls(&self, examined: &Examined) -> Result<Vec<Refusal>, LedgerError> {
        let targets: Vec<Target> = examined.recalls().cloned().collect();
        let had = self.ledger.read(models::recalls).await?;
        let mut unheard = Vec::new();
        for target in &targets {
            let role = target.role.to_string();
            let mut recall = Recall {
                sha256: target.sha256.clone(),
                target: target.name.clone(),
                role,
                ..Recall::default()
            };
            // What was kept is the notice only where it has the signed digest.
            let kept = had.iter().find(|kept| kept.is(&recall)).map(|kept| kept.text.clone());
            let kept = kept.filter(|text| hex(&Sha256::digest(text)) == target.sha256);
            let bytes = match kept {
                Some(text) => Ok(text.into_bytes()),
                None => examined.read_recall(target, NOTICE_BYTES_MAX).await,
            };
            let refusal = match bytes {
                Ok(bytes) => {
                    recall.text = String::from_utf8_lossy(&bytes).into_owned();
                    self.judge(&mut recall, &bytes).await?
                }
                Err(refusal) if refusal.clause == Clause::TooLong && target.length > NOTICE_BYTES_MAX => {
                    Some(unreadable(&target.name, "longer than 1 MiB"))
                }
                Err(refusal) => Some(Refusal {
                    clause: Clause::RecallWithheld,
                    subject: target.name.clone(),
                    detail: format!(": [{}]{}", refusal.clause, refusal.detail),
                }),
            };
            if let Some(refusal) = &refusal {
                recall.clause = refusal.clause.name().to_owned();
                recall.note = refusal.to_string();
                // Whom it may concern reads it beside the model.
                for model in self.models.iter().filter(|model| may_recall(&target.role, model)) {
                    let (slot, note) = (model.name.clone(), recall.note.clone());
                    self.ledger.write(move |writer| models::note_slot(writer, &slot, &note)).await?;
                    unheard.push(refusal.clone());
                }
                tracing::error!(notice = target.name, problem = recall.note, "A RECALL CANNOT BE OBEYED");
            }
            self.ledger.write(move |writer| models::keep_recall(writer, &recall)).await?;
        }
        for mut gone in had.into_iter().filter(|kept| !kept.clause.is_empty()) {
            let listed =
                targets.iter().any(|target| target.name == gone.target && target.sha256 == gone.sha256);
            if !listed && !gone.note.ends_with(UNLISTED) {
                gone.note.push_str(UNLISTED);
                self.ledger.write(move |writer| models::keep_recall(writer, &gone)).await?;
            }
        }
        self.apply_recalls().await?;
        Ok(unheard)
    }

    /// Says of a notice what it does here, or why it cannot be obeyed.
    async fn judge(&self, recall: &mut Recall, bytes: &[u8]) -> Result<Option<Refusal>, LedgerError> {
        let notice = match Notice::read(Path::new(&recall.target), bytes) {
            Ok(notice) => notice,
            Err(problem) => return Ok(Some(unreadable(&recall.target, problem))),
        };
        let Ok(role) = recall.role.parse::<Delegate>() else {
            return Ok(Some(unreadable(&recall.target, format!("signed by {}", recall.role))));
        };
        let versions = self.ledger.read(|reader| models::versions(reader, None)).await?;
        recall.matched = named(&notice, &role, &self.models, &versions).len();
        recall.note = told(&notice, recall.matched);
        Ok(None)
    }

    /// Takes what the kept notices name out of service: also a version that was fetched after its recall. One
    /// version that cannot be taken out does not keep the others in.
    pub(super) async fn apply_recalls(&self) -> Result<(), LedgerError> {
        let mut failed = None;
        for mut recall in self.ledger.read(models::recalls).await? {
            let before = recall.clone();
            if recall.clause.is_empty()
                && let Some(refusal) = self.judge(&mut recall, before.text.as_bytes()).await?
            {
                // Kept by a release that took it for sound.
                recall.clause = refusal.clause.name().to_owned();
                recall.note = refusal.to_string();
            }
            let obeyed = match recall.clause.is_empty() {
                true => self.obey(&recall).await,
                false => Ok(()),
            };
            if let Err(error) = obeyed {
                tracing::error!(
                    notice = recall.target,
                    reason = error.to_string(),
                    "a recall is not carried out"
                );
                failed.get_or_insert(error);
            }
            if recall != before {
                self.ledger.write(move |writer| models::keep_recall(writer, &recall)).await?;
            }
        }
        failed.map_or(Ok(()), Err)
    }

    async fn obey(&self, recall: &Recall) -> Result<(), LedgerError> {
        let (Ok(notice), Ok(role)) = (
            Notice::read(Path::new(&recall.target), recall.text.as_bytes()),
            recall.role.parse::<Delegate>(),
        ) else {
            return Err(LedgerError::Illegal(format!("the notice {} cannot be read back", recall.target)));
        };
        let versions = self.ledger.read(|reader| models::versions(reader, None)).await?;
        let mut failed = None;
        for version in named(&notice, &role, &self.models, &versions) {
            if version.state == State::Recalled {
                continue;
            }
            let (slot, digest) = (version.slot.clone(), version.digest.clone());
            let (evidence, reason) = (recall.target.clone(), notice.reason.clone());
            let touched = self
                .ledger
                .write(move |writer| {
                    let touched = models::touched(writer.tx(), &slot, &digest)?.len();
                    let actor = Actor::the_box(format!(
                        "recalled by {evidence}: {reason}; studies with its results: {touched} \
                         (`lightbox models studies`)"
                    ));
                    let facts = Facts { evidence, ..Facts::default() };
                    let none = Duties::NONE;
                    models::apply(writer, &slot, &digest, Event::Recall, &facts, &none, &actor, None)?;
                    Ok(touched)
                })
                .await;
            match touched {
                Ok(touched) => tracing::error!(
                    model = version.slot,
                    digest = version.digest,
                    studies = touched,
                    "A MODEL IS RECALLED and does not run any more; `lightbox models studies` lists what it touched"
                ),
                Err(error) => {
                    failed.get_or_insert(error);
                }
            }
        }
        failed.map_or(Ok(()), Err)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(slot: &str, digest: &str, manifest: &str) -> VersionRow {
        VersionRow {
            slot: slot.into(),
            digest: digest.into(),
            manifest: manifest.into(),
            ..VersionRow::received("vendors/acme/detector-1.lightbox", "sha", "1.0.0", 1)
        }
    }

    fn model(name: &str, target: &str) -> Managed {
        Managed { name: name.into(), target: target.into(), plan: "plans/p.toml".into() }
    }

    #[test]
    fn a_vendor_recalls_its_own_and_the_safety_role_all() {
        let model = model("d", "vendors/acme/detector");
        assert!(may_recall(&Delegate::Vendor("acme".into()), &model));
        assert!(!may_recall(&Delegate::Vendor("acm".into()), &model));
        assert!(may_recall(&Delegate::Safety, &model));
        assert!(!may_recall(&Delegate::Regulatory, &model));
    }

    #[test]
    fn a_version_is_found_without_its_manifest_and_whatever_the_notice_calls_it() {
        let (one, two) = ("ab".repeat(32), "cd".repeat(32));
        let models = [model("d", "vendors/acme/detector"), model("o", "vendors/other/x")];
        let versions = [
            version("d", &one, "[model]\nid = \"m\"\nof_a_later_release = 1\n"),
            version("d", &two, "not TOML"),
            version("o", &one, "[model]\nid = \"m\"\n"),
        ];
        let read = |digests: &str, name: &str| {
            let text = format!("schema = 1\nmodel = \"{name}\"\nreason = \"why\"\n{digests}");
            Notice::read(Path::new("n"), text.as_bytes()).unwrap()
        };
        let acme = Delegate::Vendor("acme".into());
        let found = |notice: &Notice, role: &Delegate| {
            named(notice, role, &models, &versions)
                .iter()
                .map(|version| (version.slot.clone(), version.digest.clone()))
                .collect::<Vec<_>>()
        };
        let by_digest = read(&format!("digests = [\"{}\"]\n", one.to_uppercase()), "a slip of the pen");
        assert_eq!(found(&by_digest, &acme), [("d".to_owned(), one.clone())]);
        assert_eq!(found(&by_digest, &Delegate::Safety).len(), 2);
        assert_eq!(found(&by_digest, &Delegate::Regulatory), []);
        // All versions of a model: by the manifest as far as it can be read; where it cannot, it may be the one.
        assert_eq!(found(&read("", "m"), &acme).len(), 2);
        assert_eq!(found(&read("", "n"), &acme), [("d".to_owned(), two.clone())]);
        assert_eq!(told(&by_digest, 0), "recalls 1 version of a slip of the pen: why; none on this box");
        assert_eq!(told(&read("", "m"), 2), "recalls every version of m: why; matched 2 versions");
    }
}
