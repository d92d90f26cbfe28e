//! A version from state to state: each step is judged outside the ledger's writer, written in one
//! transaction, and can be judged again after a crash.

use std::collections::{BTreeMap, BTreeSet};

use lightbox_models::life_cycle::{self, Event, Facts, State};
use lightbox_models::plan::{ClauseName, Comparator, Plan, Stage, Verdict, updates_after};
use lightbox_models::trust::Verified;
use sha2::{Digest, Sha256};
use tokio::time::Instant;

use super::acceptance::Candidates;
use super::evidence::{Before, Duties, Kept, Matter, broken};
use super::files::Folders;
use super::registry::{OpenError, open_checked};
use super::report::{self, ShadowReport};
use super::{JUDGE_AGAIN, Managed, Updates, manifest};
use crate::audit::chain::hex;
use crate::config::chain;
use crate::infer;
use crate::store::ledger::{Ledger, LedgerError};
use crate::store::models::shadow::{self, Standing};
use crate::store::models::{self, Acceptance, Actor, PlanRow, VersionRow};

/// What of a verdict only means that people or time have not done their part yet.
const WAITS: [ClauseName; 5] = [
    ClauseName::PlanInForce,
    ClauseName::Labelling,
    ClauseName::ShadowHours,
    ClauseName::CanaryCases,
    ClauseName::Approvals,
];

/// The states of a version on its way.
pub(super) fn is_pending(state: State) -> bool {
    matches!(state, State::Received | State::Verified | State::PlannedIn | State::Accepted | State::Shadow)
}

/// On what each waiting version was judged last, and when: a ruling costs thousands of resamples.
pub(super) type Judged = BTreeMap<String, (String, Instant)>;

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
        self.say(version, "runs on this hardware").await?;
        tracing::info!(model = model.name, digest = version.digest, "acceptance begins");
        let kept = match self.run_acceptance(verified, model, &matter.plan, &called, &bundles).await {
            Ok(kept) => kept,
            Err(why) => return self.wait(version, why).await,
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

    /// Accepted, in shadow or rolled back → active, once the plan and the people that it asks for agree.
    pub(super) async fn settle(&self, model: &Managed, judged: &mut Judged) -> Result<(), LedgerError> {
        let name = model.name.clone();
        let versions = self.ledger.read(move |reader| models::versions(reader, Some(&name))).await?;
        let waiting: Vec<VersionRow> = versions
            .into_iter()
            .filter(|version| {
                matches!(version.state, State::Accepted | State::Shadow | State::RolledBack) && version.kept
            })
            .collect();
        for version in waiting {
            let (slot, digest) = (model.name.clone(), version.digest.clone());
            let (approvals, event, plan, standing) = self
                .ledger
                .read(move |reader| {
                    Ok((
                        models::approvals(reader, &slot, &digest)?,
                        models::last_event(reader, &slot, &digest)?,
                        models::plan_of_slot(reader, &slot)?,
                        report::standing(reader, &slot, &digest)?,
                    ))
                })
                .await?;
            // What people have taken out of service comes back by people only.
            if version.state == State::RolledBack && approvals.is_empty() {
                continue;
            }
            let on = format!(
                "{event} {} {} {}",
                approvals.len(),
                plan.as_ref().map(|plan| plan.sha256.as_str()).unwrap_or_default(),
                shadow_is_done(plan.as_ref(), standing.as_ref()),
            );
            let before = judged.get(&version.digest);
            if before.is_some_and(|(last, at)| *last == on && at.elapsed() < JUDGE_AGAIN) {
                continue;
            }
            judged.insert(version.digest.clone(), (on, Instant::now()));
            let duties = Duties {
                acknowledged: approvals
                    .iter()
                    .map(|approval| approval.acknowledged.clone())
                    .filter(|digest| !digest.is_empty())
                    .collect(),
                approvals: approvals.into_iter().map(|approval| approval.person).collect(),
                standing,
                report: None,
            };
            self.activate(model, &version, duties).await?;
        }
        Ok(())
    }

    async fn activate(
        &self,
        model: &Managed,
        version: &VersionRow,
        mut duties: Duties,
    ) -> Result<(), LedgerError> {
        let matter = match self.matter(model, version).await? {
            Ok(matter) => matter,
            Err(waits) => return self.wait(version, waits).await.map(drop),
        };
        let people = duties.approvals.clone();
        let standing = duties.standing.clone();
        if report::left(&matter.plan, standing.as_ref()).is_none() {
            let (slot, digest) = (version.slot.clone(), version.digest.clone());
            duties.report = self.ledger.read(move |reader| ShadowReport::of(reader, &slot, &digest)).await?;
        }
        let report = duties.report.clone();
        let back = version.state == State::RolledBack;
        let (event, verdict, plan, updates, expected) = if back {
            // It was judged when it first became active; coming back is up to the people.
            let expected = matter.before.as_ref().map(|before| before.digest.clone());
            (Event::Restore, None, matter.plan, version.updates.clone(), expected)
        } else {
            let (slot, digest) = (version.slot.clone(), version.digest.clone());
            let kept = self.ledger.read(move |reader| models::acceptance(reader, &slot, &digest)).await?;
            let Some(kept) = kept.filter(|kept| kept.signed.verify(&self.identity.public_key()).is_ok())
            else {
                let why = "acceptance-record: there is none that this device signed".to_owned();
                return self.refuse(version, why, None).await.map(drop);
            };
            let kept: Kept = serde_json::from_str(&kept.evidence)
                .map_err(|error| LedgerError::Illegal(error.to_string()))?;
            let (matter, verdict) = self.rule(matter, Stage::Activation, Some(kept), duties).await?;
            if !verdict.allows() {
                let lasting = verdict.broken().any(|clause| !WAITS.contains(&clause.name));
                let why = broken(&verdict);
                return match lasting {
                    true => self.refuse(version, why, Some(verdict)).await.map(drop),
                    false
                        if report::left(&matter.plan, None).is_some()
                            && matter.before.is_some()
                            && version.state == State::Accepted =>
                    {
                        self.begin_shadow(version, &matter.plan).await
                    }
                    false => {
                        let fault = standing.map(|standing| standing.fault).filter(|why| !why.is_empty());
                        let fault = fault.map(|why| format!("; it does not run in shadow: {why}"));
                        let waits = format!("waits for {why}{}", fault.unwrap_or_default());
                        self.wait(version, waits).await.map(drop)
                    }
                };
            }
            let before = matter.before.as_ref();
            let updates =
                updates_after(&before.map(|before| before.updates.clone()).unwrap_or_default(), &verdict);
            let expected = before.map(|before| before.digest.clone());
            (Event::Activate, Some(verdict), matter.plan, updates, expected)
        };
        // Whole and loaded before the switch, so that no study is the first to find a fault.
        let (registry, digest) = (self.registry.clone(), version.digest.clone());
        let folders = self.folders.clone();
        let opened = tokio::task::spawn_blocking(move || {
            open_checked(&folders, &digest)?;
            registry.open(&digest)
        });
        let bundle = match opened.await.map_err(|_| LedgerError::Panicked)? {
            Ok(bundle) => bundle,
            Err(error) => return self.wait(version, chain(&error)).await.map(drop),
        };
        if let Err(error) = infer::load(&bundle, &self.engine).await {
            return self.wait(version, format!("does not load: {}", chain(&error))).await.map(drop);
        }
        let (slot, digest) = (version.slot.clone(), version.digest.clone());
        let approvals = verdict.as_ref().map_or(plan.site.approvals.max(1), |verdict| verdict.approvals);
        let named = report.as_ref().map(|report| format!(", shadow report {}", report.sha256));
        let facts = Facts {
            evidence: format!(
                "plan {} version {}{}",
                plan.plan.id,
                plan.plan.version,
                named.unwrap_or_default()
            ),
            approvals: people.clone(),
            shadow_hours: standing.as_ref().map_or(0.0, |standing| standing.hours),
            shadow_studies: standing.as_ref().map_or(0, |standing| standing.studies),
        };
        let asked = life_cycle::Duties {
            approvals,
            shadow_hours: plan.site.shadow_hours,
            shadow_studies: plan.site.canary_cases,
        };
        let by = match people.is_empty() {
            true => "the plan asks for no approval".to_owned(),
            false => format!("approved by {}", people.join(" and ")),
        };
        let keep = plan.rollback.keep as usize;
        let switched = self
            .ledger
            .write(move |writer| {
                let life = models::life(writer.tx(), &slot)?;
                if life.active().is_some() && life.active() != expected.as_deref() {
                    return Err(LedgerError::Illegal("another version became active meanwhile".into()));
                }
                if let Some(report) = &report {
                    shadow::keep_report(writer, &slot, &digest, &report.sha256, &report.page)?;
                }
                let actor = Actor::the_box(by);
                models::apply(writer, &slot, &digest, event, &facts, &asked, &actor, verdict.as_ref())?;
                models::set_updates(writer, &slot, &digest, &updates)?;
                models::discard(writer, &slot, keep)
            })
            .await;
        match switched {
            Ok(gone) => {
                tracing::info!(
                    model = model.name,
                    version = version.version,
                    digest = version.digest,
                    "a model version is active"
                );
                self.work.notify_waiters();
                self.work.notify_one();
                self.remove(&gone).await;
                Ok(())
            }
            Err(LedgerError::Illegal(why)) => self.wait(version, why).await.map(drop),
            Err(error) => Err(error),
        }
    }

    async fn begin_shadow(&self, version: &VersionRow, plan: &Plan) -> Result<(), LedgerError> {
        let (slot, digest) = (version.slot.clone(), version.digest.clone());
        let (site, boot) = (&plan.site, self.ledger.boot().to_owned());
        let actor = Actor::the_box(format!(
            "the plan asks for {} hours and {} studies beside the active version",
            site.shadow_hours, site.canary_cases
        ));
        self.ledger
            .write(move |writer| {
                let (facts, none) = (Facts::default(), life_cycle::Duties::NONE);
                models::apply(writer, &slot, &digest, Event::BeginShadow, &facts, &none, &actor, None)?;
                // From this instant on each study that ends is compared.
                match shadow::watched(writer.tx(), &slot)? {
                    Some(watched) => shadow::note_time(writer, &slot, &watched, &boot, ""),
                    None => Ok(()),
                }
            })
            .await
    }

    /// What a ruling on a version is made of; the inner error says what is missing.
    async fn matter(
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
    async fn rule(
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
    async fn refuse(
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
    async fn wait(&self, version: &VersionRow, why: String) -> Result<bool, LedgerError> {
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
    async fn remove(&self, gone: &[String]) {
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

/// Whether nothing of the plan's duty in shadow is left: a version is judged again when it is done.
fn shadow_is_done(plan: Option<&PlanRow>, standing: Option<&Standing>) -> bool {
    let (Some(row), Some(standing)) = (plan, standing) else { return false };
    let plan = Plan::read(std::path::Path::new("the plan"), &row.text);
    plan.is_ok_and(|plan| report::left(&plan, Some(standing)).is_none())
}

fn of_plan(verdict: &Verdict) -> String {
    format!("plan {} version {}", verdict.plan, verdict.plan_version)
}

/// What came of going back.
pub(super) enum Back {
    /// The earlier version is active.
    To {
        /// Which was active.
        from: String,
        /// Which is now.
        to: String,
    },
    /// Another version was active by then.
    Changed,
}

/// Goes back to the version that was active before, at once. The files of that version are hashed first.
pub fn go_back(
    ledger: &Ledger,
    folders: &Folders,
    slot: &str,
    actor: Actor,
) -> anyhow::Result<(String, String)> {
    let evidence = format!("order of {}", actor.name);
    match go_back_from(ledger, folders, slot, None, &evidence, actor)? {
        Back::To { from, to } => Ok((from, to)),
        Back::Changed => anyhow::bail!("the versions have changed meanwhile; look again"),
    }
}

/// The same, only from the version and activation that are given, where they are.
pub(super) fn go_back_from(
    ledger: &Ledger,
    folders: &Folders,
    slot: &str,
    from: Option<(&str, u64)>,
    evidence: &str,
    actor: Actor,
) -> anyhow::Result<Back> {
    let (life, active) =
        ledger.read_blocking(|reader| Ok((models::life(reader, slot)?, models::active(reader, slot)?)))?;
    let Some(active) = active else {
        anyhow::bail!("model \"{slot}\" has no active version");
    };
    let activation = active.last_active;
    if from.is_some_and(|from| from != (active.digest.as_str(), activation)) {
        return Ok(Back::Changed);
    }
    let Some(previous) = life.previous().map(str::to_owned) else {
        anyhow::bail!(
            "model \"{slot}\" has no earlier version to go back to; remedy: `lightbox models disable` takes it out of service"
        );
    };
    open_checked(folders, &previous)?;
    let (slot, from, to) = (slot.to_owned(), active.digest.clone(), previous.clone());
    let facts = Facts { evidence: evidence.to_owned(), ..Facts::default() };
    let gone_back = ledger.write_blocking(move |writer| {
        let now = models::active(writer.tx(), &slot)?;
        let same = now.is_some_and(|now| now.digest == from && now.last_active == activation);
        if !same || models::life(writer.tx(), &slot)?.previous() != Some(to.as_str()) {
            return Ok(false);
        }
        let none = life_cycle::Duties::NONE;
        models::apply(writer, &slot, &from, Event::RollBack, &facts, &none, &actor, None)?;
        Ok(true)
    })?;
    Ok(if gone_back { Back::To { from: active.digest, to: previous } } else { Back::Changed })
}

/// Hashes the files of a version that must be here.
pub fn verify_kept(folders: &Folders, digest: &str) -> Result<(), OpenError> {
    open_checked(folders, digest).map(drop)
}
