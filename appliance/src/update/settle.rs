//! From accepted to active: what waits for time in shadow or for people, and the switch once the plan is met.

use std::collections::BTreeMap;

use lightbox_models::life_cycle::{self, Event, Facts, State};
use lightbox_models::plan::{ClauseName, Plan, Stage, updates_after};
use tokio::time::Instant;

use super::evidence::{Duties, Kept, broken};
use super::registry::open_checked;
use super::report::{self, ShadowReport};
use super::{JUDGE_AGAIN, Managed, Updates};
use crate::config::chain;
use crate::infer;
use crate::store::ledger::LedgerError;
use crate::store::models::shadow::{self, Standing};
use crate::store::models::{self, Actor, PlanRow, VersionRow};

/// What of a verdict only means that people or time have not done their part yet.
const WAITS: [ClauseName; 5] = [
    ClauseName::PlanInForce,
    ClauseName::Labelling,
    ClauseName::ShadowHours,
    ClauseName::CanaryCases,
    ClauseName::Approvals,
];

/// On what each waiting version was judged last, and when: a ruling costs thousands of resamples.
pub(super) type Judged = BTreeMap<String, (String, Instant)>;

impl Updates {
    /// Accepted, in shadow or rolled back → active, once the plan and the people that it asks for agree.
    pub(super) async fn settle(&self, model: &Managed, judged: &mut Judged) -> Result<(), LedgerError> {
        let name = model.name.clone();
        let versions = self.ledger.read(move |reader| models::versions(reader, Some(&name))).await?;
        let empty = report::is_empty(&versions);
        let may_come = |state| match state {
            State::Accepted | State::Shadow | State::RolledBack => true,
            State::Retired => empty,
            _ => false,
        };
        let waiting: Vec<VersionRow> =
            versions.into_iter().filter(|version| may_come(version.state) && version.kept).collect();
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
            // What is out of service comes back by people only.
            let is_out = matches!(version.state, State::RolledBack | State::Retired);
            if is_out && approvals.is_empty() {
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
            self.activate(model, &version, duties, empty).await?;
        }
        Ok(())
    }

    async fn activate(
        &self,
        model: &Managed,
        version: &VersionRow,
        mut duties: Duties,
        empty: bool,
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
        let back = matches!(version.state, State::RolledBack | State::Retired);
        let (event, verdict, plan, updates, expected) = if back {
            // It was judged when it first became active; coming back is up to the people.
            let asked = matter.plan.site.approvals.max(1) as usize;
            if life_cycle::people(&people) < asked {
                let found = life_cycle::people(&people);
                let why =
                    format!("waits for approvals: {found} different people approved, asked for are {asked}");
                return self.wait(version, why).await.map(drop);
            }
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
                let left = report::left(&matter.plan, standing.as_ref()).filter(|_| matter.before.is_some());
                if let Some(left) = left.filter(|_| empty && !lasting) {
                    return self.wait(version, report::nothing_beside(&left)).await.map(drop);
                }
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
}

/// Whether nothing of the plan's duty in shadow is left: a version is judged again when it is done.
fn shadow_is_done(plan: Option<&PlanRow>, standing: Option<&Standing>) -> bool {
    let (Some(row), Some(standing)) = (plan, standing) else { return false };
    row.read().is_ok_and(|plan| report::left(&plan, Some(standing)).is_none())
}
