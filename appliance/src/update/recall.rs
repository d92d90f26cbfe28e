//! Recall notices: a signed word of the vendor, or of the safety role, that a model must never run again.
//!
//! ```toml
//! schema = 1
//! model = "lightbox-phantom-detector"  # model.id
//! digests = ["…"]                      # of bundles; empty: every version
//! reason = "Misses disks near the edge."
//! ```

use lightbox_models::life_cycle::{Duties, Event, Facts, State};
use lightbox_models::trust::{Delegate, Target, Verified};
use serde::Deserialize;

use super::{Managed, Updates, manifest};
use crate::store::ledger::LedgerError;
use crate::store::models::{self, Actor, Recall};

/// Longest notice.
const NOTICE_BYTES_MAX: u64 = 1 << 20;

/// A notice.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Notice {
    schema: u32,
    model: String,
    #[serde(default)]
    digests: Vec<String>,
    reason: String,
}

fn read(text: &str) -> Result<Notice, String> {
    let notice: Notice = toml::from_str(text).map_err(|error| error.message().to_owned())?;
    if notice.schema != 1 {
        return Err(format!("schema {}, known is 1", notice.schema));
    }
    if notice.reason.trim().is_empty() {
        return Err("no reason is given".into());
    }
    Ok(notice)
}

/// Whether who signed a notice may recall this model: a vendor its own, the safety role any.
fn may_recall(role: &Delegate, model: &Managed) -> bool {
    match role {
        Delegate::Safety => true,
        Delegate::Vendor(name) => model.target.starts_with(&format!("vendors/{name}/")),
        Delegate::Regulatory => false,
    }
}

impl Updates {
    /// Acts on every notice of the repository, and again on those that came before: a version that is
    /// fetched after its recall is recalled as well.
    pub(super) async fn recalls(&self, verified: &Verified) -> Result<(), LedgerError> {
        let targets: Vec<Target> =
            verified.targets().filter(|target| target.name.starts_with("recalls/")).cloned().collect();
        let had = self.ledger.read(models::recalls).await?;
        for target in targets {
            if had.iter().any(|recall| recall.sha256 == target.sha256) {
                continue;
            }
            let bytes = match verified.read_target(&target.name, NOTICE_BYTES_MAX).await {
                Ok(bytes) => bytes,
                Err(refusal) => {
                    tracing::error!(reason = refusal.to_string(), "a recall notice cannot be fetched");
                    continue;
                }
            };
            let text = String::from_utf8_lossy(&bytes).into_owned();
            let note = match read(&text) {
                Ok(notice) => format!("recalls {}: {}", notice.model, notice.reason),
                Err(why) => {
                    tracing::error!(notice = target.name, why, "a recall notice cannot be read");
                    format!("cannot be read: {why}")
                }
            };
            let recall = Recall {
                sha256: target.sha256.clone(),
                target: target.name.clone(),
                role: target.role.to_string(),
                at: 0,
                text,
                note,
            };
            self.ledger.write(move |writer| models::keep_recall(writer, &recall)).await?;
        }
        self.apply_recalls().await
    }

    /// Takes what the kept notices name out of service.
    pub(super) async fn apply_recalls(&self) -> Result<(), LedgerError> {
        for recall in self.ledger.read(models::recalls).await? {
            let (Ok(notice), Ok(role)) = (read(&recall.text), recall.role.parse::<Delegate>()) else {
                continue;
            };
            for model in self.models.iter().filter(|model| may_recall(&role, model)) {
                let name = model.name.clone();
                let versions = self.ledger.read(move |reader| models::versions(reader, Some(&name))).await?;
                for version in versions {
                    let named = notice.digests.is_empty() || notice.digests.contains(&version.digest);
                    let same = manifest(&version).is_ok_and(|found| found.model.id == notice.model);
                    if version.state == State::Recalled || !named || !same {
                        continue;
                    }
                    let (slot, digest) = (model.name.clone(), version.digest.clone());
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
                            models::apply(
                                writer,
                                &slot,
                                &digest,
                                Event::Recall,
                                &facts,
                                &Duties::NONE,
                                &actor,
                                None,
                            )?;
                            Ok(touched)
                        })
                        .await?;
                    tracing::error!(
                        model = model.name,
                        digest = version.digest,
                        studies = touched,
                        "A MODEL IS RECALLED and does not run any more; `lightbox models studies` lists what it touched"
                    );
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notices_are_read_strictly_and_only_by_their_own() {
        let good = "schema = 1\nmodel = \"m\"\nreason = \"why\"\n";
        assert!(read(good).is_ok_and(|notice| notice.digests.is_empty()));
        for bad in [
            "",
            "schema = 2\nmodel = \"m\"\nreason = \"why\"\n",
            "schema = 1\nmodel = \"m\"\nreason = \" \"\n",
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
        assert!(read(&format!("{good}more = 1\n")).is_err());
        let model = Managed {
            name: "d".into(),
            target: "vendors/acme/detector".into(),
            plan: "plans/detector.toml".into(),
        };
        assert!(may_recall(&Delegate::Vendor("acme".into()), &model));
        assert!(!may_recall(&Delegate::Vendor("acm".into()), &model));
        assert!(may_recall(&Delegate::Safety, &model));
        assert!(!may_recall(&Delegate::Regulatory, &model));
    }
}
