//! A look at the repository: is it the publisher's, and newer; what does it recall; what is new for us.

use std::path::Path;
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
struct Fetched<'a> {
    target: &'a Target,
    file: &'a Path,
    manifest: Manifest,
    digest: String,
}

impl Updates {
    /// Looks at the repository and takes what is new as far as it goes. Yields what came of it in words.
    pub(super) async fn check(&self, by: &str, override_reason: Option<&str>) -> String {
        tracing::info!(by, "looking at the repository of models");
        match self.look(by, override_reason).await {
            Ok(left) if left.is_empty() => "verified".into(),
            Ok(left) => format!("verified, but not all of it could be taken: {}", left.join("; ")),
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

    /// Yields what could not be taken, for people.
    async fn look(&self, by: &str, override_reason: Option<&str>) -> Result<Vec<String>, Failed> {
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
        let anew = before.as_ref().is_some_and(|before| before.anew);
        let used = (self.folders.was_used().map_err(of_disk)? || !versions.is_empty()) && !anew;
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
        let mut left = Vec::new();
        for model in &self.models {
            let notes = match self.look_for(&verified, model).await {
                Ok(notes) => notes,
                Err(failed) => vec![told(failed)?],
            };
            let note = notes.join("; ");
            if !note.is_empty() {
                tracing::warn!(model = model.name, note, "a model cannot be brought up to date");
            }
            left.extend(notes.into_iter().map(|note| format!("model {}: {note}", model.name)));
            let slot = model.name.clone();
            self.ledger.write(move |writer| models::note_slot(writer, &slot, &note)).await?;
        }
        self.apply_recalls().await?;
        Ok(left)
    }

    /// One model: its plan, then its versions, the oldest release first, as each is judged against the one
    /// before. A version on its way is brought to its end before the next one is fetched. Yields why bundles could
    /// not be taken: one that cannot does not keep back the next.
    async fn look_for(&self, verified: &Verified, model: &Managed) -> Result<Vec<String>, Failed> {
        self.plan(verified, model).await?;
        self.advance(verified, model).await?;
        let mut judged = super::settle::Judged::default();
        let mut left = Vec::new();
        for target in self.new_bundles(verified, model).await? {
            if self.pending(model).await?.is_some() {
                break;
            }
            let file = self.folders.incoming.join(format!("{}.lightbox", target.sha256));
            let taken = match self.fetch(verified, model, &target, &file).await {
                Ok(Ok(fetched)) => self.take(verified, model, &fetched, &mut judged).await.map(|()| None),
                Ok(Err(why)) => Ok(Some(why)),
                Err(failed) => Err(failed),
            };
            // Whatever came of it: what is not unpacked by now is fetched again when its turn comes.
            let removed = tokio::fs::remove_file(&file).await;
            match taken {
                Ok(why) => left.extend(why),
                Err(failed) => {
                    let why = told(failed)?;
                    let (slot, target, said) = (model.name.clone(), target.clone(), why.clone());
                    self.ledger
                        .write(move |writer| {
                            models::audit_not_taken(writer, &slot, &target.name, &target.sha256, &said)
                        })
                        .await?;
                    left.push(why);
                }
            }
            match removed {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(of_disk(error).into());
                }
                _ => {}
            }
        }
        Ok(left)
    }

    async fn take(
        &self,
        verified: &Verified,
        model: &Managed,
        fetched: &Fetched<'_>,
        judged: &mut super::settle::Judged,
    ) -> Result<(), Failed> {
        self.receive(model, fetched).await?;
        self.advance(verified, model).await?;
        Ok(self.settle(model, judged).await?)
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

    /// The bundles that are new to this box, the oldest release first.
    async fn new_bundles(&self, verified: &Verified, model: &Managed) -> Result<Vec<Target>, Failed> {
        let name = model.name.clone();
        let (versions, refused) = self
            .ledger
            .read(move |reader| {
                Ok((models::versions(reader, Some(&name))?, models::refused_targets(reader)?))
            })
            .await?;
        let known = |target: &Target| {
            versions.iter().any(|version| version.target_sha256 == target.sha256)
                || refused.iter().any(|old| old.slot == model.name && old.target_sha256 == target.sha256)
        };
        let targets = verified.targets().filter(|target| model.is_bundle(&target.name) && !known(target));
        let mut new: Vec<Target> = targets.cloned().collect();
        new.sort_by_cached_key(|target| (release(model, target), target.name.clone()));
        Ok(new)
    }

    /// Fetches a bundle and looks whether it is one. What is none is written down and not asked for again: the
    /// inner error says why.
    async fn fetch<'a>(
        &self,
        verified: &Verified,
        model: &Managed,
        target: &'a Target,
        file: &'a Path,
    ) -> Result<Result<Fetched<'a>, String>, Failed> {
        let folder = self.folders.incoming.clone();
        let free = tokio::task::spawn_blocking(move || free_bytes(&folder)).await;
        let free = free.map_err(|_| LedgerError::Panicked)?.map_err(of_disk)?;
        let reserve = self.site.file.store.reserve_mib << 20;
        if let Some(why) = no_room(target, free, reserve) {
            return Err(LedgerError::Illegal(why).into());
        }
        tracing::info!(model = model.name, bundle = target.name, bytes = target.length, "fetching a bundle");
        let mut tenths = 0;
        let mut progress = |done: u64, all: u64| {
            let now = done.saturating_mul(10) / all.max(1);
            if now > tenths && all > 64 << 20 {
                tenths = now;
                tracing::info!(done, all, "fetching a bundle");
            }
        };
        verified
            .save_target(&target.name, BUNDLE_BYTES_MAX, file, &mut progress)
            .await
            .map_err(Failed::Refused)?;
        let packed = file.to_owned();
        let checked = tokio::task::spawn_blocking(move || pack::check(&packed, &mut |_| {})).await;
        match checked.map_err(|_| LedgerError::Panicked)? {
            Ok(packed) => Ok(Ok(Fetched { target, file, manifest: packed.manifest, digest: packed.digest })),
            Err(error) => {
                let why = chain(&error);
                tracing::warn!(model = model.name, bundle = target.name, why, "a target is no bundle");
                let said = format!("{} is no bundle: {}: {why}", target.name, error.clause());
                let refused = RefusedTarget {
                    slot: model.name.clone(),
                    target: target.name.clone(),
                    target_sha256: target.sha256.clone(),
                    at: 0,
                    clause: error.clause().to_owned(),
                    why,
                };
                self.ledger.write(move |writer| models::refuse_target(writer, &refused)).await?;
                Ok(Err(said))
            }
        }
    }

    /// Unpacks a bundle into its folder, then lets its life begin.
    async fn receive(&self, model: &Managed, found: &Fetched<'_>) -> Result<(), Failed> {
        let (file, folder) = (found.file.to_owned(), self.folders.bundle(&found.digest));
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
        let (target, model_of) = (found.target, &found.manifest.model);
        let row = VersionRow {
            slot: model.name.clone(),
            digest: found.digest.clone(),
            manifest,
            ..VersionRow::received(&target.name, &target.sha256, &model_of.version, model_of.release)
        };
        self.ledger.write(move |writer| models::receive(writer, &row, &Actor::the_box("fetched"))).await?;
        // It may have been recalled before it came: then it is not judged, and never active.
        self.apply_recalls().await?;
        Ok(())
    }
}

/// A failure that concerns one model or bundle only, in words.
fn told(failed: Failed) -> Result<String, Failed> {
    match failed {
        Failed::Refused(refusal) => Ok(refusal.to_string()),
        Failed::Box(LedgerError::Illegal(why)) => Ok(why),
        Failed::Box(_) => Err(failed),
    }
}

/// Which release a bundle is by what its publisher says of it, or else by the numbers in its name. It only orders the
/// fetching: the manifest's release is what is judged.
fn release(model: &Managed, target: &Target) -> Vec<u64> {
    let said = target.custom.get("release").and_then(serde_json::Value::as_u64);
    let tail = target.name.strip_prefix(&model.target).unwrap_or_default();
    let mut numbers: Vec<u64> =
        tail.split(|one: char| !one.is_ascii_digit()).filter_map(|number| number.parse().ok()).collect();
    if let Some(said) = said {
        numbers = vec![said];
    }
    numbers
}

/// Why a bundle is not fetched: packed and unpacked it lies on the disk twice, beside what is kept for images.
fn no_room(target: &Target, free: u64, reserve: u64) -> Option<String> {
    let need = target.length.saturating_mul(2).saturating_add(reserve);
    (free < need).then(|| {
        format!(
            "room: {} needs {need} bytes, of which {reserve} stay free for images (store.reserve_mib); {free} are free; \
             remedy: make room on the disk of appliance.data_dir",
            target.name
        )
    })
}

fn free_bytes(folder: &Path) -> std::io::Result<u64> {
    let stat = nix::sys::statvfs::statvfs(folder)?;
    Ok(stat.blocks_available() as u64 * stat.fragment_size() as u64)
}

fn of_disk(error: std::io::Error) -> LedgerError {
    LedgerError::Illegal(format!(
        "the folder of models cannot be used: {error}; remedy: check room and rights of appliance.data_dir"
    ))
}

#[cfg(test)]
mod tests {
    use lightbox_models::trust::Delegate;

    use super::*;

    fn target(name: &str, release: Option<u64>) -> Target {
        Target {
            name: format!("vendors/acme/{name}.lightbox"),
            role: Delegate::Vendor("acme".into()),
            length: 100,
            sha256: "ab".into(),
            custom: release.map(|release| ("release".to_owned(), json!(release))).into_iter().collect(),
        }
    }

    #[test]
    fn bundles_are_fetched_in_the_order_of_their_releases() {
        let model =
            Managed { name: "d".into(), target: "vendors/acme/detector".into(), plan: "plans/p.toml".into() };
        let mut targets = [
            target("detector-10", None),
            target("detector-2.1.0", None),
            target("detector-9-rc1", None),
            target("detector/3", None),
            target("detector-2.0.9", None),
            target("detector-0", Some(11)),
        ];
        targets.sort_by_cached_key(|target| (release(&model, target), target.name.clone()));
        let order: Vec<&str> = targets.iter().map(|target| &target.name["vendors/acme/".len()..]).collect();
        assert_eq!(
            order,
            [
                "detector-2.0.9.lightbox",
                "detector-2.1.0.lightbox",
                "detector/3.lightbox",
                "detector-9-rc1.lightbox",
                "detector-10.lightbox",
                "detector-0.lightbox",
            ]
        );
    }

    #[test]
    fn a_bundle_without_room_is_not_begun() {
        let one = target("detector-1", None);
        assert_eq!(no_room(&one, 1200, 1000), None);
        let why = no_room(&one, 1199, 1000).unwrap();
        assert!(why.starts_with("room: vendors/acme/detector-1.lightbox needs 1200 bytes"), "{why}");
        let endless = Target { length: u64::MAX, ..one };
        assert!(no_room(&endless, u64::MAX - 1, 1).is_some());
    }
}
