//! A look at the repository: is it the publisher's, and newer; what does it recall; what is new for us.

use std::path::PathBuf;
use std::sync::Arc;

use lightbox_models::pack;
use lightbox_models::plan::Plan;
use lightbox_models::trust::{self, Clause, Folder, Known, Override, Refusal, Source, Target, Verified};
use lightbox_models::{Bundle, Manifest};
use serde_json::json;

use super::{Managed, Updates};
use crate::audit::Outcome;
use crate::config::chain;
use crate::store::ledger::LedgerError;
use crate::store::models::{self, Actor, PlanRow, RefusedTarget, VersionRow};

/// Largest packed bundle that is fetched.
const BUNDLE_BYTES_MAX: u64 = 32 << 30;
/// Longest plan.
const PLAN_BYTES_MAX: u64 = 1 << 20;

/// Why a look led to nothing.
enum Failed {
    /// The repository is not to be trusted, or not there.
    Refused(Refusal),
    /// This box's disk or ledger.
    Box(LedgerError),
}

impl From<LedgerError> for Failed {
    fn from(error: LedgerError) -> Self {
        Failed::Box(error)
    }
}

/// A packed bundle that was fetched and checked.
struct Fetched {
    target: Target,
    file: PathBuf,
    manifest: Manifest,
    digest: String,
}

impl Updates {
    /// Looks at the repository and takes what is new as far as it goes. Yields what came of it in words.
    pub(super) async fn check(&self, by: &str, override_reason: Option<&str>) -> String {
        tracing::info!(by, "looking at the repository of models");
        match self.look(by, override_reason).await {
            Ok(()) => "verified".into(),
            Err(Failed::Refused(refusal)) => {
                let (clause, problem) = (refusal.clause.name().to_owned(), refusal.to_string());
                let outcome = match refusal.clause.is_serious() {
                    true => Outcome::Serious,
                    false => Outcome::Minor,
                };
                tracing::warn!(clause, problem, "the repository of models is refused");
                let (said, by) = (problem.clone(), by.to_owned());
                let kept = self
                    .ledger
                    .write(move |writer| models::keep_checked(writer, &clause, &said, &by, outcome))
                    .await;
                self.report(kept, "the look at the repository cannot be written down");
                format!("refused: {problem}")
            }
            Err(Failed::Box(error)) => {
                let why = error.to_string();
                tracing::error!(reason = why, "looking at the repository of models failed");
                format!("failed: {why}")
            }
        }
    }

    async fn look(&self, by: &str, override_reason: Option<&str>) -> Result<(), Failed> {
        let updates = &self.site.file.updates;
        let source: Arc<dyn Source> = match (&updates.repository, &self.mirror) {
            (Some(folder), _) => Arc::new(Folder::new(folder)),
            (None, Some(mirror)) => Arc::new(mirror.clone()),
            (None, None) => {
                let why = "neither updates.repository nor updates.mirror is set".into();
                return Err(Failed::Box(LedgerError::Illegal(why)));
            }
        };
        let Some(root) = &updates.root else {
            return Err(Failed::Box(LedgerError::Illegal("updates.root is not set".into())));
        };
        let trusted = tokio::fs::read(root).await.map_err(|error| {
            Failed::Refused(Refusal {
                clause: Clause::Unreadable,
                subject: "updates.root".into(),
                detail: format!(": {error}"),
            })
        })?;
        let (before, versions) =
            self.ledger.read(|reader| Ok((models::trust(reader)?, models::versions(reader, None)?))).await?;
        let used = self.folders.was_used() || !versions.is_empty();
        let seen = before.and_then(|before| before.seen);
        let known = Known::read(seen.as_deref(), used).map_err(Failed::Refused)?;
        let exception = override_reason.map(|why| Override { who: by.to_owned(), why: why.to_owned() });
        let examined =
            trust::examine(source, &trusted, &known, self.clock.now()).await.map_err(Failed::Refused)?;
        // Stopping comes first, and asks for no date.
        let unheard = self.recalls(&examined).await?.into_iter().next();
        let verified = match (examined.accept(exception.as_ref()), &unheard) {
            (Ok(verified), _) => verified,
            (Err(_), Some(unheard)) => return Err(Failed::Refused(unheard.clone())),
            (Err(late), None) => return Err(Failed::Refused(late)),
        };
        // On disk before anything of it is used.
        let (json, by) = (verified.seen().to_json(), by.to_owned());
        let expires = verified.expires().unix_timestamp().saturating_mul(1000);
        let overridden = verified.overridden().map(|used| {
            let clauses: Vec<&str> = used.refusals.iter().map(|refusal| refusal.clause.name()).collect();
            json!({ "by": used.by.who, "why": used.by.why, "clauses": clauses })
        });
        self.ledger.write(move |writer| models::keep_seen(writer, &json, expires, &by, overridden)).await?;
        self.folders.make().and_then(|()| self.folders.mark_used()).map_err(of_disk)?;

        if let Some(unheard) = unheard {
            return Err(Failed::Refused(unheard));
        }
        for model in &self.models {
            let note = match self.look_for(&verified, model).await {
                Ok(()) => String::new(),
                Err(Failed::Refused(refusal)) => refusal.to_string(),
                Err(Failed::Box(LedgerError::Illegal(why))) => why,
                Err(failed) => return Err(failed),
            };
            if !note.is_empty() {
                tracing::warn!(model = model.name, note, "a model cannot be brought up to date");
            }
            let slot = model.name.clone();
            self.ledger.write(move |writer| models::note_slot(writer, &slot, &note)).await?;
        }
        self.apply_recalls().await?;
        Ok(())
    }

    /// One model: its plan, then its versions, the oldest release first, as each is judged against the one
    /// before. A version on its way is brought to its end before the next one is looked at.
    async fn look_for(&self, verified: &Verified, model: &Managed) -> Result<(), Failed> {
        self.plan(verified, model).await?;
        self.advance(verified, model).await?;
        let mut fetched = self.fetch_new(verified, model).await?;
        fetched.sort_by_key(|found| found.manifest.model.release);
        let mut judged = super::settle::Judged::default();
        for found in fetched {
            if self.pending(model).await?.is_none() {
                self.receive(model, &found).await?;
                self.advance(verified, model).await?;
                self.settle(model, &mut judged).await?;
            }
            // What waits for its turn is fetched again then.
            tokio::fs::remove_file(&found.file).await.map_err(of_disk)?;
        }
        Ok(())
    }

    async fn plan(&self, verified: &Verified, model: &Managed) -> Result<(), Failed> {
        let target = verified.target(&model.plan).map_err(Failed::Refused)?;
        let name = model.name.clone();
        let had = self.ledger.read(move |reader| models::plan_of_slot(reader, &name)).await?;
        if had.is_some_and(|had| had.sha256 == target.sha256) {
            return Ok(());
        }
        let bytes = verified.read_target(&model.plan, PLAN_BYTES_MAX).await.map_err(Failed::Refused)?;
        let text = String::from_utf8(bytes).map_err(|_| {
            LedgerError::Illegal(format!("plan-unreadable: {} is not UTF-8 text", model.plan))
        })?;
        let plan = Plan::read(std::path::Path::new(&model.plan), &text)
            .map_err(|problem| LedgerError::Illegal(format!("plan-unreadable: {problem}")))?;
        let row = PlanRow {
            sha256: target.sha256.clone(),
            plan: plan.plan.id.clone(),
            version: plan.plan.version,
            text,
        };
        let slot = model.name.clone();
        self.ledger.write(move |writer| models::keep_plan(writer, &slot, &row)).await?;
        Ok(())
    }

    /// Fetches the bundles that are new to this box. What is no bundle is written down and not asked for again.
    async fn fetch_new(&self, verified: &Verified, model: &Managed) -> Result<Vec<Fetched>, Failed> {
        let name = model.name.clone();
        let (versions, refused) = self
            .ledger
            .read(move |reader| {
                Ok((models::versions(reader, Some(&name))?, models::refused_targets(reader)?))
            })
            .await?;
        if versions.iter().any(|version| super::steps::is_pending(version.state)) {
            return Ok(Vec::new());
        }
        let known = |target: &Target| {
            versions.iter().any(|version| version.target_sha256 == target.sha256)
                || refused.iter().any(|old| old.slot == model.name && old.target_sha256 == target.sha256)
        };
        let new: Vec<Target> = verified
            .targets()
            .filter(|target| model.is_bundle(&target.name) && !known(target))
            .cloned()
            .collect();
        let mut fetched = Vec::new();
        for target in new {
            let file = self.folders.incoming.join(format!("{}.lightbox", target.sha256));
            tracing::info!(
                model = model.name,
                bundle = target.name,
                bytes = target.length,
                "fetching a bundle"
            );
            let mut tenths = 0;
            let mut progress = |done: u64, all: u64| {
                let now = done.saturating_mul(10) / all.max(1);
                if now > tenths && all > 64 << 20 {
                    tenths = now;
                    tracing::info!(done, all, "fetching a bundle");
                }
            };
            verified
                .save_target(&target.name, BUNDLE_BYTES_MAX, &file, &mut progress)
                .await
                .map_err(Failed::Refused)?;
            let packed = file.clone();
            let checked = tokio::task::spawn_blocking(move || pack::check(&packed, &mut |_| {})).await;
            match checked.map_err(|_| LedgerError::Panicked)? {
                Ok(packed) => {
                    fetched.push(Fetched { target, file, manifest: packed.manifest, digest: packed.digest });
                }
                Err(error) => {
                    let why = chain(&error);
                    tracing::warn!(model = model.name, bundle = target.name, why, "a target is no bundle");
                    let refused = RefusedTarget {
                        slot: model.name.clone(),
                        target: target.name,
                        target_sha256: target.sha256,
                        at: 0,
                        clause: error.clause().to_owned(),
                        why,
                    };
                    self.ledger.write(move |writer| models::refuse_target(writer, &refused)).await?;
                    tokio::fs::remove_file(&file).await.map_err(of_disk)?;
                }
            }
        }
        Ok(fetched)
    }

    /// Unpacks a bundle into its folder, then lets its life begin.
    async fn receive(&self, model: &Managed, found: &Fetched) -> Result<(), Failed> {
        let (file, folder) = (found.file.clone(), self.folders.bundle(&found.digest));
        let digest = found.digest.clone();
        let unpacked = tokio::task::spawn_blocking(move || -> Result<String, LedgerError> {
            // An earlier try may have come as far as the folder; another slot may have the bundle.
            if !Bundle::open(&folder).is_ok_and(|bundle| bundle.digest() == digest) {
                if folder.exists() {
                    std::fs::remove_dir_all(&folder).map_err(of_disk)?;
                }
                pack::unpack(&file, &folder, &mut |_| {}).map_err(|error| {
                    LedgerError::Illegal(format!("{}: {}", error.clause(), chain(&error)))
                })?;
            }
            std::fs::read_to_string(folder.join("manifest.toml")).map_err(of_disk)
        });
        let manifest = unpacked.await.map_err(|_| LedgerError::Panicked)??;
        let (target, model_of) = (&found.target, &found.manifest.model);
        let row = VersionRow {
            slot: model.name.clone(),
            digest: found.digest.clone(),
            manifest,
            ..VersionRow::received(&target.name, &target.sha256, &model_of.version, model_of.release)
        };
        self.ledger.write(move |writer| models::receive(writer, &row, &Actor::the_box("fetched"))).await?;
        Ok(())
    }
}

fn of_disk(error: std::io::Error) -> LedgerError {
    LedgerError::Illegal(format!(
        "the folder of models cannot be used: {error}; remedy: check room and rights of appliance.data_dir"
    ))
}
