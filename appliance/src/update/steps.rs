//! A version from state to state: each step is judged outside the ledger's writer, written in one
//! transaction, and can be judged again after a crash. From accepted to active: [`super::settle`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::PoisonError;

use lightbox_models::life_cycle::{self, Event, Facts, State};
use lightbox_models::plan::{Comparator, Plan, Stage, Verdict};
use lightbox_models::trust::Verified;
use sha2::{Digest, Sha256};

use super::acceptance::{Candidates, Unfinished};
use super::evidence::{Before, Duties, Kept, Matter, broken};
use super::registry::OpenError;
use super::{Managed, Updates, manifest};
use crate::audit::chain::hex;
use crate::config::chain;
use crate::store::ledger::LedgerError;
use crate::store::models::{self, Acceptance, Actor, VersionRow};

/// Times that a candidate may take the daemon down with it while it runs on this hardware.
const TRIALS_MAX: u32 = 3;

/// The states of a version on its way.
pub(super) fn is_pending(state: State) -> bool {
    matches!(state, State::Received | State::Verified | State::PlannedIn | State::Accepted | State::Shadow)
}

impl Updates {
    /// Takes the slot's version that is on its way as far as documents and this hardware take it.
    pub(super) async fn advance(&self, verified: &Verified, model: &Managed) -> Result<(), LedgerError> {
        loop {
            let Some(version) = self.pending(model).await? else { return Ok(()) };
            let gone_on = match version.state {
                State::Received => self.verify(&version).await?,
                State::Verified => self.admit(model, &version).await?,
                State::PlannedIn => self.accept(verified, model, &version).await?,
                _ => return Ok(()),
            };
            if !gone_on {
                return Ok(());
            }
        }
    }

    pub(super) async fn pending(&self, model: &Managed) -> Result<Option<VersionRow>, LedgerError> {
        let name = model.name.clone();
        let versions = self.ledger.read(move |reader| models::versions(reader, Some(&name))).await?;
        Ok(versions.into_iter().find(|version| is_pending(version.state)))
    }

    /// Received → verified: the files are the bundle, and the bundle is for this device.
    async fn verify(&self, version: &VersionRow) -> Result<bool, LedgerError> {
        let (registry, digest) = (self.registry.clone(), version.digest.clone());
        let opened = tokio::task::spawn_blocking(move || registry.open(&digest)).await;
        let bundle = match opened.map_err(|_| LedgerError::Panicked)? {
            Ok(bundle) => bundle,
            Err(error) => {
                let clause = match &error {
                    OpenError::Bundle(error) => error.clause(),
                    OpenError::Other(_) => "bundle-digest",
                };
                return self.refuse(version, format!("{clause}: {}", chain(&error)), None).await;
            }
        };
        let (here, named) = (self.udi_di(), &bundle.manifest().device.udi_di);
        if !named.contains(&here) {
            let why = format!("device: this device is {here}, the bundle is for {}", named.join(", "));
            return self.refuse(version, why, None).await;
        }
        let (slot, digest) = (version.slot.clone(), version.digest.clone());
        let facts =
            Facts { evidence: format!("{} {}", version.target, version.target_sha256), ..Facts::default() };
        let actor = Actor::the_box("signed, new, whole, and for this device");
        self.ledger
            .write(move |writer| {
                models::apply(
                    writer,
                    &slot,
                    &digest,
                    Event::Verify,
                    &facts,
                    &life_cycle::Duties::NONE,
                    &actor,
                    None,
                )
            })
            .await?;
        Ok(true)
    }

    /// Verified → planned in: the plan allows it, as far as documents can say.
    async fn admit(&self, model: &Managed, version: &VersionRow) -> Result<bool, LedgerError> {
        let matter = match self.matter(model, version).await? {
            Ok(matter) => matter,
            Err(waits) => return self.wait(version, waits).await,
        };
        let verdict = self.rule(matter, Stage::Admission, None, Duties::default()).await?.1;
        if !verdict.allows() {
            return self.refuse(version, broken(&verdict), Some(verdict)).await;
        }
        let (slot, digest) = (version.slot.clone(), version.digest.clone());
        let facts = Facts { evidence: of_plan(&verdict), ..Facts::default() };
        let actor = Actor::the_box(format!("allowed by {}", of_plan(&verdict)));
        self.ledger
            .write(move |writer| {
                models::apply(
                    writer,
                    &slot,
                    &digest,
                    Event::Admit,
                    &facts,
                    &life_cycle::Duties::NONE,
                    &actor,
                    Some(&verdict),
                )
            })
            .await?;
        Ok(true)
    }

    /// Planned in → accepted: good enough on this hardware.
    async fn accept(
        &self,
        verified: &Verified,
        model: &Managed,
        version: &VersionRow,
    ) -> Result<bool, LedgerError> {
        let matter = match self.matter(model, version).await? {
            Ok(matter) => matter,
            Err(waits) => return self.wait(version, waits).await,
        };
        // Again: what was installed, or the plan, may have changed since.
        let (matter, admission) = self.rule(matter, Stage::Admission, None, Duties::default()).await?;
        if !admission.allows() {
            return self.refuse(version, broken(&admission), Some(admission)).await;
        }
        let called: BTreeSet<String> = matter
            .plan
            .criterion
            .iter()
            .filter(|criterion| {
                matter.before.is_none()
                    || criterion.modifications.iter().any(|id| admission.modifications.contains(id))
            })
            .map(|criterion| criterion.id.clone())
            .collect();
        let bundles = match self.candidates(model, version, &matter, &called).await? {
            Ok(bundles) => bundles,
            Err(why) => return self.wait(version, why).await,
        };
        let (slot, digest) = (version.slot.clone(), version.digest.clone());
        let tries = self.ledger.write(move |writer| models::begin_trial(writer, &slot, &digest)).await?;
        if tries > TRIALS_MAX {
            let why = format!(
                "acceptance-run: the daemon ended each of the {TRIALS_MAX} times that it ran on this hardware"
            );
            return self.refuse(version, why, None).await;
        }
        *self.trial.lock().unwrap_or_else(PoisonError::into_inner) =
            Some((version.slot.clone(), version.digest.clone()));
        tracing::info!(model = model.name, digest = version.digest, "acceptance begins");
        let ran = self.run_acceptance(verified, model, &matter.plan, &called, &bundles).await;
        *self.trial.lock().unwrap_or_else(PoisonError::into_inner) = None;
        let (slot, digest) = (version.slot.clone(), version.digest.clone());
        self.ledger.write(move |writer| models::end_trial(writer, &slot, &digest)).await?;
        let kept = match ran {
            Ok(kept) => kept,
            Err(Unfinished::Waits(why)) => return self.wait(version, why).await,
            Err(Unfinished::Fails(why)) => return self.refuse(version, why, None).await,
        };
        let kept_for_rule = kept.clone();
        let (matter, verdict) =
            self.rule(matter, Stage::Acceptance, Some(kept_for_rule), Duties::default()).await?;
        let record = self.record(&matter.plan, &bundles.candidate, &kept, &verdict);
        let signed = record.sign(&self.identity).map_err(|error| LedgerError::Illegal(chain(&error)))?;
        let sha256 = hex(&Sha256::digest(&signed.bytes));
        let evidence =
            serde_json::to_string(&kept).map_err(|error| LedgerError::Illegal(error.to_string()))?;
        let acceptance = Acceptance { sha256: sha256.clone(), signed, evidence };
        let allows = verdict.allows();
        let event = if allows { Event::Accept } else { Event::Refuse };
        let reason = match allows {
            true => format!("accepted on this hardware under {}", of_plan(&verdict)),
            false => broken(&verdict),
        };
        let (slot, digest) = (version.slot.clone(), version.digest.clone());
        let facts = Facts { evidence: sha256, ..Facts::default() };
        self.ledger
            .write(move |writer| {
                let plan = (verdict.plan.as_str(), verdict.plan_version);
                models::keep_acceptance(writer, &slot, &digest, plan, &acceptance)?;
                let actor = Actor::the_box(reason);
                models::apply(
                    writer,
                    &slot,
                    &digest,
                    event,
                    &facts,
                    &life_cycle::Duties::NONE,
                    &actor,
                    Some(&verdict),
                )
            })
            .await?;
        tracing::info!(model = model.name, digest = version.digest, allows, "acceptance ended");
        if !allows {
            self.unload(&version.digest).await;
        }
        Ok(allows)
    }

    /// What a ruling on a version is made of; the inner error says what is missing.
    pub(super) async fn matter(
        &self,
        model: &Managed,
        version: &VersionRow,
    ) -> Result<Result<Matter, String>, LedgerError> {
        let name = model.name.clone();
        let (plan, versions) = self
            .ledger
            .read(move |reader| {
                Ok((models::plan_of_slot(reader, &name)?, models::versions(reader, Some(&name))?))
            })
            .await?;
        let Some(plan) = plan else { return Ok(Err(format!("waits for its plan {}", model.plan))) };
        let plan = match Plan::read(std::path::Path::new(&model.plan), &plan.text) {
            Ok(plan) => plan,
            Err(problem) => return Ok(Err(format!("its plan cannot be read: {problem}"))),
        };
        let before = versions
            .iter()
            .filter(|other| other.last_active > 0 && other.digest != version.digest)
            .max_by_key(|other| (other.state == State::Active, other.last_active));
        let before = match before {
            Some(before) => Some(Before {
                manifest: manifest(before)?,
                digest: before.digest.clone(),
                updates: before.updates.clone(),
            }),
            None => None,
        };
        Ok(Ok(Matter {
            plan,
            before,
            manifest: manifest(version)?,
            digest: version.digest.clone(),
            now: self.clock.now().unix_timestamp(),
            udi_di: self.udi_di(),
        }))
    }

    /// The versions that a candidate is compared with are the active one and, where it is kept, the baseline.
    async fn candidates(
        &self,
        model: &Managed,
        version: &VersionRow,
        matter: &Matter,
        called: &BTreeSet<String>,
    ) -> Result<Result<Candidates, String>, LedgerError> {
        let name = model.name.clone();
        let kept: Vec<String> = self
            .ledger
            .read(move |reader| models::versions(reader, Some(&name)))
            .await?
            .into_iter()
            .filter(|version| version.kept)
            .map(|version| version.digest)
            .collect();
        let mut wanted = BTreeMap::new();
        let criteria = matter.plan.criterion.iter().filter(|criterion| called.contains(&criterion.id));
        for comparator in criteria.filter_map(|criterion| Some(criterion.non_inferior.as_ref()?.to)) {
            let digest = match comparator {
                Comparator::Current => matter.before.as_ref().map(|before| before.digest.clone()),
                Comparator::Baseline => {
                    matter.plan.baseline.digests.iter().find(|digest| kept.contains(digest)).cloned()
                }
            };
            // Where there is none, the clause says so.
            wanted.extend(digest.filter(|digest| kept.contains(digest)).map(|digest| (comparator, digest)));
        }
        let (registry, own) = (self.registry.clone(), version.digest.clone());
        let opened = tokio::task::spawn_blocking(move || {
            let candidate = registry.open(&own)?;
            let compared = wanted
                .into_iter()
                .map(|(comparator, digest)| Ok((comparator, registry.open(&digest)?)))
                .collect::<Result<_, OpenError>>()?;
            Ok::<_, OpenError>(Candidates { candidate, compared })
        });
        Ok(opened.await.map_err(|_| LedgerError::Panicked)?.map_err(|error| chain(&error)))
    }

    /// A ruling, off the runtime's own threads.
    pub(super) async fn rule(
        &self,
        matter: Matter,
        stage: Stage,
        kept: Option<Kept>,
        duties: Duties,
    ) -> Result<(Matter, Verdict), LedgerError> {
        let ruled = tokio::task::spawn_blocking(move || {
            let verdict = matter.rule(stage, kept.as_ref(), &duties);
            (matter, verdict)
        });
        ruled.await.map_err(|_| LedgerError::Panicked)
    }

    /// Refuses a version for good. Yields that nothing goes on.
    pub(super) async fn refuse(
        &self,
        version: &VersionRow,
        why: String,
        verdict: Option<Verdict>,
    ) -> Result<bool, LedgerError> {
        tracing::warn!(model = version.slot, version = version.version, why, "a model version is refused");
        let (slot, digest) = (version.slot.clone(), version.digest.clone());
        let evidence = verdict.as_ref().map_or_else(|| version.target_sha256.clone(), of_plan);
        let gone = self
            .ledger
            .write(move |writer| {
                let facts = Facts { evidence, ..Facts::default() };
                let actor = Actor::the_box(why);
                models::apply(
                    writer,
                    &slot,
                    &digest,
                    Event::Refuse,
                    &facts,
                    &life_cycle::Duties::NONE,
                    &actor,
                    verdict.as_ref(),
                )?;
                // The files of those out of service stay as they are: only what is refused goes.
                models::discard(writer, &slot, usize::MAX)
            })
            .await?;
        self.remove(&gone).await;
        Ok(false)
    }

    /// Says what a version waits for. Yields that nothing goes on.
    pub(super) async fn wait(&self, version: &VersionRow, why: String) -> Result<bool, LedgerError> {
        self.say(version, &why).await?;
        Ok(false)
    }

    async fn say(&self, version: &VersionRow, note: &str) -> Result<(), LedgerError> {
        if version.note == note {
            return Ok(());
        }
        let (slot, digest, note) = (version.slot.clone(), version.digest.clone(), note.to_owned());
        self.ledger.write(move |writer| models::note(writer, &slot, &digest, &note)).await
    }

    /// Removes files that the ledger says are gone.
    pub(super) async fn remove(&self, gone: &[String]) {
        for digest in gone {
            self.unload(digest).await;
            let folder = self.folders.bundle(digest);
            let removed = tokio::task::spawn_blocking(move || match std::fs::remove_dir_all(folder) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            });
            if let Ok(Err(error)) = removed.await {
                // The next start tries again.
                tracing::warn!(digest, reason = error.to_string(), "a version's files cannot be removed");
            }
        }
    }

    async fn unload(&self, digest: &str) {
        self.registry.forget(digest);
        if let Err(error) = self.engine.unload(digest).await {
            tracing::warn!(digest, reason = error.to_string(), "a version cannot be unloaded");
        }
    }

    /// Removes what interrupted installations left.
    pub(super) async fn clean(&self) -> Result<(), LedgerError> {
        let kept = self.ledger.read(models::kept).await?;
        let folders = self.folders.clone();
        let cleaned = tokio::task::spawn_blocking(move || folders.clean(&kept));
        match cleaned.await.map_err(|_| LedgerError::Panicked)? {
            Ok(0) => Ok(()),
            Ok(removed) => {
                tracing::info!(removed, "what an interrupted installation had left was removed");
                Ok(())
            }
            Err(error) => Err(LedgerError::Illegal(format!("the folder of models: {error}"))),
        }
    }

    fn udi_di(&self) -> String {
        self.site.file.appliance.udi_di.clone().unwrap_or_default()
    }
}

fn of_plan(verdict: &Verdict) -> String {
    format!("plan {} version {}", verdict.plan, verdict.plan_version)
}
