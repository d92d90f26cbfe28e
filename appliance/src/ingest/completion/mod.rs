//! When a study counts as complete, and what happens then: the revision is closed with its verdict
//! and evidence, the rules decide, and the jobs are written, all in one transaction.
//!
//! - [`evidence`]: the verdict, pure;
//! - [`policy`]: what the site file says of it;
//! - [`known`]: what the ledger knows of a study;
//! - [`watch`]: wakes when something may have changed, and asks the PACS for its count.

use std::collections::BTreeMap;

use rusqlite::{Connection, params};
use serde_json::{Value, json};

use self::evidence::{Judged, Verdict};
use self::known::{Gathered, Open};
use self::policy::{Policy, SeriesStart};
use super::routing;
use super::rules::{RuleSet, SeriesFacts};
use crate::audit::{Event, EventKind};
use crate::job::{State, StudyState};
use crate::store::jobs;
use crate::store::ledger::{LedgerError, Writer};
use crate::store::{orders, priors};

pub mod evidence;
pub mod known;
pub mod policy;
pub mod watch;

/// A revision that was closed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Closed {
    /// Key of the study.
    pub study_key: String,
    /// The revision.
    pub revision: u32,
    /// Models that it goes to.
    pub models: Vec<String>,
    /// Series that are sent on, by destination.
    pub forwards: usize,
}

/// What a look at an open study came to.
#[derive(Clone, Debug, Default)]
pub struct Step {
    /// Its revision was closed.
    pub closed: Option<Closed>,
    /// So many jobs on single series were written.
    pub started: usize,
    /// Priors are to be looked for.
    pub priors: bool,
}

/// Starts the quiet timers of open studies anew: while the daemon was down nothing could arrive, so
/// that silence says nothing about a study being complete.
pub fn restart_timers(writer: &Writer<'_>) -> Result<(), LedgerError> {
    writer.tx().execute(
        "UPDATE studies SET last_at = ?2 WHERE state = ?1",
        params![StudyState::Receiving.as_str(), writer.now_ms()],
    )?;
    Ok(())
}

/// Closes every study that is complete, and starts what may start before. For tests and for what has
/// no daemon around it; the daemon looks at the studies that may have changed ([`watch`]).
pub fn close_due(writer: &Writer<'_>, policy: &Policy, rules: &RuleSet) -> Result<Vec<Closed>, LedgerError> {
    let open: Vec<i64> = writer
        .tx()
        .prepare_cached("SELECT id FROM studies WHERE state = ?1 ORDER BY priority DESC, last_at")?
        .query_map([StudyState::Receiving.as_str()], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    let mut closed = Vec::new();
    for id in open {
        closed.extend(advance(writer, id, policy, rules, 0)?.closed);
    }
    Ok(closed)
}

/// Judges an open study within the transaction that acts on the verdict: an instance that came since it
/// was last looked at counts.
pub fn advance(
    writer: &Writer<'_>,
    study_id: i64,
    policy: &Policy,
    rules: &RuleSet,
    since: i64,
) -> Result<Step, LedgerError> {
    let now = writer.now_ms();
    let Some(study) = known::open(writer.tx(), study_id)? else { return Ok(Step::default()) };
    let gathered = known::gather(writer.tx(), &study, policy, rules, now, since)?;
    if !study.stat && gathered.order.as_ref().is_some_and(|order| order.is_stat()) {
        orders::raise(writer, study.id, &study.key)?;
    }
    let judged = evidence::study(&gathered.known);
    if let Verdict::Complete { why, .. } = &judged.verdict {
        let (closed, priors) = close(writer, &study, &gathered, &judged, why, policy, rules)?;
        return Ok(Step { closed: Some(closed), started: 0, priors });
    }
    let priors = priors::want(writer, study.id, &study.uid, &gathered.routing, rules, &gathered.facts)?;
    let mut started = 0;
    let mut routing = gathered.routing.clone();
    for start in policy.take_series_starts(&mut routing) {
        let found = gathered.known.series.iter().position(|series| series.uid == start.series);
        let Some(place) = found else { continue };
        let verdict = evidence::series(&gathered.known, &gathered.known.series[place]).verdict;
        if let Verdict::Complete { why, .. } = verdict {
            started += usize::from(start_series(writer, &study, &start, gathered.through[place], &why)?);
        }
    }
    priors::attach(writer, study.id, &gathered.routing, rules)?;
    Ok(Step { closed: None, started, priors })
}

/// Writes the job on one series, unless one has seen all its instances. Yields whether it was written.
fn start_series(
    writer: &Writer<'_>,
    study: &Open,
    start: &SeriesStart,
    through: i64,
    why: &str,
) -> Result<bool, LedgerError> {
    let new = jobs::OnSeries {
        study_id: study.id,
        revision: study.revision,
        model: &start.model,
        series: &start.series,
        through,
        verdict: why,
        deliver: json!(start.deliver).to_string(),
    };
    let written = jobs::write_on_series(writer, &new)?;
    if written {
        writer.audit(&Event::new(
            EventKind::SeriesRouted,
            study.key.as_str(),
            json!({ "revision": study.revision, "model": start.model, "verdict": why }),
        ))?;
    }
    Ok(written)
}

fn close(
    writer: &Writer<'_>,
    study: &Open,
    gathered: &Gathered,
    judged: &Judged,
    why: &str,
    policy: &Policy,
    rules: &RuleSet,
) -> Result<(Closed, bool), LedgerError> {
    let tx = writer.tx();
    let (series, known) = (&gathered.facts, &gathered.known);
    let instances: usize = series.iter().map(|series| series.instances).sum();
    let plural = if instances == 1 { "" } else { "s" };
    let verdict = format!("{why}; {instances} instance{plural} in {} series", series.len());
    let mut routing = rules.decide(series);
    tx.prepare_cached(
        "INSERT INTO revisions (study_id, revision, closed_at, verdict, evidence, rule_set) VALUES (?1,?2,?3,?4,?5,?6)",
    )?
    .execute(params![
        study.id,
        study.revision,
        writer.now_ms(),
        verdict,
        evidence_json(study, gathered, judged, writer.now_ms()).to_string(),
        rules.revision
    ])?;
    tx.prepare_cached("UPDATE instances SET revision = ?2 WHERE study_id = ?1 AND revision IS NULL")?
        .execute(params![study.id, study.revision])?;
    let wants = priors::want(writer, study.id, &study.uid, &routing, rules, series)?;
    let all_models: Vec<String> = routing.models.keys().cloned().collect();
    let starts = policy.take_series_starts(&mut routing);
    routing::write(writer, study.id, study.revision, &routing)?;
    for start in &starts {
        let found = known.series.iter().position(|series| series.uid == start.series);
        let Some(place) = found else { continue };
        start_series(writer, study, start, gathered.through[place], why)?;
    }
    priors::attach(writer, study.id, &routing, rules)?;
    let (next, note) = if all_models.is_empty() && routing.forwards.is_empty() {
        (StudyState::Unrouted, "no rule gives this study to a model, or sends it on")
    } else if all_models.is_empty() {
        (StudyState::Done, "sent on only: no rule gives this study to a model")
    } else if jobs::under_way(tx, study.id)? {
        (StudyState::Processing, "")
    } else {
        // Every series was taken as soon as it was complete, and all of that has ended.
        (StudyState::Done, "")
    };
    tx.prepare_cached("UPDATE studies SET state = ?2, revision = ?3, note = ?4 WHERE id = ?1")?
        .execute(params![study.id, next.as_str(), study.revision, note])?;
    tx.prepare_cached("DELETE FROM counts WHERE study_id = ?1")?.execute([study.id])?;
    writer.audit(&Event::new(
        EventKind::StudyRouted,
        study.key.as_str(),
        json!({ "revision": study.revision, "verdict": verdict, "models": all_models, "rule_set": rules.revision }),
    ))?;
    let closed = Closed {
        study_key: study.key.clone(),
        revision: study.revision,
        models: all_models,
        forwards: routing.forwards.len(),
    };
    Ok((closed, wants))
}

/// The evidence as the ledger keeps it: no UID, series by their place in the study.
fn evidence_json(study: &Open, gathered: &Gathered, judged: &Judged, now: i64) -> Value {
    let by_modality = gathered.facts.iter().fold(BTreeMap::<&str, usize>::new(), |mut counts, series| {
        let modality = series.attributes.modality.as_deref().unwrap_or("none");
        *counts.entry(modality).or_default() += series.instances;
        counts
    });
    let by_series: Vec<Value> = gathered
        .known
        .series
        .iter()
        .enumerate()
        .map(|(place, one)| {
            let verdict = evidence::series(&gathered.known, one).verdict;
            let complete = verdict.is_complete();
            let (Verdict::Complete { why, .. } | Verdict::Waiting { why, .. }) = verdict;
            json!({ "series": place + 1, "instances": one.count, "complete": complete, "because": why })
        })
        .collect();
    let kind = match &judged.verdict {
        Verdict::Complete { by, .. } => json!(by),
        Verdict::Waiting { .. } => Value::Null,
    };
    json!({
        "kind": kind,
        "last_instance_at": study.last_at,
        "closed_at": now,
        "series": gathered.facts.len(),
        "instances": by_modality,
        "evidence": judged.evidence,
        "by_series": by_series,
    })
}

/// The series of a study as rules see them, in the order of their first instance.
pub fn series_facts(connection: &Connection, study_id: i64) -> Result<Vec<SeriesFacts>, LedgerError> {
    known::facts(connection, study_id)
}
